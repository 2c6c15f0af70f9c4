"""The formats of one document: Markdown, LaTeX, HTML, notebook, dot and SVG."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_samples import output

from gradexplain import explain, hessian, numbers
from gradexplain.cli.program import main
from gradexplain.document.model import Document, Graph
from gradexplain.explanation import Explanation
from gradexplain.formats import html, latex, markdown, notation, svg
from gradexplain.pages import hessian as second
from gradexplain.pages.options import Options
from gradexplain.pages.run import page


@pytest.fixture(scope="module")
def columns() -> Explanation:
    return explain(
        "s = x.sum(dim=0); x / s",
        at={"x": [[2, 1], [3, 3], [5, 5]]},
        grad=[[1, 0], [0, 2], [0.5, -1]],
    )


@pytest.fixture(scope="module")
def attention() -> Explanation:
    return explain(
        "Q = x @ Wq; K = x @ Wk; V = x @ Wv; softmax(Q @ K.T / 2, dim=-1) @ V",
        shapes={"x": (2, 3), "Wq": (3, 2), "Wk": (3, 2), "Wv": (3, 2)},
        grad="ones",
    )


@pytest.fixture(scope="module")
def kink() -> Explanation:
    return explain("relu(x_1) + log(x_1 + 1)", at={"x_1": [0, 1, -1]}, grad="ones")


# -- notation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", r"\frac{a}{b}"),
        ("(a + b)/c", r"\frac{a + b}{c}"),
        ("∂y[i]/∂x[j]", r"\frac{\partial {y}_{i}}{\partial {x}_{j}}"),
        ("∂²L/∂x∂z", r"\frac{{\partial }^{2}L}{\partial x\partial z}"),
        ("Σ_{i,k} v[i,k]·x[i]", r"\sum_{i,k} {v}_{i,k} \cdot {x}_{i}"),
        ("δ(i,j)", r"\delta_{i, j}"),
        ("x² − 1", r"{x}^{2}-1"),
        (
            "xᵀ @ v + ∂L/∂Q @ Wqᵀ",
            r"{x}^{\top} \, v + \frac{\partial L}{\partial Q} \, {\mathrm{Wq}}^{\top}",
        ),
        ("sqrt(2·π)", r"\sqrt{2 \cdot \pi}"),
        ("log_softmax(x, dim=1)", r"\operatorname{log\_softmax}\left(x, \mathrm{dim} = 1\right)"),
        ("1e-05", r"1 \cdot 10^{-5}"),
        ("no formula, 100 %", r"\text{no formula, 100 \%}"),
    ],
)
def test_latex_of_a_formula(text: str, expected: str) -> None:
    assert notation.latex(text) == expected


def formulas(x: Explanation) -> list[str]:
    found = [g.text for g in x.gradients.values()] + [j.text for j in x.jacobian.values()]
    found += [f"{n}.grad = {g.short}" for n, g in x.gradients.items() if g.short]
    found += [s.rule for s in x.steps if s.rule] + [s.short for s in x.steps]
    return found + x.definitions + [w for g in x.gradients.values() for w in g.where]


def test_every_formula_is_read(
    columns: Explanation, attention: Explanation, kink: Explanation
) -> None:
    for x in (columns, attention, kink):
        for text in formulas(x):
            assert notation.read(text).kind != "text", text
            ElementTree.fromstring(notation.mathml(text))


# -- Markdown --------------------------------------------------------------------------------------


def test_markdown(columns: Explanation) -> None:
    found = markdown.render(page(columns))
    assert found.startswith("# y.backward(v)\n\n```python\ns = x.sum(dim=0)\ny = x / s\n```\n")
    assert "```mermaid\ngraph LR\n" in found
    assert found.count("```") % 2 == 0
    for row in re.findall(r"^\|.*\|$", found, re.MULTILINE):
        assert row.count(" | ") >= 1
    assert "$" in found and found.count("$") % 2 == 0


def test_formulas_survive_githubs_markdown(attention: Explanation, kink: Explanation) -> None:
    """GitHub reads Markdown before mathematics, and its mathematics has no ``operatorname``."""
    from markdown_it import MarkdownIt

    for x in (attention, kink):
        found = markdown.render(page(x, Options(full=True)))
        assert "operatorname" not in found
        shown = MarkdownIt("commonmark").enable("table").render(found)
        text = unescape(re.sub(r"<[^>]*>", "", re.sub(r"\$<code>(.*?)</code>\$", r"$`\1`$", shown)))
        for formula in re.findall(r"\$[^$]+\$", found):
            assert formula in text
        assert "<pre><code>" not in shown  # what is indented too far

    data = explain("x @ w", shapes={"x": (2, 2), "w": (2, 2)}, grad="ones")._repr_markdown_()
    assert "$\\mathrm{x.grad} = v \\, {w}^{\\top}$" in data


# -- LaTeX -----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("name", ["columns", "attention", "kink"])
def test_latex_compiles(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    x = request.getfixturevalue(name)
    source = latex.render(page(x, Options(full=True)), standalone=True)
    (tmp_path / "page.tex").write_text(source, "utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, said[-1500:]
    assert "Missing character" not in said
    assert (tmp_path / "page.pdf").stat().st_size > 10_000


def test_latex_has_numbered_steps_with_their_operations(columns: Explanation) -> None:
    found = latex.render(page(columns))
    assert r"\begin{align}" in found and r"\text{y = x/s}" in found
    assert "documentclass" not in found


# -- dot and SVG -----------------------------------------------------------------------------------


def graph_of(document: Document) -> Graph:
    return next(block for block in document.blocks if isinstance(block, Graph))


def test_graphs(columns: Explanation) -> None:
    graph = graph_of(page(columns))
    drawn = ElementTree.fromstring(svg.svg(graph, alone=True))
    space = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f"{space}g")) == len(graph.nodes)
    assert len(drawn.findall(f"{space}path")) == len(graph.edges)
    assert '"x" -> "s";' in svg.dot(graph)


@pytest.mark.parametrize("format", ["markdown", "latex", "html", "dot", "svg", "json"])
def test_the_command_writes_each(format: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    arguments = ["run", "x*x", "--grad", "1,2", "--no-check", "--format", format, "-o", str(path)]
    assert main(arguments) == 0
    assert path.read_text("utf-8").strip()


#: A page of every command that has one.
PAGES = {
    "check": ["check", "x / x.sum(dim=0)", "--claim", "x: v/x.sum(dim=0)", "--shape", "x=2,2"],
    "hessian": ["hessian", "(x**2*w).sum()", "--at", "x=1,2", "--at", "w=3,4"],
    "ops": ["ops", "softmax"],
}


@pytest.mark.parametrize("format", ["markdown", "latex", "html"])
@pytest.mark.parametrize("command", PAGES)
def test_every_command_writes_its_page(
    command: str, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    path = tmp_path / "page"
    assert main([*PAGES[command], "--format", format, "-o", str(path)]) in (0, 1)
    text = path.read_text("utf-8")
    start = {"markdown": "# ", "latex": r"\section*", "html": "<!doctype html>"}[format]
    assert text.startswith(start) and len(text) <= 300_000
    if format == "html":
        assert len(re.findall("<table", text)) == len(re.findall("</table>", text)) > 0


@pytest.mark.parametrize("options", [["trace"], ["trace", "--full"]], ids=["screen", "full"])
def test_a_trace_writes_its_page(options: list[str]) -> None:
    found = output([*options, "--format", "html", "samples/trace_normalise.py"]).decode()
    assert found.startswith("<!doctype html>") and "x.grad" in found or ">x<" in found
    assert found.rstrip().endswith("exit code 0")


def test_open_shows_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import webbrowser

    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: not shown.append(url))
    path = tmp_path / "page.html"
    assert main(["run", "x*x", "--at", "x=3", "--no-check", "--open", "-o", str(path)]) == 0
    assert shown == [path.as_uri()]
    assert path.read_text("utf-8").startswith("<!doctype html>")


def test_open_without_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import webbrowser

    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    path = tmp_path / "page.html"
    assert main(["run", "x*x", "--at", "x=3", "--no-check", "--open", "-o", str(path)]) == 2
    assert capsys.readouterr().err == (
        "gradexplain: no browser could be started\n"
        "remedy: write the page with --format html -o page.html\n"
    )


# -- HTML ------------------------------------------------------------------------------------------


def steps_of(found: str) -> Any:
    """The steps that a page of HTML goes through."""
    data = re.search(r'id="data">(.*?)</script>', found, re.DOTALL)
    assert data is not None
    return json.loads(data[1])["steps"]


def test_html_is_one_small_file(attention: Explanation) -> None:
    found = html.render(page(attention), attention)
    assert len(found.encode()) <= 300_000
    assert not re.search(r'(?:src|href)="', found) and "http" not in found.replace(
        "http://www.w3.org", ""
    )
    assert steps_of(found)


def test_a_hessian_is_stepped_through_too() -> None:
    found = html.render(second.page(hessian("log(1 + exp(w*x))", at={"w": 0.5, "x": 2.0})))
    assert found.count('id="slider"') == 1
    steps = steps_of(found)
    assert [step["title"] for step in steps][3:5] == [
        "forward, y = log(1 + exp(w*x))",
        "backward, y = log(1 + exp(w*x)) to 1 + exp(w*x)",
    ]


def test_check_steps_through_the_right_backward(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    claimed = ["check", "x / x.sum(dim=0)", "--claim", "x: v/x.sum(dim=0)"]
    assert main([*claimed, "--format", "html", "-o", str(path)]) == 1
    data = re.search(r'id="data">(.*?)</script>', path.read_text("utf-8"))
    assert data is not None
    steps = json.loads(data[1])["steps"]
    assert [step["to"] for step in steps if "to" in step] == ["x", "t1", "x"]
    assert steps[-1]["value"] is not None


def test_names_of_any_alphabet_are_written_by_plain_latex() -> None:
    shown = notation.latex("ρ·größe·价")
    assert shown == r"\rho \cdot \mathrm{groUDFe} \cdot \mathrm{U4EF7}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a screen and without a network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture
def opened(browser: Any, columns: Explanation, tmp_path: Path) -> Any:
    path = tmp_path / "page.html"
    path.write_text(html.render(page(columns), columns), "utf-8")
    browser.get(path.as_uri())
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_pages_numbers_are_the_documents(opened: Any, columns: Explanation) -> None:
    shown = opened.find_elements("css selector", 'button.n[data-of="x"]')
    value = columns.to_dict()["gradients"]["x"]["value"]
    flat = [numbers.number(v) for row in value for v in row]
    assert [button.text for button in shown] == flat
    cells = opened.find_elements("css selector", "table.j td[data-r]")
    jacobian = columns.jacobian["x"].value
    assert jacobian is not None
    assert [cell.text for cell in cells] == [numbers.number(v) for v in jacobian.ravel().tolist()]


def test_the_stepper_goes_by_keyboard(opened: Any, columns: Explanation) -> None:
    from selenium.webdriver.common.keys import Keys

    body = opened.find_element("css selector", "body")
    say = opened.find_element("id", "say")
    assert say.text.startswith("1 of 5: forward, s = sum(x, dim=0)")
    seen = []
    for _ in range(4):
        body.send_keys(Keys.ARROW_RIGHT)
        seen.append(say.text.splitlines()[0])
    assert seen[-1] == "5 of 5: backward, s = sum(x, dim=0) to x"
    lit = opened.find_elements("css selector", "svg.g path.on")
    assert [(e.get_attribute("data-tail"), e.get_attribute("data-head")) for e in lit] == [
        ("x", "s")
    ]
    body.send_keys(Keys.ARROW_LEFT)
    assert say.text.startswith("4 of 5")


def test_a_number_says_what_it_is_the_sum_of(opened: Any) -> None:
    opened.find_element("css selector", 'button.n[data-of="x"][data-at="[0,0]"]').click()
    said = opened.find_element("id", "sum").text
    assert said == "x.grad[0,0] = 1·0.08 + 0.5·(-0.05) = 0.055"
    lit = opened.find_elements("css selector", "table.j td.lit")
    assert [e.get_attribute("data-r") for e in lit] == ["y[0,0]", "y[2,0]"]


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_is_accessible(opened: Any, width: int) -> None:
    axe = pytest.importorskip("axe_selenium_python", reason="axe-core is not installed").Axe(opened)
    opened.set_window_size(width, 900)
    axe.inject()
    assert [(v["id"], v["nodes"][0]["html"][:90]) for v in axe.run()["violations"]] == []
    wide = opened.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


# -- notebook --------------------------------------------------------------------------------------


def test_a_notebook_shows_an_explanation() -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    cells = [
        "%load_ext gradexplain",
        "%%gradexplain --grad 1,2,3\n3*a + b*b",
        "%gradexplain x*",
        "from gradexplain import explain\nexplain('x*x', grad=[1, 2], check=False)",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    for cell in (book.cells[1], book.cells[3]):
        data = cell.outputs[0]["data"]
        assert (
            "<iframe" in data["text/html"]
            and "a.grad" in data["text/plain"]
            or "x.grad" in (data["text/plain"])
        )
        assert data["text/markdown"].startswith("# ") and r"\section*" in data["text/latex"]
    assert book.cells[2].outputs[0]["text"].startswith("gradexplain: ")


def test_a_mask_is_true_and_false_in_every_format() -> None:
    x = explain("x.masked_fill(m, 0)", at={"x": [1, 2], "m": [1, 0]}, grad=[1, 2])
    pages = [str(x), latex.render(page(x)), markdown.render(page(x)), html.render(page(x), x)]
    assert all("True" in text and "False" in text and "not" in text for text in pages)
