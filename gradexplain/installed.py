"""PyTorch as it is installed: loaded where it is first needed, or the message that says why not; and
what of SymPy is loaded only if somebody wants it."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from types import ModuleType
from typing import Any

from gradexplain.errors import InputError, first_line


def imported() -> Any:
    """PyTorch, in this process; raises `InputError` where it is not there, or broken."""
    try:
        if "torch" not in sys.modules:
            os.getcwd()  # where that is gone PyTorch's libraries end the process
    except FileNotFoundError:
        raise InputError("PyTorch: the working directory is gone", remedy="cd to another") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise _broken(error) from None
        raise InputError("PyTorch: it is not installed", remedy="pip install torch") from None
    except Exception as error:  # a broken installation raises whatever it likes
        raise _broken(error) from None
    return torch


def _broken(error: Exception) -> InputError:
    return InputError(
        f"PyTorch: it cannot be imported: {type(error).__name__}: {first_line(error)}",
        remedy='python -c "import torch" must work first',
    )


def without_tensors() -> None:
    """Let SymPy do without its own tensors until something of them is wanted.

    The first sum imports their module, which takes a twelfth of a command's time, to ask of each term
    whether it is one of them.  None can be made before the module itself is there.
    """
    name = "sympy.tensor.tensor"
    stand_in = ModuleType(name)

    def real(wanted: str) -> Any:
        if wanted == "__path__":  # asked of whatever something is imported from
            raise AttributeError(wanted)
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(import_module(name), wanted)

    vars(stand_in).update({kind: type(kind, (), {}) for kind in ("TensExpr", "TensAdd")})
    stand_in.__getattr__ = real  # type: ignore[method-assign]
    sys.modules.setdefault(name, stand_in)
