"""A formula in index notation as vectorised PyTorch.

Every index letter is an axis.  A part of a formula is written for a *frame*, the axes that the
tensor it becomes is broadcast against, last to last as PyTorch does: an element ``s[d1]`` in the
frame ``(d0, d1)`` is ``s``, ``s[d0]`` is ``s.unsqueeze(-1)``.  A sum over an index that takes a
free place of the frame is ``.sum(dim=…)``; a product of two elements that share every place is
``@`` or ``einsum``.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
from sympy.logic.boolalg import And, Not, Or

from gradexplain.errors import UnsupportedError
from gradexplain.formula.calculus import indices_of, label_of
from gradexplain.formula.functions import RecordFunction
from gradexplain.formula.kinds import Bracket, Cases, Nonzero, SincSlope, log0
from gradexplain.routes.pytorch import function_of

_ADD, _MUL, _NEG, _POWER, _ATOM = range(5)

#: The empty place of a frame: an axis of one element, or one that the part does not have.
ONE = sympy.S.One

#: SymPy's functions by their name in torch, where it differs.
_FUNCTIONS = {
    "Abs": "abs", "loggamma": "lgamma", "ceiling": "ceil", "Max": "maximum", "Min": "minimum",
    "atan2": "atan2", "log": "log", "erfinv": "erfinv", "sinc": "sinc",
}  # fmt: skip
_RELATIONS = {
    sympy.Lt: "<",
    sympy.Le: "<=",
    sympy.Gt: ">",
    sympy.Ge: ">=",
    sympy.Eq: "==",
    sympy.Ne: "!=",
}

Frame = tuple[Any, ...]


class Printer:
    """Writes formulas.  ``names`` are what labels are called in the code; ``sizes`` what a size is.

    ``ranks`` are the shapes of the labels' tensors, with the size 1 where an index is fixed at 0.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        shapes: Mapping[str, tuple[int, ...]],
        size: Callable[[int], str | None],
        ranges: Mapping[Any, int],
    ) -> None:
        self.names = names
        self.shapes = shapes
        self.size = size
        self.ranges = ranges
        #: The labels that were used.
        self.used: set[str] = set()

    def tensor(self, e: Any, frame: Frame) -> str:
        """``e`` as a tensor that broadcasts to ``frame``."""
        return self._show(sympy.sympify(e), frame)[0]

    def full(self, e: Any, frame: Frame, like: str, shape: Sequence[int]) -> str:
        """``e`` in the whole shape of a leaf, expanded where the formula does not have an axis."""
        text, level = self._show(sympy.sympify(e), frame)
        have = self._axes(sympy.sympify(e))
        missing = [a for a in frame if a is not ONE and a not in have]
        if not missing:
            lead = [a for a in frame if a is ONE]
            summed = bool(like) and e.has(sympy.Sum) and "keepdim=True" not in text
            if lead and (summed or not self._keeps(e, frame)):
                return self._call_on(text, level, f"reshape({like}.shape)")
            return text
        if not isinstance(e, sympy.Expr) or (not have and not self._tensors(e)):
            return f"torch.full_like({like}, {text})"
        return self._call_on(text, level, f"expand_as({like})")

    # -- pieces ----------------------------------------------------------------------------------

    def _tensors(self, e: Any) -> bool:
        return bool(e.atoms(sympy.Indexed)) or any(
            s.is_real and not s.is_integer for s in e.atoms(sympy.Symbol)
        )

    def _axes(self, e: Any) -> set[Any]:
        """The index letters that ``e`` has free."""
        return {s for s in e.free_symbols if s.is_integer and s in self.ranges}

    def _keeps(self, e: Any, frame: Frame) -> bool:
        """Whether the code of ``e`` has the axes of one element of ``frame`` too."""
        for atom in e.atoms(sympy.Indexed):
            if label_of(atom) in self.shapes and len(self.shapes[label_of(atom)]) >= len(frame):
                at = indices_of(atom)
                if [i for i in at if i in frame] == [a for a in frame if a is not ONE]:
                    return True
        return False

    def _paren(self, text: str, level: int, least: int) -> str:
        return text if level >= least else f"({text})"

    def _call_on(self, text: str, level: int, call: str) -> str:
        return f"{self._paren(text, level, _ATOM)}.{call}"

    def _show(self, e: Any, frame: Frame) -> tuple[str, int]:
        if e.is_Rational:
            return self._rational(e)
        if e.is_number and not e.free_symbols and not e.has(sympy.Sum, Bracket):
            return _constant(e)
        if isinstance(e, sympy.Indexed) or e.is_Symbol:
            return self._element(e, frame)
        if e.is_Add:
            return self._add(e, frame)
        if e.is_Mul:
            return self._mul(e, frame)
        if e.is_Pow:
            return self._pow(e, frame)
        if isinstance(e, sympy.Sum):
            return self._sum(e, frame)
        if isinstance(e, (sympy.Piecewise, Cases)):
            return self._piecewise(e, frame)
        if isinstance(e, (Bracket, sympy.KroneckerDelta)):
            return f"{self._mask(e, frame)}.to({self._some()}.dtype)", _ATOM
        if isinstance(e, Nonzero):
            text = self.tensor(e.args[0], frame)
            return f"torch.where({text} == 0, math.inf, {text})", _ATOM
        if isinstance(e, SincSlope):
            return self._show(e.written(), frame)
        if isinstance(e, log0):
            text = self.tensor(e.args[0], frame)
            return f"torch.where({text} == 0, 1.0, {text}).log()", _ATOM
        if isinstance(e, (sympy.Function, sympy.Max, sympy.Min)):
            return self._function(e, frame)
        raise self.unsupported(type(e).__name__)

    @staticmethod
    def unsupported(what: str) -> UnsupportedError:
        return UnsupportedError(
            f"codegen cannot write {what} as PyTorch yet",
            remedy="gradexplain run shows the formula, to be written by hand",
        )

    def _some(self) -> str:
        return next(iter(sorted(self.names[u] for u in self.used)), "grad_output")

    def _rational(self, e: Any) -> tuple[str, int]:
        sign = "-" if e < 0 else ""
        top, bottom = self._integer(abs(int(e.p))), self._integer(int(e.q))
        if e.q == 1:
            return (
                f"{sign}{top}",
                _NEG
                if sign
                else _ATOM
                if top.isidentifier() or top.isdigit() or "*" not in top
                else _MUL,
            )
        if top.isdigit() and bottom.isdigit():
            value = int(top) / int(bottom)
            if len(repr(value)) <= 6:
                return f"{sign}{value!r}", _NEG if sign else _ATOM
        if "*" in top or " " in top:
            top = f"({top})"
        if "*" in bottom or " " in bottom:
            bottom = f"({bottom})"
        return f"{sign}{top} / {bottom}", _MUL

    def _integer(self, n: int) -> str:
        """A whole number, sizes of axes in it by name."""
        found = []
        self.size(n)
        for p in _primes(n):
            name = self.size(p)
            if name is not None:
                while n % p == 0:
                    n //= p
                    found.append(name)
        if not found and n > 24:
            for off, sign in ((1, "-"), (-1, "+")):
                if (name := self.size(n + off)) is not None:
                    return f"({name} {sign} 1)"
        if n != 1 or not found:
            found.insert(0, str(n))
        return " * ".join(found)

    def _element(self, e: Any, frame: Frame) -> tuple[str, int]:
        label = label_of(e)
        at = indices_of(e)
        if label not in self.names:
            raise self.unsupported(f"the name {label}")
        self.used.add(label)
        text = self.names[label]
        axes: list[Any] = []
        picks: list[str] = []
        for place, i in enumerate(at):
            if i.is_Symbol:
                axes.append(i)
                picks.append(":")
            elif i == 0 and self.shapes[label][place] == 1:
                axes.append(ONE)
                picks.append(":")
            elif i.is_Integer:
                picks.append(str(int(i)))
            else:
                raise self.unsupported("an index that is not a letter")
        if any(p != ":" for p in picks):
            while picks and picks[-1] == ":":
                picks.pop()
            text = f"{text}[{', '.join(picks)}]"
        return self._placed(text, axes, frame)

    def _placed(self, text: str, axes: Sequence[Any], frame: Frame) -> tuple[str, int]:
        """A tensor with ``axes`` made to broadcast to ``frame``."""
        letters = [a for a in axes if a is not ONE]
        if len(set(letters)) < len(letters):
            twice = next(a for a in letters if letters.count(a) > 1)
            first = axes.index(twice)
            second = axes.index(twice, first + 1)
            rest = [a for k, a in enumerate(axes) if k not in (first, second)]
            return self._placed(
                f"{text}.diagonal(dim1={first}, dim2={second})", [*rest, twice], frame
            )
        if any(a not in frame for a in letters):
            raise self.unsupported("an axis that is nowhere in the result")
        if self._fits(axes, frame):
            return text, _ATOM
        # Axes of one element that are in the way go; the others take the frame's order.
        wanted = [a for a in frame if a in letters]
        if len(letters) < len(axes):
            for place in range(len(axes) - 1, -1, -1):
                if axes[place] is ONE:
                    text = f"{text}.squeeze({place})"
        order = [letters.index(a) for a in wanted]
        if order != sorted(order):
            text += ".T" if len(order) == 2 else f".permute({', '.join(map(str, order))})"
        result = list(wanted)
        if not self._fits(result, frame):
            first = min(frame.index(a) for a in wanted)
            picks = [":" if a in wanted else "None" for a in frame[first:]]
            tail = picks
            if tail.count("None") == 1 and tail[-1] == "None":
                text = f"{text}.unsqueeze(-1)"
            else:
                text = f"{text}[{', '.join(tail)}]"
        return text, _ATOM

    @staticmethod
    def _fits(axes: Sequence[Any], frame: Frame) -> bool:
        """Whether a tensor with ``axes`` broadcasts to ``frame`` as it is."""
        if len(axes) > len(frame):
            return False
        return all(
            a is ONE or a == f for a, f in zip(reversed(axes), reversed(frame), strict=False)
        )

    # -- sums and products -------------------------------------------------------------------------

    def _add(self, e: Any, frame: Frame) -> tuple[str, int]:
        terms = sorted(e.args, key=self._term_key)
        text = ""
        for term in terms:
            negative = term.could_extract_minus_sign()
            shown, level = self._show(-term if negative else term, frame)
            shown = self._paren(shown, level, _MUL if text else _ADD)
            if not text:
                text = f"-{self._paren(shown, level, _MUL)}" if negative else shown
            else:
                text += f" {'-' if negative else '+'} {shown}"
        return text, _ADD

    @staticmethod
    def _term_key(term: Any) -> Any:
        number = bool(term.is_number)
        return (
            term.could_extract_minus_sign(),
            term.has(sympy.Sum),
            number and not term.is_Integer,
            term.sort_key(),
        )

    def _mul(self, e: Any, frame: Frame) -> tuple[str, int]:
        coefficient, rest = e.as_coeff_Mul()
        if coefficient.is_Rational and coefficient < 0:
            text, level = self._show(-e, frame)
            return f"-{self._paren(text, level, _MUL)}", _NEG
        choices = [f for f in sympy.Mul.make_args(rest) if isinstance(f, (Cases, sympy.Piecewise))]
        if len(choices) == 1:
            others = sympy.Mul(
                coefficient, *(f for f in sympy.Mul.make_args(rest) if f is not choices[0])
            )
            if self._tensors(others):
                return self._piecewise(Cases(*((v * others, c) for v, c in choices[0].args)), frame)
        numbers = [f for f in sympy.Mul.make_args(rest) if f.is_number]
        if not coefficient.is_Rational:
            numbers, coefficient = [*numbers, coefficient], sympy.S.One
        if numbers:
            constant, level = _constant(sympy.Mul(coefficient, *numbers))
            others = sympy.Mul(*(f for f in sympy.Mul.make_args(rest) if not f.is_number))
            if others == 1:
                return constant, level
            text, inner = self._show(others, frame)
            constant = self._paren(constant, level, _MUL)
            return (
                f"{constant} * {self._paren(text, inner, _MUL + 1 if '/' in text else _MUL)}",
                _MUL,
            )
        factors = list(sympy.Mul.make_args(rest))
        masks = [f for f in factors if isinstance(f, (Bracket, sympy.KroneckerDelta))]
        if masks:
            others = sympy.Mul(coefficient, *(f for f in factors if f not in masks))
            chosen, _ = self._show(others, frame)
            mask = " & ".join(self._mask(m, frame) for m in masks)
            if others == 1:
                return f"({mask}).to(grad_output.dtype)", _ATOM
            return f"torch.where({_bare(mask) if len(masks) == 1 else mask}, {chosen}, 0.0)", _ATOM
        above = [f for f in factors if not _below(f)]
        below = [f.base ** (-f.exp) for f in factors if _below(f)]
        top, bottom = sympy.Integer(coefficient.p), sympy.Integer(coefficient.q)
        if coefficient.q in (2, 4, 8, 5, 10) and coefficient.p < 20:
            top, bottom = coefficient, sympy.S.One
        pieces = [self._show(f, frame) for f in sorted(above, key=self._factor_key)]
        if top != 1:
            pieces.insert(0, self._rational(sympy.Rational(top)))
        text = (
            " * ".join(
                self._paren(t, level, _MUL if k == 0 else _NEG + 1)
                for k, (t, level) in enumerate(pieces)
            )
            or "1"
        )
        level = _MUL if len(pieces) > 1 else (max(pieces[0][1], _MUL) if pieces else _ATOM)
        under = [self._show(f, frame) for f in sorted(below, key=self._factor_key)]
        if bottom != 1:
            under.insert(
                0,
                (self._integer(int(bottom)), _MUL if " " in self._integer(int(bottom)) else _ATOM),
            )
        if under:
            text = self._paren(text, level, _MUL)
            if len(under) == 1:
                text += f" / {self._paren(under[0][0], under[0][1], _POWER)}"
            else:
                product = " * ".join(self._paren(t, lv, _MUL) for t, lv in under)
                text += f" / ({product})"
            level = _MUL
        return text, level

    def _factor_key(self, factor: Any) -> Any:
        base = factor.base if factor.is_Pow else factor
        atom = isinstance(base, sympy.Indexed) or base.is_Symbol
        if atom:
            upstream = label_of(base) in ("v", "g", "grad_output", "grad_out")
            return 0, "" if upstream else "~", factor.sort_key()
        return (
            (2 if base.is_Add else 3 if isinstance(base, sympy.Sum) else 1),
            "",
            factor.sort_key(),
        )

    def _pow(self, e: Any, frame: Frame) -> tuple[str, int]:
        base, exponent = e.args
        if _below(e):
            text, level = self._show(base ** (-exponent), frame)
            return f"1 / {self._paren(text, level, _POWER)}", _MUL
        if exponent == sympy.Rational(1, 2):
            text, level = self._show(base, frame)
            return f"torch.sqrt({text})" if level < _ATOM else f"{text}.sqrt()", _ATOM
        if exponent.is_Rational:
            text, level = self._show(base, frame)
            power, _ = self._rational(exponent)
            spaced = (
                "**"
                if text.replace("_", "a").replace(".", "a").isalnum() and power.isdigit()
                else " ** "
            )
            if " " in power:
                power = f"({power})"
            return f"{self._paren(text, level, _ATOM)}{spaced}{power}", _POWER
        text, level = self._show(base, frame)
        power, power_level = self._show(exponent, frame)
        return (
            f"{self._paren(text, level, _ATOM)} ** {self._paren(power, power_level, _ATOM)}",
            _POWER,
        )

    def _sum(self, e: Any, frame: Frame) -> tuple[str, int]:
        body: Any = e
        bound: list[Any] = []
        while isinstance(body, sympy.Sum):
            bound += [limit[0] for limit in body.limits]
            body = body.function
        axes = self._axes(body)
        kept = [a for a in frame if a in axes]
        product = self._contracted(body, bound, kept, frame)
        if product is not None:
            return product
        best: tuple[int, str] | None = None
        for order in self._frames(body, bound, kept, frame):
            for keep in (False, True):
                result = [ONE if a in bound else a for a in order if keep or a not in bound]
                if not self._fits(result, frame):
                    continue
                if any(
                    a is not ONE and r is ONE and a in kept
                    for a, r in zip(reversed(frame), reversed(result), strict=False)
                ):
                    continue
                try:
                    text, level = self._show(body, order)
                except UnsupportedError:
                    continue
                dims = [
                    k - (len(order) if k >= 2 and k == len(order) - 1 else 0)
                    for k, a in enumerate(order)
                    if a in bound
                ]
                whole = len(dims) == len(order) and not keep
                arguments = (
                    ""
                    if whole
                    else f"dim={dims[0]}"
                    if len(dims) == 1
                    else f"dim=({', '.join(map(str, dims))})"
                )
                arguments += ", keepdim=True" if keep else ""
                shown = f"{self._paren(text, level, _ATOM)}.sum({arguments})"
                cost = (
                    len(shown)
                    + 20 * shown.count(".T")
                    + 20 * shown.count("permute")
                    + 10 * shown.count("[")
                    + 10 * shown.count("unsqueeze")
                )
                if len(result) < len(frame) and ONE in frame:
                    cost += 15
                if best is None or cost < best[0]:
                    best = cost, shown
        if best is None:
            raise self.unsupported("a sum over an axis of no tensor")
        return best[1], _ATOM

    def _frames(
        self, body: Any, bound: Sequence[Any], kept: Sequence[Any], frame: Frame
    ) -> list[Frame]:
        """Orders of axes in which the body of a sum may be written."""
        found: list[Frame] = []
        letters = [*kept, *bound]
        for atom in sorted(body.atoms(sympy.Indexed), key=lambda a: (-len(a.indices), str(a))):
            order = [i for i in atom.indices if i in letters]
            if len(set(order)) == len(order) == len(letters):
                full = tuple(i if i in letters else ONE for i in atom.indices)
                found += [full, tuple(order)]
        free = [k for k, a in enumerate(frame) if a not in kept]
        for places in itertools.permutations(free, min(len(free), len(bound))):
            order = [a if a in kept else ONE for a in frame]
            for place, q in zip(places, bound, strict=False):
                order[place] = q
            rest = list(bound[len(places) :])
            found.append((*rest, *order))
            found.append((*rest, *(a for a in order if a is not ONE)))
        if len(letters) <= 4:
            found += [tuple(p) for p in itertools.permutations(letters)]
        return list(dict.fromkeys(found))

    def _contracted(
        self, body: Any, bound: Sequence[Any], kept: Sequence[Any], frame: Frame
    ) -> tuple[str, int] | None:
        """A sum of a product of two elements as a matrix product or an ``einsum``; None for
        others.
        """
        factors = list(sympy.Mul.make_args(body))
        tensors = [f for f in factors if self._axes(f)]
        if len(tensors) < 2 or len(factors) != len(tensors):
            return None
        split = self._split(tensors, bound)
        if split is None:
            return None
        left, right = split
        la, ra = self._axes(left), self._axes(right)
        shared = la & ra
        if not (la - shared - set(bound)) or not (ra - shared - set(bound)):
            return None
        if set(bound) - shared:
            return None
        names = iter("ijklmnpqrstuvw")
        letter = {a: next(names) for a in [*kept, *bound]}
        written = []
        for e in (left, right):
            order = self._order(e, [*kept, *bound])
            text, level = self._show(e, order)
            written.append((text, level, order))
        out = tuple(kept)
        (lt, ll, lo), (rt, rl, ro) = written
        if not self._fits(out, frame):
            picks = [
                ":" if a in kept else "None" for a in frame[min(frame.index(a) for a in kept) :]
            ]
            tail = f"[{', '.join(picks)}]"
        else:
            tail = ""
        if (
            len(bound) == 1
            and len(out) == 2
            and len(lo) == len(ro) == 2
            and not (shared - set(bound))
        ):
            q = bound[0]
            first = (lt, ll, lo) if out[0] in lo else (rt, rl, ro)
            second = (rt, rl, ro) if out[0] in lo else (lt, ll, lo)
            a = self._paren(first[0], first[1], _ATOM) + ("" if first[2][1] == q else ".T")
            b = self._paren(second[0], second[1], _ATOM) + ("" if second[2][0] == q else ".T")
            text = f"{a} @ {b}"
            return (f"({text}){tail}", _ATOM) if tail else (text, _MUL)
        if len(bound) == 1 and len(lo) + len(ro) == 3 and len(out) == 1 and not tail:
            q = bound[0]
            (mt, ml, mo), (vt, vl, _) = (
                ((lt, ll, lo), (rt, rl, ro)) if len(lo) == 2 else ((rt, rl, ro), (lt, ll, lo))
            )
            m = self._paren(mt, ml, _ATOM)
            vector = self._paren(vt, vl, _ATOM)
            return (f"{m} @ {vector}", _MUL) if mo[1] == q else (f"{m}.T @ {vector}", _MUL)
        first_axes, second_axes, result = (
            "".join(letter[a] for a in axes) for axes in (lo, ro, out)
        )
        spec = f"{first_axes},{second_axes}->{result}"
        return f'torch.einsum("{spec}", {lt}, {rt}){tail}', _ATOM

    def _split(self, factors: Sequence[Any], bound: Sequence[Any]) -> tuple[Any, Any] | None:
        """Two groups of factors, each with its own axes beside the bound ones."""
        if len(factors) == 2:
            return factors[0], factors[1]
        for size in range(1, len(factors)):
            for group in itertools.combinations(factors, size):
                other = [f for f in factors if f not in group]
                left, right = sympy.Mul(*group), sympy.Mul(*other)
                la, ra = self._axes(left), self._axes(right)
                if (la - ra) and (ra - la) and set(bound) <= (la & ra):
                    return left, right
        return None

    def _order(self, e: Any, letters: Sequence[Any]) -> Frame:
        """The order of axes in which ``e`` is written most simply."""
        axes = self._axes(e)
        atoms = sorted(e.atoms(sympy.Indexed), key=lambda a: (-len(a.indices), str(a)))
        for atom in atoms:
            order = tuple(i for i in atom.indices if i in axes)
            if (
                set(order) == axes
                and len(order) == len(axes)
                and all(i.is_Symbol for i in atom.indices)
            ):
                return order
        return tuple(a for a in letters if a in axes)

    # -- choices and functions ---------------------------------------------------------------------

    def _mask(self, e: Any, frame: Frame) -> str:
        if isinstance(e, sympy.KroneckerDelta):
            return self._diagonal(e, frame)
        return self._condition(e.condition, frame)

    def _diagonal(self, e: Any, frame: Frame) -> str:
        """Where two axes of the frame have the same place."""
        a, b = e.args
        if a not in frame or b not in frame:
            raise self.unsupported("a selection of places")
        n, device = self._integer(self.ranges[a]), f"{self._some()}.device"
        eye = f"torch.eye({n}, dtype=torch.bool, device={device})"
        return self._placed(eye, sorted((a, b), key=frame.index), frame)[0]

    def _condition(self, c: Any, frame: Frame) -> str:
        if isinstance(c, (And, Or)):
            sign = " & " if isinstance(c, And) else " | "
            return "(" + sign.join(self._condition(p, frame) for p in sorted(c.args, key=str)) + ")"
        if isinstance(c, Not):
            return f"~{self._condition(c.args[0], frame)}"
        if not isinstance(c, sympy.core.relational.Relational) or self._is_index(c):
            raise self.unsupported("a condition on indices")
        if c.lhs.is_number and not c.rhs.is_number:
            c = c.reversed
        left, right = self.tensor(c.lhs, frame), self.tensor(c.rhs, frame)
        return f"({left} {_RELATIONS[type(c)]} {right})"

    def _is_index(self, c: Any) -> bool:
        """Whether a condition speaks of index letters alone."""
        return not c.atoms(sympy.Indexed) and all(s.is_integer for s in c.free_symbols)

    def _piecewise(self, e: Any, frame: Frame) -> tuple[str, int]:
        text = ""
        for value, condition in reversed(e.args):
            shown = self.tensor(value, frame)
            if not text:
                text = shown
                continue
            mask = _bare(self._condition(condition, frame))
            if not self._tensors(value) and text.replace(".", "").replace("-", "").isdigit():
                text = f"{float(text)}"
                shown = f"{float(value)}"
            text = f"torch.where({mask}, {shown}, {text})"
        return text, _ATOM

    def _function(self, e: Any, frame: Frame) -> tuple[str, int]:
        arguments = [self._show(a, frame) for a in e.args]
        if isinstance(e, RecordFunction):
            return self._record(e, frame)
        name = type(e).__name__
        if isinstance(e, sympy.polygamma):
            order = int(e.args[0])
            inner = arguments[1][0]
            return (
                f"torch.digamma({inner})" if order == 0 else f"torch.polygamma({order}, {inner})"
            ), _ATOM
        torch = sys.modules.get("torch")  # without it a line is only held against the numbers
        name = _FUNCTIONS.get(name, name)
        if torch is not None and not hasattr(torch, name):
            raise self.unsupported(f"the function {name}")
        if name in ("maximum", "minimum") and any(a.is_number for a in e.args):
            number = next(a for a in e.args if a.is_number)
            other = next(a for a in e.args if not a.is_number)
            side = "min" if name == "maximum" else "max"
            return (
                f"torch.clamp({self.tensor(other, frame)}, {side}={self.tensor(number, frame)})",
                _ATOM,
            )
        if (
            len(arguments) == 1
            and arguments[0][1] == _ATOM
            and (torch is None or hasattr(torch.Tensor, name))
            and not e.args[0].is_number
        ):
            return f"{arguments[0][0]}.{name}()", _ATOM
        return f"torch.{name}({', '.join(t for t, _ in arguments)})", _ATOM

    def _record(self, e: Any, frame: Frame) -> tuple[str, int]:
        """A named pointwise record: ``torch.sigmoid(x)``, ``F.softplus(x, beta=2)``."""
        torch = sys.modules.get("torch")
        if torch is not None:
            function_of(torch, e.op)
        home = e.op.spellings[0].rpartition(".")[0]
        prefix = {"linalg": "torch.linalg", "special": "torch.special"}.get(home, home)
        pieces = []
        for name, value in zip(e.names, e.args, strict=True):
            parameter = next(p for p in e.op.parameters if p.name == name)
            shown = self.tensor(value, frame)
            if parameter.is_tensor:
                pieces.append(shown)
            elif parameter.required or sympy.sympify(parameter.default) != value:
                pieces.append(f"{name}={shown}")
        return f"{prefix}.{e.op.name}({', '.join(pieces)})", _ATOM


def _bare(text: str) -> str:
    """``text`` without the one pair of parentheses around it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for place, ch in enumerate(text):
        depth += (ch == "(") - (ch == ")")
        if depth == 0 and place < len(text) - 1:
            return text
    return text[1:-1]


def _constant(e: Any) -> tuple[str, int]:
    """A number that is no fraction: ``math.sqrt(2 / math.pi)``."""
    named = {sympy.pi: "math.pi", sympy.E: "math.e", sympy.oo: "math.inf", -sympy.oo: "-math.inf"}
    if e in named:
        return named[e], _ATOM
    sign = "-" if e.could_extract_minus_sign() else ""
    for k, root in ((0, ""), (-1, " / math.pi"), (1, " * math.pi")):
        square = sympy.nsimplify(sympy.simplify(e**2 / sympy.pi**k))
        if square.is_Rational and square.p < 1000 and square.q < 1000:
            p, q = int(square.p), int(square.q)
            inner = (
                f"{p}{root}"
                if q == 1
                else f"{p} / {q}{root}"
                if k >= 0
                else f"{p} / ({q} * math.pi)"
            )
            inner = inner.replace("1 * math.pi", "math.pi") if p == q == 1 else inner
            return f"{sign}math.sqrt({inner})", _NEG if sign else _ATOM
    value = float(e)
    return repr(value), _NEG if value < 0 else _ATOM


def _below(e: Any) -> bool:
    return bool(e.is_Pow and e.exp.could_extract_minus_sign())


def _primes(n: int) -> list[int]:
    found = []
    for p in range(2, min(n, 1000) + 1):
        if n % p == 0 and all(p % q for q in range(2, math.isqrt(p) + 1)):
            found.append(p)
    return found
