"""The verdict in one line, and the routes' numbers where they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.explanation import Check, Difference, Gradient
from gradexplain.tensors import Array, spot

#: What a convention is, where the check names no other reason.
CHOICE = "the routes differ where mathematics leaves a choice"

ROLES: dict[str, doc.Role] = {
    "agree": "good",
    "convention": "doubt",
    "mismatch": "bad",
    "cannot tell": "doubt",
}


def verdict(
    check: Check | None, gradients: Iterable[Gradient], precision: int, of: str = "gradients"
) -> Iterable[doc.Block]:
    """The verdict in one line, and where the routes differ, the routes' numbers."""
    if check is None:
        return
    scope, reason = compared(check), check.reason
    said = {
        "agree": f"closed form = chain rule = PyTorch ({scope}). {reason}",
        "convention": f"{reason or CHOICE} ({scope}).",
        "mismatch": f"the routes give different {of} ({scope}). {reason}",
        "skipped": "closed form = chain rule; PyTorch was not asked.",
        "cannot tell": reason
        if check.differences or check.operations or not check.whole
        else f"{reason.rstrip('.')}. The closed form stands, and the chain rule gives the same {of}.",
    }.get(check.status, reason)
    yield from concluded(check, said.strip(), gradients, precision)


def concluded(
    check: Check, said: str, gradients: Iterable[Gradient], precision: int
) -> Iterable[doc.Block]:
    """The verdict's word before what is ``said``, the differences, the routes' numbers."""
    word = {"mismatch": "MISMATCH", "skipped": "not checked"}.get(check.status, check.status)
    yield doc.prose(doc.Span(f"{word}: ", ROLES.get(check.status, "label")), said, hang=2)
    if check.differences:
        yield doc.Table(tuple(difference(d, check.status, precision) for d in check.differences))
    yield from routes(gradients)


def routes(gradients: Iterable[Gradient]) -> Iterable[doc.Block]:
    """Each route's numbers, where they are not the same."""
    for gradient in gradients:
        if gradient.verdict not in ("convention", "mismatch", "cannot tell"):
            continue
        found = {"closed form": gradient.value, "chain rule": gradient.chain_rule}
        found |= {} if gradient.torch is None else {"PyTorch": gradient.torch}
        if not all(np.array_equal(gradient.value, v, equal_nan=True) for v in found.values()):
            yield side_by_side(doc.name(f"{gradient.name}.grad"), found)


def side_by_side(head: doc.Span, found: Mapping[str, Array | None]) -> doc.Table:
    """The numbers of the routes that have any under each other."""
    rows = [(doc.label(r), doc.Tensor(value)) for r, value in found.items() if value is not None]
    return doc.Table(tuple(doc.row("" if n else head, *row) for n, row in enumerate(rows)))


def notes(items: Iterable[str]) -> Iterable[doc.Block]:
    """The last section of a page, where there is something to note."""
    if lines := tuple(map(doc.line, items)):
        yield doc.Heading("Notes")
        yield doc.Notes(lines)


def compared(check: Check) -> str:
    """The dtype, and how much of the backward pass was held against PyTorch's step by step."""
    if not check.operations:
        return check.dtype
    number, many = check.compared, check.operations
    part = f"{number} of {many} operations" if number < many else "each operation"
    return f"{check.dtype}; {part if many > 1 else 'its one operation'} compared"


def difference(d: Difference, status: str, precision: int) -> tuple[doc.Cell, ...]:
    """One row: which element, what each route gave, and how far apart that is."""
    where = d.input if d.input.startswith(("∂", "(")) else f"{d.input}.grad"
    values = numbers.distinct(*d.values, precision=precision)
    apart = numbers.number(abs(d.values[0] - d.values[1]), 2)
    return doc.row(
        doc.Span(spot(where, d.index), ROLES.get(status, "")),
        f"{d.routes[0]} {values[0]}",
        f"{d.routes[1]} {values[1]}",
        f"differ by {apart}, allowed {numbers.number(d.tolerance, 2)}",
        doc.label(f"largest of {d.count}") if d.count > 1 else "",
    )
