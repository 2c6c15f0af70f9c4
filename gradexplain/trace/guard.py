"""Our own work in the midst of a script's."""

from __future__ import annotations

from typing import Any

import torch


class Guarded:
    """Neither recorded nor differentiated; the script is to run as it would without us."""

    __slots__ = ("_grad", "_off", "_trace")

    def __init__(self, trace: Any) -> None:
        self._trace = trace

    def __enter__(self) -> None:
        self._off = torch._C.DisableTorchFunction()
        self._off.__enter__()
        self._grad = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        torch._C._set_grad_enabled(self._grad)
        self._off.__exit__(kind, error, traceback)
        if isinstance(error, Exception):
            self._trace.broke(error)
            return True
        return False
