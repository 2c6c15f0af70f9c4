"""gradexplain: what the argument of PyTorch's ``backward`` means, step by step and checked."""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes milliseconds to import, and checkers know this one too
if TYPE_CHECKING:
    from typing import Any

    from gradexplain.accumulation import explain, explain_calls
    from gradexplain.batch.many import explain_many
    from gradexplain.checking.checker import assert_backward, check
    from gradexplain.errors import BudgetError, GradexplainError, InputError, UnsupportedError
    from gradexplain.explanation import Explanation
    from gradexplain.hessians import hessian
    from gradexplain.second.model import Hessian
    from gradexplain.trace import tracing

__version__ = "0.1.0"

#: Where each public name lives.  They are imported on first use: NumPy, SymPy and PyTorch take a
#: second, and ``gradexplain --help`` needs none of them.
_HOMES = {
    "assert_backward": "gradexplain.checking.checker",
    "check": "gradexplain.checking.checker",
    "explain": "gradexplain.accumulation",
    "explain_calls": "gradexplain.accumulation",
    "explain_many": "gradexplain.batch.many",
    "Explanation": "gradexplain.explanation",
    "Hessian": "gradexplain.second.model",
    "hessian": "gradexplain.hessians",
    "BudgetError": "gradexplain.errors",
    "GradexplainError": "gradexplain.errors",
    "InputError": "gradexplain.errors",
    "UnsupportedError": "gradexplain.errors",
    "tracing": "gradexplain.trace",
}

__all__ = [
    "BudgetError",
    "Explanation",
    "GradexplainError",
    "Hessian",
    "InputError",
    "UnsupportedError",
    "__version__",
    "assert_backward",
    "check",
    "explain",
    "explain_calls",
    "explain_many",
    "hessian",
    "tracing",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext gradexplain``: `gradexplain.notebook`."""
    from importlib import import_module

    import_module("gradexplain.notebook").load(shell)
