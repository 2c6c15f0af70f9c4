"""An operation and its backward at one choice of shapes, run and held against the truth."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradexplain import points
from gradexplain.checking import claims as claims_
from gradexplain.checking import differences, numeric
from gradexplain.checking.forwards import Operated
from gradexplain.checking.operation import (
    plainly,
    quiet,
    said,
)
from gradexplain.checking.subjects import (
    Implemented,
    Result,
    Setting,
    claim_rows,
)
from gradexplain.errors import GradexplainError, InputError
from gradexplain.explanation import Array
from gradexplain.graph import Graph
from gradexplain.ops.base import show_shape

torch = numeric.torch_module()


#: So many points near a tie are looked at.
_NEARBY = 40


@dataclass(slots=True)
class CodeSetting(Setting):
    """A claim that is code: it is run."""

    subject: Operated
    #: Inputs that forward says it changes, by ctx.mark_dirty.
    dirty: tuple[str, ...] = ()
    #: What J is held against: "" for the closed form or autograd, else "differences".
    by: str = ""
    #: What is declared as the gradient of each input, where it is.
    meant: dict[str, Graph] = field(default_factory=dict)
    _slack: dict[bytes, dict[str, Array]] = field(default_factory=dict)

    def settle(self, values: Mapping[str, Array], reason: str) -> None:
        """Choose what J is held against: autograd of the forward must agree with differences."""
        if self.subject.question.intended is not None:
            self.graph, self.by = None, "intended"
            self._intend()
            return
        if self.subject.reference is not None:
            return
        if self.subject.by is not None:
            self.by = self.subject.by
            self.graph = None if self.by else self.graph
            return
        found = differences.jacobians(self.subject.forward, values, self.wanted, most=10)
        try:
            mine = self._autograd(values, "float64")
        except Exception as error:  # the user's own code, which autograd cannot follow
            mine, reason = {}, reason or said(error)
        agrees = all(
            n in mine
            and mine[n].shape == j.shape
            and (
                _near(mine[n], j, error)
                or _near(*(_even(one, values[n]) for one in (mine[n], j, error)))
            )
            for n, (j, error) in found.items()
        )
        notes = self.subject.notes
        self.subject.by = "" if agrees else "differences"
        if not agrees:
            self.graph, self.by = None, "differences"
            note = (
                "Autograd does not see through the forward: compared with central differences of "
                "it in float64, extrapolated by Richardson."
            )
        elif self.graph is None:
            note = (
                f"The forward uses {reason.strip('_') or 'an operation'}, which is not known here: "
                "compared with autograd of the forward instead of a closed form."
            )
        else:
            return
        if note not in notes:
            notes.append(note)

    def _intend(self) -> None:
        """The declared backward of each input as a graph."""
        texts, name = self.subject.question.intended, self.subject.question.grad_name
        if isinstance(texts, str):
            through = [n for n in self.wanted if self.shapes[n] == self.out_shape]
            texts = dict.fromkeys(through, "v") if texts == "straight-through" else [texts]
        self.grad_names = (name,) if name else ("v", "grad_output")
        named = dict.fromkeys((*self.grad_names, "y"), self.out_shape)
        known = {**named, **self.shapes}
        for claim in claims_.read_claims(texts, self.wanted) if texts else ():
            self.meant[claim.name] = claims_.declared(claim, known)
        missing = [n for n in self.wanted if n not in self.meant]
        straight = self.subject.question.intended == "straight-through"
        if missing and not (straight and self.meant):
            out, other = show_shape(self.out_shape), show_shape(self.shapes[missing[0]])
            raise InputError(
                f"nothing goes straight through: no input has the output's shape {out}"
                if straight else f"nothing is declared of the gradient by {missing[0]}",
                remedy=f'say it{"" if straight else " too"}: --as "{missing[0]}: …", a gradient of '
                f"shape {other}, or --no-grad {missing[0]}",
            )  # fmt: skip
        notes = self.subject.notes
        for name in missing:
            note = (
                f"Nothing goes straight through to {name}, whose shape is not the output's: its "
                "gradient is compared with the forward's own."
            )
            notes += [note] if note not in notes else []

    def _autograd(self, values: Mapping[str, Array], dtype: str) -> dict[str, Array]:
        if self.graph is not None:
            return numeric.jacobians(self.graph, values, self.wanted, dtype)
        leaves = self.subject.tensors(values, dtype, grad=True)
        copies = {n: t.clone() if t.requires_grad else t for n, t in leaves.items()}
        with plainly():
            y = self.subject.plain(copies)
        return numeric.rows_of(y, [leaves[n] for n in self.wanted], self.wanted)

    def reference(self, values: Mapping[str, Array], dtype: str) -> dict[str, Array]:
        if self.by == "intended":
            known = {"y": numeric.tensor(self.subject.forward(values), dtype)}
            known |= {n: numeric.tensor(v, dtype) for n, v in values.items()}
            units = numeric.basis(self.out_shape)
            vs = tuple(n for n in self.grad_names if n not in self.shapes)
            meant = {
                n: claim_rows(graph, known, vs, units, dtype).reshape(len(units), -1)
                for n, graph in self.meant.items()
            }
            # Of an input of another shape than the output's nothing goes straight through.
            return (
                meant
                if len(meant) == len(self.wanted)
                else {**self._autograd(values, dtype), **meant}
            )
        if self.by != "differences":
            return self._autograd(values, dtype)
        found = differences.jacobians(self.subject.forward, values, self.wanted)
        self._slack[_key(values)] = {n: 10 * e + 1e-7 * np.abs(j).max(initial=0.0)
                                     for n, (j, e) in found.items()}  # fmt: skip
        # What differences cannot tell is no truth: a point that has such entries is left out.
        return {n: np.where(_told(j, e), j, np.nan) for n, (j, e) in found.items()}

    def has_shapes(self, given: Mapping[str, Array]) -> bool:
        values = self.subject.values(self.shapes, given)
        found = self.implemented(values, [points.spread(self.out_shape, 7)], "float64", quick=True)
        return all(
            r.problem != "raises" and (r.rows is None or r.rows.shape[1:] == self.shapes[n])
            for n, r in found.results.items()
        )

    @property
    def kinked(self) -> bool:
        return self.by == ""

    def slack(self, values: Mapping[str, Array], name: str) -> Any:
        """What the truth itself may be off by."""
        return self._slack.get(_key(values), {}).get(name, 0.0)

    def between(
        self, values: Mapping[str, Array], name: str, wrong: Array, claimed: Array
    ) -> Array:
        """``wrong`` without the entries at which the claim is a slope to one side, or between the
        two, and without the rows that J has nearby: at a kink or a tie any of them is right.
        """
        left_wrong: Array = wrong.copy()
        for place in np.unique(np.argwhere(wrong)[:, 1]):
            sides = [
                differences.one_sided(self.subject.forward, values, name, int(place), side)
                for side in (-1, 1)
            ]
            low, high = np.minimum(*sides), np.maximum(*sides)
            room = 1e-4 * (1 + np.maximum(np.abs(low), np.abs(high)))
            here = claimed[:, place]
            with np.errstate(all="ignore"):
                inside = (here >= low - room) & (here <= high + room)
                inside |= ~np.isfinite(here)
            left_wrong[inside, place] = False
        for seed in range(_NEARBY if left_wrong.any() else 0):
            # Of equal elements a selection may take any: what it does near the tie is right at it.
            order = np.random.default_rng(seed).permutation
            near = {n: v + 1e-7 * order(points.spread(v.shape, 1).ravel()).reshape(v.shape)
                    for n, v in values.items()}  # fmt: skip
            rows = self.reference(near, "float64")[name]
            with np.errstate(all="ignore"):
                same = np.abs(claimed - rows) <= 1e-4 * (1 + np.abs(rows))
            left_wrong[same.all(axis=1)] = False
            if not left_wrong.any():
                break
        return left_wrong

    def forward_gap(self, values: Mapping[str, Array], dtype: str) -> float | None:
        """By how much the forward differs from the reference's, beyond rounding; None where it does
        not, or there is no reference.
        """
        pair = self.forwards(values, dtype)
        if pair is None:
            return None
        mine, theirs = pair
        if mine.shape != theirs.shape:
            return float("inf")
        gap = float(np.abs(mine - theirs).max(initial=0.0))
        scale = float(np.abs(theirs).max(initial=0.0))
        return gap if gap > (1e-9 if dtype == "float64" else 1e-4) * max(scale, 1e-12) else None

    def forwards(self, values: Mapping[str, Array], dtype: str) -> tuple[Array, Array] | None:
        subject = self.subject
        if subject.reference is None:
            return None
        with torch.no_grad():
            mine = numeric.array(subject.run(subject.tensors(values, dtype)))
            theirs = numeric.array(subject.plain(subject.tensors(values, "float64")))
        return mine, theirs

    # -- the claim ---------------------------------------------------------------------------------

    def applied(self, values: Mapping[str, Array], dtype: str) -> tuple[Any, list[Any]]:
        """The output of the operation and the leaves it depends on."""
        leaves = self.subject.tensors(values, dtype, grad=True)
        # Not leaves: a Function that marks its input as dirty may change it in place.
        inputs = {n: t.clone() if t.requires_grad else t for n, t in leaves.items()}
        return self.subject.run(inputs), [leaves[n] for n in self.wanted]

    def implemented(
        self, values: Mapping[str, Array], vs: Sequence[Array], dtype: str, *, quick: bool = False
    ) -> Implemented:
        subject = self.subject
        leaves = subject.tensors(values, dtype, grad=True)
        inputs = {n: t.clone() if t.is_floating_point() else t for n, t in leaves.items()}
        versions = {n: t._version for n, t in inputs.items()}
        try:
            y = subject.run(inputs)
        except GradexplainError:
            raise
        except Exception as error:  # the user's own code
            return Implemented(
                {n: Result(problem="raises", error=said(error)) for n in self.wanted}
            )
        mutated = tuple(
            name for name, tensor in inputs.items()
            if (tensor._version != versions[name] or not torch.equal(tensor, leaves[name]))
            and name not in self.dirty
        )  # fmt: skip
        wanted = [leaves[n] for n in self.wanted]
        if not y.requires_grad:
            return Implemented({n: Result(problem="detached") for n in self.wanted}, mutated)
        rows: dict[str, list[Any]] = {n: [] for n in self.wanted}
        problem: dict[str, Result] = {}
        changed = False
        for v in vs:
            upstream = numeric.tensor(v, dtype)
            kept = upstream.clone()
            grads = self._gradients(y, wanted, upstream, problem)
            changed = changed or not torch.equal(upstream, kept)
            if grads is None:
                break
            for name, grad in zip(self.wanted, grads, strict=True):
                rows[name].append(None if grad is None else numeric.array(grad))
        if not problem:
            for name, found in rows.items():
                if all(row is None for row in found):
                    problem[name] = Result(problem="none")
                elif len({None if r is None else r.shape for r in found}) > 1:
                    shape = next(r.shape for r in found if r is not None)
                    found[:] = [np.zeros(shape) if r is None else r for r in found]
        results = {name: problem.get(name) or Result(np.array(rows[name])) for name in self.wanted}
        implemented = Implemented(results, mutated, v_changed=changed)
        if quick:
            return implemented
        if not problem:
            self._steadiness(implemented, y, wanted, values, dtype)
            implemented.widened = self._widened(y, numeric.tensor(vs[0], dtype)) if len(vs) else ()
        implemented.buffer = self._buffer(y, wanted, dtype)
        return implemented

    def _gradients(
        self, y: Any, leaves: Sequence[Any], v: Any, problem: dict[str, Result]
    ) -> Sequence[Any] | None:
        try:
            with quiet():
                return tuple(
                    torch.autograd.grad(y, leaves, v, retain_graph=True, allow_unused=True)
                )
        except Exception as error:  # the user's own code
            first = str(error).strip().split("\n")[0]
            raw = self._raw(y, v)
            if raw is not None and "shape" in first and all(r is not None for r in raw):
                return raw
            for name in self.wanted:
                problem[name] = Result(problem="raises", error=said(error))
            return None

    def _raw(self, y: Any, v: Any) -> list[Any] | None:
        """What backward itself returns, before PyTorch fits it to the inputs."""
        function = self.subject.operation.function
        if function is None:
            return None
        try:
            with torch.no_grad(), quiet():
                found = inspect.unwrap(function.backward)(y.grad_fn, v)
        except Exception:  # the user's own code
            return None
        results = found if isinstance(found, (tuple, list)) else (found,)
        places = [self.subject.operation.place(n, self.subject.names) for n in self.wanted]
        return [results[p] if p < len(results) else None for p in places]

    def _widened(self, y: Any, v: Any) -> tuple[str, ...]:
        return tuple(
            name for name, grad in zip(self.wanted, self._raw(y, v) or (), strict=False)
            if isinstance(grad, torch.Tensor) and tuple(grad.shape) != self.shapes[name]
        )  # fmt: skip

    def _steadiness(
        self, found: Implemented, y: Any, leaves: Sequence[Any], values: Mapping[str, Array],
        dtype: str,
    ) -> None:  # fmt: skip
        """Note the inputs whose gradient is not the same each time, and whether chance or what the
        backward leaves behind is to blame.
        """
        v = numeric.tensor(0.5 + points.spread(self.out_shape, 7), dtype)

        def several(seeded: bool) -> list[Sequence[Any] | None]:
            runs: list[Sequence[Any] | None] = []
            for _ in range(3):
                if seeded:
                    numeric.seed(self.subject.seed)
                run = self._gradients(y, leaves, v.clone(), {})
                # Copies: what a backward keeps and returns may change the next time.
                runs.append(None if run is None else [g if g is None else g.clone() for g in run])
            return runs

        def differ(runs: list[Sequence[Any] | None]) -> list[str]:
            names = []
            for place, name in enumerate(self.wanted):
                grads = [r[place] for r in runs if r is not None and r[place] is not None]
                if grads and not all(
                    g.shape == grads[0].shape
                    and torch.allclose(g, grads[0], rtol=1e-6, atol=1e-9, equal_nan=True)
                    for g in grads
                ):
                    names.append(name)
            return names

        found.unsteady = tuple(differ(several(seeded=False)))
        if found.unsteady:
            found.leftover = bool(differ(several(seeded=True)))

    def _buffer(self, y: Any, leaves: Sequence[Any], dtype: str) -> str:
        """The message, where the backward assigns in place to a leaf that requires grad."""
        v = numeric.tensor(np.ones(self.out_shape), dtype)
        raw = self._raw(y, v)
        if any(isinstance(g, torch.Tensor) and g.requires_grad and g.is_leaf for g in raw or ()):
            return "the buffer requires grad"
        try:
            with quiet():
                torch.autograd.grad(
                    y, leaves, v.requires_grad_(), retain_graph=True, create_graph=True,
                    allow_unused=True,
                )  # fmt: skip
        except RuntimeError as error:
            text = str(error)
            if "leaf Variable that requires grad" in text and "in-place" in text:
                return text.split("\n")[0]
        except Exception:  # the user's own code
            return ""
        return ""


def _near(a: Array, b: Array, error: Array) -> bool:
    """Whether autograd's J is that of the differences, as far as they can tell."""
    scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    told = _told(b, error)
    with np.errstate(all="ignore"):
        return bool(
            (np.logical_not(told) | (np.abs(a - b) <= 100 * error + 1e-6 * max(scale, 1e-6))).all()
        )


def _even(rows: Array, value: Array) -> Array:
    """J, where a matrix that is symmetric stays so: what reads one triangle of it, as cholesky does,
    has no other derivative."""
    square = value.ndim > 1 and value.shape[-1] == value.shape[-2]
    if not square or not np.array_equal(value, value.swapaxes(-1, -2)):
        return rows
    whole = rows.reshape(-1, *value.shape)
    return np.asarray((whole + whole.swapaxes(-1, -2)).reshape(rows.shape) / 2)


def _told(j: Array, error: Array) -> Array:
    """Where the differences have digits."""
    scale = np.abs(j[np.isfinite(j)]).max(initial=0.0)
    return np.asarray(np.isfinite(j) & (error <= 1e-3 * max(scale, 1e-6)))


def _key(values: Mapping[str, Array]) -> bytes:
    return b"".join(v.tobytes() for v in values.values())
