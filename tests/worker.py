"""The other end of :class:`tests.servers.Worker`: a JSON line with Python code in, a JSON line with its result out."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import django


def main() -> None:
    """Run what comes in on stdin until it ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    django.setup()
    names: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        names |= {**request["values"], "result": None}
        try:
            exec(request["code"], names)
            answer = json.dumps({"result": names["result"]})
        except Exception:
            answer = json.dumps({"error": traceback.format_exc()})
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
