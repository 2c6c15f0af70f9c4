"""A formula in the shortest right notation: no indices where every tensor is taken element by element,
``@`` where it is a product of matrices.

`short` answers None where neither says it, and the index notation has to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sympy

from gradexplain.formula.arranging import over_one
from gradexplain.formula.indices import is_size
from gradexplain.formula.kinds import BIG, Bracket, Lookup, indices_of, label_of
from gradexplain.formula.letters import Letters
from gradexplain.formula.printing import TextPrinter
from gradexplain.ops.base import Shape

Frame = tuple[Any, ...]


class _NotShort(Exception):
    """A formula that needs its indices."""


class _Bare(TextPrinter):
    """Names alone: every tensor stands at the indices of ``frame``, broadcast as PyTorch does."""

    def __init__(self, frame: Frame, notation: _Notation) -> None:
        super().__init__(Letters(()), notation.order, loss=notation.loss, names=notation.names)
        self._frame = frame
        self._shapes = notation.shapes

    def element(self, label: str, indices: Sequence[Any]) -> str:
        shape = self._shapes.get(label.rpartition("/∂")[2])
        fixed = [n for n, i in zip(shape or (), indices, strict=False) if i.is_Integer]
        if shape is None or any(n != 1 for n in fixed) or not aligned(indices, self._frame):
            raise _NotShort
        if label.startswith("∂"):
            return self._slope(label, ())
        return self.name(label)

    def call(self, name: str, arguments: Sequence[str]) -> str:
        quoted = self.names.values()
        return super().call(
            name, [a[1:-1] if a in quoted and a[0] == "(" else a for a in arguments]
        )

    def _add(self, e: Any) -> str:
        """A sum; a product that is a name of its own needs no parentheses there."""
        return self.loose(super()._add(e), "[+−]", " [-+] |[\ue100-\ue1ff]")

    def condition(self, c: Any) -> str:
        return self.loose(super().condition(c), "[<>≤≥=≠]")

    def loose(self, shown: str, signs: str, but: str = "$^") -> str:
        """``shown`` without the parentheses of names beside ``signs``, those with ``but`` in them kept."""
        for name in self.names.values():
            if name[0] == "(" and name in shown and not re.search(but, name):
                ends = rf"(^| {signs} ){re.escape(name)}(?= {signs} |$)"
                shown = re.sub(ends, r"\g<1>" + name[1:-1].replace("\\", r"\\"), shown)
        return shown

    def _show(self, e: Any) -> tuple[str, int]:
        if isinstance(e, sympy.KroneckerDelta):
            column, row = sorted(e.args, key=lambda side: isinstance(side, Lookup))
            if isinstance(row, Lookup) and (*indices_of(row), column) == self._frame:
                return self.call("one_hot", [self.name(label_of(row))]), 3
            if column != 0:
                raise _NotShort
        elif isinstance(e, Lookup) and aligned(indices_of(e), self._frame):
            return self.name(label_of(e)), 3
        elif isinstance(e, (Lookup, BIG)) or (e.is_Symbol and e.is_integer and not is_size(e)):
            raise _NotShort
        if isinstance(e, Bracket) and not e.atoms(sympy.Indexed, Lookup):
            raise _NotShort
        return super()._show(e)


def aligned(indices: Sequence[Any], frame: Frame) -> bool:
    """Whether an element at ``indices`` is the one that broadcasting puts at ``frame``."""
    if len(indices) > len(frame):
        return False
    tail = frame[len(frame) - len(indices) :]
    return all(i == f or i == 0 for i, f in zip(indices, tail, strict=True))


def short(
    e: Any,
    frame: Frame,
    shapes: Mapping[str, Shape],
    names: Mapping[str, str] | None = None,
    order: Sequence[str] = (),
    loss: str = "L",
) -> str | None:
    """``e``, one element at ``frame``, without indices; None where it cannot be said so.

    ``shapes`` are the tensors' by label, ``names`` are what labels are called, ``order`` the order in which factors stand.
    """
    e, notation = sympy.sympify(e), _Notation(shapes, names or {}, order, loss)
    opened = None
    with suppress(_NotShort):
        opened = notation.whole(*_open(e, frame, shapes))
        if " @ " in opened or "outer(" in opened:
            return opened
    with suppress(_NotShort):
        return notation.whole(e, frame)
    return opened


def _open(e: Any, frame: Frame, shapes: Mapping[str, Shape]) -> tuple[Any, Frame]:
    """``e`` where an axis of size 1 has an index of its own, so that ``a[j,0]·b[0,l]`` is seen to be
    the product ``a @ b``."""
    row, found = sympy.Symbol("one_1", integer=True), {}
    for a in e.atoms(sympy.Indexed):
        shape = shapes.get(label_of(a).rpartition("/∂")[2], ())
        if 1 <= len(shape) <= 2 and shape.count(1) == 1:
            at = [row if size == 1 else i for i, size in zip(a.indices, shape, strict=True)]
            found[a] = a.base[tuple(at)]
    if not found or frame.count(0) > 1:
        raise _NotShort
    e = e.xreplace(found)
    if 0 in frame:
        return e, tuple(row if i == 0 else i for i in frame)
    shown = []
    for term in sympy.Add.make_args(e):
        around, inside = term.as_independent(row, as_Add=False)
        shown.append(around * sympy.Sum(inside, (row, 0, 0)) if inside != 1 else around)
    return sympy.Add(*shown), frame


@dataclass(frozen=True)
class _Notation:
    shapes: Mapping[str, Shape]
    names: Mapping[str, str]
    order: Sequence[str]
    loss: str

    def _bare(self, e: Any, frame: Frame) -> tuple[str, int]:
        return _Bare(frame, self)._show(e)

    def whole(self, e: Any, frame: Frame) -> str:
        if e.is_Add:
            e = over_one(e)
        if not e.has(sympy.Sum):
            try:
                return self._bare(e, frame)[0]
            except _NotShort:
                if len(frame) != 2:
                    raise
                with suppress(_NotShort):
                    return self._piece([e], frame)
        if e.is_Add and (e.has(sympy.Sum) or len(frame) == 2):
            key = TextPrinter(Letters(()), self.order)._term_key
            shown = ""
            for term in sorted(e.args, key=key):
                negative = term.could_extract_minus_sign() and not term.is_Add
                text = self.whole(-term if negative else term, frame)
                if not shown:
                    shown = f"−{text}" if negative else text
                else:
                    shown += f" − {text}" if negative else f" + {text}"
            return _Bare(frame, self).loose(shown, "[+−]", " [-+] |[\ue100-\ue1ff]")
        try:
            return self._term(e, frame)
        except _NotShort:
            return self._outer(e, frame)

    def _outer(self, e: Any, frame: Frame) -> str:
        """``w[l]·r[j]·c[j,l]`` as ``outer(r, w)·c``."""
        if len(frame) != 2 or any(i.is_Integer for i in frame):
            raise _NotShort
        parts: dict[Frame, list[Any]] = {}
        for factor in _apart(e):
            parts.setdefault(tuple(i for i in frame if factor.has(i)), []).append(factor)
        if not {frame[:1], frame[1:]} <= parts.keys():
            raise _NotShort
        sides = [self.whole(sympy.Mul(*parts.pop((i,))), (i,)) for i in frame]
        rest = sympy.Mul(*(f for factors in parts.values() for f in factors))
        around = self._bare(rest * sympy.Symbol(chr(1), real=True), frame)[0]
        return around.replace(chr(1), _Bare(frame, self).call("outer", sides))

    def _term(self, e: Any, frame: Frame) -> str:
        """One product with sums in it: ``(v @ wᵀ)·c/d``, each sum put into its place at the end."""
        texts: dict[str, str] = {}
        plain = []
        for factor in _apart(e):
            if factor.has(sympy.Sum):
                mark = chr(1 + len(texts))
                if isinstance(factor, sympy.Sum):
                    text = self._sum(factor, frame)
                    texts[mark] = (
                        f"({text})" if " @ " in text and not text.startswith("sum(") else text
                    )
                elif factor.is_Add:
                    texts[mark] = f"({self.whole(factor, frame)})"
                else:
                    raise _NotShort
                plain.append(sympy.Symbol(mark, real=True))
            else:
                plain.append(factor)
        if not texts:
            raise _NotShort
        if len(plain) == 1:
            (text,) = texts.values()
            return text[1:-1] if text.startswith("(") else text
        around = self._bare(sympy.Mul(*plain), frame)[0]
        for mark, text in texts.items():
            around = around.replace(mark, text)
        return around

    def _sum(self, e: Any, frame: Frame) -> str:
        """``Σ_p a[i,p]·b[p,k]`` as ``a @ b``; a sum of everything as ``sum(…)``."""
        bound: list[Any] = []
        body: Any = e
        while isinstance(body, sympy.Sum):
            bound += [limit[0] for limit in body.limits]
            body = body.function
        if not any(f.is_Integer for f in frame[-2:]):
            with suppress(_NotShort):
                return self._product(*self._batched(body, bound, frame))
            with suppress(_NotShort):
                return self._stacked(body, bound, frame)
        return self._over(body, bound, frame)

    def _batched(
        self, body: Any, bound: Sequence[Any], frame: Frame
    ) -> tuple[Any, Sequence[Any], Frame]:
        """The last two axes of a product of matrices in batches: ``@`` takes all the others as they are."""
        batch, live = frame[:-2], frame[-2:]
        if not batch:
            return body, bound, frame
        found = {}
        for a in body.atoms(sympy.Indexed):
            if len(a.indices) == len(frame) and a.indices[:-2] == batch:
                found[a] = a.base[a.indices[-2:]]
            elif a.has(*batch):
                raise _NotShort
        return body.xreplace(found), bound, live

    def _stacked(self, body: Any, bound: Sequence[Any], frame: Frame) -> str:
        """A product of matrices that is summed over its batches: ``sum(xᵀ @ v, dim=0)``."""
        atoms = body.atoms(sympy.Indexed)
        count = max((len(a.indices) for a in atoms), default=0) - 2
        lead = next(iter(atoms)).indices[: max(count, 0)] if atoms else ()
        if (
            not lead
            or not set(lead) <= set(bound)
            or any(a.indices[:count] != lead or len(a.indices) == count for a in atoms)
        ):
            raise _NotShort
        each = body.xreplace({a: a.base[a.indices[count:]] for a in atoms})
        text = self._product(each, [i for i in bound if i not in lead], frame)
        return f"sum({text}, dim={0 if count == 1 else tuple(range(count))})"

    def _over(self, body: Any, bound: Sequence[Any], frame: Frame) -> str:
        """A sum over dims of what is taken element by element: ``sum(v·x, dim=0)``."""
        atoms = sorted((a.indices for a in body.atoms(sympy.Indexed)), key=str)
        whole: Frame = max(atoms, key=lambda at: (len(at), -at.count(0)), default=())
        dims = [place for place, i in enumerate(whole) if i in bound]
        if len(dims) != len(bound) or len(set(whole)) != len(whole):
            raise _NotShort
        kept = tuple(i for i in whole if i not in bound)
        text = self._bare(body, whole)[0]
        if not kept:
            return f"sum({text})"
        own = len(whole) == len(frame) and all(
            place in dims or i == f for place, (i, f) in enumerate(zip(whole, frame, strict=True))
        )
        plain = aligned(kept, frame)
        if not own and not plain:
            raise _NotShort
        # An axis of size 1 of the whole is kept; one that broadcasting puts there need not be.
        tail = ", keepdim=True" if own and (not plain or frame[dims[0]] == 0) else ""
        shown = ", ".join(map(str, dims))
        return f"sum({text}, dim={shown if len(dims) == 1 else f'({shown})'}{tail})"

    def _product(self, body: Any, bound: Sequence[Any], live: Frame) -> str:
        """A chain of matrices, from the first index of ``live`` over the bound ones to the last."""
        body, bound = _opened(body, bound)
        if len(live) > 2 or body.is_Add or body.has(sympy.Sum):
            raise _NotShort
        groups: dict[frozenset[Any], list[Any]] = {}
        scalars = []
        for factor in sympy.Mul.make_args(body):
            used = frozenset(i for i in factor.free_symbols if i.is_integer and not is_size(i))
            if used:
                groups.setdefault(used, []).append(factor)
            else:
                scalars.append(factor)
        if scalars or any(len(used) > 2 for used in groups):
            raise _NotShort
        # A vector beside a matrix of its index belongs to it where broadcasting puts it there.
        start = live[0] if live else None
        goal = live[1] if len(live) == 2 else None
        pieces: list[str] = []
        at, left = start, dict(groups)
        if at is None:  # a scalar: from one vector to another
            ends = [used for used in left if len(used) == 1]
            if len(ends) != 2:
                raise _NotShort
            (at,) = ends[0]
            pieces.append(self._piece(left.pop(ends[0]), (at,)))
        weights: list[tuple[int, str]] = []
        while left:
            if goal is None and pieces and len(left) > 1 and (here := frozenset({at})) in left:
                weights.append((len(pieces), self._piece(left.pop(here), (at,))))
            near = [used for used in left if at in used]
            if not near:
                raise _NotShort
            used = near[0]
            factors = left.pop(used)
            if len(used) == 1:
                pieces.append(self._piece(factors, (at,)))
                at = None
                if left or goal is not None:
                    raise _NotShort
                break
            (other,) = used - {at}
            pieces.append(self._piece(factors, (at, other)))
            at = other
        if at != goal or len(groups) < 2:
            raise _NotShort
        passed = {i for used in groups for i in used} - set(live)
        if passed != set(bound):
            raise _NotShort
        for place, weight in reversed(weights):  # W1ᵀ @ ((W2ᵀ @ v)·(1 − h²))
            rest = " @ ".join(pieces[place:])
            pieces[place:] = [f"(({rest})·{weight})" if " @ " in rest else f"({rest}·{weight})"]
        return " @ ".join(pieces)

    def _piece(self, factors: Sequence[Any], ways: Frame) -> str:
        """The factors at the indices ``ways``, transposed where they stand the other way round."""
        product = sympy.Mul(*factors)
        try:
            text, level = self._bare(product, ways)
            turned = ""
        except _NotShort:
            text, level = self._bare(product, ways[::-1])
            turned = "ᵀ"
        if any(
            len([i for i in a.indices if not i.is_Integer]) != len(a.indices)
            for a in product.atoms(sympy.Indexed)
        ):
            raise _NotShort
        if turned and text.endswith(".T"):
            return text.removesuffix(".T")
        return f"({text}){turned}" if level < 3 else text + turned


def _apart(e: Any) -> list[Any]:
    """The factors of a product, numbers and sizes out of its sums: ``outer(p − t, w)/N``."""
    found: list[Any] = []
    for factor in sympy.Mul.make_args(e):
        if factor.is_Add:
            found += sympy.Mul.make_args(over_one(factor))
        elif isinstance(factor, sympy.Sum):
            inside = _apart(factor.function)
            plain = [f for f in inside if all(map(is_size, f.free_symbols))]
            found += plain
            found.append(
                factor.func(sympy.Mul(*(f for f in inside if f not in plain)), *factor.limits)
            )
        else:
            found.append(factor)
    return found


def _opened(body: Any, bound: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """``v[k]·Σ_p b[p]·c[p,k]`` as one product, with the indices that it is summed over."""
    factors, bound = [], list(bound)
    for factor in sympy.Mul.make_args(body):
        while isinstance(factor, sympy.Sum):
            bound += [limit[0] for limit in factor.limits]
            factor = factor.function
        factors.append(factor)
    if len(set(bound)) < len(bound):
        raise _NotShort
    return sympy.Mul(*factors), bound
