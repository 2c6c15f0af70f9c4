"""Formulas as text, the way a textbook sets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sympy
from sympy.logic.boolalg import And, Not, Or

from gradexplain.formula.arranging import (
    decimal,
    facing,
    joined_product,
    over_one,
    plain,
    radicals,
    sums_over_one,
    under_one_root,
    upright,
    whole,
)
from gradexplain.formula.functions import ABSENT, RecordFunction, of_reals
from gradexplain.formula.indices import SIZES, is_size
from gradexplain.formula.kinds import (
    BIG,
    Bracket,
    Cases,
    FirstGreatest,
    FirstLeast,
    FloorDiv,
    Greatest,
    Least,
    Lookup,
    Modulo,
    Nonzero,
    SincSlope,
    Sum,
    atoms,
)
from gradexplain.formula.letters import Letters

_ADD, _MUL, _POWER, _ATOM = range(4)
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_RELATIONS = {
    sympy.Lt: "<", sympy.Le: "≤", sympy.Gt: ">", sympy.Ge: "≥", sympy.Eq: "=", sympy.Ne: "≠",
}  # fmt: skip


class TextPrinter:
    """Plain text in Unicode."""

    times = "·"
    minus = " − "
    plus = " + "
    negative = "−"

    def __init__(
        self,
        letters: Letters,
        order: Sequence[str] = (),
        ranks: Mapping[str, int] | None = None,
        loss: str = "L",
        output: str = "y",
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.letters = letters
        self.loss = loss
        self.output = output
        #: The number of indices of each name, for ``∂y[i]/∂h[p]`` as one symbol.
        self.ranks = ranks or {}
        self._order = _places(tuple(order))
        self._last = len(self._order) - 1
        #: What values are called, where that is not their label.
        self.names = names or {}
        self._in_sum = 0
        self._in_parens = 0
        #: The letters of sizes that were printed.
        self.sizes: dict[str, None] = {}

    def __call__(self, e: Any) -> str:
        return self._show(sympy.sympify(e))[0]

    # -- words, which LaTeX spells differently ------------------------------------------------------

    def name(self, label: str) -> str:
        if label.startswith("∂"):
            return self._slope(label, ())
        return self.names.get(label, label)

    def element(self, label: str, indices: Sequence[Any]) -> str:
        if label.startswith("∂"):
            return self._slope(label, indices)
        return f"{self.name(label)}[{','.join(map(self, indices))}]"

    def _slope(self, label: str, indices: Sequence[Any]) -> str:
        """A derivative that stands for a value: ``∂L/∂h[p]``, or ``∂y[i]/∂h[p]``."""
        above, below = label[1:].split("/∂")
        if not above:
            return self.derivative(self.loss, (), below, indices)
        cut = len(indices) - self.ranks.get(below, len(indices))
        return self.derivative(self.output, indices[:cut], below, indices[cut:])

    def power(self, base: str, exponent: Any) -> str:
        if exponent.is_Integer:
            return base + str(exponent).translate(_SUPERSCRIPT)
        text, level = self._show(exponent)
        return f"{base}^{text if level == _ATOM else f'({text})'}"

    def fraction(self, above: str, below: str, above_level: int, below_level: int) -> str:
        above = self.paren(above) if above_level < _MUL else above
        alone = below.startswith((self.sum_sign, self.product_sign)) and below_level == _MUL
        below = self.paren(below) if below_level <= _MUL and not alone else below
        return f"{above}/{below}"

    def call(self, name: str, arguments: Sequence[str]) -> str:
        return f"{name}({', '.join(arguments)})"

    def root(self, inside: str) -> str:
        return self.call("sqrt", [inside])

    paren, bracket = "({})".format, "[{}]".format
    kronecker, floored, modulo = "δ({},{})".format, "⌊{}/{}⌋".format, "{} mod {}".format

    def big(self, sign: str, under: str, body: str) -> str:
        return f"{sign}_{under if len(under) == 1 else '{' + under + '}'} {body}"

    def cases(self, pieces: Sequence[tuple[str, str]]) -> str:
        shown = [f"{value} if {condition}" if condition else value for value, condition in pieces]
        return "(" + " else ".join(shown) + ")"

    sum_sign, product_sign = "Σ", "Π"
    greatest_sign, least_sign = "max", "min"
    constants = {sympy.pi: "π", sympy.E: "e", sympy.oo: "∞", sympy.nan: "nan"}

    def relation(self, sign: str) -> str:
        return sign

    # -- left sides -----------------------------------------------------------------------------

    def _at(self, label: str, indices: Sequence[Any]) -> str:
        return self.element(label, indices) if indices else self.name(label)

    def derivative(self, above: str, at: Sequence[Any], below: str, places: Sequence[Any]) -> str:
        """``∂y[i]/∂x[j]``."""
        return f"∂{self._at(above, at)}/∂{self._at(below, places)}"

    def gradient(self, label: str, places: Sequence[Any]) -> str:
        """``x.grad[j]``."""
        return self._at(f"{label}.grad", places)

    # -- structure ------------------------------------------------------------------------------

    def _show(self, e: Any) -> tuple[str, int]:
        if e in self.constants:
            return self.constants[e], _ATOM
        if e is -sympy.oo:
            return f"{self.negative}{self.constants[sympy.oo]}", _ADD
        if e.is_Rational:
            return self._rational(e)
        if e.is_Float:
            return f"{float(e):.6g}", _ATOM
        if isinstance(e, sympy.Indexed):
            return self.element(str(e.base.label.name), e.indices), _ATOM
        if e.is_Symbol:
            if is_size(e):
                self.sizes[e.name] = None
                return self.name(e.name), _ATOM
            return (self.letters[e] if e.is_integer else self.name(e.name)), _ATOM
        if e.is_Add:
            whole = over_one(e)
            return (self._add(e), _ADD) if whole is e else self._mul(whole)
        if e.is_Mul:
            return self._mul(e)
        if e.is_Pow:
            return self._pow(e)
        if isinstance(e, sympy.KroneckerDelta):
            if e.args[0] == 0 and isinstance(e.args[1], Lookup):  # of a mask
                return f"[not {self(e.args[1])}]", _ATOM
            return self.kronecker(*map(self, self._sides(e))), _ATOM
        if isinstance(e, Bracket):
            return self.bracket(self.condition(e.condition)), _ATOM
        if isinstance(e, BIG):
            return self._total(e), _MUL
        if isinstance(e, Nonzero):
            return self._show(e.args[0])
        if isinstance(e, SincSlope):
            return self._show(e.written())
        if isinstance(e, Cases):
            pieces = [(self(v), "" if c is sympy.true else self.condition(c)) for v, c in e.args]
            return self.cases(pieces), _ATOM
        if isinstance(e, Lookup):
            if len(e.args) == 1:
                return self.name(e.args[0].name), _ATOM
            return self.element(e.args[0].name, e.args[1:]), _ATOM
        if isinstance(e, (FloorDiv, Modulo)):
            above, level = self._show(e.args[0])
            sides = self.paren(above) if level == _ADD else above, self._tight(e.args[1])
            whole = isinstance(e, FloorDiv)
            return (self.floored(*sides), _ATOM) if whole else (self.modulo(*sides), _ADD)
        if isinstance(e, sympy.Function) or isinstance(e, (sympy.Max, sympy.Min)):
            return self._function(e), _ATOM
        if isinstance(e, sympy.logic.boolalg.Boolean):
            return self.condition(e), _ATOM
        raise TypeError(f"no notation for {type(of_reals(e)).__name__}")

    def _tight(self, e: Any) -> str:
        """A divisor: ``N``, ``(N + 2)``."""
        text, level = self._show(e)
        return text if level == _ATOM else self.paren(text)

    def _rational(self, e: Any) -> tuple[str, int]:
        if e.is_Integer:
            text, level = whole(abs(e.p)), _ATOM
        elif (short := decimal(abs(e.p), e.q)) is not None:
            text, level = short, _ATOM
        else:
            text = self.fraction(whole(abs(e.p)), whole(e.q), _ATOM, _ATOM)
            level = _MUL
        return (f"{self.negative}{text}", _ADD) if e < 0 else (text, level)

    def _add(self, e: Any) -> str:
        terms = sorted(e.args, key=self._term_key)
        shown = ""
        for term in terms:
            negative = term.could_extract_minus_sign() and not term.is_Add
            text, level = self._show(-term if negative else term)
            if level == _ADD:
                text = self.paren(text)
            if not shown:
                shown = f"{self.negative}{text}" if negative else text
            else:
                shown += (self.minus if negative else self.plus) + text
        return shown

    def _term_key(self, term: Any) -> tuple[Any, ...]:
        """Positive terms first, those with a selector before the others, numbers last."""
        return (
            term.could_extract_minus_sign(),
            not term.has(sympy.KroneckerDelta),
            bool(term.is_number),
            term.has(sympy.Sum, sympy.Product),
            self._place(term),
            self._rank(term),
            term.sort_key(),
        )

    @staticmethod
    def _place(term: Any) -> int:
        """The fixed position that a term speaks of: the 1 of ``δ(i,1)`` or of ``v[1]``."""
        places = [
            int(index)
            for part in atoms(term, sympy.KroneckerDelta, sympy.Indexed)
            for index in (part.args if isinstance(part, sympy.KroneckerDelta) else part.indices)
            if index.is_Integer
        ]
        return max(places, default=0)

    def _rank(self, e: Any) -> int:
        """The earliest name in ``e`` by the order in which the user's names appear."""
        return min((self._position(a) for a in atoms(e, sympy.Symbol)), default=1000)

    def _position(self, symbol: Any) -> int:
        """The place of a name; a derivative's is that of what it is taken by."""
        return self._order.get(symbol.name.rpartition("/∂")[2], 999)

    def _factor_key(self, factor: Any) -> tuple[Any, ...]:
        base = factor.base if factor.is_Pow else factor
        if base.is_number or all(map(is_size, base.free_symbols)):
            first = min((SIZES.find(s.name) for s in base.free_symbols), default=0)
            return (-1 if base.is_number else -0.5), first, factor.sort_key()
        if base.is_Symbol or isinstance(base, sympy.Indexed):
            kind = 1
        elif isinstance(base, (sympy.KroneckerDelta, Bracket)):
            # δ·s − x within a product reads best with the δ in front, alone with the δ last.
            kind = 0 if self._in_parens else 4
        elif isinstance(base, (sympy.Sum, sympy.Product)):
            kind = 5
        elif base.is_Add:
            kind = 3
        else:
            kind = 2
        latest = max(
            (self._position(a) for a in atoms(base, sympy.Symbol) if not a.is_integer), default=-1
        )
        if kind == 1 and self._in_sum and latest == self._last:
            latest = -1  # what is summed reads Σ_i v[i]·…
        return kind, latest if kind == 1 else self._rank(base), factor.sort_key()

    def _mul(self, e: Any) -> tuple[str, int]:
        e = joined_product(e)
        if not e.is_Mul:
            return self._show(e)
        e = sums_over_one(e)
        rooted = under_one_root(e)
        if rooted is not None:
            return self.root(self(rooted)), _ATOM
        coefficient, rest = radicals(upright(e))
        sign = ""
        if coefficient.is_Rational and coefficient < 0:
            sign, coefficient = self.negative, -coefficient
        above, below, short = [], [], None
        if coefficient.is_Rational:
            if coefficient.q != 1:
                short = decimal(coefficient.p, coefficient.q)
            if short is None:
                if coefficient.p != 1:
                    above.append(sympy.Integer(coefficient.p))
                if coefficient.q != 1:
                    below.append(sympy.Integer(coefficient.q))
        elif coefficient != 1:
            above.append(coefficient)
        for factor in sympy.Mul.make_args(rest):
            if factor.is_Pow and factor.exp.could_extract_minus_sign():
                below.append(factor.base ** (-factor.exp))
            elif factor.is_Rational and factor.p == 1 and factor.q != 1:
                below.append(sympy.Integer(factor.q))
            else:
                above.append(factor)
        text, level = self._product(above)
        if short is not None:
            text, level = (f"{short}{self.times}{text}", _MUL) if above else (short, _ATOM)
            if above and len(above) == 1:
                inner, inner_level = self._show(above[0])
                inner = self.paren(inner) if inner_level < _MUL else inner
                text = f"{short}{self.times}{inner}"
        if below:
            under, under_level = self._product(below)
            last = max(above, key=self._factor_key, default=None)
            if isinstance(last, (sympy.Sum, sympy.Product)):
                text, level = self.paren(text) if len(above) == 1 else self._closed(above), _MUL
            text = self.fraction(text, under, level, under_level)
            level = _MUL
        return (f"{sign}{text}", _ADD) if sign else (text, level)

    def _closed(self, factors: Sequence[Any]) -> str:
        """A product whose last factor is a sum, the sum in parentheses."""
        ordered = sorted(factors, key=self._factor_key)
        head, level = self._product(ordered[:-1])
        head = self.paren(head) if level < _MUL else head
        return f"{head}{self.times}{self.paren(self(ordered[-1]))}"

    def _product(self, factors: Sequence[Any]) -> tuple[str, int]:
        if not factors:
            return "1", _ATOM
        ordered = sorted(factors, key=self._factor_key)
        if len(ordered) == 1:
            return self._show(ordered[0])
        pieces = []
        for place, factor in enumerate(ordered):
            self._in_parens += bool(factor.is_Add)
            text, level = self._show(factor)
            self._in_parens -= bool(factor.is_Add)
            last = place == len(ordered) - 1
            big = isinstance(factor, (sympy.Sum, sympy.Product))
            if level < _MUL or (big and not last) or (level == _MUL and factor.is_Rational):
                text = self.paren(text)
            pieces.append(text)
        return self.times.join(pieces), _MUL

    def _pow(self, e: Any) -> tuple[str, int]:
        base, exponent = e.args
        if exponent.could_extract_minus_sign():
            below = base ** (-exponent)
            text, level = self._show(below)
            return self.fraction("1", text, _ATOM, level), _MUL
        if exponent == sympy.Rational(1, 2):
            return self.root(self(base)), _ATOM
        text, level = self._show(base)
        if level < _ATOM or base.is_Pow:
            text = self.paren(text)
        return self.power(text, exponent), _POWER

    def _total(self, e: Any) -> str:
        signs = {
            Sum: self.sum_sign, sympy.Product: self.product_sign,
            Greatest: self.greatest_sign, Least: self.least_sign,
            FirstGreatest: f"arg{self.greatest_sign}", FirstLeast: f"arg{self.least_sign}",
        }  # fmt: skip
        over = []
        body: Any = e
        while type(body) is type(e):
            over += [limit[0] for limit in body.limits]
            body = body.function
        letters = [self.letters[q] for q in over]
        under = ",".join(letters)
        if isinstance(e, sympy.Product) and isinstance(body, Cases):
            # Π over all but one place.
            (value, condition), _ = body.args
            under = self.condition(condition)
            body = value
        elif isinstance(body, Bracket) or (
            body.is_Mul and any(isinstance(f, Bracket) for f in body.args)
        ):
            # Σ_{p ≤ i}: a condition on the bound index goes under the sign.
            factors = sympy.Mul.make_args(body)
            moved = [
                f for f in factors
                if isinstance(f, Bracket) and len(over) == 1 and f.has(over[0])
                and not f.atoms(sympy.Indexed) and not isinstance(f.condition, (And, Or, Not))
            ]  # fmt: skip
            if len(moved) == 1:
                under = self.condition(facing(moved[0].condition, over[0]))
                body = sympy.Mul(*(f for f in factors if f is not moved[0]))
        parens, self._in_parens = self._in_parens, 0
        self._in_sum += 1
        text, level = self._show(body)
        self._in_sum -= 1
        self._in_parens = parens
        if level == _ADD:
            text = self.paren(text)
        return self.big(signs[type(e)], under, text)

    def _function(self, e: Any) -> str:
        arguments = list(e.args)
        name = type(e).__name__
        if isinstance(e, RecordFunction):
            defaults = [p.default for p in e.op.parameters if p.name in e.names]
            while len(arguments) > 1 and (
                arguments[-1] == ABSENT
                or (defaults[-1] is not None and arguments[-1] == sympy.sympify(defaults[-1]))
            ):
                arguments.pop()
                defaults.pop()
        elif isinstance(e, sympy.polygamma):
            if arguments[0] == 0:
                name, arguments = "digamma", arguments[1:]
        else:
            name = _SPELLED.get(name, name)
        if isinstance(e, (sympy.Max, sympy.Min)):
            arguments.sort(key=lambda a: (bool(a.is_number), a.sort_key()))
        return self.call(name, [self(a) for a in arguments])

    def _sides(self, e: Any) -> list[Any]:
        """The two indices of a delta: the output's before the input's, letters before numbers."""

        def key(side: Any) -> tuple[Any, ...]:
            names = sorted(s.name for s in side.free_symbols)
            first = names[0] if names else "~"
            return ("~" if side.is_Integer else "b" if first.startswith("d") else "a", first)

        return sorted(e.args, key=key)

    def condition(self, c: Any) -> str:
        if isinstance(c, And):
            return self._chain(c)
        if isinstance(c, Or):
            return " or ".join(sorted(map(self.condition, c.args)))
        if isinstance(c, Not):
            return f"not ({self.condition(c.args[0])})"
        if isinstance(c, sympy.core.relational.Relational):
            c = plain(c)
            if isinstance(c, (sympy.Eq, sympy.Ne)) and c.rhs == 0 and isinstance(c.lhs, Lookup):
                return f"{'not ' if isinstance(c, sympy.Eq) else ''}{self(c.lhs)}"
            return f"{self(c.lhs)} {self.relation(_RELATIONS[type(c)])} {self(c.rhs)}"
        return str(c)

    def _chain(self, c: Any) -> str:
        """``1 ≤ j < 3`` for two bounds of one thing, the parts joined by "and"."""
        parts = [plain(p) if isinstance(p, sympy.core.relational.Relational) else p for p in c.args]
        lows = {p.lhs: p for p in parts if isinstance(p, (sympy.Ge, sympy.Gt))}
        highs = {p.lhs: p for p in parts if isinstance(p, (sympy.Le, sympy.Lt))}
        shown = []
        for side in lows.keys() & highs.keys():
            low, high = lows[side], highs[side]
            opening = self.relation("<" if isinstance(low, sympy.Gt) else "≤")
            closing = self.relation(_RELATIONS[type(high)])
            shown.append(f"{self(low.rhs)} {opening} {self(side)} {closing} {self(high.rhs)}")
            parts = [p for p in parts if p not in (low, high)]
        return " and ".join(sorted([*shown, *map(self.condition, parts)]))


@lru_cache(maxsize=16)
def _places(names: tuple[str, ...]) -> Mapping[str, int]:
    return {name: place for place, name in enumerate(names)}


#: SymPy's names for functions that PyTorch's users know by another.
_SPELLED = {
    "Abs": "abs", "loggamma": "lgamma", "ceiling": "ceil", "Max": "max", "Min": "min", "rint": "round", "log0": "log",
}  # fmt: skip
