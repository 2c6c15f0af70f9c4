"""A call of the Python API within a time: in a helper process, which can be ended at any moment."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from gradexplain.errors import BudgetError, InputError
from gradexplain.limits import DEFAULT_MEMORY, show_size
from gradexplain.supervisor.helper import HELPERS, Failed, TooLate

T = TypeVar("T")


#: Garbage in cycles is looked for so rarely: next to none is made, and looking takes a sixth of the time.
_RARELY = (200_000, 50, 1000)


def within(timeout: float | None, function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments)`` in a helper that is kept for the next call; here without a ``timeout``.

    Raises `BudgetError` where it takes more than ``timeout`` seconds, the start of the helper
    included, or 2 GiB, and what the function raises.
    """
    if timeout is None:
        before = gc.get_threshold()
        gc.set_threshold(*_RARELY)
        try:
            return function(*arguments)
        finally:
            if before != _RARELY:  # of two threads the first to come puts back what was
                gc.set_threshold(*before)
    if not timeout > 0:
        raise InputError(
            f"timeout is {timeout}, not a number of seconds above 0", remedy="leave it out"
        )
    taken = HELPERS.take("gradexplain.explaining.engine")
    taken.send(partial(function, *arguments), DEFAULT_MEMORY)
    try:
        found: T = taken.receive(timeout)
        return found
    except TooLate:
        raise BudgetError(
            f"not finished within {timeout:g} seconds",
            remedy=f"timeout={2 * timeout:g} allows more",
        ) from None
    except Failed as error:
        raise BudgetError(f"no answer: {error}", remedy="use smaller tensors") from None
    except MemoryError:
        raise BudgetError(
            f"not enough memory: more than {show_size(DEFAULT_MEMORY)} is needed",
            remedy="smaller shapes have the same formulas",
        ) from None
    finally:
        HELPERS.keep(taken)
