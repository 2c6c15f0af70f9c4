"""A fixture and an option for pytest: gradients of one's own operations as tests.

    def test_my_op(gradexplain_check):
        gradexplain_check(MyOp, shapes={"x": (3, 4)})

``--gradexplain`` runs these tests only where it is given the value ``only``; with ``skip`` it leaves
them out.  The options of the fixture are those of `gradexplain.check`; it fails with the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("gradexplain").addoption(
        "--gradexplain",
        choices=("run", "only", "skip"),
        default="run",
        help="tests that use gradexplain_check: run them with the others, only them, or none",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = config.getoption("--gradexplain")
    if chosen == "run":
        return
    kept = [i for i in items if (_uses(i) == (chosen == "only"))]
    gone = [i for i in items if i not in kept]
    items[:] = kept
    config.hook.pytest_deselected(items=gone)


def _uses(item: pytest.Item) -> bool:
    names: Iterable[str] = getattr(item, "fixturenames", ())
    return "gradexplain_check" in names


@pytest.fixture
def gradexplain_check() -> Callable[..., Any]:
    """``gradexplain.check``, which fails the test where the backward is wrong."""

    def run(op: Any, claim: Any = None, **options: Any) -> Any:
        import gradexplain

        report = gradexplain.check(op, claim, **options)
        if not report.right:
            pytest.fail("\n" + str(report), pytrace=False)
        return report

    return run
