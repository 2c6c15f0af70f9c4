"""Second derivatives against PyTorch's double backward, and how they are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from conftest import sample

import gradexplain
from gradexplain.arithmetic import mp
from gradexplain.cli import main
from gradexplain.errors import UnsupportedError
from gradexplain.formula.functions import PRIMITIVES
from gradexplain.formula.kinds import Nonzero, SincSlope, sinc
from gradexplain.ops import all_ops
from gradexplain.routes.double import SecondQuestion

SAMPLES = Path(__file__).parent.parent / "samples"


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["hessian", *arguments, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def by_pytorch(expression: str, at: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """``torch.autograd.functional.hessian`` of a scalar expression."""
    names = list(at)
    inputs = tuple(torch.tensor(v, dtype=torch.float64) for v in at.values())

    def function(*values: Any) -> Any:
        scope = {n: getattr(torch, n) for n in ("tanh", "softmax", "log", "exp", "relu", "sin")}
        scope |= dict(zip(names, values, strict=True))
        *statements, last = expression.split("; ")
        for statement in statements:
            exec(statement, scope)
        return eval(last, scope)

    found = torch.autograd.functional.hessian(function, inputs)
    return {(a, b): found[i][j].numpy() for i, a in enumerate(names) for j, b in enumerate(names)}


# -- figures ----------------------------------------------------------------------------------


def test_a_quadratic(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "x1**2 + x2**2 + x1*x2", "--at", "x1=3", "--at", "x2=1")
    assert found["schema"] == "gradexplain-hessian/1"
    assert {name: g["value"] for name, g in found["gradients"].items()} == {"x1": 7, "x2": 5}
    assert {name: block["value"] for name, block in found["hessian"].items()} == {
        "x1,x1": 2, "x1,x2": 1, "x2,x1": 1, "x2,x2": 2,
    }  # fmt: skip
    assert all(block["torch"] == block["value"] for block in found["hessian"].values())
    assert (found["eigenvalues"], found["definiteness"]) == ([1, 3], "positive definite")
    assert (found["symmetric"], found["constant"]) == (True, True)
    assert found["product"]["x1"]["formula"] == "(H·u).x1 = 2·u.x1 + u.x2"
    assert found["product"]["x1"]["value"] is None
    assert found["hessian"]["x1,x2"]["formula"] == "∂²y/∂x1∂x2 = 1"
    latex = r"\frac{{\partial }^{2}y}{\partial x_{1}\partial x_{2}} = 1"
    assert found["hessian"]["x1,x2"]["latex"] == latex


CASES: list[tuple[str, dict[str, Any]]] = [
    ("(x**3).sum()", {"x": [1.0, 2.0]}),
    ("(x*x).sum()**2", {"x": [1.0, -2.0, 0.5]}),
    ("s = x.sum(dim=0); ((x/s)**2).sum()", {"x": [[2.0, 1], [3, 3], [5, 5]]}),
    ("h = tanh(w@x); p = softmax(h, dim=0); -log(p[1])", {"w": [[0.1, 0.2], [0.3, -0.4]],
                                                           "x": [0.2, 0.1]}),
    ("exp(a*b).sum() + a.sum()*b.sum()", {"a": [0.5, 1.0], "b": [0.25, 2.0]}),
    ("(relu(x)**2).sum()", {"x": [-1.0, 0.0, 2.0]}),
    ("x.var() + x.std()", {"x": [1.0, 2.0, 4.0]}),
    ("((A@x)*x).sum()", {"A": [[1.0, 2.0], [3.0, 4.0]], "x": [1.0, 2.0]}),
    ("3*a + b", {"a": 1.0, "b": 2.0}),
    ("x.prod()", {"x": [0.0, 2.0, 3.0]}),
    ("sin(x).mean(dim=1).sum()", {"x": [[0.5], [1.5]]}),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "at"), CASES)
def test_as_pytorch_has_it(expression: str, at: dict[str, Any]) -> None:
    found = gradexplain.hessian(expression, at=at, vector="ones")
    assert found.check is not None and found.check.status == "agree"
    for (a, b), expected in by_pytorch(expression, at).items():
        block = found.blocks[a, b]
        assert block.value is not None and block.chain_rule is not None
        assert block.shape == expected.shape
        assert np.allclose(block.value, expected, rtol=1e-10, atol=1e-12)
        assert np.allclose(block.chain_rule, expected, rtol=1e-10, atol=1e-12)
    assert found.symmetric
    assert found.matrix is not None and found.vector is not None
    flat = np.concatenate([np.ravel(u) for u in found.vector.values()])
    products = np.concatenate([p.value.ravel() for p in found.products.values()])
    assert np.allclose(products, found.matrix @ flat, rtol=1e-10, atol=1e-12)
    assert found.eigenvalues is not None
    assert np.allclose(found.eigenvalues, np.linalg.eigvalsh(found.matrix), atol=1e-10)


def test_the_weights_of_an_output(capsys: pytest.CaptureFixture[str]) -> None:
    x = ["--at", "x=[[2,1],[3,3],[5,5]]", "--grad", "[[1,0],[0,2],[0.5,-1]]", "--vector", "ones"]
    found = document(capsys, "s = x.sum(dim=0); x/s", *x)
    assert found["scalar"] == "L"
    assert found["product"]["x"]["value"][0] == pytest.approx([-0.018, -0.00411522633745])
    assert found["hessian"]["x,x"]["where"] == ["s[k] = Σ_p x[p,k]"]
    block = found["hessian"]["x,x"]
    assert "block diagonal: zero unless k = l" in block["structure"]
    assert np.allclose(np.array(block["value"]), np.array(block["torch"]), rtol=1e-11)


@pytest.mark.parametrize(
    ("expression", "at", "definiteness"),
    [
        ("x*x + y*y", {"x": 1, "y": 2}, "positive definite"),
        ("-x*x - y*y", {"x": 1, "y": 2}, "negative definite"),
        ("x*y", {"x": 1, "y": 2}, "indefinite"),
        ("(x + y)**2", {"x": 1, "y": 2}, "positive semidefinite"),
        ("-(x + y)**2", {"x": 1, "y": 2}, "negative semidefinite"),
        ("x + y", {"x": 1, "y": 2}, "zero"),
    ],
)
def test_definiteness(expression: str, at: dict[str, Any], definiteness: str) -> None:
    found = gradexplain.hessian(f"z = {expression}", at=at)
    assert found.definiteness == definiteness
    assert found.constant


def test_a_stationary_point() -> None:
    found = gradexplain.hessian("x**4 + x**2 - y**2*exp(x)", at={"x": 0, "y": 0})
    assert [note.text for note in found.notes] == [
        "The gradient is 0 here, so this is a saddle point."
    ]


# -- which inputs, which vector ---------------------------------------------------------------


def test_only_some_inputs() -> None:
    found = gradexplain.hessian("((A@x)*x).sum()", at={"A": [[1, 2], [3, 4]], "x": [1, 2]}, wrt="x")
    assert list(found.blocks) == [("x", "x")]
    assert found.blocks["x", "x"].text == "∂²y/∂x[i]∂x[j] = A[j,i] + A[i,j]"
    assert found.constant  # A does not move


def test_an_input_that_is_not_reached() -> None:
    found = gradexplain.hessian("h = a*a; b*b", at={"a": 2, "b": 3})
    assert [float(np.asarray(b.value)) for b in found.blocks.values()] == [0, 0, 0, 2]


@pytest.mark.parametrize(
    ("options", "products"),
    [
        (["--vector", "1,2"], {"x": 5, "y": 4}),
        (["--vector", "x=1", "--vector", "y=2"], {"x": 5, "y": 4}),
        (["--vector", "x=1"], {"x": 1, "y": 2}),
        (["--vector", "ones"], {"x": 3, "y": 3}),
    ],
)
def test_forms_of_the_vector(
    capsys: pytest.CaptureFixture[str], options: list[str], products: dict[str, float]
) -> None:
    found = document(capsys, "x*x/2 + 2*x*y + y*y/2", "--at", "x=1", "--at", "y=1", *options)
    # H = [[1, 2], [2, 1]]
    assert {name: p["value"] for name, p in found["product"].items()} == products


def test_a_large_hessian_is_checked_along_a_direction() -> None:
    found = gradexplain.hessian("(x*x).sum()**2", shapes={"x": (50,)})
    block = found.blocks["x", "x"]
    assert block.value is None and found.matrix is None and found.eigenvalues is None
    assert found.check is not None and found.check.status == "agree"
    assert block.text == "∂²y/∂x[i]∂x[j] = 4·t2·δ(i,j) + 8·x[j]·x[i]"
    assert found.to_dict()["product"]["x"]["value"] is None
    assert [note.kind for note in found.notes] == ["large"]


def test_float32() -> None:
    found = gradexplain.hessian("exp(x).sum()", at={"x": [0.1, 0.7]}, dtype="float32")
    assert found.check is not None and found.check.status == "agree"


def test_without_the_check() -> None:
    found = gradexplain.hessian("x**3", at={"x": 2}, check=False)
    assert found.check is not None and found.check.status == "skipped"
    assert found.blocks["x", "x"].torch is None


# -- singular points --------------------------------------------------------------------------


def test_a_kink_of_the_first_derivative() -> None:
    found = gradexplain.hessian("x.abs().sum()", at={"x": [-1, 0]})
    assert found.check is not None and found.check.status == "agree"
    assert [note.kind for note in found.notes] == ["kink", "second-order kink"]
    assert "It is constant wherever it exists." in str(found)


def test_a_kink_of_the_second_derivative_alone() -> None:
    found = gradexplain.hessian("elu(x)", at={"x": 0.0})
    assert found.check is not None and found.check.status == "convention"
    assert any("second derivative may differ on the two sides" in n.text for n in found.notes)


def test_an_infinite_second_derivative() -> None:
    found = gradexplain.hessian("x**1.5", at={"x": 0.0})
    assert found.check is not None and found.check.status == "agree"
    assert float(np.asarray(found.blocks["x", "x"].value)) == float("inf")
    assert found.eigenvalues is None and found.definiteness == ""


# -- every operation --------------------------------------------------------------------------

OPS = [
    pytest.param(op, id=op.schema.partition("(")[0] + f"-{n}")
    for n, op in enumerate(all_ops())
    if op.samples
    and not op.integer
    and not op.stops
    # PyTorch's values of polygamma are single precision's, which no derivative is excused for.
    and op.name != "polygamma"
]


@pytest.mark.parametrize("op", OPS)
def test_every_operation_is_differentiated_twice(op: Any) -> None:
    """The routes agree, or PyTorch says why it cannot: never another number."""
    expression, shapes = sample(op.samples[0])
    *before, last = expression.rsplit(";", 1)
    head = "".join(f"{statement};" for statement in before)
    try:
        found = gradexplain.hessian(
            f"{head} out = {last.strip()}; (out*out*0.5 + out).sum()",
            at=_values(shapes),
            wrt=next(iter(shapes)),
        )
    except UnsupportedError:
        return
    except gradexplain.InputError as error:
        pytest.skip(f"the sample wants other inputs: {error.message}")
    assert found.check is not None
    assert found.check.status in ("agree", "convention") or found.check.reason, found.check


def _values(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Values of no pattern within (0, 1)."""
    source = np.random.default_rng(7)
    return {name: source.uniform(0.15, 0.85, shape) for name, shape in shapes.items()}


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["x*x", "--at", "x=1,2"], "grad can be implicitly created only for scalar outputs"),
        (["x*x", "--vector", "1,2"], "mismatch in shape: --vector has shape (2,) and x has"),
        (["x*y", "--vector", "1,2,3"], "mismatch in shape: --vector has shape (3,) and the inputs"),
        (["x*y", "--vector", "z=1"], "--vector z: no input of that name"),
        (["x*y", "--vector", "x=1", "--vector", "x=2"], "--vector gives x twice"),
        (["x*y", "--vector", "1", "--vector", "2"], "--vector is given twice"),
        (["x*y", "--vector", "x=1,2"], "mismatch in shape: --vector x has shape (2,)"),
        (["x*y", "--grad", "1", "--grad", "2"], "--grad is given 2 times"),
        (["3.0"], "y depends on no input that requires grad"),
    ],
)  # fmt: skip
def test_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    assert main(["hessian", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gradexplain: " + expected)
    assert captured.err.count("remedy:") == 1


# -- pages ------------------------------------------------------------------------------------

PAGES = sorted(SAMPLES.glob("hessian_*.args"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
@pytest.mark.parametrize("width", [80, 100])
def test_pages_fit(path: Path, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = path.read_text("utf-8").splitlines()
    assert main([*arguments, "--width", str(width)]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= width
    if width == 100:
        assert page == path.with_suffix(".txt").read_text("utf-8")


def test_the_page_from_python_is_the_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hessian", "x**3", "--at", "x=2"]) == 0
    assert str(gradexplain.hessian("x**3", at={"x": 2})) == capsys.readouterr().out


def test_a_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    assert main(["hessian", "x**3", "--format", "json", "--output", str(path)]) == 0
    assert json.loads(path.read_text("utf-8"))["hessian"]["x,x"]["formula"] == "∂²y/∂x² = 6·x"


@pytest.mark.parametrize("expression", ["det(x)", "linalg.slogdet(x)[1]", "logdet(x)"])
def test_determinants(expression: str) -> None:
    """The cofactors that the gradient is made of have derivatives of their own."""
    found = gradexplain.hessian(expression, at={"x": [[2.0, 0.5, 1], [0.5, 1, 3], [1, 4, 20]]})
    assert found.check is not None
    assert found.check.status == "agree"


def test_a_removable_singularity_has_its_second_derivative() -> None:
    """sinc''(0) = −π²/3; PyTorch's double backward has nan there, which is no mismatch."""
    found = gradexplain.hessian("sinc(x).sum()", at={"x": [0.0, 1.0, 1e-30]}, check=False)
    assert found.matrix is not None
    np.testing.assert_allclose(np.diag(found.matrix), [-(np.pi**2) / 3, 2, -(np.pi**2) / 3])
    checked = gradexplain.hessian("sinc(x)", at={"x": 0.0}, vector=2.0)
    assert checked.check is not None
    assert checked.check.status == "convention"
    assert np.isnan(checked.blocks["x", "x"].torch)  # type: ignore[arg-type]
    np.testing.assert_allclose(checked.products["x"].value, -2 * np.pi**2 / 3)
    assert [note.kind for note in checked.notes] == ["second-order artefact", "stationary"]


@pytest.mark.parametrize("x", [-2.5, -0.7, 1e-3, 0.999, 1.001, 40.25])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_derivatives_of_sinc(x: float, order: int) -> None:
    """Both kernels and the written formula, against the integral of cos(πxt) over t in (0, 1)."""
    wave = mp.quad(
        lambda t: (mp.pi * t) ** order * mp.cos(mp.pi * x * t + order * mp.pi / 2),
        mp.linspace(0, 1, 3 + int(abs(x))),
    )
    kernel = PRIMITIVES["sinc_slope"]
    assert kernel.exact is not None and kernel.numpy is not None
    assert abs(kernel.exact(mp.mpf(order), mp.mpf(x), mp.nan) - wave) < 1e-30
    np.testing.assert_allclose(kernel.numpy(float(order), x, np.nan), float(wave), rtol=1e-15)
    z = sympy.Symbol("z", real=True)
    written = SincSlope(order, z, sinc(z)).written()
    exact = sympy.Rational(x)
    value = (
        written.replace(Nonzero, lambda a: a)
        .subs(z, exact)
        .replace(sinc, lambda a: sympy.sin(sympy.pi * a) / (sympy.pi * a))
    )
    assert abs(sympy.N(value, 40) - sympy.Float(str(wave), 40)) < 1e-30


def test_a_corner_of_the_gradient_is_a_convention() -> None:
    """huber's gradient has a corner at delta: each route takes a side."""
    found = gradexplain.hessian("F.huber_loss(x, y)", at={"x": 1.0, "y": 0.0})
    assert found.check is not None
    assert found.check.status == "convention"
    assert found.blocks["x", "x"].value == 1
    assert found.blocks["x", "x"].torch == 0
    assert "second-order kink" in [note.kind for note in found.notes]


def test_what_the_closed_form_cannot_compute_is_not_called_a_convention() -> None:
    found = gradexplain.hessian("det(x)", at={"x": [[1.0, 2.0], [2.0, 4.0]]})
    assert found.check is not None
    assert found.check.status == "cannot tell"
    assert "the closed form meets 0/0" in str(found)
    assert not any("no second derivative" in note.text for note in found.notes)


def test_a_scalar_of_any_rank() -> None:
    h = gradexplain.hessian("atleast_3d(x)**3", at={"x": 2.0})
    assert h.check is not None and h.check.status == "agree"
    assert h.blocks["x", "x"].text == "∂²y/∂x² = 6·x"
    assert h.blocks["x", "x"].value == 12


def test_of_many_inputs_the_short_formulas_are_written_out() -> None:
    at = {"x": [[0.2, 0.1]], "w": [[0.3, -0.2], [0.5, 0.4]], "u": [[0.7, 0.1], [0.2, 0.6]],
          "a": [[1.0], [-1.0]]}  # fmt: skip
    found = gradexplain.hessian("((tanh(tanh(x@w)@u)@a)**2).sum()", at=at)
    assert found.check is not None and found.check.status == "agree"
    assert found.blocks["a", "a"].text == "∂²y/∂a[i,0]∂a[j,0] = 2·tanh(t3[0,j])·tanh(t3[0,i])"
    long = found.blocks["w", "x"]
    assert (long.formula, long.value, long.text, long.verdict) == (
        None, None, "∂²y/∂w∂x = …", "agree",
    )  # fmt: skip
    assert long.chain_rule is not None and long.torch is not None
    assert np.allclose(long.chain_rule, long.torch, rtol=1e-12)
    assert found.matrix is not None and np.isfinite(found.matrix).all()
    page = str(found)
    assert "Too long to be read, so not written out: " in page and "∂²y/∂x∂w" in page
    assert any(note.kind == "long" for note in found.notes)


def test_of_a_great_many_inputs_each_with_itself() -> None:
    names = [f"x{n}" for n in range(40)]
    found = gradexplain.hessian("*".join(names), check=False)
    assert found.blocks["x0", "x0"].text == "∂²y/∂x0² = 0"
    assert found.blocks["x0", "x1"].formula is None
    assert "and 772 more" in " ".join(str(found).split())


def test_blocks_and_products_have_a_bound_and_a_margin() -> None:
    found = gradexplain.hessian(
        "exp(x*y).sum()", at={"x": [0.5, -1.0], "y": [2.0, 0.1]}, vector=[1, 1, 1, 1]
    )
    for item in (*found.blocks.values(), *found.products.values()):
        assert item.verdict == "agree" and item.torch is not None and item.tolerance is not None
        assert item.margin is not None and item.margin > 1e6, item.margin
        assert (np.abs(item.torch - item.known) <= item.tolerance).all()


def test_a_wrong_second_pass_is_seen_though_the_bound_hides_it() -> None:
    """Each step is held at PyTorch's own numbers: no bound is carried through both passes."""
    text = "; ".join(["h = tanh(w@x)", *(["h = tanh(30*w@h)"] * 4), "(h**2).sum()"])
    at = {"w": [[0.5, -0.3], [0.2, 0.7]], "x": [0.4, -0.6]}
    found = gradexplain.hessian(text, at=at, dtype="float32")
    assert found.check is not None and found.check.status in ("agree", "convention")


@pytest.mark.parametrize(
    ("text", "at", "block", "place"),
    [
        ("sqrt(x).sum()", {"x": [0.0, 4.0]}, ("x", "x"), (1, 1)),
        ("x.abs().sum() + (x*w).sum()", {"x": [0.0, 4.0], "w": [1.0, 2.0]}, ("x", "w"), (1, 1)),
        ("elu(x).sum()", {"x": [0.0, -1.0]}, ("x", "x"), (1, 1)),
        ("(sqrt(x)*y).sum() + y**3", {"x": [0.0, 4.0], "y": 2.0}, ("y", "y"), ()),
        ("x.norm() + (w**3).sum()", {"x": [0.0, 0.0], "w": [1.0, 2.0]}, ("w", "w"), (0, 0)),
    ],
)
def test_a_singular_point_excuses_only_what_it_has_a_part_in(
    text: str, at: dict[str, Any], block: tuple[str, str], place: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    right = gradexplain.hessian(text, at=at)
    assert right.check is not None and right.check.status in ("agree", "convention"), right.check
    made = SecondQuestion._blocks

    def wrong(*arguments: Any) -> Any:
        found = made(*arguments)
        found[block][place] += 0.5
        return found

    monkeypatch.setattr(SecondQuestion, "_blocks", staticmethod(wrong))
    found = gradexplain.hessian(text, at=at)
    assert found.check is not None and found.check.status == "mismatch", found.check
    assert found.blocks[block].verdict == "mismatch"


@pytest.mark.parametrize(
    "text", ["(F.layer_norm(x, (4,))**3).sum()", "F.group_norm(x, 2).exp().sum()"]
)
def test_what_a_part_of_an_operation_receives_goes_on_to_the_parts_that_it_reads(text: str) -> None:
    """σ and x̂ read μ, which the gradient of x does not."""
    at = {"x": [[1.0, 2, 3, 7], [4, 5, 6, 1]]}
    for check in (
        gradexplain.hessian(text, at=at, vector="ones").check,
        gradexplain.explain_calls(text, (), at=at, order=2).check,
    ):
        assert check is not None and check.status == "agree"


def test_sizes_are_letters_in_second_derivatives(capsys: pytest.CaptureFixture[str]) -> None:
    at = {"x": np.ones((3, 2)), "w": np.ones((2, 4)), "y": np.ones((3, 4))}
    found = gradexplain.hessian("((x@w - y)**2).mean()", at=at, wrt=["x", "w"])
    block = found.blocks["x", "w"]
    assert block.text == "∂²z/∂x[i,k]∂w[j,l] = 2·(δ(k,j)·r[i,l] + x[i,j]·w[k,l])/(N·K)"
    assert block.ranges == "i = 0…2; j, k, p = 0…1; l = 0…3; N = 3, K = 4"
    assert "/(N·K)" in found.products["x"].text and "≤" not in found.products["x"].text
    x = gradexplain.explain_calls("(x**3).mean()", (), at={"x": np.ones((2, 3))}, order=2)
    assert x.second is not None
    gradient = x.second.explanation.gradients["x"]
    assert gradient.text == "∂S/∂x[j,l] = 6·x[j,l]/(N·M)"


def test_parts_keep_their_names_in_a_second_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """``x̂`` is no ``(x − μ)/σ`` there, and what is not a name stands in parentheses before an index."""
    assert main(["run", "F.layer_norm(x,(4,)).norm()", "--shape", "x=3,4", "--order", "2"]) == 0
    shown = capsys.readouterr().out
    assert "x̂·sum(x̂·g" in shown and "μ)/)" not in shown and "(x − μ)/σ)" not in shown
    assert main(["run", "(x*(x-3)).sum()", "--shape", "x=3", "--order", "2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "x.grad[j] = (x - 3)[j]·(x*(x - 3)).grad[j] + (x - 3).grad[j]" in shown


def test_a_row_of_padding_has_second_derivatives() -> None:
    text = "(F.embedding([0, 2, 2, 1], w, padding_idx=2)**3).sum()"
    x = gradexplain.explain_calls(text, (), at={"w": np.ones((4, 3))}, order=2)
    assert x.check is not None and x.check.status == "agree"
