"""PyTorch as it is installed: loaded where it is first needed, or the message that says why not."""

from __future__ import annotations

import warnings
from typing import Any

from gradexplain.errors import InputError, first_line


def imported() -> Any:
    """PyTorch, in this process; raises `InputError` where it is not there, or broken."""
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
