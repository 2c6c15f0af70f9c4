"""Small pieces of text that pages share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product

from gradexplain.document import model as doc
from gradexplain.explanation import Array, ForwardRow, Input
from gradexplain.tensors import spot


def ranges_in(ranges: str, used: str, *, sizes: bool = False) -> dict[str, str]:
    """The bound of each letter of ``i, j = 0…2; N = 3`` that a text speaks of; with ``sizes`` of
    sizes alone."""
    found = {}
    for letters, bound in re.findall(r"((?:\w+, )*\w+) = ([^;,]+)", ranges):
        for letter in letters.split(", "):
            size = letter.isupper()
            here = (
                rf"(?<![\w.]){letter}(?![\w(])"
                if size
                else rf"[\[,_{{( +−·]{letter}(?=[\],}} )+−·])"
            )
            if bound and letter and (size or not sizes) and re.search(here, used):
                found[letter] = bound
    return found


def grouped(known: Iterable[dict[str, str]]) -> str | None:
    """``i, j = 0…2; N = 3`` once for all formulas; None where a letter has two bounds."""
    bounds: dict[str, str] = {}
    for found in known:
        for letter, bound in found.items():
            if bounds.setdefault(letter, bound) != bound:
                return None
    groups: dict[str, list[str]] = {}
    for letter in sorted(bounds, key=lambda letter: (letter.isupper(), letter)):
        groups.setdefault(bounds[letter], []).append(letter)
    said = [f"{', '.join(letters)} = {bound}" for bound, letters in groups.items()]
    return "; ".join(said)


#: How tightly operations hold what they are made from; a call more than all.
_BINDS = {"add": 1, "sub": 1, "neg": 1, "mul": 2, "div": 2, "matmul": 2, "mm": 2, "pow": 3}


def binds(op: str) -> int:
    return _BINDS.get(op, 5)


#: Where a name begins and ends: ``t2²`` is t2, squared, ``t2ᵀ`` it, transposed.
START, END = r"(?<![\w.])", r"(?![^\W¹²³⁰-⁹ᵀ])"


def spoken(lines: Iterable[str], shown: str) -> list[str]:
    """The definitions that a text speaks of, by itself or by another of them, each name's first."""
    heads = {
        re.sub(r"\[[^\]]*\]$", "", text.partition(" = ")[0]): text for text in reversed([*lines])
    }
    found: dict[str, str] = {}
    while new := {
        head: text for head, text in heads.items()
        if head not in found and re.search(rf"{START}{re.escape(head)}{END}", shown)
    }:  # fmt: skip
        found |= new
        shown = " ".join(text.partition(" = ")[2] for text in new.values())
    return [text for head, text in heads.items() if head in found][::-1]


#: What a sign is that a reader may not have met.
LEGEND = (
    (r"δ\(", "δ(i,j) is 1 where i = j, else 0"),
    (r"(?<![\w)\]])\[[^\[\]]*([<>≤≥≠=]|not )", "[…] is 1 where it holds, else 0"),
    (r"\bndtr\(", "ndtr is the distribution function of the standard normal"),
    (r"\bcofactors\(", "cofactors(A) is det(A)·inverse(A)ᵀ, where there is an inverse"),
)


def definitions(lines: Sequence[str], code: Sequence[str] = ()) -> Iterable[doc.Block]:
    """What the names in the formulas above stand for, each beside the line of PyTorch that makes it."""
    rows: list[tuple[str, str]] = []
    left = list(code)
    for text in lines:
        found = _line_of(text, left)
        rows += [("", line) for line in left[: found or 0]]
        rows.append((text, "" if found is None else left[found]))
        left = left[0 if found is None else found + 1 :]
    rows += [("", line) for line in left]
    beside = tuple(doc.row(doc.math(t), doc.code(c, "quiet") if c else "") for t, c in rows)
    where = tuple(doc.row(doc.math(text)) for text in lines)
    made = tuple(doc.row(doc.code(line, "quiet")) for line in code)
    paired = 2 * sum(bool(text and line) for text, line in rows) >= max(1, len(code))
    for lead, shown in [("where", beside)] if paired else [("where", where), ("with", made)]:
        if shown:
            yield doc.Table(shown, stacked=True, indent=4, lead=lead)


#: How code spells what formulas call by a letter.
_SPELT = {"σ": "sigma", "μ": "mu", "x̂": "x_hat"}


def _line_of(text: str, code: Sequence[str]) -> int | None:
    """Which line makes what a definition is of; of a value without a name the last before one with."""
    name = text.partition(" = ")[0]
    slope, _, of = name.rpartition("∂")
    heads = [line.partition(" = ")[0] for line in code]
    if slope and not of.isidentifier():
        run = re.match(r"(.*?)(1+)", "".join("01"[bool(re.match(r"grad_t\d", h))] for h in heads))
        return run and run.end() - 1
    wanted = f"grad_{of}" if slope else _SPELT.get(name, name)
    return heads.index(wanted) if wanted in heads else None


def quoted(row: ForwardRow) -> str:
    loose = binds(row.op) < 5 and row.text != row.node
    return f"({row.text})" if loose else row.text


def standing(i: Input) -> str:
    """What sets an input apart from one that gets a gradient."""
    if i.integer:
        return f"{'a mask' if i.boolean else 'integers, an index'}: it has no gradient"
    return "" if i.wanted else "a constant here: not in --wrt"


def unwrapped(text: str) -> str:
    """``a + b`` of ``(a + b)``; ``(a)·(b)`` as it is."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:-1] if text[:1] == "(" and place == len(text) - 1 > 1 else text
    return text


def value(values: Array, of: str = "", said: str = "value") -> doc.Table:
    """A gradient's numbers under its formula."""
    return doc.Table((doc.row(doc.label(said), doc.Tensor(values, of=of)),), indent=4)


def tensor_or(values: Array | None, nothing: str = "None") -> doc.Cell:
    """The numbers, or a word where there are none."""
    return doc.cell(doc.label(nothing) if values is None else doc.Tensor(values))


def signed(text: str) -> str:
    return f"({text})" if text.startswith("−") else text


def letters_for(count: int, taken: set[str]) -> list[str]:
    return [letter for letter in "ikmacegopqrstu" if letter not in taken][:count]


def elements(name: str, shape: tuple[int, ...]) -> list[str]:
    """``x[0,0]``, ``x[0,1]``, …: the elements of a tensor in order."""
    return [spot(name, at) for at in product(*map(range, shape))]
