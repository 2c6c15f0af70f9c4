"""``python -m tests.mutants``: the table of wrong backwards, detected and named."""

from __future__ import annotations

import sys
import warnings

from tests.mutants.table import run, shown

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    each = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    rows, alarms, right = run(each=each)
    print(shown(rows.values(), alarms, right))
