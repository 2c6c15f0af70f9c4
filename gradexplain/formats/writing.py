"""What the writers of text formats share: each kind of block has a method of its name."""

from __future__ import annotations

from collections.abc import Iterable

from gradexplain.document import model as doc


class Writer:
    """Writes blocks as text; ``precision`` is how many digits a number has."""

    def __init__(self, precision: int) -> None:
        self.precision = precision

    def block(self, block: doc.Block) -> str:
        """A block by the method that bears the name of its kind; nothing where there is none."""
        method = getattr(self, type(block).__name__.lower(), None)
        return "" if method is None else str(method(block))

    def blocks(self, blocks: Iterable[doc.Block]) -> list[str]:
        """Those of which something is shown."""
        return [text for text in map(self.block, blocks) if text]

    def paragraph(self, block: doc.Paragraph) -> str:
        return self.line(block.content)

    def line(self, content: doc.Line) -> str:
        return "".join(map(self.span, content))

    def span(self, span: doc.Span) -> str:
        raise NotImplementedError
