"""Scripts as people paste them: read and explained here, run by PyTorch, and held together.

The scripts are the tests' own (tests/pasted.txt); their habits are those of forum posts and tutorials.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gradexplain
from gradexplain import explain
from gradexplain.errors import GradexplainError
from gradexplain.explanation import Explanation, Shape
from gradexplain.reading.derived import _alike
from gradexplain.reading.inputs import Inputs
from gradexplain.reading.pasted import cleaned
from gradexplain.reading.typed import parse_value
from gradexplain.texts import blocks

_ANSWER = re.compile(r"^#: ([\w′]+) = (.+)$", re.MULTILINE)


def scripts() -> Iterator[tuple[str, str]]:
    text = (Path(__file__).parent / "pasted.txt").read_text(encoding="utf-8")
    for part in text.split("\n=== ")[1:]:
        name, _, script = part.partition("\n")
        yield name, script


SCRIPTS = dict(scripts())


class Drawn:
    """The example values in the order in which a script draws them, for PyTorch's own run."""

    def __init__(self) -> None:
        self.inputs = Inputs()

    def tensor(self, *size: Any, signs: bool, **options: Any) -> torch.Tensor:
        size = options.pop("size", size)
        shape: Shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
        values = self.inputs.example(shape, signs=signs)
        dtype = options.pop("dtype", torch.get_default_dtype())
        return torch.tensor(values, dtype=dtype, **options)

    def parameter(self, shape: Shape) -> torch.Tensor:
        fan = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 4
        values = np.round(self.inputs.example(shape, signs=True) / np.sqrt(fan), 2)
        return torch.tensor(values, dtype=torch.get_default_dtype())


def ran(script: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of a script once PyTorch has run it, its random numbers being the examples."""
    drawn = Drawn()
    monkeypatch.setattr(torch, "randn", lambda *n, **k: drawn.tensor(*n, signs=True, **k))
    monkeypatch.setattr(torch, "rand", lambda *n, **k: drawn.tensor(*n, signs=False, **k))

    def reset(layer: Any) -> None:
        with torch.no_grad():
            for parameter in layer.parameters(recurse=False):
                parameter.copy_(drawn.parameter(tuple(parameter.shape)))

    for kind in (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Embedding):
        monkeypatch.setattr(kind, "reset_parameters", reset)
    names: dict[str, Any] = {"torch": torch, "__name__": "__main__"}
    before = torch.get_default_dtype()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's advice to whoever wrote the script
            exec(compile(cleaned(script), "script", "exec", dont_inherit=True), names)
    finally:
        torch.set_default_dtype(before)
    return names


def gradient(explanation: Explanation, name: str) -> Any:
    """What is in ``.grad`` after the last call."""
    if explanation.calls:
        return explanation.calls[-1].gradients[name].after
    return explanation.gradients[name].value


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = SCRIPTS[name]
    found = explain(script)
    assert found.check is not None
    assert found.check.status == "agree", found.check
    names = ran(script, monkeypatch)
    answers = dict(_ANSWER.findall(script)) or {n: f"{n}.grad" for n in found.gradients}
    assert answers
    for leaf, place in answers.items():
        expected = eval(place, names).detach()
        bits = 1e-5 if expected.dtype == torch.float32 else 1e-12
        np.testing.assert_allclose(gradient(found, leaf), expected.numpy(), rtol=bits, atol=bits)


# -- what is pasted into options -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torch.ones(2)", [1, 1]),
        ("torch.full((2,), 0.5)", [0.5, 0.5]),
        ("torch.eye(2)[1]", [0, 1]),
        ("torch.tensor([1., 2.])", [1, 2]),
        ("torch.FloatTensor([1, 2])", [1, 2]),
    ],
)
def test_value(text: str, expected: list[float]) -> None:
    np.testing.assert_array_equal(parse_value(text, "--grad"), expected)


def test_one_number_fits_one_element_of_any_shape() -> None:
    found = explain("x.sum(dim=0, keepdim=True)", at={"x": [1.0, 2.0]}, grad=3.0)
    np.testing.assert_array_equal(found.gradients["x"].value, [3, 3])


@pytest.mark.parametrize(
    "script",
    [
        "import jax\nimport jax.numpy as jnp\ndef f(x):\n    return jnp.sum(jnp.sin(x) ** 2)\n"
        "x = jnp.array([0.3, 0.6])\nprint(jax.grad(f)(x))",
        "import tensorflow as tf\nx = tf.Variable([0.3, 0.6])\nwith tf.GradientTape() as tape:\n"
        "    y = tf.reduce_sum(tf.sin(x) ** 2)\nprint(tape.gradient(y, x))",
        "print(torch.func.grad(lambda t: (t.sin() ** 2).sum())(torch.tensor([0.3, 0.6])))",
    ],
)
def test_other_libraries(script: str) -> None:
    found = explain(script)
    (given,) = found.gradients.values()
    expected = np.sin(2 * np.array([0.3, 0.6], dtype=np.float32))
    np.testing.assert_allclose(given.value, expected, rtol=1e-6)
    assert any("read as PyTorch's" in note.text for note in found.notes) == ("torch" not in script)


# -- what PyTorch refuses, and what is not read ----------------------------------------------------

REFUSED = r"""
k = 2.0; x = torch.ones(2, requires_grad=True); x.register_hook(lambda g: g * k); y = (x * x).sum(); k = 5.0; y.backward()
this hook gives something else by the time of backward
remedy: gradexplain trace FILE runs the script and explains it

x = torch.ones(2, requires_grad=True); x.register_hook(lambda g: g + 1); (x * x).sum().backward()
this hook is not linear in the gradient that it is given
remedy: change .grad after backward, as in `x.grad.clamp_(-1, 1)`; gradexplain trace FILE runs the script and explains it

x = torch.ones(2, requires_grad=True); x.register_hook(lambda g: g.clamp(-1, 1)); (x * x).sum().backward()
this hook is not linear in the gradient that it is given
remedy: change .grad after backward, as in `x.grad.clamp_(-1, 1)`; gradexplain trace FILE runs the script and explains it

w = torch.ones(2, requires_grad=True); y = w + 1; w.data *= 3; ((w ** 2).sum() + y.sum()).backward()
w is changed by `w.data *= 3` after it was used: PyTorch's backward then mixes its old and new elements, or refuses to run
remedy: change w after backward, or compute what depends on it anew

x = torch.ones(3, requires_grad=True); y = x * 2; y.backward()
grad can be implicitly created only for scalar outputs; y has shape (3,)
remedy: give v in that shape, as in `.backward(torch.ones(3))`, or make the output a scalar, as in `y.sum().backward()`

x = torch.tensor([1, 2], requires_grad=True)
only Tensors of floating point and complex dtype can require gradients; this one holds int64
remedy: write `1.` for `1`, or give dtype=torch.float32

x = torch.ones(2); y = x.sum(); y.backward()
element 0 of tensors does not require grad and does not have a grad_fn
remedy: make an input with requires_grad=True; what is computed under no_grad() or detached requires none

x = torch.ones(2, requires_grad=True); x += 1
a leaf Variable that requires grad is being used in an in-place operation
remedy: PyTorch refuses it; write `y = x + …` for a new tensor, or change it under torch.no_grad()

x = torch.ones(1, requires_grad=True); y = x * x; x.data *= 100; y.backward()
x is changed by `x.data *= 100` after it was used: PyTorch's backward then mixes its old and new elements, or refuses to run
remedy: change x after backward, or compute what depends on it anew

w = torch.ones(2, requires_grad=True); (w * w).sum().backward(); w.data -= w.grad; (w ** 3).sum().backward()
.grad of w still holds what earlier calls at other values, or the text, left in it: backward adds to it
remedy: zero it before each call, as in `optimizer.zero_grad()` or `w.grad = None`

x = torch.ones(2, requires_grad=True); (x * x).sum().backward(); x.grad /= 2; (x ** 3).sum().backward()
.grad of x still holds what earlier calls at other values, or the text, left in it: backward adds to it
remedy: zero it before each call, as in `optimizer.zero_grad()` or `w.grad = None`

x = torch.ones(2, requires_grad=True); y = x * 2; y.detach().zero_(); (y * x).sum().backward()
this changes, in place and without a gradient, what is used later with one
remedy: change a copy, as in `d = y.detach().clone()`

x = torch.ones(3, requires_grad=True); z = torch.zeros(3); z[[0, 0, 2]] = x * 5; z.sum().backward()
put: two elements are written to one place, and which of them stays is not specified
remedy: scatter_add adds them up

x = torch.ones(4, requires_grad=True); a, b = (x * 2).chunk(2); a += b; a.sum().backward()
Output of a function that returns multiple views is a view and is being modified inplace: such functions do not allow it
remedy: change the whole tensor, as in `y[:2] += 1`, or a copy of the part

k = {"requires_grad": True}; a, b = torch.ones(2, **k), torch.ones(2, **k); a.data = b.data; b.data += 1; (a * b).sum().backward()
this changes the elements of two leaves, which share them since `.data` of one was assigned to the other
remedy: give the other a copy, as in `a.data = b.data.clone()`

import mylib; x = torch.ones(2, requires_grad=True); y = x * 2; z = mylib.f(y); z.backward()
`mylib.f(y)` is not read
remedy: give its value here as a literal; or gradexplain trace FILE runs the whole script

x = torch.ones(2, requires_grad=True); z = torch.ones(1, requires_grad=True); torch.autograd.grad((x * x).sum(), [x, z])
One of the differentiated Tensors appears to not have been used in the graph
remedy: give allow_unused=True for None in its place

h = torch.ones(2, 2, requires_grad=True) * 2\nfor row in h: row *= 3\nh.sum().backward()
Output of a function that returns multiple views is a view and is being modified inplace: such functions do not allow it
remedy: change the whole tensor, as in `y[:2] += 1`, or a copy of the part

x = torch.ones(2, requires_grad=True)\nwith torch.inference_mode(): y = x * 2\n(y * x).sum().backward()
Inference tensors cannot be saved for backward
remedy: write `with torch.no_grad():`, or use a .clone() of it

x = torch.ones(2, requires_grad=True); ((x // 2) * x).sum().backward()
derivative for aten::floor_divide is not implemented
remedy: write `.detach()` before it, as its derivative is 0 wherever it exists

x = torch.ones(2, requires_grad=True); o = torch.empty(2); torch.add(x, 1, out=o); o.sum().backward()
functions with out=... arguments don't support automatic differentiation, but one of the arguments requires grad
remedy: assign the result, as in `y = torch.mul(a, b)`

x = torch.ones(4, requires_grad=True); y = torch.fft.rfft(x).abs().sum(); y.backward()
`torch.fft.rfft` works with complex numbers, which are not read
remedy: gradexplain trace FILE runs the script; in a formula write the real and the imaginary part as two tensors

x = torch.load("x.pt"); y = (x * 2).sum(); y.backward()
a file is not read from a text
remedy: leave the line out and give the value, as in `--at x=@x.npy`; or gradexplain trace FILE runs the whole script

import pandas as pd; d = pd.read_csv("a.csv"); y = torch.tensor(d.values) * 2; y.backward()
`d.values` is not read
remedy: give its value here as a literal; or gradexplain trace FILE runs the whole script
""".strip()


IN_PLACE = (
    "one of the variables needed for gradient computation has been modified by an inplace operation: "
    "the backward of `{}` needs {}, which this changes\n"
    "remedy: give the result a name of its own, as in `z = y + 1` for `y += 1`"
)


@pytest.mark.parametrize(
    ("text", "operation", "needed"),
    [
        ("y = x.exp(); y += 1; y.sum().backward()", "x.exp()", "its result"),
        ("y = (x * 3).relu(); y[0] *= 2; y.sum().backward()", "(x * 3).relu()", "its result"),
        ("y = x * 2; z = y * y; y.mul_(2); z.sum().backward()", "y * y", "`x * 2`"),
        ("y = x * 2; y[1] *= y[0]; y.sum().backward()", "y[1] *= y[0]", "`y[0]`"),
        (
            "y = x * 2; v = y.view(2); z = v * v; y[0] = 1; z.sum().backward()",
            "v * v",
            "`y.view(2)`",
        ),
        (
            "y = torch.zeros(2); y[0] = x[0]; y[1] = y[0] * x[1]; y.sum().backward()",
            "y[0] * x[1]",
            "`y[0]`",
        ),
    ],
)
def test_changed_in_place(text: str, operation: str, needed: str) -> None:
    with pytest.raises(GradexplainError) as error:
        explain(f"x = torch.ones(2, requires_grad=True); {text}")
    message, _, rest = str(error.value).partition("\n")
    remedy = rest[rest.index("remedy") :]
    assert f"{message}\n{remedy}" == IN_PLACE.format(operation, needed)


@pytest.mark.parametrize("case", REFUSED.split("\n\n"))
def test_refused(case: str) -> None:
    text, message, remedy = case.split("\n")
    with pytest.raises(GradexplainError) as error:
        explain(text.replace(r"\n", "\n"))
    shown = str(error.value).split("\n")
    assert (shown[0], shown[-1]) == (message, remedy)
    assert "^" in shown[2]


def test_what_is_said_of_the_text() -> None:
    found = explain(
        "x = 2 * torch.ones(2, requires_grad=True)\ny = (x * x).sum()\ny.backward()\nprint(x.grad)"
    )
    kinds = {note.kind: note.text for note in found.notes}
    assert "x.grad is None: x is computed, not a leaf" in kinds["no leaf"]
    found = explain("x = torch.randn(3, requires_grad=True)\n(x ** 2).sum().backward()")
    kinds = {note.kind: note.text for note in found.notes}
    assert kinds["example values"].startswith("The text leaves the values of x open")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "x = torch.ones(2, 3, requires_grad=True)\ntorch.sqrt(x).mean().backward()",
            "2·N·M·sqrt(x)",
        ),
        (
            "x = torch.randn(4, 3)\nw = torch.randn(3, requires_grad=True)\n"
            "(((x @ w) ** 2).sum() / len(x)).backward()",
            "/N",
        ),
        (
            "x = torch.ones(3, requires_grad=True)\ny = x * 2\nwhile y.norm() < 20:\n    y = y * 2\n"
            "y.mean().backward()",
            "16/N",
        ),
    ],
)
def test_sizes_of_a_script_are_letters(script: str, said: str) -> None:
    found = next(iter(explain(script).gradients.values()))
    assert said in found.short + found.text


def test_what_is_defined_and_not_called() -> None:
    with pytest.raises(GradexplainError, match="the text defines `train` and calls nothing"):
        explain("def train(net, x):\n    net(x).sum().backward()")


def test_what_of_a_function_of_ones_own_is_not_read() -> None:
    script = (
        "import torch\nclass F(torch.autograd.Function):\n"
        "    def forward(ctx, x): return x * 2\n    def backward(ctx, g): return {}\n"
        "x = torch.ones(2, requires_grad=True)\nF.apply(x).sum().backward()"
    )
    for returned, said in (
        ("g * g", "the backward of F is not linear in the gradient"),
        ("torch.ones(2)", "the backward of F is not linear in the gradient"),
        ("2 * g + 1", "the backward of F is not linear in the gradient"),
        (
            "g if g.sum() > 0 else 2 * g",
            "a backward that looks at the numbers of its argument is not read",
        ),
        ("g.sum()", r"invalid gradient at index 0 - expected a tensor of shape \[2\]"),
        ("(g, g)", "incorrect number of gradients"),
    ):
        with pytest.raises(GradexplainError, match=said):
            explain(script.format(returned))


def test_gradients_are_alike_in_the_measure_of_the_largest() -> None:
    small, other = np.array([1e-13, 0.0]), np.array([0.0, 0.0])
    assert not _alike({"a": small}, {"a": other}, "float64")
    assert _alike({"a": small, "b": np.ones(1)}, {"a": other, "b": np.ones(1)}, "float64")
    assert _alike({"a": None}, {"a": other}, "float64")


def test_every_sentence_is_said_somewhere() -> None:
    home = Path(gradexplain.__file__).parent / "reading"
    code = "\n".join(path.read_text("utf-8") for path in home.rglob("*.py"))
    said = {key for key, *_ in blocks("reading", "said.txt")}
    asked = set(
        re.findall(r'\b(?:s(?:elf)?\.(?:refuse|lack|say)|refused|lacking)\(\s*"([^"]+)"', code)
    )
    chosen = set(re.findall(r'"([^"\n]+)" if [^\n]+ else "([^"\n]+)"', code))
    assert said == asked | {key for pair in chosen for key in pair if key in said}


LATE = """
import torch
x = torch.tensor([1., 2.], requires_grad=True)
k = 2
{made}
{taken}
k = 5
y = (a + sum(g)).sum()
y.backward()
"""


@pytest.mark.parametrize(
    "made",
    [
        "g = (x*k for _ in range(3))",
        "def gen():\n    for _ in range(3):\n        yield x*k\ng = gen()",
    ],
)
def test_a_generator_reads_its_names_when_it_is_asked(made: str) -> None:
    with pytest.raises(GradexplainError) as raised:
        explain(LATE.format(made=made, taken="a = next(g)"))
    assert str(raised.value).startswith(
        "k is changed here while a generator that reads it has values left, which it makes when it is asked"
    )
    x = explain(LATE.format(made=made, taken="a = 0\nfor part in g:\n    a = a + part"))
    assert x.gradients["x"].value.tolist() == [6, 6]
