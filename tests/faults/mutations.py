"""Breaks the most important lines one at a time, in a copy of the tree, and sees whether the tests notice.

Run as ``python -m tests.faults.mutations``; it prints a line for each and returns how many went unnoticed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.servers import ROOT

__all__ = ["MUTATIONS", "Mutation", "main"]


@dataclass(frozen=True)
class Mutation:
    """One line to break: ``old`` becomes ``new`` in ``file``, and ``test`` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


CORE = "tests/faults/test_core.py"

MUTATIONS = (
    Mutation(
        "drain lock",
        "notifications/postgresql.py",
        "WHERE name {named} ORDER BY id FOR UPDATE",
        "WHERE name {named} ORDER BY id",
        f"{CORE}::test_drains_of_one_topic_take_turns",
    ),
    Mutation(
        "second look at what waits",
        "notifications/postgresql.py",
        "ORDER BY id LIMIT {limit} FOR UPDATE",
        "ORDER BY id LIMIT {limit}",
        f"{CORE}::test_drains_of_one_topic_take_turns",
    ),
    Mutation(
        "gap check",
        "notifications/follower.py",
        "if number == state.seen + 1:",
        "if number > state.seen:",
        f"{CORE}::TestHints::test_hint_with_a_hole_before_it_reads_the_log",
    ),
    Mutation(
        "echo confirmation",
        "notifications/link.py",
        "await self._echo(topics[-1:] if self.hosts() <= self.links() else topics)",
        "pass",
        f"{CORE}::TestHints::test_event_published_while_a_group_is_joined_is_not_late",
    ),
    Mutation(
        "safety poll",
        "notifications/hub.py",
        "await self.follower.check_advanced()",
        "pass",
        f"{CORE}::test_event_without_a_hint_comes_by_the_safety_poll",
    ),
    Mutation(
        "cursor clamp",
        "notifications/replay.py",
        "max(position.seq, since)",
        "position.seq",
        f"{CORE}::test_forged_cursor_begins_where_its_user_joined",
    ),
    Mutation(
        "generator guard",
        "notifications/handover.py",
        'except Exception:\n            logger.exception("a stream failed; its client is asked to return")',
        'except ZeroDivisionError:\n            logger.exception("a stream failed; its client is asked to return")',
        f"{CORE}::test_exception_in_a_stream_still_ends_the_response",
    ),
    Mutation(
        "dedup in the client",
        "notifications/static/notifications/session.js",
        "if (data.seq <= (this.positions.get(data.topic) ?? -1)) return;",
        "",
        "tests/js/client.test.mjs",
    ),
)


def passes(tree: Path, test: str) -> bool:
    """Return whether ``test`` passes in ``tree``."""
    if test.endswith(".mjs"):
        command = ["node", "--test", test]
    else:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=tree, capture_output=True, timeout=300)
    # 1: tests failed. Anything else, such as no test of that name, shows nothing.
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout.decode()[-3000:]}")
    return done.returncode == 0


def main() -> int:
    unnoticed = 0
    for test in dict.fromkeys(mutation.test for mutation in MUTATIONS):
        if not passes(ROOT, test):
            raise RuntimeError(f"{test} fails already")
    for mutation in MUTATIONS:
        with TemporaryDirectory(prefix="mutation-") as directory:
            tree = Path(directory) / "tree"
            shutil.copytree(
                ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.sqlite3*", "node_modules")
            )
            path = tree / mutation.file
            source = path.read_text()
            if source.count(mutation.old) != 1:
                raise RuntimeError(f"{mutation.name}: {mutation.file} has the line {source.count(mutation.old)} times")
            path.write_text(source.replace(mutation.old, mutation.new))
            noticed = not passes(tree, mutation.test)
        unnoticed += not noticed
        print(f"{mutation.name}: {'noticed' if noticed else 'NOT NOTICED'} by {mutation.test}", flush=True)
    return unnoticed


if __name__ == "__main__":
    sys.exit(main())
