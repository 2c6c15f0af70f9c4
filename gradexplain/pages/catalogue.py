"""The operations as a page and as the README's table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from gradexplain.catalogue import Entry
from gradexplain.formats.text import LABEL, NAME, Page, Style


def by_family(entries: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """The entries, which come by family, in groups."""
    return [(family, list(group)) for family, group in groupby(entries, key=lambda e: e.family)]


def render(entries: Sequence[Entry], style: Style) -> str:
    """Every entry with its formula and derivatives, by family."""
    page = Page(style)
    for family, group in by_family(entries):
        page.blank()
        page.heading(family.capitalize(), f"{len(group)} operation{'s' * (len(group) != 1)}")
        for entry in group:
            _entry(page, entry)
    return page.finish(first=True)


def _entry(page: Page, entry: Entry) -> None:
    page.blank()
    page.add(page.text(entry.signature, NAME), formula=True)
    others = [s for s in entry.spellings if s != entry.name]
    page.add(page.text("spelled  ", LABEL), page.text(", ".join(others)), indent=4, hang=9)
    if entry.formula:
        page.add(
            page.text("element  ", LABEL), page.text(entry.formula), indent=4, hang=9, formula=True
        )
    for _, derivative in entry.derivatives:
        page.add(
            page.text("slope    ", LABEL), page.text(derivative), indent=4, hang=9, formula=True
        )
    for part in entry.where:
        page.add(page.text("where    ", LABEL), page.text(part), indent=4, hang=9, formula=True)
    if entry.made_of:
        page.add(
            page.text("made of  ", LABEL), page.text(", ".join(entry.made_of)), indent=4, hang=9
        )
    if entry.kink:
        page.add(page.text("kink     ", LABEL), page.text(entry.kink), indent=4, hang=9)


def markdown(entries: Sequence[Entry]) -> str:
    """The README's list: names by family."""
    lines = []
    for family, group in by_family(entries):
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(e.name for e in group))
        lines.append(f"- **{family}**: {names}")
    return "\n".join(lines) + "\n"
