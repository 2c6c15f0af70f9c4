"""The page of ``gradexplain stability``: digits over the range, where they go, and the rewrite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradexplain.document import model as doc
from gradexplain.stability.search import Stability

_BLOCKS = " ▁▂▃▄▅▆▇█"
#: Columns of the picture.
_WIDTH = 44


def page(x: Stability) -> doc.Document:
    return doc.Document("stability", tuple(_blocks(x)))


def _blocks(x: Stability) -> Iterator[doc.Block]:
    name, (low, high) = next(iter(x.ranges.items()))
    yield doc.Heading("Question")
    yield doc.Program(tuple(x.expression.strip().splitlines()))
    yield doc.prose(
        f"{name} from {low:g} to {high:g} in {len(x.points)} points, {x.dtype}: "
        f"{x.full:.0f} digits at the most, measured with PyTorch against the exact value."
    )
    yield doc.Heading("Digits", f"{name} = {x.points[0]:.3g} … {x.points[-1]:.3g}, not to scale")
    yield _picture(x)
    yield doc.Heading("Answer")
    if x.lost is None:
        yield doc.prose("No digits are lost that matter: nothing to rewrite.")
        return
    where = "the backward of " if x.lost.backward else ""
    yield doc.prose(
        f"Most is lost at {name} = {x.worst:.6g}: {where}",
        doc.code(x.lost.operation),
        f" has {x.lost.after:.1f} digits of the {x.lost.before:.1f} that went into it.",
    )
    if x.rewrite:
        whole = len(x.applied) == 1 and x.applied[0][1] == x.rewrite
        yield doc.prose(
            f"{x.applied[0][2].capitalize()}. " if whole else "", "Written so, it keeps them:"
        )
        yield doc.Program((x.rewrite,))
        rows = (doc.row(*map(doc.line, (doc.code(old), doc.code(new), doc.label(why))))
                for old, new, why in x.applied)  # fmt: skip
        yield doc.Table(() if whole else tuple(rows))
        yield doc.prose(
            f"At the worst point then {min(x.forward_after):.1f} digits forward (now "
            f"{min(x.forward):.1f}) and {min(x.backward_after):.1f} backward (now "
            f"{min(x.backward):.1f}). It is equal to 50 digits at all points, and at none "
            "does it have fewer digits than now, but for the last one and for what one "
            "rounding of each input and operation may change."
        )
    elif x.partial is not None:
        text, better, worse = x.partial
        yield doc.prose(
            doc.code(text),
            f" is equal; it has more digits at {better} points and fewer at {worse}, so it "
            "is proposed only for a range where it is better: try a smaller --range.",
        )
    else:
        yield doc.prose("No rewrite of the table is equal here and better at every point.")


def _picture(x: Stability) -> doc.Table:
    rows = [("forward", x.forward), ("backward", x.backward)]
    if x.forward_after:
        rows += [("forward, rewritten", x.forward_after), ("backward, rewritten", x.backward_after)]
    return doc.Table(
        tuple(
            doc.row(
                doc.line(doc.label(text)),
                doc.line(picture(digits, x.full)),
                doc.line(doc.label(f"{min(digits):.1f} … {max(digits):.1f}")),
            )
            for text, digits in rows
        )
    )


def picture(digits: Sequence[float], full: float) -> str:
    """Digits as blocks of eight heights, the fewest of each column."""
    columns = min(_WIDTH, len(digits))
    edges = [round(n * len(digits) / columns) for n in range(columns + 1)]
    least = [min(digits[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    return "".join(_BLOCKS[max(1, round(8 * value / full))] for value in least)
