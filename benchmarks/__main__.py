"""``python -m benchmarks``: install the peers, measure everything, write docs/performance.md. See ``--help``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

#: With fewer sizes, or targets, results are printed only; those of `--only scale` are written, too.
SIZES = "100,1000,5000,10000"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def installed(cache: Path) -> Path:
    """Install the peers into ``cache`` if need be; return the Python that has them."""
    environment, stamp = cache / "venv", cache / "installed"
    wanted = "".join((HERE / name).read_text() for name in ("requirements.txt", "package.json"))
    wanted += (ROOT / "requirements.txt").read_text()
    python = environment / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        cache.mkdir(parents=True, exist_ok=True)
        print("Installing the peers …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "-U", "-r", str(HERE / "requirements.txt")], check=True
        )
        (cache / "package.json").write_text((HERE / "package.json").read_text())
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=cache, check=True)
        stamp.write_text(wanted)
    return python


def main() -> int:
    """Parse, install, and go on in the environment that has the peers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--sizes", default=SIZES, help="numbers of connections")
    parser.add_argument(
        "--only",
        default="",
        help="targets whose name and server contain this, several by commas; scale: several processes behind nginx",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each part of each run")
    parser.add_argument("--cache", type=Path, default=ROOT / "var" / "bench", help="where the peers are installed")
    parser.add_argument("--output", type=Path, help="JSON file of the results; default: in the cache")
    options = parser.parse_args()
    options.cache = options.cache.resolve()
    options.write = options.sizes == SIZES and options.only in ("", "scale")
    python = installed(options.cache)
    if Path(sys.prefix) != options.cache / "venv":
        os.execv(python, [str(python), "-m", "benchmarks", *sys.argv[1:]])
    from .run import run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
