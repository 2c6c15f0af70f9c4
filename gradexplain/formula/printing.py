"""Formulas as text and as LaTeX, the way a textbook sets them.

`Letters` gives every index symbol its letter, once for a formula and all the lines under it;
`TextPrinter` and `LatexPrinter` differ only in how each kind of thing is written down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from sympy.logic.boolalg import And, Not, Or

from gradexplain.formula.functions import (
    ABSENT,
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
    RecordFunction,
    SincSlope,
)
from gradexplain.formula.indices import SIZES, is_size

#: Letters for the axes of the output, of the input, and for bound indices, in order of use.
_OUT = "ikmace"
_IN = "jlnbdf"
_BOUND = "pqrstuwzgh"

_ADD, _MUL, _POWER, _ATOM = range(4)
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_RELATIONS = {
    sympy.Lt: "<", sympy.Le: "≤", sympy.Gt: ">", sympy.Ge: "≥", sympy.Eq: "=", sympy.Ne: "≠",
}  # fmt: skip
_LATEX_RELATIONS = {"≤": r"\le", "≥": r"\ge", "≠": r"\ne"}


class Letters:
    """The letter of each index symbol.  Names that the user gave to tensors are not used."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._letters: dict[Any, str] = {}
        self._used: set[str] = set()

    def free(self, alphabet: str) -> str:
        for letter in alphabet:
            if letter not in self._used and letter not in self._taken:
                return letter
        count = 1
        while f"{alphabet[0]}{count}" in self._used | self._taken:
            count += 1
        return f"{alphabet[0]}{count}"

    def assign(self, symbol: Any, alphabet: str) -> str:
        letter = self.free(alphabet)
        self._letters[symbol] = letter
        self._used.add(letter)
        return letter

    def axes(self, symbols: Sequence[Any], alphabet: str) -> None:
        """Letters for the axes of the output or of an input; a fixed 0 still takes its letter."""
        for symbol in symbols:
            if symbol.is_Integer:
                self._used.add(self.free(alphabet))
            elif symbol not in self._letters:
                self.assign(symbol, alphabet)

    def __getitem__(self, symbol: Any) -> str:
        if symbol not in self._letters:
            origin, _, mark = symbol.name.partition("_")
            if origin == "b" or not mark:
                return self.assign(symbol, _BOUND)
            # A sum over an axis of the output keeps that axis's letter where it is free.
            axis = int(origin[1:].rpartition("x")[2] or 0)
            letter = _OUT[axis] if axis < len(_OUT) else ""
            if letter and letter not in self._used and letter not in self._taken:
                self._letters[symbol] = letter
                self._used.add(letter)
            else:
                self.assign(symbol, _OUT + _BOUND)
        return self._letters[symbol]

    def known(self, symbol: Any) -> str | None:
        return self._letters.get(symbol)

    def share(self, symbols: Mapping[Any, Any]) -> None:
        """Each key gets the letter of its value."""
        for symbol, other in symbols.items():
            if not symbol.is_Integer and not other.is_Integer:
                self._letters[symbol] = self[other]

    def adopt(
        self, own: Sequence[Any], at: Sequence[Any], alphabet: str, ranges: Mapping[Any, int]
    ) -> None:
        """Letters for a definition's indices: those at which it is used, where these are plain and
        run over the same range."""
        plain = [i for i in at if i.is_Symbol]
        same = len(plain) == len(set(plain)) == sum(not o.is_Integer for o in own)
        for place, symbol in enumerate(own):
            if symbol.is_Integer or symbol in self._letters:
                continue
            known = same and at[place].is_Symbol and at[place] in self._letters
            if known and ranges.get(at[place]) == ranges[symbol]:
                self._letters[symbol] = self._letters[at[place]]
            else:
                self.assign(symbol, alphabet)

    def reuse(self, size: int, ranges: Mapping[Any, int], but: set[str | None]) -> str | None:
        """A bound index's letter of the same range that may be used again, None if there is none."""
        for symbol, letter in self._letters.items():
            if "_" in symbol.name and ranges.get(symbol) == size and letter not in but:
                return letter
        return None

    def symbol(self, letter: str) -> Any:
        return next(symbol for symbol, known in self._letters.items() if known == letter)

    def used(self, axes: Sequence[Any]) -> list[tuple[Any, str]]:
        """Every symbol that has a letter, those of ``axes`` first."""
        first = [(symbol, self._letters[symbol]) for symbol in axes if symbol in self._letters]
        return first + [item for item in self._letters.items() if item not in first]


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
    ) -> None:
        self.letters = letters
        self.loss = loss
        self.output = output
        #: The number of indices of each name, for ``∂y[i]/∂h[p]`` as one symbol.
        self.ranks = ranks or {}
        self._order = {name: place for place, name in enumerate(order)}
        self._last = len(self._order) - 1
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
        return label

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

    def paren(self, text: str) -> str:
        return f"({text})"

    def root(self, text: str) -> str:
        return f"sqrt({text})"

    def kronecker(self, a: str, b: str) -> str:
        return f"δ({a},{b})"

    def bracket(self, condition: str) -> str:
        return f"[{condition}]"

    def big(self, sign: str, under: str, body: str) -> str:
        return f"{sign}_{under if len(under) == 1 else '{' + under + '}'} {body}"

    def cases(self, pieces: Sequence[tuple[str, str]]) -> str:
        shown = [f"{value} if {condition}" if condition else value for value, condition in pieces]
        return "(" + " else ".join(shown) + ")"

    def floored(self, above: str, below: str) -> str:
        return f"⌊{above}/{below}⌋"

    def modulo(self, a: str, b: str) -> str:
        return f"{a} mod {b}"

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
            return self._add(e), _ADD
        if e.is_Mul:
            return self._mul(e)
        if e.is_Pow:
            return self._pow(e)
        if isinstance(e, sympy.KroneckerDelta):
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
        if isinstance(e, FloorDiv):
            above, level = self._show(e.args[0])
            above = self.paren(above) if level == _ADD else above
            return self.floored(above, self._tight(e.args[1])), _ATOM
        if isinstance(e, Modulo):
            above, level = self._show(e.args[0])
            above = self.paren(above) if level == _ADD else above
            return self.modulo(above, self._tight(e.args[1])), _ADD
        if isinstance(e, sympy.Function) or isinstance(e, (sympy.Max, sympy.Min)):
            return self._function(e), _ATOM
        if isinstance(e, sympy.logic.boolalg.Boolean):
            return self.condition(e), _ATOM
        raise TypeError(f"no notation for {type(e).__name__}")

    def _tight(self, e: Any) -> str:
        """A divisor: ``N``, ``(N + 2)``."""
        text, level = self._show(e)
        return text if level == _ATOM else self.paren(text)

    def _rational(self, e: Any) -> tuple[str, int]:
        if e.is_Integer:
            text, level = str(abs(e)), _ATOM
        else:
            fraction = f"{abs(e.p)}/{e.q}"
            decimal = _decimal(Fraction(int(abs(e.p)), int(e.q)))
            if decimal is not None and len(decimal) < len(fraction):
                text, level = decimal, _ATOM
            else:
                text = self.fraction(str(abs(e.p)), str(e.q), _ATOM, _ATOM)
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
            for part in term.atoms(sympy.KroneckerDelta, sympy.Indexed)
            for index in (part.args if isinstance(part, sympy.KroneckerDelta) else part.indices)
            if index.is_Integer
        ]
        return max(places, default=0)

    def _rank(self, e: Any) -> int:
        """The earliest name in ``e`` by the order in which the user's names appear."""
        return min((self._position(a) for a in e.atoms(sympy.Symbol)), default=1000)

    def _position(self, symbol: Any) -> int:
        """The place of a name; a derivative's is that of what it is taken by."""
        return self._order.get(symbol.name.rpartition("/∂")[2], 999)

    def _factor_key(self, factor: Any) -> tuple[Any, ...]:
        base = factor.base if factor.is_Pow else factor
        if base.is_number or all(map(is_size, base.free_symbols)):
            first = min((SIZES.index(s.name) for s in base.free_symbols), default=0)
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
            (self._position(a) for a in base.atoms(sympy.Symbol) if not a.is_integer), default=-1
        )
        if kind == 1 and self._in_sum and latest == self._last:
            latest = -1  # what is summed reads Σ_i v[i]·…
        return kind, latest if kind == 1 else self._rank(base), factor.sort_key()

    def _mul(self, e: Any) -> tuple[str, int]:
        rooted = _under_one_root(e)
        if rooted is not None:
            return self.root(self(rooted)), _ATOM
        coefficient, rest = _radicals(_upright(e))
        sign = ""
        if coefficient.is_Rational and coefficient < 0:
            sign, coefficient = self.negative, -coefficient
        above, below = [], []
        decimal = None
        if coefficient.is_Rational:
            if coefficient.q != 1:
                decimal = _decimal(Fraction(int(coefficient.p), int(coefficient.q)))
                whole = len(f"{coefficient.p}/{coefficient.q}")
                if decimal is not None and (coefficient.q == 1 or len(decimal) >= whole):
                    decimal = None
            if decimal is None:
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
        if decimal is not None:
            text, level = (f"{decimal}{self.times}{text}", _MUL) if above else (decimal, _ATOM)
            if above and len(above) == 1:
                inner, inner_level = self._show(above[0])
                inner = self.paren(inner) if inner_level < _MUL else inner
                text = f"{decimal}{self.times}{inner}"
        if below:
            under, under_level = self._product(below)
            if above and isinstance(
                sorted(above, key=self._factor_key)[-1], (sympy.Sum, sympy.Product)
            ):
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
            sympy.Sum: self.sum_sign, sympy.Product: self.product_sign,
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
                under = self.condition(_facing(moved[0].condition, over[0]))
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
            c = _plain(c)
            return f"{self(c.lhs)} {self.relation(_RELATIONS[type(c)])} {self(c.rhs)}"
        return str(c)

    def _chain(self, c: Any) -> str:
        """``1 ≤ j < 3`` for two bounds of one thing, else the parts joined by "and"."""
        parts = [
            _plain(p) if isinstance(p, sympy.core.relational.Relational) else p for p in c.args
        ]
        lows = [p for p in parts if isinstance(p, (sympy.Ge, sympy.Gt))]
        highs = [p for p in parts if isinstance(p, (sympy.Le, sympy.Lt))]
        if len(parts) == 2 and len(lows) == 1 and len(highs) == 1 and lows[0].lhs == highs[0].lhs:
            low, high = lows[0], highs[0]
            opening = self.relation("<" if isinstance(low, sympy.Gt) else "≤")
            closing = self.relation(_RELATIONS[type(high)])
            return f"{self(low.rhs)} {opening} {self(low.lhs)} {closing} {self(high.rhs)}"
        return " and ".join(sorted(map(self.condition, parts)))


#: SymPy's names for functions that PyTorch's users know by another.
_SPELLED = {
    "Abs": "abs", "loggamma": "lgamma", "ceiling": "ceil", "Max": "max", "Min": "min", "rint": "round", "log0": "log",
}  # fmt: skip


_LONG = re.compile(r"(?<![\d.e-])\d{4,}(?![\d.])")


class _Measure(TextPrinter):
    """Texts of which only the length matters: any letter will do, and any order of factors.

    So a part of a formula has one text wherever it stands, which is written once.
    """

    def __init__(self) -> None:
        super().__init__(_AnyLetter(()))
        self._known: dict[Any, tuple[str, int]] = {}

    def _show(self, e: Any) -> tuple[str, int]:
        found = self._known.get(e)
        if found is None:
            if len(self._known) > 20_000:
                self._known.clear()
            found = self._known[e] = super()._show(e)
        return found

    def _term_key(self, term: Any) -> tuple[Any, ...]:
        return (term.could_extract_minus_sign(),)

    def _factor_key(self, factor: Any) -> tuple[Any, ...]:
        base = factor.base if factor.is_Pow else factor
        return (isinstance(base, (sympy.Sum, sympy.Product)),)


class _AnyLetter(Letters):
    def __getitem__(self, symbol: Any) -> str:
        return "i"


_MEASURE = _Measure()


@lru_cache(maxsize=4096)
def burden(e: Any) -> float:
    """How much there is to read in a formula: its characters, a fraction within a fraction more.

    Of two that are equally long the one with fewer products and quotients reads better.
    """
    text = _MEASURE(e)
    depth = extra = 0
    for found in _MARKS.finditer(text):
        if found[0] in "([":
            depth += 1
        elif found[0] in ")]":
            depth -= 1
        elif depth:
            extra += 3
    # 26829/200000 is no coefficient that anybody would write.
    extra += sum(4 * (len(number) - 3) for number in _LONG.findall(text))
    return len(text) + extra + (text.count("·") + text.count("/")) / 1000


#: Parentheses, and a quotient that is no number.
_MARKS = re.compile(r"[()\[\]]|/(?!\d)")


def _radicals(e: Any) -> tuple[Any, Any]:
    """The coefficient of a product and the rest, ``sqrt(2)·…/(2·sqrt(π))`` as ``…/sqrt(2·π)``."""
    coefficient, rest = e.as_coeff_Mul()
    above, below, others = [], [], []
    for factor in sympy.Mul.make_args(rest):
        half = factor.is_Pow and abs(factor.exp) == sympy.S.Half
        if half and (factor.base.is_Integer or factor.base is sympy.pi):
            inside = factor.base
            if factor.exp < 0:
                below.append(inside)
            elif inside.is_Integer and coefficient.is_Rational and coefficient.q % inside == 0:
                coefficient *= inside
                below.append(inside)
            else:
                above.append(inside)
        else:
            others.append(factor)

    def root(parts: list[Any]) -> Any:
        inside = sympy.Mul(*sorted(parts, key=str), evaluate=False)
        return sympy.Pow(inside if len(parts) > 1 else parts[0], sympy.S.Half, evaluate=False)

    if above and below:
        over = sympy.Mul(*above, *(1 / part for part in below), evaluate=False)
        others.append(sympy.Pow(over, sympy.S.Half, evaluate=False))
    elif above:
        others.append(root(above))
    elif below:
        others.append(sympy.Pow(root(below), -1, evaluate=False))
    return coefficient, sympy.Mul(*others, evaluate=False)


def _upright(e: Any) -> Any:
    """``−(a + b)·c`` for ``(−a − b)·c``."""
    factors = list(e.args)
    turned = [f for f in factors if f.is_Add and all(t.could_extract_minus_sign() for t in f.args)]
    for factor in turned:
        factors[factors.index(factor)] = sympy.Add(*(-term for term in factor.args))
    if len(turned) % 2:
        sign = [n for n, f in enumerate(factors) if f.is_Rational]
        if sign:
            factors[sign[0]] = -factors[sign[0]]
        else:
            factors.append(sympy.S.NegativeOne)
    return sympy.Mul(*factors, evaluate=False) if turned else e


def _under_one_root(e: Any) -> Any:
    """``s/2`` for ``sqrt(2)·sqrt(s)/2``, which SymPy makes of ``sqrt(s/2)``; None for other products."""
    coefficient, rest = e.as_coeff_Mul()
    factors = sympy.Mul.make_args(rest)
    half = sympy.Rational(1, 2)
    if len(factors) != 2 or coefficient < 0 or any(not f.is_Pow or f.exp != half for f in factors):
        return None
    numbers = [f.base for f in factors if f.base.is_Integer]
    if len(numbers) != 1:
        return None
    inside = next(f.base for f in factors if not f.base.is_Integer)
    return (
        sympy.Mul(coefficient**2 * numbers[0], inside, evaluate=False)
        if not inside.is_Mul
        else None
    )


def _plain(c: Any) -> Any:
    """A condition on an index with its constant on the right: ``j − 1 ≥ 0`` as ``j ≥ 1``."""
    if not (c.lhs.is_integer and c.rhs.is_integer):
        if c.lhs.is_number and not c.rhs.is_number:
            return _plain(c.reversed)
        constant, rest = c.lhs.as_coeff_Add()
        if constant != 0 and c.rhs.is_number:
            return c.func(rest, c.rhs - constant, evaluate=False)
        return c
    gap = sympy.expand(c.lhs - c.rhs)
    constant, rest = gap.as_coeff_Add()
    if isinstance(c, sympy.Gt):
        return _plain(sympy.Ge(c.lhs, c.rhs + 1, evaluate=False))
    if rest.could_extract_minus_sign():
        return _plain(c.reversed) if c.reversed.lhs != c.lhs and rest.is_Mul else c
    positive = sympy.Add(
        *(t for t in sympy.Add.make_args(rest) if not t.could_extract_minus_sign())
    )
    other = positive - rest - constant
    return c.func(positive, other, evaluate=False)


def _facing(c: Any, symbol: Any) -> Any:
    """A condition with ``symbol`` on its left."""
    return c.reversed if isinstance(c, sympy.core.relational.Relational) and c.rhs == symbol else c


def _decimal(value: Fraction) -> str | None:
    """``value`` as a finite decimal of few digits, None if there is none."""
    q = value.denominator
    for prime in (2, 5):
        while q % prime == 0:
            q //= prime
    if q != 1:
        return None
    text = repr(float(value)).removesuffix(".0")
    return text if Fraction(text) == value else None


class LatexPrinter(TextPrinter):
    """LaTeX, without any package but amsmath."""

    times = r" \, "
    minus = " - "
    plus = " + "
    negative = "-"
    sum_sign, product_sign = r"\sum", r"\prod"
    greatest_sign, least_sign = r"\max", r"\min"
    constants = {sympy.pi: r"\pi", sympy.E: "e", sympy.oo: r"\infty", sympy.nan: r"\mathrm{nan}"}

    def derivative(self, above: str, at: Sequence[Any], below: str, places: Sequence[Any]) -> str:
        top, bottom = self._at(above, at), self._at(below, places)
        return rf"\frac{{\partial {top}}}{{\partial {bottom}}}"

    def gradient(self, label: str, places: Sequence[Any]) -> str:
        return self.derivative(self.loss, (), label, places)

    def name(self, label: str) -> str:
        if label.startswith("∂"):
            return self._slope(label, ())
        primes = label.count("′")
        word = label.replace("′", "").replace("_", r"\_")
        stem = word.rstrip("0123456789")
        if stem in _LATEX_NAMES:
            number = f"_{{{word[len(stem) :]}}}" if word != stem else ""
            return _LATEX_NAMES[stem] + number + "'" * primes
        return (word if len(word) == 1 else rf"\mathrm{{{word}}}") + "'" * primes

    def element(self, label: str, indices: Sequence[Any]) -> str:
        if label.startswith("∂"):
            return self._slope(label, indices)
        return f"{self.name(label)}_{{{','.join(map(self, indices))}}}"

    def power(self, base: str, exponent: Any) -> str:
        return f"{base}^{{{self(exponent)}}}"

    def fraction(self, above: str, below: str, above_level: int, below_level: int) -> str:
        return rf"\frac{{{above}}}{{{below}}}"

    def call(self, name: str, arguments: Sequence[str]) -> str:
        word = rf"\{name}" if name in _LATEX_FUNCTIONS else rf"\operatorname{{{name}}}"
        word = word.replace("_", r"\_")
        return rf"{word}\left({', '.join(arguments)}\right)"

    def paren(self, text: str) -> str:
        return rf"\left({text}\right)"

    def root(self, text: str) -> str:
        return rf"\sqrt{{{text}}}"

    def kronecker(self, a: str, b: str) -> str:
        return rf"\delta_{{{a},{b}}}"

    def bracket(self, condition: str) -> str:
        return rf"\left[{condition}\right]"

    def big(self, sign: str, under: str, body: str) -> str:
        return rf"{sign}_{{{under}}} {body}"

    def cases(self, pieces: Sequence[tuple[str, str]]) -> str:
        rows = [
            rf"{value} & \text{{if }} {condition}"
            if condition
            else rf"{value} & \text{{otherwise}}"
            for value, condition in pieces
        ]
        return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}"

    def floored(self, above: str, below: str) -> str:
        return rf"\left\lfloor \frac{{{above}}}{{{below}}} \right\rfloor"

    def modulo(self, a: str, b: str) -> str:
        return rf"{a} \bmod {b}"

    def relation(self, sign: str) -> str:
        return _LATEX_RELATIONS.get(sign, sign)


#: Names that records give to parts of their formulas.
_LATEX_NAMES = {"μ": r"\mu", "σ": r"\sigma", "x̂": r"\hat{x}"}

_LATEX_FUNCTIONS = {
    "exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "max", "min",
}  # fmt: skip
