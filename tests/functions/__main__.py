"""``python -m tests.functions [--part I/N] [TITLE or file.txt …]``: the table of Functions and their
natural faults; with a part, every N-th from the I-th on."""

from __future__ import annotations

import sys

from tests.functions.corpus import variants
from tests.functions.table import chosen, run, shown

if __name__ == "__main__":
    asked = sys.argv[1:]
    first, every = 0, 1
    if asked[:1] == ["--part"]:
        first, every = map(int, asked[1].split("/"))
        asked = asked[2:]
    some = chosen(variants(), asked)[first::every]
    print(shown(run(some, lambda line: print(line, flush=True)), details=False))
