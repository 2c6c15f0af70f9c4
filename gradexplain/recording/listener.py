"""Who listens to the recorder of scripts."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from gradexplain.recording.frames import Site


class Listener(Protocol):
    """Whom the tape tells."""

    @property
    def records(self) -> bool:
        """Whether operations are still wanted."""

    @property
    def light(self) -> bool:
        """Whether steps and cleared gradients need only be counted just now."""

    def samples(self, cls: Any, args: Any) -> bool:
        """Whether a call of a custom Function is wanted, whatever else is recorded."""

    def counted(self, optimizer: Any) -> bool:
        """A step of an optimizer that is known, counted; False for one that is not."""

    def passes(self, name: str, tensor: Any, frame: FrameType) -> bool:
        """Note a plain call of which nothing is wanted but that it was made; whether it is one."""

    def backward(
        self, function: Callable[[], Any], name: str, arguments: dict[str, Any], frame: FrameType
    ) -> Any:
        """Carry out a ``backward`` or ``grad`` of the script's, once, and return its result."""

    def transformed(self, name: str, frame: FrameType) -> None:
        """A transform of ``torch.func`` has differentiated."""

    def stepped(self, optimizer: Any, place: Site | None, *, before: bool, closure: bool) -> None:
        """An optimizer is about to take a step, or has taken it."""

    def zeroed(self, owner: Any, place: Site | None) -> None:
        """``zero_grad`` is about to be called on an optimizer or a module."""

    def noted(self, what: str, subject: Any, result: Any, place: Site | None) -> None:
        """A scheduler's step, a loss that was scaled, gradients that were clipped: ``what`` on ``subject``."""

    def broke(self, error: Exception) -> None:
        """Something failed in the recorder."""
