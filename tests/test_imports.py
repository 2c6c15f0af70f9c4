"""Imports run one way: the contract in pyproject.toml, and no circle between files."""

from __future__ import annotations

from pathlib import Path

import grimp
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parent.parent


def test_the_order_of_rooms() -> None:
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_no_circle_between_files() -> None:
    graph = grimp.build_graph("gradexplain", exclude_type_checking_imports=True, cache_dir=None)
    # A file that imports nothing of a circle is in none: what is left after all such are gone, is.
    left = {name: set(graph.find_modules_directly_imported_by(name)) for name in graph.modules}
    left.pop("gradexplain")
    while ends := [name for name, found in left.items() if not found & left.keys()]:
        for name in ends:
            del left[name]
    assert not left
