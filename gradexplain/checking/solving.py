"""What has to stand at a place of a backward for it to be right: solved for, and then looked up.

Each expression of the source is given a small change of its own, and the gradients are differentiated
by it: so it is known what its value would have to be, or, where other values would do as well, what a
change of it brings about.  Whether ``c·m`` makes the backward right as a factor there, or as a term,
for a monomial ``m`` in what the backward can name, is then one product of matrices for all ``m`` at
once; no edit is run before it fits.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from gradexplain.checking import numeric
from gradexplain.checking.bench import Bench
from gradexplain.checking.places import Edit, Slot, bearing, slots
from gradexplain.checking.rewriting import (
    Scope,
    factors_of,
    made,
    multiplied,
    number,
    replaced,
    size,
    text,
)
from gradexplain.explanation import Array

torch = numeric.torch_module()

#: Elements of a value, of all the times that it is worked out, up to which it is solved for.
_MOST = 120
#: Constants that stand before a monomial.
_CONSTANTS = tuple(
    sign * c for c in (1.0, 2.0, 0.5, 3.0, 4.0, 0.25, 6.0, 1.5, 1 / 3, 1 / 6) for sign in (1, -1)
)
#: Values made of one name.
_OF_ONE = ("{0}", "(1 - {0})", "(1 + {0})", "(1 - {0} ** 2)", "{0}.exp()", "{0}.sqrt()",
           "{0}.abs()", "{0}.sign()", "{0}.unsqueeze(-1)", "{0}.T")  # fmt: skip
_POWERS = (1, -1, 2, -2, 3, -3)


#: Faults of what is no integer.
_OF_FLOATS = ("missing_factor", "missing_term", "mask_not_applied", "missing_call", "v_unused",
              "unknown", "missing_unsqueeze", "missing_broadcast_sum", "exponent")  # fmt: skip
#: Nodes that have no value of their own.
_UNTOLD = (ast.Tuple, ast.List, ast.Slice, ast.Compare, ast.stmt, ast.keyword, ast.Starred)


@dataclass
class _Place:
    """A place, its values where they are worked out, and the names that are known there."""

    slot: Slot
    values: list[Any]
    frames: list[tuple[dict[str, Any], dict[str, Any]]]
    #: What a change of the values changes the gradients by, and what is wanted of it.
    matrix: Array
    wanted: Array
    #: By Newton's method: another value may do as well.
    solved: bool = False

    @functools.cached_property
    def hopeless(self) -> bool:
        """Whether no other value of the same shape can make the gradients right."""
        if not np.isfinite(self.matrix).all() or not np.isfinite(self.wanted).all():
            return False
        found = np.linalg.lstsq(self.matrix, self.wanted, rcond=None)[0]
        gap = np.abs(self.matrix @ found - self.wanted).max(initial=0.0)
        scale = np.abs(self.wanted).max(initial=0.0)
        return bool(gap > 1e-6 * (scale + np.abs(self.matrix @ self.flat).max(initial=0.0)))

    @property
    def flat(self) -> Array:
        return np.concatenate([numeric.array(v).ravel() for v in self.values])


class Solved:
    """The places of one backward, each solved for when it is first asked about."""

    def __init__(self, bench: Bench) -> None:
        assert bench.tree is not None
        self.bench = bench
        self._places: dict[int, _Place | None] = {}
        #: The nodes whose values are integers: they choose elements, or count them.
        self.whole: set[int] = set()
        self.multiplied = multiplied(bench.tree)
        self._above = {id(slot.get()): slot for slot in slots(bench.tree)}

    def _place(self, slot: Slot) -> _Place | None:
        node = slot.get()
        if id(node) not in self._places:
            told = slot.place not in ("index", "size", "test") and not isinstance(node, _UNTOLD)
            self._places[id(node)] = _place(self.bench, slot, self.whole) if told else None
        return self._places[id(node)]

    def _around(self, slot: Slot | None) -> Iterator[tuple[Slot, _Place]]:
        """The places at and around one, within its statement."""
        while slot is not None and isinstance(slot.get(), (ast.expr, ast.keyword)):
            place = self._place(slot)
            if place is not None:
                yield slot, place
            slot = self._above.get(id(slot.owner))

    def hopeful(self, slot: Slot) -> bool:
        """Whether some other value at a place may make the gradients right."""
        return not any(place.hopeless for _, place in self._around(slot))

    def senseless(self, edit: Edit) -> bool:
        """Whether an edit is of floats, and the value of integers; or of what is no None."""
        if edit.code == "none":
            return not self.nothing
        counted = isinstance(edit.new, ast.BinOp) and edit.code == "sum_vs_mean"
        whole = id(edit.old) in self.whole and text(edit.old) not in self.multiplied
        return whole and (counted or edit.code in _OF_FLOATS)

    @functools.cached_property
    def nothing(self) -> bool:
        """Whether a gradient is None."""
        found = self.bench.gradients(self.bench.compiled(), 0, self.bench.vs[0][0])
        return found is None or any(g is None for g in found)

    def may(self, edit: Edit) -> bool | None:
        """Whether an edit can be right, by the value of the smallest expression around it that is
        known to decide; None where none is.
        """
        around = list(self._around(edit.slot))
        edit.slot.put(edit.new)
        try:
            found = (self._fits(slot.get(), place) for slot, place in around)
            return next((one for one in found if one is not None), None)
        finally:
            edit.slot.put(edit.old)

    def _fits(self, node: ast.expr, place: _Place) -> bool | None:
        """Whether the gradients are right with the value of ``node``; None where it has another
        shape, or changes what it works on.
        """
        shown = text(node)
        if "_(" in shown or place.solved:
            return None
        parts = []
        try:
            code = _code(shown)
            for (space, known), value in zip(place.frames, place.values, strict=True):
                found = eval(code, space, known)  # the user's own source, edited
                if isinstance(found, (int, float, np.ndarray)):
                    found = torch.as_tensor(found, dtype=torch.float64)
                if getattr(found, "shape", None) != value.shape:
                    return None
                parts.append(numeric.array(found).ravel())
        except Exception:  # the user's own source, edited
            return False
        with np.errstate(all="ignore"):
            change = place.matrix @ (np.concatenate(parts) - place.flat) - place.wanted
            scale = np.abs(place.wanted).max() + np.abs(place.matrix @ place.flat).max()
        return bool(np.abs(change).max() <= 1e-6 * scale)

    def edits(self, scope: Scope) -> Iterator[Edit]:
        """Edits that fit at the first trial, the simplest first: each has still to be run at all."""
        assert self.bench.tree is not None
        found: list[tuple[float, Edit]] = []
        for slot in bearing(self.bench.tree, self.bench.returned):
            place = self._place(slot)
            if place is not None and not isinstance(slot.get(), ast.Constant):
                found += _fits(place, scope, self.bench.tree)
        for _, edit in sorted(found, key=lambda pair: pair[0])[:60]:
            yield edit


def _place(bench: Bench, slot: Slot, whole: set[int]) -> _Place | None:
    """What the gradients are as a function of the value at a place; None where it cannot be told."""
    node = slot.get()
    changes: list[Any] = []
    values: list[Any] = []
    frames: list[tuple[dict[str, Any], dict[str, Any]]] = []
    steps: list[Any] = []

    def put(value: Any) -> Any:
        if type(value) in (int, list, tuple) or getattr(value, "dtype", None) is torch.int64:
            whole.add(id(node))
        if type(value) in (int, float):
            value = torch.tensor(float(value))
        known = torch.as_tensor(value) if isinstance(value, np.ndarray) else value
        if not isinstance(known, torch.Tensor) or not known.is_floating_point():
            raise TypeError("no tensor")
        frame = sys._getframe(1)
        at = len(values)
        values.append(known.detach().clone())
        frames.append((frame.f_globals, dict(frame.f_locals)))
        step = steps[at].clone() if at < len(steps) else torch.zeros_like(known)
        changes.append(step.requires_grad_())
        return value + step.detach().numpy() if known is not value else value.detach() + step

    def run(by: list[Any]) -> tuple[Any, Any]:
        for kept in (changes, values, frames):
            kept.clear()
        steps[:] = by
        rows, wanted = [], []
        for v in bench.vs[0]:
            found = bench.gradients(compiled, 0, v, graph=True)
            if found is None or any(g is None for g in found):
                return None, None
            rows += [g.reshape(-1) for g in found]
            wanted += [v.reshape(-1) @ bench.trials[0].true[n] for n in bench.names]
        return torch.cat(rows), torch.as_tensor(np.concatenate(wanted)) - torch.cat(rows).detach()

    slot.put(ast.Call(ast.Name("__put", ast.Load()), [node], []))
    try:
        compiled = bench.compiled({"__put": put})
        gradients, gap = run([])
        count = sum(v.numel() for v in values)
        if gradients is None or not 0 < count <= _MOST:
            return None
        seen, known, first = list(values), list(frames), gap

        def shaped(flat: Any) -> list[Any]:
            parts = flat.split([v.numel() for v in seen])
            return [part.reshape(v.shape) for part, v in zip(parts, seen, strict=True)]

        traced = gradients.requires_grad
        if traced:
            matrix = _slopes(gradients, changes)
        else:  # NumPy's arrays, or what is detached
            ways = [run(shaped(unit))[1] for unit in torch.eye(count, dtype=torch.float64)]
            if any(way is None for way in ways):
                return None
            matrix = gap[:, None] - torch.stack(ways, dim=1)
        flat = torch.as_tensor(0.1 + 0.05 * np.cos(np.arange(count)))
        moved, _ = run(shaped(flat))
        if moved is None:
            return None
        if torch.allclose(moved.detach(), gradients.detach() + matrix @ flat, rtol=1e-7, atol=1e-9):
            return _Place(slot, seen, known, matrix.numpy(), first.numpy())
        if not traced:
            return None
        # It bears on the gradients in another way: its value is solved for, where it is but one.
        total, unique = torch.zeros(count, dtype=torch.float64), True
        for _ in range(12):
            if not bool(torch.isfinite(matrix).all() and torch.isfinite(gap).all()):
                return None
            unique = unique and int(torch.linalg.matrix_rank(matrix)) == count
            total = total + torch.linalg.lstsq(matrix, gap[:, None], driver="gelsd").solution[:, 0]
            gradients, gap = run(shaped(total))
            if gradients is None:
                return None
            if float(gap.abs().max()) < 1e-11:
                solved = _Place(slot, seen, known, np.eye(count), total.numpy(), True)
                return solved if unique else None
            matrix = _slopes(gradients, changes)
            if float((matrix.T @ gap).norm()) <= 1e-6 * float(matrix.norm() * gap.norm()):
                return None  # no small change of the value brings the gradients nearer
        return None
    except (RuntimeError, SyntaxError, ValueError, TypeError, IndexError):
        return None  # not everything can be changed, or differentiated
    finally:
        slot.put(node)
    return None


def _slopes(gradients: Any, changes: list[Any]) -> Any:
    rows = []
    for one in gradients:
        found = torch.autograd.grad(one, changes, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([torch.zeros_like(c).reshape(-1) if g is None else g.reshape(-1)
                               for g, c in zip(found, changes, strict=True)]))  # fmt: skip
    return torch.stack(rows).detach()


def _named(place: _Place, scope: Scope, tree: ast.AST) -> tuple[dict[str, Array], int]:
    """What the backward can name at a place, with its values there; the first so many may stand in
    products of two.
    """
    names = [n for n in scope.tensors if n.split(".")[0] in place.frames[0][1]]
    tensors = [n for n in names if n not in scope.indices]
    vectors = [n for n in tensors if scope.tensors[n] == 1]
    source = [text(n) for n in ast.walk(tree) if isinstance(n, (ast.Subscript, ast.Call, ast.BinOp))
              and isinstance(getattr(n, "ctx", ast.Load()), ast.Load)]  # fmt: skip
    few = [*tensors, *(n for n in scope.numbers if not n[0].isdigit())]
    few += [s for s in source if len(s) < 24 and "_(" not in s]
    few += [f"{a}[{i}]" for a in tensors for i in scope.indices]
    few += [f"(1 - {a})" for a in tensors]
    few += [f"torch.outer({a}, {b})" for a, b in itertools.permutations(vectors, 2)]
    few = list(dict.fromkeys(few))[:48]
    more = [t.format(n) for n in tensors for t in _OF_ONE]
    summed = [*tensors, *(f"({a} * {b})" for a, b in itertools.combinations(tensors, 2))]
    more += [f"{a}.{kind}()" for a in summed for kind in ("sum", "mean")]
    more += [f"{a}.{kind}({dim}, keepdim=True)" for a in summed for dim in scope.dims
             for kind in ("sum", "mean")]  # fmt: skip
    more += [f"{a}.sum({dim})" for a in tensors for dim in scope.dims]
    rows = [n for n in tensors if 0 < scope.tensors[n] == scope.rank - 1]
    more += [f"({a} {op} {b}).unsqueeze(-1)" for a in rows for b in rows if a != b for op in "*/"]
    more += [*scope.expressions, *(f"({c})" for c in scope.conditions)]
    matrices = [n for n in tensors if scope.tensors[n] == 2]
    products = [f"({s})" for s in source if "@" in s and len(s) < 24]
    more += [f"{a} @ {b}" for a in [*matrices, *(f"{m}.T" for m in matrices), *products[:6]]
             for n in matrices for b in (n, f"{n}.T")]  # fmt: skip
    more = [s for s in more if ".T" not in s or any(f"{m}.T" in s for m in matrices) or s in few]
    values: dict[str, Array] = {}
    count, seen = 0, set()
    for place_of, shown in enumerate(dict.fromkeys([*few, *more])):
        found = _evaluated(shown, place)
        if found is not None and (place_of < len(few) or found.tobytes() not in seen):
            seen.add(found.tobytes())
            values[shown] = found
            count += place_of < len(few)
    return values, count


def _monomials(values: dict[str, Array], few: int, size: int) -> tuple[Array, list[Any]]:
    """Products of powers of one value and of two, and of each how it is written: ``((p, name), …)``."""
    names = list(values)
    whole = np.array([values[n] for n in names]).reshape(len(names), size)
    found: list[Array] = [np.ones((1, size))]
    said: list[Any] = [()]
    some = list(range(few))
    sums = [
        i for i, n in enumerate(names) if i >= few and re.search(r"\.(sum|mean|unsqueeze)\(", n)
    ][:60]
    pairs = [(some, some, p, q) for p, q in ((1, 1), (1, -1), (2, -1), (1, -2), (2, 1), (2, -2))]
    pairs += [(sums, sums, 1, -1), (some, sums, 1, 1), (some, sums, 1, -1), (sums, some, 1, -1)]
    with np.errstate(all="ignore"):
        for p in _POWERS:
            found.append(whole**p)
            said += [((p, n),) for n in names]
        for ones, twos, p, q in pairs:
            one, two = whole[ones, None] ** p, whole[None, twos] ** q
            found.append((one * two).reshape(-1, size))
            said += [((p, names[a]), (q, names[b])) for a in ones for b in twos]
    return np.concatenate(found), said


def _written(powers: Any) -> str:
    over = [_power(n, -p) for p, n in powers if p < 0]
    above = " * ".join(_power(n, p) for p, n in powers if p > 0) or "1"
    return " / ".join([above, *over])


def _power(shown: str, power: int) -> str:
    known = ast.parse(shown, mode="eval").body
    whole = shown if shown[0] == "(" or not isinstance(known, ast.BinOp) else f"({shown})"
    return whole if power == 1 else f"{whole} ** {power}"


@functools.lru_cache(maxsize=20_000)
def _code(shown: str) -> Any:
    return compile(shown, "<tried>", "eval")


def _evaluated(shown: str, place: _Place) -> Array | None:
    """A text at every time that the place is worked out, in the shape of what stands there."""
    parts = []
    for (space, known), value in zip(place.frames, place.values, strict=True):
        try:
            # The user's own names, put together by the table.
            found = eval(_code(shown), space, known)
            found = torch.as_tensor(found, dtype=torch.float64).detach()
            parts.append(np.asarray(np.broadcast_to(found.numpy(), tuple(value.shape))).ravel())
        except Exception:  # the user's own values
            return None
    whole = np.concatenate(parts)
    return whole if np.isfinite(whole).all() and whole.any() else None


def _fits(place: _Place, scope: Scope, tree: ast.AST) -> Iterator[tuple[float, Edit]]:
    """What makes the gradients right as a factor of what stands there, or as a term beside it."""
    values, few = _named(place, scope, tree)
    m, said = _monomials(values, few, place.flat.size)
    base = place.matrix @ place.flat
    node = place.slot.get()
    inside = {text(f) for f in factors_of(node)}
    literals = {n for part in ast.walk(tree) if (n := number(part)) not in (None, 0.0)}
    constants = [*_CONSTANTS, *(s * n for n in literals if n is not None for s in (1, -1, 2, 0.5))]
    scalars = {v[0]: n for n, v in values.items() if n in scope.numbers and v.min() == v.max()}
    constants += [s * n for n in scalars for s in (1, -1)]
    for factor, u, wanted in (
        (True, m * place.flat, place.wanted + base),
        (False, m, place.wanted),
    ):
        with np.errstate(all="ignore"):
            moved = u @ place.matrix.T
            c = moved @ wanted / (moved * moved).sum(axis=1)
            gap = np.abs(c[:, None] * moved - wanted).max(axis=1)
        size_of = np.abs(wanted).max(initial=0.0) + np.abs(base).max(initial=0.0)
        for k in np.argwhere(gap <= 1e-8 * size_of).ravel() if size_of else ():
            nice = next((i for i, n in enumerate(constants) if abs(c[k] - n) < 1e-8), None)
            if nice is None:
                continue
            over = {n for p, n in said[k] if p < 0}
            if any(re.search(rf"\b{v}\b", n) for v in scope.upstream for n in over - inside):
                continue  # v may be 0
            shown = _written(said[k])
            powers = sum(abs(p) for p, _ in said[k])
            weight = powers + 0.2 * nice + 0.02 * len(shown) + 1.5 * (not factor)
            amount = scalars.get(abs(constants[nice]), "")
            edit = _edit(place.slot, scope, shown, constants[nice], amount, inside, factor=factor)
            if factor and over & inside and len(said[k]) == 2 and constants[nice] == 1.0:
                edit = _instead(place.slot, *sorted(said[k])) or edit
            yield weight, edit


def _instead(slot: Slot, gone: tuple[int, str], put: tuple[int, str]) -> Edit | None:
    """One factor in the place of another; None where powers of them are exchanged."""
    node = slot.get()
    old = next((f for f in factors_of(node) if text(f) == gone[1]), None)
    if old is None or (gone[0], put[0]) != (-1, 1):
        return None
    new = made(put[1])
    same = isinstance(old, ast.Subscript) and isinstance(new, ast.Subscript) and (
        text(old.value) == text(new.value)
    )  # fmt: skip
    return Edit("wrong_slice" if same else "wrong_input", slot, node,
                replaced(node, {id(old): new}), False)  # fmt: skip


def _edit(
    slot: Slot,
    scope: Scope,
    shown: str,
    constant: float,
    amount: str,
    inside: set[str],
    *,
    factor: bool,
) -> Edit:
    node = slot.get()
    names = {text(n) for n in ast.walk(ast.parse(shown, mode="eval"))
             if isinstance(n, (ast.Name, ast.Attribute))}  # fmt: skip
    used = names & (set(scope.tensors) | set(scope.numbers))
    if not amount or abs(constant) == 1:
        amount = (
            f"{abs(constant):.12g}" if abs(constant) >= 0.2 else f"1 / {1 / abs(constant):.12g}"
        )
    if factor:
        code = "missing_factor"
        if shown == "1":
            code = "wrong_sign" if constant == -1 else "constant_factor"
        elif size(ast.parse(shown.removeprefix("1 / "), mode="eval").body):
            code = "sum_vs_mean"
        elif used & scope.masks:
            code = "mask_not_applied"
        elif used and used <= inside:
            code = "extra_factor" if shown in {f"1 / {n}" for n in inside} else "exponent"
        rest = "" if shown == "1" else f" / {shown[4:]}" if shown[:4] == "1 / " else f" * {shown}"
        lead = "" if abs(constant) == 1 else f"{amount} * "
        whole = f"{'-' if constant < 0 else ''}{lead}__A{rest}"
    else:
        code = "missing_term"
        term = shown if abs(constant) == 1 else amount if shown == "1" else f"{amount} * {shown}"
        whole = f"(__A {'-' if constant < 0 else '+'} {term})"
    return Edit(code, slot, node, made(whole, __A=cast("ast.expr", node)), False)
