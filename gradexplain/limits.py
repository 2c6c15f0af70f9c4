"""Every cap in one place, so that whatever is typed ends within seconds and within 2 GiB.

A cap is reported with its number and a remedy; none of them is silent.
"""

from __future__ import annotations

#: Characters of a program.  ``ast.parse`` can take hundreds of megabytes, or overflow the C stack,
#: on a long text; within this length it takes a few megabytes and a fraction of a second.
MAX_SOURCE = 100_000

#: Brackets inside one another.  Python's own parser gives up at 200.
MAX_BRACKETS = 100

#: Levels of an expression's tree, on which ``a + b + …`` is one.  Code that follows the tree by
#: recursion stays far from Python's limit of 1000 frames.
MAX_DEPTH = 200

#: Operations that are written out inside one another in one formula; the next has a name of its own.
MAX_WRITTEN = 100

#: Nodes of a program's tree.  Each may become a node of the graph, with a derivation of its own.
MAX_TREE_NODES = 20_000

#: Characters of one name: it stands in every table and formula.
MAX_NAME = 100

#: Digits of one number in a program.  Even in hexadecimal, this many stay within a float64's range.
MAX_DIGITS = 250

#: Axes of a tensor.  Each needs an index letter of its own, and NumPy stops at 64.
MAX_DIMENSIONS = 16

#: Elements of a tensor: 128 MB in float64.  A run holds about a dozen arrays of this size at once.
MAX_ELEMENTS = 16_000_000

#: Bytes of a ``.npy`` or ``.pt`` file: `MAX_ELEMENTS` of the widest kind (16 bytes), and a header.
MAX_FILE_BYTES = 16 * MAX_ELEMENTS + 1_000_000

#: Characters of a value written out, on the command line or in a ``.json`` file.  They are read at
#: about a million a second.
MAX_VALUE_TEXT = 4_000_000

#: Bytes of the structure (``data.pkl``) in a ``.pt`` file.  One tensor's takes some 300.
MAX_PICKLE_BYTES = 10_000

#: Operations of a graph.  A script that is traced makes more of them than a program can.
MAX_GRAPH_NODES = 20_000

#: Bytes that a run takes for each element of its values, with PyTorch's copies and without: values,
#: magnitudes and what arrives, as measured for x*y, exp and softmax of 4 to 16 million elements.
CHECKED_BYTES, EXPLAINED_BYTES = 64, 48

#: Seconds of wall time for one command, and for one question to PyTorch's process.
DEFAULT_TIMEOUT = 60.0

#: Bytes that a command and PyTorch's process may take, each above its interpreter.
DEFAULT_MEMORY = 2 << 30

#: Bytes that an interpreter takes with NumPy, SymPy or PyTorch loaded, before it computes.
INTERPRETER_MEMORY = 320 << 20

#: Characters of a message that are kept at each end: what was given, of any length, is in the middle.
MAX_ECHO = 150

#: Statements and expressions of a program that are worked out, each turn of a loop anew.
MAX_STEPS = 250_000

#: Functions of a program's own that call one another.
MAX_CALLS = 40


class _Budget:
    """What this process may use; ``--memory`` sets it."""

    memory: int | None = DEFAULT_MEMORY


BUDGET = _Budget()


def show_size(size: int) -> str:
    """``3.2GiB``, as ``--memory`` takes it."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            return f"{size / (1 << power):.3g}{unit}"
    return f"{size}B"
