"""The letter of each index symbol, once for a formula and all the lines under it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: Letters for the axes of the output, of the input, and for bound indices, in order of use.
OUT = "ikmace"
IN = "jlnbdf"
_BOUND = "pqrstuwzgh"


class Letters:
    """The letter of each index symbol.  Names that the user gave to tensors are not used."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = frozenset(taken)
        self._letters: dict[Any, str] = {}
        self._used: set[str] = set()
        #: The letters in the order in which they were given.
        self.given: list[tuple[Any, str]] = []
        #: Of bound indices alone.
        self._bound: dict[Any, str] = {}

    def _give(self, symbol: Any, letter: str) -> None:
        self.given.append((symbol, letter))
        self._letters[symbol] = letter
        if "_" in symbol.name:
            self._bound[symbol] = letter

    def state(self) -> Any:
        """What the next letters depend on."""
        return tuple(self._bound.items()), frozenset(self._used)

    def again(self, given: Iterable[tuple[Any, str]]) -> None:
        """The same letters as they were ``given`` elsewhere."""
        for symbol, letter in given:
            self._give(symbol, letter)
            self._used.add(letter)

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
        self._give(symbol, letter)
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
            self.assign(symbol, OUT[axis : axis + 1] + OUT + _BOUND)
        return self._letters[symbol]

    def known(self, symbol: Any) -> str | None:
        return self._letters.get(symbol)

    def share(self, symbols: Mapping[Any, Any]) -> None:
        """Each key gets the letter of its value."""
        for symbol, other in symbols.items():
            if not symbol.is_Integer and not other.is_Integer:
                self._give(symbol, self[other])

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
        found = (letter for symbol, letter in self._bound.items() if ranges.get(symbol) == size)
        return next((letter for letter in found if letter not in but), None)

    def symbol(self, letter: str) -> Any:
        return next(symbol for symbol, known in self._letters.items() if known == letter)

    def used(self, axes: Sequence[Any]) -> list[tuple[Any, str]]:
        """Every symbol that has a letter, those of ``axes`` first."""
        first = [(symbol, self._letters[symbol]) for symbol in axes if symbol in self._letters]
        return first + [item for item in self._letters.items() if item not in first]
