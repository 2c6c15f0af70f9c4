"""``python -m tests.transforms [--part I/N] [OPERATION …]``: every generated class under what PyTorch
does with a function, one row a question: torch.func.grad, vmap, jacrev, jvp, torch.compile whole by
aot_eager, opcheck of the custom operator, strides, bfloat16, and what it saves beside autograd.

What fails is said line by line, the table last.  It takes about an hour; the tests ask a few.
"""

from __future__ import annotations

import collections
import math
import sys
import warnings
from collections.abc import Callable

import torch

from gradexplain.checking import numeric
from gradexplain.checking.generated import generate
from gradexplain.codegen.making import Code
from gradexplain.codegen.styles import styled
from gradexplain.errors import GradexplainError
from gradexplain.ops import all_ops
from gradexplain.reading.language import read
from gradexplain.reading.syntax import parse
from tests.conftest import sample

Tensors = list[torch.Tensor]


def inputs(code: Code, dtype: torch.dtype = torch.float64) -> Tensors:
    source = torch.Generator().manual_seed(0)
    return [
        (0.3 + 1.2 * torch.rand(s, generator=source, dtype=torch.float64))
        .to(dtype)
        .requires_grad_()
        for s in code.shapes.values()
    ]


class Asked:
    """One class and its plain gradients, and the questions about it; a question that does not apply
    is not counted."""

    def __init__(self, code: Code) -> None:
        self.code, self.call = code, code.loaded().apply
        self.xs = inputs(code)
        self.y = self.call(*self.xs)
        v = torch.linspace(-1, 1, self.y.numel(), dtype=torch.float64)
        self.v = v.reshape(self.y.shape)
        self.wanted = torch.autograd.grad(self.y, self.xs, self.v)
        self.places = tuple(range(len(self.xs)))

    def total(self, *xs: torch.Tensor) -> torch.Tensor:
        return (self.call(*xs) * self.v).sum()

    def grad(self) -> None:
        torch.testing.assert_close(torch.func.grad(self.total, self.places)(*self.xs), self.wanted)

    def vmap(self) -> None:
        two = [torch.stack([x.detach(), 1.1 * x.detach()]) for x in self.xs]
        torch.testing.assert_close(torch.func.vmap(self.call)(*two)[0], self.y)
        each = torch.func.vmap(torch.func.grad(self.total, self.places))(*two)
        torch.testing.assert_close(tuple(g[0] for g in each), self.wanted)

    def jacrev(self) -> None:
        found = torch.func.jacrev(self.call, self.places)(*self.xs)
        mine = tuple(torch.tensordot(self.v, j, self.v.ndim) for j in found)
        torch.testing.assert_close(mine, self.wanted)

    def compile(self) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(self.call, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(
            torch.autograd.grad(compiled(*self.xs), self.xs, self.v), self.wanted
        )

    def strides(self) -> None:
        turned = [
            x.detach().T.contiguous().T.requires_grad_() if x.ndim == 2
            else torch.stack([x.detach()] * 2, -1)[..., 0].requires_grad_() for x in self.xs
        ]  # fmt: skip
        v = torch.stack([self.v] * 2, -1)[..., 0]
        torch.testing.assert_close(torch.autograd.grad(self.call(*turned), turned, v), self.wanted)

    def bfloat16(self) -> None:
        xs = inputs(self.code, torch.bfloat16)
        try:
            y = self.plain(xs, "bfloat16")
            theirs = torch.autograd.grad(y, xs, self.v.to(torch.bfloat16))
        except (RuntimeError, NotImplementedError):
            return  # PyTorch itself has no kernel
        mine = torch.autograd.grad(self.call(*xs), xs, self.v.to(torch.bfloat16))
        for a, b, right in zip(mine, theirs, self.wanted, strict=True):
            assert a.dtype is torch.bfloat16
            scale = float(right.abs().max()) + 1e-3
            gap, other = (float((g.double() - right).abs().max()) for g in (a, b))
            assert gap <= 4 * other + 0.05 * scale, f"off by {gap:.3g}, autograd by {other:.3g}"

    def plain(self, xs: Tensors, dtype: str) -> torch.Tensor:
        shapes = self.code.shapes
        graph = read(parse(self.code.expression), shapes.__getitem__)
        found = numeric.run(graph, dict(zip(shapes, xs, strict=True)), dtype)[graph.output]
        assert isinstance(found, torch.Tensor)
        return found

    def saved(self) -> None:
        """No more bytes than autograd of the expression keeps, inputs and output aside."""

        def kept(run: Callable[[], torch.Tensor], xs: Tensors) -> int:
            held: dict[int, int] = {}

            def pack(t: torch.Tensor) -> torch.Tensor:
                held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
                return t

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                y = run()
            for own in (*xs, y):
                held.pop(own.untyped_storage().data_ptr(), None)
            return sum(held.values())

        mine = kept(lambda: self.call(*self.xs), self.xs)
        theirs = kept(lambda: self.plain(self.xs, "float64"), self.xs)
        assert mine <= theirs, f"{mine} bytes, autograd {theirs}"

    def jvp(self) -> None:
        call = generate(
            self.code.expression, "Made", self.code.shapes, jvp=True
        ).loaded().apply  # fmt: skip
        ts = tuple(torch.full_like(x, 0.5) for x in self.xs)
        _, found = torch.func.jvp(call, tuple(x.detach() for x in self.xs), ts)
        forward = sum((g * t).sum() for g, t in zip(self.wanted, ts, strict=True))
        torch.testing.assert_close((found * self.v).sum(), forward)

    def opcheck(self) -> None:
        name = f"made{abs(hash(self.code.expression))}"
        made = generate(self.code.expression, name, self.code.shapes)
        space: dict[str, object] = {}
        exec(compile(styled(made, "custom_op").source, "<op>", "exec"), space)
        op = next(v for k, v in space.items() if type(v).__name__ == "CustomOpDef")
        torch.library.opcheck(op, tuple(self.xs))


QUESTIONS = ("grad", "vmap", "jacrev", "jvp", "compile", "opcheck", "strides", "bfloat16", "saved")


def main(asked: list[str]) -> None:
    warnings.simplefilter("ignore")
    first, every = 0, 1
    if asked[:1] == ["--part"]:
        first, every = map(int, asked[1].split("/"))
        asked = asked[2:]
    texts = [
        (op.name, text) for op in all_ops() if not op.integer and (not asked or op.name in asked)
        for text in op.samples
    ]  # fmt: skip
    right: collections.Counter[str] = collections.Counter()
    wrong: collections.Counter[str] = collections.Counter()
    for name, text in texts[first::every]:
        expression, shapes = sample(text)
        try:
            one = Asked(generate(expression, "Made", shapes))
        except Exception as error:  # a class that cannot be, or PyTorch's refusal at these values
            print(f"no class: {name}: {text}: {error}", flush=True)
            continue
        for question in QUESTIONS:
            try:
                getattr(one, question)()
                right[question] += 1
            except GradexplainError as error:
                print(f"{question} not written: {text}: {error.message}", flush=True)
            except Exception as error:  # whatever PyTorch finds wrong with it
                wrong[question] += 1
                said = str(error).strip().split("\n")[0][:120]
                print(f"{question}: {text}: {type(error).__name__}: {said}", flush=True)
    for question in QUESTIONS:
        whole = right[question] + wrong[question]
        part = 100 * right[question] / (whole or math.inf)
        print(f"{question:<12}{right[question]:>5} of {whole:<5}{part:>6.1f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
