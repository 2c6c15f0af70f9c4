"""How a backward whose J is right is used: by other layouts of v, by some outputs, for some inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gradexplain import points
from gradexplain.checking import differences, numeric
from gradexplain.checking.operation import quiet, said
from gradexplain.checking.report import Fault
from gradexplain.checking.setting import CodeSetting
from gradexplain.checking.told import told
from gradexplain.checking.trials import Trial
from gradexplain.explanation import Array
from gradexplain.texts import listed

torch = numeric.torch_module()
#: Each subset of so many inputs is tried; of more, each input alone.
_SUBSETS = 4


class Use:
    """One operation at one point, differentiated in whatever manner is asked for."""

    def __init__(self, trial: Trial, values: Mapping[str, Array]) -> None:
        assert isinstance(trial.setting, CodeSetting)
        self.setting, self.values = trial.setting, values
        self.wanted = trial.setting.wanted
        #: What each fault says of an input, and what is no fault and said in a note.
        self.notes: list[str] = []

    def run(self, needs: Sequence[str]) -> tuple[list[Any], list[Any]]:
        """The outputs that have a gradient, and the leaves that need one."""
        subject = self.setting.subject
        leaves = subject.tensors(self.values, "float64")
        for name in needs:
            leaves[name].requires_grad_()
        inputs = {n: t.clone() if t.requires_grad else t for n, t in leaves.items()}
        return subject.parts(inputs), [leaves[n] for n in needs]

    def grads(self, needs: Sequence[str], vs: Sequence[Any], only: int | None = None) -> list[Any]:
        outputs, leaves = self.run(needs)
        kept = [k for k, y in enumerate(outputs) if y.requires_grad and only in (None, k)]
        with quiet():
            found = torch.autograd.grad(
                [outputs[k] for k in kept], leaves, [vs[k] for k in kept], allow_unused=True
            )
        return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def faults(trial: Trial) -> tuple[dict[str, Fault], list[str]]:
    """What is wrong by input, and notes."""
    use = Use(trial, trial.values)
    try:
        outputs, _ = use.run(use.wanted)
        vs = [torch.as_tensor(0.5 + points.spread(tuple(y.shape), 7)) for y in outputs]
        whole = dict(zip(use.wanted, use.grads(use.wanted, vs), strict=True))
    except Exception:  # the user's own code, which `implemented` has reported
        return {}, []
    for found in (_subsets(use, vs, whole), _alone(use, vs), _layouts(use, vs)):
        for name, fault in found:
            return {name: fault}, use.notes
    return {}, use.notes


def _same(a: Any, b: Any) -> bool:
    return bool(a.shape == b.shape and torch.allclose(a, b, rtol=1e-8, atol=1e-11, equal_nan=True))


def _subsets(use: Use, vs: Sequence[Any], whole: Mapping[str, Any]) -> Iterator[tuple[str, Fault]]:
    """Each subset of the inputs as those that need a gradient."""
    count = len(use.wanted)
    sizes = range(1, count) if count <= _SUBSETS else [1] if count > 1 else []
    for needs in itertools.chain.from_iterable(
        itertools.combinations(use.wanted, n) for n in sizes
    ):
        only = f"right when every input needs a gradient; when only {listed(needs)} does"
        try:
            found = use.grads(needs, vs)
        except Exception as error:  # the user's own code
            if "does not require grad" in str(error):
                continue
            yield needs[0], Fault("needs_input_grad", f"{only}, the backward raises: {said(error)}")
            continue
        for name, grad in zip(needs, found, strict=True):
            if not _same(grad, whole[name]):
                yield name, told("needs_input_grad", only=only, name=name)


def _alone(use: Use, vs: Sequence[Any]) -> Iterator[tuple[str, Fault]]:
    """Each of several outputs alone: the gradients of the others are None, or 0."""
    for k in range(len(vs) if len(vs) > 1 else 0):
        others = [v if i == k else torch.zeros_like(v) for i, v in enumerate(vs)]
        said_of = f"when only output {k} is used"
        try:
            one, all_ = use.grads(use.wanted, vs, only=k), use.grads(use.wanted, others)
        except Exception as error:  # the user's own code
            yield use.wanted[0], told("raises", said_of=said_of, error=said(error))  # fmt: skip
            continue
        for name, a, b in zip(use.wanted, one, all_, strict=True):
            if not _same(a, b):
                yield name, Fault("layout", f"{said_of}, the gradient by {name} is another")


def _layouts(use: Use, vs: Sequence[Any]) -> Iterator[tuple[str, Fault]]:
    """v with gaps between its elements, transposed in memory, and one number expanded."""
    apart = [torch.stack([v, v + 1], -1)[..., 0] for v in vs]
    turned = [v.mT.contiguous().mT if v.ndim > 1 else v for v in vs]
    one = [torch.tensor(0.75, dtype=v.dtype).expand(v.shape) for v in vs]
    for what, layout in (("not contiguous", apart), ("transposed in memory", turned),
                         ("expanded, as y.sum().backward() gives it", one)):  # fmt: skip
        plain = [v.contiguous() for v in layout]
        try:
            right = use.grads(use.wanted, plain)
        except Exception:  # the user's own code, which `implemented` has reported
            return
        try:
            found = use.grads(use.wanted, layout)
        except Exception as error:  # the user's own code
            use.notes.append(
                f"The backward raises where v is {what}: {said(error).rstrip('.')}. "
                "Write reshape for view, or call v.contiguous()."
            )
            continue
        for name, a, b in zip(use.wanted, found, right, strict=True):
            if not _same(a, b):
                yield name, told("layout", name=name, what=what)


def second(trial: Trial) -> dict[str, Fault]:
    """The derivatives of the gradients themselves, by each input and by v, held against central
    differences of the gradients, which are right.
    """
    use = Use(trial, trial.values)
    names = use.wanted

    def first(values: Mapping[str, Array], *, graph: bool = False) -> tuple[list[Any], list[Any]]:
        here = Use(trial, {n: values[n] for n in use.setting.shapes})
        outputs, leaves = here.run(names)
        parts, start = [], 0
        flat = torch.as_tensor(values["v"]).requires_grad_(graph)
        for y in outputs:
            parts.append(flat.reshape(-1)[start : start + y.numel()].reshape(y.shape))
            start += y.numel()
        with quiet():
            found = torch.autograd.grad(
                outputs, leaves, parts, create_graph=graph, allow_unused=True
            )
        grads = [
            torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)
        ]
        return grads, [*leaves, flat]

    values = {**trial.values, "v": 0.5 + points.spread(trial.out_shape, 7)}
    found: dict[str, Fault] = {}
    try:
        grads, leaves = first(values, graph=True)
    except Exception as error:  # the user's own code
        return dict.fromkeys(names, _refused(error))
    for k, name in enumerate(names):

        def one(at: Mapping[str, Array], k: int = k) -> Array:
            return numeric.array(first(at)[0][k])

        slopes = differences.jacobians(one, values, [*names, "v"])
        try:
            if grads[k].requires_grad:  # what refuses is not on the way to any leaf
                grads[k].sum().backward(retain_graph=True)
            mine = numeric.rows_of(grads[k], leaves, [*names, "v"])
        except Exception as error:  # the user's own code
            found[name] = _refused(error)
            continue
        for other, (j, off) in slopes.items():
            scale = max(float(abs(j).max(initial=0.0)), 1e-6)
            if not (abs(mine[other] - j) <= 100 * off + 1e-6 * scale).all():
                why = (
                    "is taken to be 0: what the backward computes does not reach autograd"
                    if not mine[other].any() else "is wrong: a saved value was detached, or "
                    "something is computed outside of autograd"
                )  # fmt: skip
                found[name] = told("second_order", name=name, other=other, why=why)
                break
    return found


def _refused(error: BaseException) -> Fault:
    if "once_differentiable" in str(error):
        return told("once_differentiable")
    return Fault("second_order", f"the gradient is right; differentiating it raises: {said(error)}")
