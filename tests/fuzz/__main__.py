"""``python -m tests.fuzz --minutes N``: abuse for a while, and a table of what was tried."""

from __future__ import annotations

import argparse
import random
import shlex
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz import lines, moments
from tests.fuzz.kinds import KINDS
from tests.fuzz.trial import loaded, tried


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", action="store_true", help="run what is known, and measure it")
    parser.add_argument("--signals", type=int, metavar="N", help="stop N commands, each somewhere")
    given = parser.parse_args()
    if given.signals:
        return min(moments.stopped(given.signals, given.seed), 1)
    if given.lines:
        return min(lines.measured(), 1)
    loaded()
    deadline = time.monotonic() + 60 * given.minutes
    counts: dict[str, Counter[object]] = {kind: Counter() for kind in KINDS}
    number = 0
    with tempfile.TemporaryDirectory() as name:
        while time.monotonic() < deadline:
            for kind, make in KINDS.items():
                arguments = make(random.Random(f"{given.seed} {number} {kind}"), Path(name))
                outcome = tried(arguments, held=kind == "budgets")
                counts[kind]["time is up" if outcome.code is None else outcome.code] += 1
                if outcome.wrong:
                    counts[kind]["wrong"] += 1
                    print(f"{kind} {number}: gradexplain {shlex.join(arguments)}"[:600])
                    print(f"    {outcome.wrong}", flush=True)
            number += 1
    columns: list[object] = [0, 1, 2, 3, "time is up", "wrong"]
    print(f"| {'kind':10} | tried | " + " | ".join(map(str, columns)) + " |")
    print("|---|---|" + "---|" * len(columns))
    for kind, found in counts.items():
        total = sum(found.values()) - found["wrong"]
        print(f"| {kind:10} | {total} | " + " | ".join(str(found[c]) for c in columns) + " |")
    return 1 if any(found["wrong"] for found in counts.values()) else 0


raise SystemExit(main())
