"""``python -m tests.functions [TITLE …]``: the table of Functions and their natural faults."""

from __future__ import annotations

import sys

from tests.functions.corpus import variants
from tests.functions.table import chosen, run, shown

if __name__ == "__main__":
    print(shown(run(chosen(variants(), sys.argv[1:]))))
