"""Pages as documents, and the terminal's writing of them, against whole strings."""

from __future__ import annotations

import re

import pytest
from sample import array, normalised, weighted

from gradexplain import explain
from gradexplain.document.model import Graph, GraphNode
from gradexplain.errors import InputError
from gradexplain.explanation import Check, Difference, Explanation, Note, Shape
from gradexplain.formats import terminal
from gradexplain.formats.drawing import drawing
from gradexplain.formats.text import Style
from gradexplain.pages.options import Options
from gradexplain.pages.run import page, why


def shown(x: Explanation, width: int = 100, **options: bool | str) -> str:
    return terminal.render(page(x, Options(**options)), Style(width=width))  # type: ignore[arg-type]


FIRST = """\
  y = 3*a+2*b*b+log(c)

  a  (3,)  [1, 2, 3]
  b  (3,)  [4, 5, 6]
  c  (3,)  [7, 8, 9]
  y  (3,)  [36.9459, 58.0794, 83.1972]
  v  (3,)  [0.1, 1, 0.0001]  what backward is given: ∂L/∂y of L = 0.1·y[0] + 1·y[1] + 0.0001·y[2]

Graph
  a ─── ×3 MulBackward ────────────────────┐
  b ─┬─ ×2 MulBackward ──┐                 ├─ + AddBackward ─┐
     └───────────────────┴─ × MulBackward ─┘                 ├─ + AddBackward ── y ◄ v
  c ─── log LogBackward ─────────────────────────────────────┘
  b is reached by 2 paths: 2 contributions

Gradients
  a.grad = 3·v    [0.3, 3, 0.0003]                 3 * v
  b.grad = 4·b·v  [1.6, 20, 0.0024]                4 * v * b
  c.grad = v/c    [0.0142857, 0.125, 1.11111e-05]  v / c
"""

FIRST_STEPS = """\
One element  b.grad[0] is a sum
  b.grad[0] = (via 2*b*b) 0.8 + (via 2*b) 0.8 = 1.6
"""


@pytest.fixture(scope="module")
def first() -> Explanation:
    return explain(
        "3*a+2*b*b+log(c)",
        at={"a": [1, 2, 3], "b": [4, 5, 6], "c": [7, 8, 9]},
        grad=[0.1, 1, 0.0001],
    )


@pytest.fixture(scope="module")
def columns() -> Explanation:
    return explain(
        "x / x.sum(dim=0)", at={"x": [[2, 1], [3, 3], [5, 5]]}, grad=[[1, 0], [0, 2], [0.5, -1]]
    )


@pytest.fixture(scope="module")
def attention() -> Explanation:
    return explain(
        "Q = x @ Wq; K = x @ Wk; V = x @ Wv; softmax(Q @ K.T / 2, dim=-1) @ V",
        shapes={"x": (3, 4), "Wq": (4, 4), "Wk": (4, 4), "Wv": (4, 4)},
        grad="ones",
    )


def test_the_answer_comes_first(first: Explanation) -> None:
    found = shown(first)
    assert found.startswith(FIRST)
    assert FIRST_STEPS in found
    assert found.index("Gradients") < found.index("Jacobian") < found.index("Chain rule")


def test_pages_are_as_long_as_they_may_be(
    first: Explanation, columns: Explanation, attention: Explanation
) -> None:
    assert shown(first).count("\n") <= 45
    assert shown(columns).count("\n") <= 60
    assert shown(attention).count("\n") <= 90
    assert shown(first, brief=True).count("\n") <= 12
    for x in (first, columns, attention):
        lines = [shown(x, **o).count("\n") for o in ({"brief": True}, {}, {"full": True})]  # type: ignore[arg-type]
        assert lines == sorted(set(lines))


def test_a_line_of_pytorch_stands_beside_a_gradient() -> None:
    import torch

    x = explain("((w*x + b - t)**2).mean()", at={"w": 2, "x": [1, 2, 3], "b": 1, "t": [1, 2, 4]})
    known = {name: torch.tensor(i.value) for name, i in x.inputs.items()}
    assert x.gradients["w"].line and x.gradients["x"].line
    assert "where r = w*x + b - t\n" in shown(x)
    known["r"] = eval("w*x + b - t", dict(known))
    for gradient in x.gradients.values():
        if gradient.line:
            found = eval(gradient.line, {"torch": torch, **known})
            assert torch.allclose(found, torch.tensor(gradient.value))


@pytest.mark.parametrize("program", ["x.var(dim=1)", "x.std()", "x[:, 0]*x.sum()"])
def test_a_line_that_is_no_good_is_not_shown(program: str) -> None:
    assert explain(program, shapes={"x": (2, 3)}, grad="ones").gradients["x"].agrees


def test_matrices_are_products(attention: Explanation) -> None:
    found = shown(attention)
    assert "x.grad = ∂L/∂Q @ Wqᵀ + ∂L/∂K @ Wkᵀ + ∂L/∂V @ Wvᵀ" in found
    assert "Wq.grad = xᵀ @ ∂L/∂Q" in found
    assert "∂L/∂K = ∂L/∂(Q @ K.T)ᵀ @ Q" in found
    assert not re.search(r"(?<!\w)t\d(?!\w)", found)  # the softmax has a name and a legend
    assert "a = softmax(Q @ K.T/2, dim=-1)" in found


def test_index_notation_is_there_for_who_wants_it(first: Explanation) -> None:
    found = shown(first, notation="index")
    assert "b.grad[j] = 4·b[j]·v[j]" in found
    assert "j = 0…2" in found


def test_one_element_in_full(columns: Explanation) -> None:
    assert "x.grad[0,0] = Σ_{i,k} v[i,k]·∂y[i,k]/∂x[0,0] = 1·0.08 + 0.5·(−0.05) = 0.055" in shown(
        columns
    )
    assert "(via y) 0.1 + (via sum(x, dim=0)) (−0.045) = 0.055" in shown(columns)


def test_why_explains_one_element_alone(columns: Explanation) -> None:
    found = terminal.render(why(columns))
    assert "One element" in found and "Chain rule" not in found and "Jacobian" not in found


def test_denominator_layout_is_the_transpose(columns: Explanation) -> None:
    found = shown(columns, layout="denominator")
    assert "denominator layout" in found
    assert re.search(r"x\[0,1\] +0 +0\.0987654", found)


@pytest.mark.parametrize(
    ("element", "message"),
    [
        ("z[0]", "z[0] is no element of an input's gradient"),
        ("x[0]", "x[0] is no single element of x, whose shape is (2, 2)"),
        (
            "x[2,0]",
            "x[2,0] is no single element of x, whose shape is (2, 2)\nremedy: write one of x[0,0] to x[1,1]",
        ),
        ("x", "x is no single element of x, whose shape is (2, 2)"),
        ("x[0 1]", "x[0 1] is no element of an input's gradient"),
        ("x[a]", "x[a] is no element of an input's gradient"),
    ],
)
def test_an_element_that_is_none(element: str, message: str) -> None:
    from gradexplain.problem import Request, problem_of
    from gradexplain.reading.arrays import ONES

    request = Request("2*x", shapes={"x": (2, 2)}, grad=ONES, element=element)
    with pytest.raises(InputError, match=re.escape(message)):
        problem_of(request)


def test_colour_changes_no_character() -> None:
    for x in (weighted(), normalised()):
        coloured = terminal.render(page(x), Style(width=80, color=True))
        assert "\x1b[32magree: \x1b[0m" in coloured
        plain = re.sub(r"\x1b\[[\d;]*m", "", coloured)
        assert plain == shown(x, 80)


@pytest.mark.parametrize("width", [20, 33, 60, 80, 100, 1000])
def test_no_line_ends_in_a_space(width: int) -> None:
    for x in (weighted(), normalised()):
        lines = shown(x, width).splitlines()
        assert all(line == line.rstrip() for line in lines)
        if width >= 80:
            assert max(map(len, lines)) <= width


def test_stand_ins_for_a_terminal_without_unicode() -> None:
    found = terminal.render(page(normalised()), Style(encoding="ascii"))
    assert found.isascii()
    assert "  x -+- s = x.sum(dim=0) -+- / -- y < v\n" in found


def test_nothing_typed_is_interpreted() -> None:
    x = weighted()
    x.expression = "[red]a[/red] :smile: \x1b[31m \u202e"
    x.statements = ()
    x.notes = [Note("n", "[bold]\x07 {x}")]
    found = shown(x)
    assert "  [red]a[/red] :smile: \\x1b[31m \\u202e\n" in found
    assert "  - [bold]\\x07 {x}\n" in found
    assert "\x1b" not in found


def test_a_mismatch_shows_the_routes() -> None:
    x = weighted()
    x.gradients["b"].verdict = "mismatch"
    x.gradients["b"].torch = array([1.6, 20.5, 0.0024])
    routes = ("closed form", "PyTorch")
    x.check = Check(
        "mismatch", "float64", 7.1e-15, [Difference("b", routes, (1,), (20.0, 20.5), 7.1e-15, 2)]
    )
    found = shown(x, brief=True)
    assert (
        "  MISMATCH: the routes give different gradients (float64).\n"
        "  b.grad[1]  closed form 20  PyTorch 20.5  differ by 0.5, allowed 7.1e-15  largest of 2\n"
        "  b.grad  closed form  [1.6, 20, 0.0024]\n"
        "          chain rule   [1.6, 20, 0.0024]\n"
        "          PyTorch      [1.6, 20.5, 0.0024]\n"
    ) in found


def graph(edges: str, output: str) -> Graph:
    pairs = tuple(tuple(edge.split(">")) for edge in edges.split())
    names = dict.fromkeys(name for pair in pairs for name in pair)
    inner = {head for _, head in pairs}
    return Graph(
        tuple(
            GraphNode(n, n, "output" if n == output else "operation" if n in inner else "input")
            for n in names
        ),
        pairs,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("edges", "drawn"),
    [
        ("x>f f>y", ["x ── f ── y ◄ v"]),
        ("a>+ b>+ +>y", ["a ─┬─ + ── y ◄ v", "b ─┘"]),
        ("x>s x>/ s>/ />y", ["x ─┬─ s ─┬─ / ── y ◄ v", "   └─────┘"]),
    ],
)
def test_a_graph_in_characters(edges: str, drawn: list[str]) -> None:
    assert drawing(graph(edges, "y"), 80) == (drawn, "")


def test_a_graph_that_does_not_fit_is_not_drawn() -> None:
    wide = graph("x>f f>y", "y")
    assert drawing(wide, 10)[0] == []
    chain = " ".join(f"n{k}>n{k + 1}" for k in range(20))
    assert drawing(graph(chain, "n20"), 1000)[0] == []


# -- what a textbook would print -------------------------------------------------------------------


def test_a_shared_sub_expression_has_a_name() -> None:
    x = explain("((x @ w + b - t)**2).mean()", shapes={"x": (5, 3), "w": (3,), "t": (5,), "b": ()})
    found = {name: gradient.short for name, gradient in x.gradients.items()}
    assert (x.shared, found["w"], found["b"]) == ("r", "2·(xᵀ @ r)/N", "2·sum(r)/N")
    assert "where r = x @ w + b - t\n" in shown(x)


def test_a_name_of_the_readers_is_not_taken() -> None:
    x = explain("((x @ z + b)**2).mean()", shapes={"x": (2, 3), "z": (3,), "b": ()})
    assert x.shared == "u"


def test_the_local_derivatives_of_a_chain_are_multiplied() -> None:
    x = explain("y = x + 2; z = y*y*3; z.mean()", shapes={"x": (2, 2)})
    line = "∂out/∂x = 2·y · 3 · 1/(N·M) = 6·y/(N·M)\n"
    assert line in shown(x)


@pytest.mark.parametrize(
    ("program", "shapes", "at", "seen"),
    [
        ("h = relu(x @ W1.T + b1); z = h @ W2.T + b2; loss = cross_entropy(z, t)",
         {"x": (4, 3), "W1": (5, 3), "b1": (5,), "W2": (2, 5), "b2": (2,)}, {"t": [0, 1, 1, 0]},
         ["W1.grad = ∂loss/∂uᵀ @ x  ", "b2.grad = sum(∂loss/∂z, dim=0)  ",
          "∂loss/∂z = (softmax(z, dim=1) − one_hot(t))/N\n"]),
        ("nll_loss(log_softmax(z, dim=1), t)", {"z": (4, 3)}, {"t": [0, 2, 1, 1]},
         ["z.grad = (softmax(z, dim=1) − one_hot(t))/N  "]),
        ("x.flip(0).cumsum(0).sum()", {"x": (4,)}, {}, ["x.grad[j] = j + 1  "]),
        ("(x.flip(0).cumsum(0)*x).sum()", {"x": (4,)}, {}, ["Σ_{p + j ≥ N − 1} x[p]"]),
    ],
)  # fmt: skip
def test_a_mean_over_indices_divides_by_its_letter(
    program: str, shapes: dict[str, Shape], at: dict[str, list[int]], seen: list[str]
) -> None:
    x = explain(program, shapes=shapes, at=at)
    page = shown(x)
    assert [text for text in seen if text not in page] == []
    assert x.check is not None and x.check.status == "agree"


@pytest.mark.parametrize(
    ("program", "shapes", "at", "seen"),
    [
        ("Q = x @ Wq; K = x @ Wk; V = x @ Wv; softmax(Q @ K.T / sqrt(2), dim=-1) @ V",
         {"x": (3, 4), "Wq": (4, 2), "Wk": (4, 2), "Wv": (4, 2)}, {},
         "∂L/∂K = ∂L/∂(Q @ K.T)ᵀ @ Q  grad_K = grad_t2.T @ Q\n"),
        ("h = relu(x @ W1.T + b1); z = h @ W2.T + b2; loss = cross_entropy(z, t)",
         {"x": (4, 3), "W1": (5, 3), "b1": (5,), "W2": (2, 5), "b2": (2,)}, {"t": [0, 1, 1, 0]},
         "∂loss/∂z = (softmax(z, dim=1) − one_hot(t))/N\n"),
        ("F.layer_norm(x, (3,), w, b)", {"x": (2, 3), "w": (3,), "b": (3,)}, {}, "x_hat = off / sigma\n"),
        ("conv2d(x, w, padding=1)", {"x": (1, 2, 3, 3), "w": (2, 2, 2, 2)}, {},
         "torch.nn.grad.conv2d_weight(x, w.shape, v, padding=1)"),
        ("nll_loss(log_softmax(z, dim=1), t)", {"z": (4, 3)}, {"t": [0, 2, 1, 1]}, "z.grad = "),
    ],
)  # fmt: skip
def test_lines_of_pytorch_give_every_gradient(
    program: str, shapes: dict[str, Shape], at: dict[str, list[int]], seen: str
) -> None:
    import math

    import torch
    import torch.nn.functional as F

    implicit = not program.endswith(("@ V", "b)", "padding=1)"))
    x = explain(program, shapes=shapes, at=at, grad=None if implicit else "ones")
    assert seen in shown(x)
    known: dict[str, object] = {"torch": torch, "math": math, "F": F}
    values = {i.name: i.value for i in x.inputs.values()}
    values |= {row.node: row.value for row in x.forward if row.named}
    values |= {x.output.name: x.output.value} | ({} if implicit else {"v": x.grad.value})
    known |= {name: torch.tensor(value) for name, value in values.items()}
    known |= {name: torch.tensor(value).long() for name, value in at.items()}
    exec("\n".join(x.code), known)
    for gradient in x.gradients.values():
        assert torch.allclose(eval(gradient.line, known), torch.tensor(gradient.value))


def test_a_convolution_runs_over_its_own_places() -> None:
    x = explain("F.conv1d(x, w, padding=1)", shapes={"x": (1, 1, 3), "w": (1, 1, 2)}, grad="ones")
    assert x.gradients["x"].text == "x.grad[0,0,n] = Σ_p v[0,0,n + 1 − p]·w[0,0,p]"
    assert x.gradients["w"].text == "w.grad[0,0,n] = Σ_p v[0,0,p + 1 − n]·x[0,0,p]"


def test_an_einsum_keeps_the_letters_of_the_reader() -> None:
    x = explain(
        "torch.einsum('bij,bjk->bik', A, B)", shapes={"A": (2, 2, 3), "B": (2, 3, 2)}, grad="ones"
    )
    assert x.gradients["A"].line == 'torch.einsum("bik,bjk->bij", v, B)'
    assert x.gradients["B"].line == 'torch.einsum("bik,bij->bjk", v, A)'


@pytest.mark.parametrize(
    ("program", "shapes", "line"),
    [
        ("R = torch.stack([cos(t), -sin(t), sin(t), cos(t)]).reshape(2, 2); (R @ p).sum()",
         {"t": (), "p": (2,)}, "t.grad = p[0]·cos(t) − p[0]·sin(t) − p[1]·sin(t) − p[1]·cos(t)  "),
        ("(torch.cat([a, b, a*2])**3).sum()", {"a": (2,), "b": (3,)}, "a.grad = 27·a²  "),
        ("-(z.log_softmax(1)[torch.arange(4), torch.tensor([0,2,1,1])]).mean()", {"z": (4, 3)},
         "z.grad = (softmax(z, dim=1) − one_hot(t3))/4"),
        ("u @ (A @ (B * c) @ x)", {"A": (2, 3), "B": (3, 2), "c": (2,), "x": (2,), "u": (2,)},
         "c.grad = x·(Bᵀ @ Aᵀ @ u)  "),
        ("(v @ torch.tanh(A @ x))", {"A": (3, 2), "x": (2,), "v": (3,)},
         "x.grad = Aᵀ @ (v·(1 − tanh(A @ x)²))  "),
        ("outer = x.masked_fill(m > 0, 0.) @ w; outer.sum()", {"x": (2, 3), "m": (2, 3), "w": (3,)}, "[m ≤ 0]"),
        ("((x+2)**2*3).mean()", {"x": (2, 2)}, "x.grad = 6·(x + 2)/(N·M)  "),
        ("F.mse_loss(torch.relu(x @ w + b), t)", {"x": (2, 3), "w": (3, 2), "b": (2,), "t": (2, 2)},
         "t.grad = 2·(t − relu(z))/(N·K)  "),
        ("F.cross_entropy(x @ w, [0, 1])", {"x": (2, 3), "w": (3, 4)}, "x.grad = ∂y/∂(x @ w) @ wᵀ"),
        ("((X @ w)**2).sum() - 2*(w*b).sum()", {"X": (3, 2), "w": (2,), "b": (2,)},
         "w.grad = 2·(Xᵀ @ (X @ w) − b)  "),
        ("z = x @ W; a, b = z.chunk(2, dim=1); h = tanh(a)*b; -h.sum()", {"x": (2, 3), "W": (3, 4)},
         "W.grad = xᵀ @ ∂y/∂z  "),
        ("x.topk(2, dim=1).values.sum()", {"x": (4, 5)},
         "where t1 = argsort(x, dim=1, descending=True)\n    δ(i,j) is 1 where i = j, else 0; j ="),
    ],
)  # fmt: skip
def test_pieces_are_put_together(program: str, shapes: dict[str, Shape], line: str) -> None:
    assert line in shown(explain(program, shapes=shapes))


def test_a_quotient_keeps_its_brackets() -> None:
    x = explain("1/(1+exp(-x))", at={"x": [1.0]}, grad=[1.0])
    assert "y = 1/(1 + exp(-x))  to" in shown(x)


@pytest.mark.parametrize(
    ("program", "at", "grad", "note"),
    [
        ("x*x", [1, 2, 3], [0, 1, 0],
         "v is 0 but at y[1]: it picks that row of J, so each .grad is the gradient of y[1] alone, "
         "the same as y[1].backward()."),
        ("x*x", [1, 2, 3], [0, 5, 0],
         "v is 0 but at y[1]: it picks that row of J, so each .grad is 5 times the gradient of y[1] "
         "alone."),
        ("x*x", [1, 2, 3], [1, 1, 1],
         "v of ones adds up the rows of J: the same as y.sum().backward(). Each .grad says how the "
         "sum of y changes, not how one element of y does."),
        ("softmax(x, dim=0).sum()", [1, 2, 3], None,
         "What arrives at softmax(x, dim=0) is 1 for every element, and that is cancelled there: the "
         "sum of its elements is the same whatever it is made from. Weigh them differently, as a loss "
         "does, and the gradient is not 0."),
        ("tanh(x)", [12, 13, 14], [1, 2, 3],
         "y passes on no more than 5e-11 of the gradient that arrives there: it is flat at the "
         "values it is made from, 12 to 14."),
        ("x*x", [1, 2, 3], [1, 2, 3], None),
    ],
)  # fmt: skip
def test_a_misunderstanding_is_answered(
    program: str, at: list[float], grad: list[float] | None, note: str | None
) -> None:
    x = explain(program, at={"x": at}, grad=grad)
    kinds = ("one-hot vector", "ones", "vanished gradient")
    found = [n.text for n in x.notes if n.kind in kinds]
    assert found == ([] if note is None else [note])


def test_a_brief_page_says_what_several_calls_leave() -> None:
    made = "t = torch.tensor(3., requires_grad=True); f = t**3; "
    twice = explain(made + "f.backward(retain_graph=True); f.backward()")
    assert shown(twice, brief=True).splitlines()[-2:] == [
        "  after 2 calls, each of which adds to .grad",
        "    t.grad  54",
    ]
    freed = explain(made + "f.backward(); f.backward()")
    assert shown(freed, brief=True).splitlines()[-1] == (
        "  call 2  PyTorch raises: Trying to backward through the graph a second time"
    )


@pytest.mark.parametrize(
    ("program", "shapes", "lines"),
    [
        ("F.mse_loss(h @ W2, t)", {"h": (4, 3), "W2": (3, 1), "t": (4, 1)},
         ["h.grad = 2·((h @ W2 − t) @ W2ᵀ)/N", "W2.grad = 2·(hᵀ @ (h @ W2 − t))/N"]),
        ("(x @ W * m).sum()", {"x": (1, 3), "W": (3, 2), "m": (1, 2)}, ["x.grad = m @ Wᵀ", "W.grad = xᵀ @ m"]),
        ("(q @ k.transpose(-2, -1) * m).sum()", {"q": (2, 3, 4), "k": (2, 3, 4), "m": (2, 3, 3)},
         ["q.grad = m @ k", "k.grad = mᵀ @ q"]),
        ("(x @ W * m).sum()", {"x": (2, 3, 4), "W": (4, 2), "m": (2, 3, 2)},
         ["x.grad = m @ Wᵀ", "W.grad = sum(xᵀ @ m, dim=0)"]),
        ("(F.layer_norm(x, (4,)) * w).sum()", {"x": (2, 4), "w": (2, 4)}, ["  x̂ = (x − μ)/σ", "σ = sqrt("]),
        ("(x[0]*x[1]).sin()", {"x": (2,)}, ["─ [0] SelectBackward ─"]),
    ],
)  # fmt: skip
def test_products_are_seen_at_every_size(
    program: str, shapes: dict[str, Shape], lines: list[str]
) -> None:
    found = shown(explain(program, shapes=shapes))
    assert [line for line in lines if line not in found] == []


def test_what_is_spoken_of_is_defined() -> None:
    program = "h = relu(x @ W1 + b1); p = h @ W2; ((p - t)**2).mean()"
    shapes = {"x": (4, 3), "W1": (3, 2), "b1": (2,), "W2": (2, 1), "t": (4, 1)}
    found = shown(explain(program, shapes=shapes))
    assert "x.grad = ∂y/∂z @ W1ᵀ" in found
    assert "where z = x @ W1 + b1\n          ∂y/∂p = 2·(p − t)/N" in found
    assert "[…] is 1 where it holds, else 0" in found


def test_sizes_that_have_grown_together_are_no_candidate() -> None:
    program = "(x - x.mean(dim=1, keepdim=True))/x.var(dim=1, keepdim=True).sqrt()"
    x = explain(program, shapes={"x": (2, 3)}, grad="ones")
    assert x.check is not None and x.check.status == "agree"
    assert "μ" not in shown(x)  # the mean beside the variance is the one that is there
