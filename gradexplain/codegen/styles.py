"""A generated class as a custom operator, and the pytest file that belongs to either."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import replace

from gradexplain.codegen.lines import WIDTH, show
from gradexplain.codegen.making import Code
from gradexplain.errors import InputError
from gradexplain.ops.base import Shape

#: Where the operators are registered: ``torch.ops.gradexplain.normalise``.
NAMESPACE = "gradexplain"

_METHOD = re.compile(r"^    def (\w+)\((.*)\):$")

_TAIL = """

def vmap(info, in_dims, *inputs):
    n = info.batch_size
    each = [[x] * n if d is None else x.unbind(d) for x, d in zip(inputs, in_dims)]
    return torch.stack([{name}(*xs) for xs in zip(*each)]), 0


{name} = torch.library.custom_op(
    "{namespace}::{name}",
    forward,
    mutates_args=(),
    schema="({arguments}) -> Tensor",
)
{name}.register_fake({fake})
{name}.register_vmap(vmap)
{name}.register_autograd(backward, setup_context=setup_context)
"""


def styled(code: Code, style: str) -> Code:
    """``code`` as it is ("function"), or with its methods registered for a ``torch.library.custom_op``.

    The operator is called by the class's name in snake case.
    """
    if style == "function":
        return code
    if "def jvp(" in code.source:
        raise InputError(
            "a torch.library.custom_op has no forward-mode derivative",
            remedy="leave out --jvp, or take --style function",
        )
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", code.name).lower()
    imports, _, rest = code.source.partition(f"\n\nclass {code.name}(")
    lines = rest.split("\n")[1:]
    start = next(k for k, line in enumerate(lines) if line.strip() == "generate_vmap_rule = True")
    doc = "\n".join(lines[:start]).strip("\n")
    functions: dict[str, list[str]] = {}
    arguments = ""
    for line in lines[start + 1 :]:
        if found := _METHOD.match(line):
            functions[found[1]] = [f"def {found[1]}({found[2]}):"]
            arguments = found[2] if found[1] == "forward" else arguments
        elif functions and line.strip() != "@staticmethod":
            list(functions.values())[-1].append(line[4:])
    if _aliases(code):
        functions["forward"] = _cloned(functions["forward"])
    functions["forward"].insert(1, doc)
    text = "\n\n\n".join("\n".join(body).rstrip("\n") for body in functions.values())
    schema = ", ".join(f"Tensor {n.strip()}" for n in arguments.split(","))
    fake = "forward"
    if _dense(code):
        fake, text = "fake", f"{text}\n\n\ndef fake({arguments}):\n    return {code.empty}"
    tail = _TAIL.format(name=name, namespace=NAMESPACE, arguments=schema, fake=fake)
    return replace(code, name=name, source=f"{imports}\n\n{text}\n{tail}")


def _aliases(code: Code) -> bool:
    """Whether the output may be an input, or a view of one, which no operator may return."""
    import torch

    made = code.loaded()
    inputs = [torch.ones(shape) for shape in code.shapes.values()]
    found = made.forward(*inputs).untyped_storage().data_ptr()
    return any(found == x.untyped_storage().data_ptr() for x in inputs)


def _dense(code: Code) -> bool:
    """Whether the output is one block in order, whatever the inputs' strides, in the shape of ``empty``:
    what PyTorch then traces is that alone, and no forward that looks at values.
    """
    import torch

    made = code.loaded()
    for shapes in sizes_of(code):
        for turned in (False, True):
            inputs = {
                code.renamed[n]: torch.ones(s[::-1]).permute(*range(len(s))[::-1]) if turned
                else torch.ones(s) for n, s in shapes.items()
            }  # fmt: skip
            y = made.forward(*inputs.values())
            empty = eval(code.empty, inputs)
            if not y.is_contiguous() or empty.shape != y.shape or empty.dtype != y.dtype:
                return False
    return True


def _cloned(lines: list[str]) -> list[str]:
    value = ast.parse("\n".join(lines)).body[0].body[-1].value  # type: ignore[attr-defined]
    last = max(k for k, line in enumerate(lines) if line.startswith("    return "))
    return [*lines[:last], f"    return {show(value, 8)}.clone()"]


def sizes_of(code: Code) -> list[Mapping[str, Shape]]:
    """Shapes to test at: those it was derived for, and others of the same pattern where it takes any."""
    return [code.shapes, *code.others()[:2]]


_TEST = '''"""{name} against autograd of its own forward: at several sizes, dtypes and layouts."""

import pytest
import torch
from {module} import {imported}

call = {call}
reference = {forward}
SHAPES = [
{shapes}
]


def inputs(shapes, dtype=torch.float64):
    source = torch.Generator().manual_seed(0)
    made = [0.3 + 1.2 * torch.rand(shape, generator=source) for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in made]


def gradients(call, xs):
    y = call(*xs)
    v = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape)
    found = torch.autograd.grad(y, xs, v.to(y.dtype), allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, xs)]


@pytest.mark.parametrize("shapes", SHAPES)
def test_gradients(shapes):
    xs = inputs(shapes)
    assert torch.autograd.gradcheck(call, xs)
    assert torch.autograd.gradgradcheck(call, xs)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_as_autograd(shapes, dtype):
    xs = inputs(shapes, dtype)
    exact = gradients(reference, [x.double().detach().requires_grad_() for x in xs])
    size = max(g.abs().max() for g in exact)
    for ours, wanted in zip(gradients(call, xs), exact):
        assert ours.dtype == dtype
        error = (ours.double() - wanted).abs().max()
        assert error <= 64 * torch.finfo(dtype).eps * (1 + size)


@pytest.mark.parametrize("shapes", SHAPES)
def test_any_layout(shapes):
    xs = inputs(shapes)
    apart = [torch.stack([x.detach()] * 2, dim=-1)[..., 0] for x in xs]
    found = gradients(call, [x.requires_grad_() for x in apart])
    torch.testing.assert_close(found, gradients(call, xs))


def test_vmap():
    xs = [x.detach() for x in inputs(SHAPES[0])]
    found = torch.func.vmap(call)(*(torch.stack([x, x + 0.1]) for x in xs))
    wanted = torch.stack([reference(*xs), reference(*(x + 0.1 for x in xs))])
    torch.testing.assert_close(found, wanted)


def test_compiled():
    xs = inputs(SHAPES[0])
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled, xs), gradients(call, xs))
'''

_TRANSFORMS = """

def test_transforms():
    xs = tuple(inputs(SHAPES[0]))
    places = tuple(range(len(xs)))
    wanted = torch.autograd.functional.jacobian(reference, xs)
    torch.testing.assert_close(torch.func.jacrev(call, places)(*xs), wanted)
    total = torch.func.grad(lambda *xs: call(*xs).sum(), places)(*xs)
    exact = torch.autograd.grad(reference(*xs).sum(), xs)
    torch.testing.assert_close(total, exact)
"""

_JVP = """

def test_forward_mode():
    xs = tuple(inputs(SHAPES[0]))
    places = tuple(range(len(xs)))
    wanted = torch.autograd.functional.jacobian(reference, xs)
    torch.testing.assert_close(torch.func.jacfwd(call, places)(*xs), wanted)
"""

_OPCHECK = """

@pytest.mark.parametrize("shapes", SHAPES)
def test_operator(shapes):
    torch.library.opcheck(call, tuple(inputs(shapes)))
"""


def test_file(code: Code, module: str, sizes: list[Mapping[str, Shape]]) -> str:
    """A pytest file for ``code`` in the file ``module``.py, at these shapes of its inputs."""
    operator = "torch.library.custom_op(" in code.source
    names = {
        "name": code.name, "module": module,
        "call": code.name if operator else f"{code.name}.apply",
        "forward": "forward" if operator else f"{code.name}.forward",
        "imported": ", ".join(sorted(["forward", code.name])) if operator else code.name,
        "shapes": "\n".join(line for shapes in sizes for line in _line(list(shapes.values()))),
    }  # fmt: skip
    text = _TEST
    if "def jvp(" in code.source:
        text = text[: text.index("\n\ndef test_compiled")] + _JVP  # no class with a jvp is compiled
    # An operator's gradient is not seen by torch.func.
    return text.format(**names) + (_OPCHECK if operator else _TRANSFORMS)


def _line(shapes: list[Shape]) -> list[str]:
    line = f"    {shapes!r},"
    if len(line) <= WIDTH:
        return [line]
    return ["    [", *(f"        {shape!r}," for shape in shapes), "    ],"]
