"""The operations as a page and as the help's table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from gradexplain.catalogue import Catalogue, Entry
from gradexplain.document import model as doc


def by_family(entries: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """The entries, which come by family, in groups."""
    return [(family, list(group)) for family, group in groupby(entries, key=lambda e: e.family)]


def page(found: Catalogue) -> doc.Document:
    """Every entry with its formula and derivatives, by family."""
    blocks: list[doc.Block] = []
    for family, group in by_family(found.operations):
        blocks.append(
            doc.Heading(family.capitalize(), f"{len(group)} operation{'s' * (len(group) != 1)}")
        )
        for entry in group:
            blocks += [
                doc.Paragraph(()),
                doc.prose(doc.Span(entry.signature, "name", "code")),
            ]
            others = [s for s in entry.spellings if s != entry.name]
            rows = [
                ("spelled", doc.Span(", ".join(others))),
                ("element", doc.math(entry.formula)),
                *(("slope", doc.math(slope)) for _, slope in entry.derivatives),
                *(("where", doc.math(part)) for part in entry.where),
                ("made of", doc.Span(", ".join(entry.made_of))),
                ("kink", doc.Span(entry.kink)),
            ]
            shown = tuple(doc.row(doc.label(said), value) for said, value in rows if value.text)
            blocks.append(doc.Table(shown, indent=4))
    return doc.Document("The operations", tuple(blocks))


def markdown(entries: Sequence[Entry]) -> str:
    """The help's list: names by family."""
    lines = []
    for family, group in by_family(entries):
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(e.name for e in group))
        lines.append(f"- **{family}**: {names}")
    return "\n".join(lines) + "\n"
