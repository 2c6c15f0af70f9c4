"""Digits: what PyTorch computes at the samples of a range, against the exact value there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradexplain.arithmetic import mp
from gradexplain.errors import UnsupportedError
from gradexplain.explanation import Array, Shape
from gradexplain.graph import Graph
from gradexplain.plan.arrays import Pair, to_float
from gradexplain.routes.chain import ChainRule
from gradexplain.routes.pytorch import Answer, Asked, tensors_of, to_array
from gradexplain.verdict.compare import FORMATS, ROUNDOFF, largest
from gradexplain.verdict.digits import in_format, whole

#: Digits with which the exact values are evaluated, one after the other until two agree to 50.
_PRECISIONS = (80, 240, 960)

#: Digits in which two exact numbers are compared.
_DIGITS = 80

#: The digits that each dtype holds.
FULL = {dtype: in_format(dtype) for dtype in ROUNDOFF}


@dataclass(frozen=True, slots=True)
class SamplesQuestion:
    """Every needed value and its gradient at each sample, as PyTorch computes them."""

    graph: Graph
    samples: tuple[Mapping[str, Array], ...]
    wanted: tuple[str, ...]
    dtype: str

    def ask(self) -> Any:
        import torch

        found: list[dict[int, tuple[Array | None, Array | None]]] = []
        for values in self.samples:
            tensors = tensors_of(torch, self.graph, values, self.wanted, self.dtype)
            held = {i: t for i, t in tensors.items() if isinstance(t, torch.Tensor)}
            for tensor in held.values():
                if tensor.requires_grad:
                    tensor.retain_grad()
            output = tensors[self.graph.output]
            output.backward(torch.tensor(weights(tuple(output.shape)), dtype=output.dtype))
            both = {i: (to_array(torch, t), to_array(torch, t.grad)) for i, t in held.items()}
            found.append(both)
        return found


@dataclass(frozen=True, slots=True)
class Measured:
    """Digits right at each sample, forward and backward.

    ``sure`` are those that a rounding of each input and operation leaves whatever its sign: more are
    luck.  ``exact`` is the chain rule there, with digits to spare.
    """

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    sure: tuple[tuple[float, ...], tuple[float, ...]]
    exact: tuple[ChainRule, ...]
    pytorch: tuple[Mapping[int, tuple[Array | None, Array | None]], ...]

    def digits(self, sample: int) -> float:
        return min(self.forward[sample], self.backward[sample])

    @property
    def worst(self) -> int:
        """The sample with the fewest digits, the first of several."""
        return min(range(len(self.forward)), key=self.digits)


def measure(
    graph: Graph, samples: Sequence[Mapping[str, Array]], wanted: Sequence[str], dtype: str
) -> Measured:
    """The digits of ``graph`` at ``samples``, whose values the dtype holds."""
    asked = Asked(SamplesQuestion(graph, tuple(samples), tuple(wanted), dtype))
    exact = tuple(exact_at(graph, values, wanted) for values in samples)
    found = asked.answer()
    if isinstance(found, Answer):
        raise UnsupportedError(
            f"the digits cannot be measured: {found.error}", remedy="gradexplain run explains it"
        )
    leaves = [n.id for n in graph.leaves if n.label in wanted]
    forward = tuple(
        digits(got[graph.output][0], true.forward.get(graph.output), dtype)
        for got, true in zip(found, exact, strict=True)
    )
    backward = tuple(
        min(
            0.0
            if _is_needless(got[graph.output][0], got[leaf][1])
            else digits(got[leaf][1], true.upstream.get(leaf), dtype)
            for leaf in leaves
            if leaf in got
        )
        for got, true in zip(found, exact, strict=True)
    )
    sure = (
        tuple(_sure(e.forward[graph.output], dtype) for e in exact),
        tuple(
            min(
                (_sure(e.upstream[i], dtype) for i in leaves if i in e.upstream),
                default=FULL[dtype],
            )
            for e in exact
        ),
    )
    return Measured(forward, backward, sure, exact, tuple(found))


def _sure(pair: Pair, dtype: str) -> float:
    """The digits that are right after one rounding each, relative to the largest element."""
    true, size = pair
    exact = [abs(mp.mpf(t)) for t in np.ravel(true)]
    most = float(np.max(np.nan_to_num(np.asarray(size, dtype=np.float64), nan=math.inf)))
    scale = max((t for t in exact if mp.isfinite(t)), default=mp.zero)
    if most == 0:
        return FULL[dtype]
    if scale == 0 or not math.isfinite(most):
        return 0.0
    return float(min(FULL[dtype], max(0.0, mp.log10(scale / most) + FULL[dtype])))


def _is_needless(value: Array | None, gradient: Array | None) -> bool:
    """Whether a gradient is nan where the value is a number: a branch not taken spoils it."""
    if value is None or gradient is None:
        return False
    return bool(np.isfinite(value).all() and np.isnan(gradient).any())


def weights(shape: Shape) -> Array:
    """The v of backward: 1 for a scalar; ones would hide what a sum does not depend on."""
    size = math.prod(shape)
    return (1 - np.arange(size) / (2 * size)).reshape(shape)


def exact_at(graph: Graph, values: Mapping[str, Array], wanted: Sequence[str]) -> ChainRule:
    """Values and gradients to 50 digits: with more digits each time until two evaluations agree."""
    found = _evaluated(graph, values, wanted, _PRECISIONS[0])
    for precision in _PRECISIONS[1:]:
        before, found = found, _evaluated(graph, values, wanted, precision)
        held = [(before.forward, found.forward), (before.upstream, found.upstream)]
        # A 0 may be what is left of a difference that is smaller than all the digits.
        if all(_equal(a[i], b[i]) and np.all(b[i][0] != 0) for a, b in held for i in b):
            break
    return found


def _evaluated(
    graph: Graph, values: Mapping[str, Array], wanted: Sequence[str], precision: int
) -> ChainRule:
    with mp.workdps(precision):
        chain = ChainRule(graph, values, exact=True)
        chain.backward(weights(graph.out.shape), wanted)
    return chain


def digits(found: Array | None, pair: Pair | None, dtype: str) -> float:
    """The decimal digits of ``found`` that are right, relative to the largest element of the exact pair.

    An infinity counts as right where the exact value is beyond the dtype, a 0 where it is below.
    """
    if pair is None:
        return FULL[dtype]
    form, exact = FORMATS[dtype], to_float(pair[0])
    found = np.zeros(exact.shape) if found is None else found
    if np.isfinite(exact).all() and largest(exact) < form.smallest:
        return FULL[dtype] if (np.abs(found) <= form.smallest).all() else 0.0
    exact = np.where(np.abs(exact) > form.largest, np.copysign(np.inf, exact), exact)
    return whole(found, exact, dtype, 0.0)


def same(a: Measured, b: Measured, ids: tuple[int, int], leaves: Sequence[tuple[int, int]]) -> bool:
    """Whether two programs are equal to 50 digits at all samples, values and gradients."""
    return all(
        _equal(one.forward.get(ids[0]), other.forward.get(ids[1]))
        and all(_equal(one.upstream.get(x), other.upstream.get(y)) for x, y in leaves)
        for one, other in zip(a.exact, b.exact, strict=True)
    )


def _equal(a: Pair | None, b: Pair | None) -> bool:
    if a is None or b is None:
        return a is None and b is None
    x, y = np.asarray(a[0], dtype=object), np.asarray(b[0], dtype=object)
    if x.shape != y.shape:
        return False
    with mp.workdps(_DIGITS):
        for p, q in zip(x.ravel(), y.ravel(), strict=True):
            p, q = mp.mpf(p), mp.mpf(q)
            if mp.isnan(p) or mp.isnan(q) or mp.isinf(p):
                continue  # the original has no value here: the rewrite may have one
            if abs(p - q) > mp.mpf(10) ** -50 * max(abs(p), abs(q)):
                return False
    return True
