"""Plain data that can be printed: as a page, as JSON, in a notebook.

Data does not import the pages that read it: it names the module of its page, which is loaded when a
page is wanted, as the package's public names are.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, ClassVar

from gradexplain.document import serialise


class Shows:
    """What an answer shows itself as; ``PAGE`` is the module whose ``page(answer)`` is its document."""

    __slots__ = ()

    PAGE: ClassVar[str]

    def to_dict(self, precision: int | None = None) -> dict[str, Any]:
        """The JSON document of the schema ``SCHEMA``, numbers to ``precision`` significant digits
        (12)."""
        return serialise.document(self, precision)

    def __str__(self) -> str:
        """The page that the command line prints, 100 columns wide and without colour."""
        return self._written("terminal")

    def _repr_latex_(self) -> str:
        return self._written("latex")

    def _repr_markdown_(self) -> str:
        """A notebook takes formulas out before it reads Markdown: they need no backticks."""
        return re.sub(r"\$`([^`]*)`\$", r"$\1$", self._written("markdown"))

    def _written(self, format: str) -> str:
        page = import_module(self.PAGE).page(self)
        return import_module(f"gradexplain.formats.{format}").render(page)  # type: ignore[no-any-return]
