"""Imports run one way: the contract in pyproject.toml, and no circle between files, of types neither."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parent.parent


def test_the_order_of_rooms() -> None:
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_no_circle_between_files() -> None:
    graph = grimp.build_graph("gradexplain", cache_dir=None)
    # A file that imports nothing of a circle is in none: what is left after all such are gone, is.
    left = {name: set(graph.find_modules_directly_imported_by(name)) for name in graph.modules}
    left.pop("gradexplain")
    while ends := [name for name, found in left.items() if not found & left.keys()]:
        for name in ends:
            del left[name]
    assert not left


_TENSORS = """
import sys
from gradexplain.installed import without_tensors
without_tensors()
import sympy
x, y = sympy.symbols("x y")
print(x + y + 2*x, "sympy.combinatorics" in sys.modules)
from sympy.tensor.tensor import TensorIndexType, tensor_heads, tensor_indices
kind = TensorIndexType("L")
i, head = tensor_indices("i", kind), tensor_heads("A", [kind])
print(head(i) + 2*head(i), sympy.Add(head(i), head(i)))
"""


def test_sympys_tensors_are_there_when_they_are_wanted() -> None:
    done = subprocess.run([sys.executable, "-c", _TENSORS], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("3*x + y False\n3*A(i) 2*A(i)\n", "")
