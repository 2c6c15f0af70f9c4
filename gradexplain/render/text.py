"""The explanation as a page of text: `section` gives one stage of it, `render` the whole.

A page is a string, so the same code serves the terminal (section by section, as each is ready), a
file, and ``str(explanation)``.  rich only turns styled text into a terminal's colour codes; markup is
never interpreted, and whatever a user typed is escaped before it gets here (`_Page.text`).
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from rich.text import Text

from gradexplain.errors import cells, printable
from gradexplain.explanation import (
    STAGES,
    Array,
    Check,
    Difference,
    Explanation,
    Gradient,
    Shape,
    Step,
)
from gradexplain.render import ascii, numbers

if TYPE_CHECKING:
    from typing import TextIO

    from gradexplain.explanation import Formula, Jacobian

WIDTH = 100

HEADING = "bold"
NAME = "cyan"
LABEL = "dim"
ZERO = "dim"
VERDICTS = {
    "agree": "green",
    "convention": "yellow",
    "mismatch": "bold red",
    "skipped": "dim",
    "failed": "yellow",
}
_WORDS = {"agree": "agrees", "convention": "convention", "mismatch": "MISMATCH"}

#: Where a line may be broken, best first: before an operator, at a space, inside a product or list.
_BREAKS = (
    re.compile(r"(?<= )(?=[-+−=/] )"),
    re.compile(r"(?<= )"),
    re.compile(r"(?<=[·*/;])"),
    re.compile(r"(?<=[,(\[])"),
)


@dataclass(frozen=True, slots=True)
class Style:
    """How a page is written: its width, with colour or plain, in which encoding, to how many digits."""

    width: int = WIDTH
    color: bool = False
    encoding: str = "utf-8"
    precision: int = numbers.PRECISION

    @classmethod
    def of(cls, stream: TextIO, *, width: int | None = None, precision: int | None = None) -> Style:
        """What suits ``stream``: a terminal's own width and colours, else a page that never varies."""
        terminal = stream.isatty()
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown")
        return cls(
            width=width or (max(40, shutil.get_terminal_size().columns) if terminal else WIDTH),
            color=terminal and not plain,
            encoding=getattr(stream, "encoding", None) or "utf-8",
            precision=precision or numbers.PRECISION,
        )


def render(explanation: Explanation, style: Style | None = None) -> str:
    """All sections, as one page."""
    return "".join(section(explanation, stage, style) for stage in STAGES)


def section(explanation: Explanation, stage: str, style: Style | None = None) -> str:
    """The section that shows one of `explanation.STAGES`, with its heading."""
    page = _Page(style or Style())
    _SECTIONS[stage](page, explanation)
    return page.finish(first=stage == STAGES[0])


Cell = Sequence[Text]


class _Page:
    """The lines written so far, and the ways to add more."""

    def __init__(self, style: Style) -> None:
        self.style = style
        self.lines: list[Text] = []

    def text(self, text: str, style: str = "") -> Text:
        """The only way from a string to the page: nothing in it steers the terminal."""
        return Text(ascii.fold(printable(text), self.style.encoding), style=style)

    def heading(self, title: str, remark: str = "") -> None:
        line = self.text(title, HEADING)
        if remark:
            line = Text().append_text(line).append_text(self.text(f"  {remark}", LABEL))
        self.lines += _wrapped(line, self.style.width, hang=2)

    def blank(self) -> None:
        if self.lines and self.lines[-1]:
            self.lines.append(Text())

    def add(self, *parts: Text, indent: int = 2, hang: int = 4) -> None:
        """One line, broken at operators and spaces where it is wider than the page."""
        line = Text().join(parts)
        for piece in _wrapped(line, self.style.width - indent, hang):
            self.lines.append(Text(" " * indent).append_text(piece))

    def wrapped(self, text: str, style: str = "", width: int | None = None) -> list[Text]:
        return _wrapped(self.text(text, style), width or self.style.width, hang=4)

    def tensor(self, values: Array, used: int, *, shape: bool = False) -> list[Text]:
        """The lines of a tensor with ``used`` cells before it; its shape if it is not shown whole."""
        room = max(20, self.style.width - used)
        lines = [self.text(t) for t in numbers.tensor(values, self.style.precision, room)]
        if shape and numbers.abbreviated(values):
            lines[-1].append_text(self.text(f"  shape {numbers.shape(values.shape)}", LABEL))
        return lines

    def remarked(self, lines: list[Text], remark: str, used: int) -> list[Text]:
        """``lines`` with a remark beside a single line that leaves the room, else below them."""
        said = self.text(remark, LABEL)
        room = max(20, self.style.width - used)
        if not remark:
            return lines
        if len(lines) == 1 and lines[0].cell_len + 2 + said.cell_len <= room:
            return [Text("  ").join([*lines, said])]
        return [*lines, *_wrapped(said, room, 0)]

    def grid(
        self, rows: Sequence[Sequence[Cell]], *, right: bool = False, gap: int = 2, indent: int = 2
    ) -> None:
        """Cells of one or more lines in columns; ``right`` aligns all but the first to the right."""
        count = max(map(len, rows))
        widths = [
            max((line.cell_len for row in rows if c < len(row) for line in row[c]), default=0)
            for c in range(count)
        ]
        for row in rows:
            for i in range(max(len(cell) for cell in row)):
                out = Text(" " * indent)
                for c, cell in enumerate(row):
                    line = cell[i] if i < len(cell) else Text()
                    pad = Text(" " * (widths[c] - line.cell_len))
                    out.append_text(Text(" " * gap * (c > 0)))
                    for part in (pad, line) if right and c else (line, pad):
                        out.append_text(part)
                self.lines.append(out)

    def finish(self, *, first: bool) -> str:
        if not self.lines:
            return ""
        lines = self.lines if first else [Text(), *self.lines]
        for line in lines:
            line.rstrip()
        if not self.style.color:
            return "".join(line.plain + "\n" for line in lines)
        from rich.console import Console  # only a terminal pays for it

        out = io.StringIO()
        console = Console(
            file=out,
            force_terminal=True,
            color_system="standard",
            width=self.style.width,
            no_color=False,
            legacy_windows=False,
            markup=False,
            emoji=False,
            highlight=False,
        )
        for line in lines:
            console.print(line, soft_wrap=True)
        return out.getvalue()


def _wrapped(line: Text, width: int, hang: int) -> list[Text]:
    """``line`` in pieces of at most ``width`` cells, all but the first indented by ``hang``."""
    pieces: list[Text] = []
    room = max(8, width)
    while line.cell_len > room:
        cut = _cut(line.plain, room)
        head, line = line.divide([cut])
        head.rstrip()
        pieces.append(Text(" " * hang * bool(pieces)).append_text(head))
        room = max(8, width - hang)
    pieces.append(Text(" " * hang * bool(pieces)).append_text(line))
    return pieces


def _cut(text: str, room: int) -> int:
    """The last good place to break ``text`` within ``room`` cells; else wherever the room ends."""
    end = used = 0
    for end, ch in enumerate(text):
        used += cells(ch)
        if used > room:
            break
    for breaks in _BREAKS:
        places = [m.start() for m in breaks.finditer(text, 0, end + 1) if 0 < m.start() <= end]
        if places and places[-1] > room // 3:
            return places[-1]
    return max(1, end)


# -- question ---------------------------------------------------------------------------------------


def _question(page: _Page, x: Explanation) -> None:
    page.heading("Question")
    for statement in x.statements or x.expression.strip().splitlines():
        page.add(page.text(statement))
    page.blank()

    rows: list[tuple[str, Shape, Array | None, str]] = [
        (i.name, i.shape, i.value, "" if i.wanted else "a constant here: not in --wrt")
        for i in x.inputs.values()
    ]
    rows += [
        (x.output.name, x.output.shape, None, "the output"),
        (x.grad.name, x.grad.value.shape, x.grad.value, "the argument of backward"),
    ]
    used = 6 + max(page.text(row[0]).cell_len + len(numbers.shape(row[1])) for row in rows)
    page.grid(
        [
            [
                [page.text(name, NAME)],
                [page.text(numbers.shape(shape), LABEL)],
                page.remarked([] if value is None else page.tensor(value, used), remark, used),
            ]
            for name, shape, value, remark in rows
        ]
    )

    if missing := [name for name, i in x.inputs.items() if not i.given]:
        many = len(missing) > 1
        page.blank()
        page.add(
            page.text(
                f"Example values are used for {_listed(missing)}; "
                f"--at {missing[0]}=… sets {'them' if many else 'it'}.",
                LABEL,
            )
        )
    page.blank()
    _meaning(page, x)


def _meaning(page: _Page, x: Explanation) -> None:
    """The sentence that says what ``v`` is."""
    y, v = x.output.name, x.grad.name
    wanted = [name for name, i in x.inputs.items() if i.wanted]
    implicit = x.grad.source == "implicit"
    argument, implied = ("", f" ({v} = 1, implied for a scalar)") if implicit else (v, "")
    page.add(page.text(f"{y}.backward({argument}) differentiates the scalar"), hang=0)
    page.blank()
    page.add(page.text(x.grad.loss, HEADING), indent=6)
    page.blank()
    page.add(
        page.text(
            f"so {v}{implied} is ∂L/∂{y}, the gradient that flows into {y}, and "
            f"{_listed([f'{name}.grad' for name in wanted])} "
            f"{'are' if len(wanted) > 1 else 'is'} {_listed([f'∂L/∂{name}' for name in wanted])}."
        ),
        hang=0,
    )


# -- forward ----------------------------------------------------------------------------------------


def _forward(page: _Page, x: Explanation) -> None:
    page.heading("Forward", "each operation and its value")
    rows = [row for row in x.forward if row.node not in x.inputs]
    if not rows:
        page.add(page.text(f"{x.output.name} is the input itself: nothing to compute"))
        return
    shape_width = max(len(numbers.shape(row.shape)) for row in rows)
    name_width = max(page.text(row.node).cell_len for row in rows) + 3
    room = max(16, (page.style.width - shape_width) // 2 - name_width)
    cells: list[Cell] = []
    for row in rows:
        first, *others = page.wrapped(row.expression, width=room)
        name = page.text(row.node, NAME)
        name.pad_right(name_width - 2 - name.cell_len)
        name.append_text(Text("= ")).append_text(first)
        cells.append([name, *(Text(" " * name_width).append_text(other) for other in others)])
    used = 2 + max(t.cell_len for cell in cells for t in cell) + 2 + shape_width + 2
    page.grid(
        [
            [cell, [page.text(numbers.shape(row.shape), LABEL)], page.tensor(row.value, used)]
            for row, cell in zip(rows, cells, strict=True)
        ]
    )


# -- jacobian ---------------------------------------------------------------------------------------


def _jacobian(page: _Page, x: Explanation) -> None:
    y = x.output.name
    page.heading(
        "Jacobian", f"J = ∂{y}/∂input: a row for each element of {y}, a column for the input's"
    )
    if any("δ(" in formula.text for formula in x.jacobian.values()):
        page.add(page.text("δ(i,j) is 1 where i = j, else 0", LABEL))
    for jacobian in x.jacobian.values():
        page.blank()
        _formula(page, jacobian, jacobian.structure)
        if jacobian.value is not None and jacobian.value.size:
            _matrix(page, jacobian, y, x.inputs[jacobian.name].shape)


def _formula(page: _Page, formula: Formula, remark: str = "") -> None:
    """The line itself with what else is known, then what the names in it stand for."""
    line = page.text(formula.text)
    known = page.text("; ".join(part for part in (remark, formula.ranges) if part), LABEL)
    if not known or line.cell_len + 4 + known.cell_len <= page.style.width - 2:
        page.add(line, Text("    "), known)
    else:
        page.add(line)
        page.add(known, indent=4)
    for where in formula.where:
        page.add(page.text("where ", LABEL), page.text(where), indent=4)


def _matrix(page: _Page, jacobian: Jacobian, y: str, shape: tuple[int, ...]) -> None:
    """J as a matrix: rows are labelled by the output's elements, columns by the input's."""
    assert jacobian.value is not None
    out_shape = jacobian.shape[: len(jacobian.shape) - len(shape)]
    labels = [page.text(label, LABEL) for label in _elements(y, out_shape)]
    heads = [page.text(label, LABEL) for label in _elements(jacobian.name, shape)]
    columns = [
        [page.text(number, ZERO if number == "0" else "") for number in column]
        for column in (
            [numbers.number(v, page.style.precision) for v in column]
            for column in jacobian.value.reshape(len(labels), len(heads)).T.tolist()
        )
    ]
    widths = [
        max(t.cell_len for t in [head, *column])
        for head, column in zip(heads, columns, strict=True)
    ]
    room = page.style.width - 4 - max(label.cell_len for label in labels)
    for start, stop in _blocks(widths, room):
        page.blank()
        page.grid(
            [
                [[], *([head] for head in heads[start:stop])],
                *(
                    [[label], *([column[r]] for column in columns[start:stop])]
                    for r, label in enumerate(labels)
                ),
            ],
            right=True,
            indent=4,
        )


def _elements(name: str, shape: tuple[int, ...]) -> list[str]:
    """``x[0,0]``, ``x[0,1]``, …: the elements of a tensor in order."""
    labels = [""]
    for dim in shape:
        labels = [f"{label},{i}" if label else str(i) for label in labels for i in range(dim)]
    return [f"{name}[{label}]" if label else name for label in labels]


def _blocks(widths: list[int], room: int) -> Iterator[tuple[int, int]]:
    """Ranges of columns that fit in ``room`` side by side, at least one in each."""
    starts, used = [0], 0
    for c, width in enumerate(widths):
        if used + width + 2 > room and c > starts[-1]:
            starts.append(c)
            used = 0
        used += width + 2
    yield from pairwise([*starts, len(widths)])


# -- chain rule -------------------------------------------------------------------------------------


def _chain_rule(page: _Page, x: Explanation) -> None:
    y = x.output.name
    page.heading(
        "Chain rule", f"from {y} back: upstream gradient × local derivative = contribution"
    )
    expressions = {row.node: row.expression for row in x.forward}
    for node, group in groupby(x.steps, key=lambda step: step.node):
        steps = list(group)
        page.blank()
        page.add(
            page.text(node, NAME), page.text(f" = {expressions.get(node, steps[0].op)}"), hang=6
        )
        to = [page.text(f"to {step.input}", NAME) for step in steps]
        first = max(t.cell_len for t in to)
        labels: list[list[Cell]] = []
        used = 4 + first + 2 + 12 + 2
        upstream = page.tensor(steps[0].upstream, used, shape=True)
        labels.append([[Text(" " * first)], [page.text("upstream", LABEL)], upstream])
        for step, target in zip(steps, to, strict=True):
            labels += _step(page, step, target, used)
        page.grid(labels, indent=4)


def _step(page: _Page, step: Step, target: Text, used: int) -> list[list[Cell]]:
    room = max(20, page.style.width - used)
    work = [step.contribution_rule] if not step.numbers else [step.numbers]
    if step.numbers and step.contribution_rule and step.contribution_rule not in step.numbers:
        work.insert(0, step.contribution_rule)
    lines = [piece for text in work if text for piece in page.wrapped(text, width=room)]
    lines += page.tensor(step.contribution, used, shape=True)
    rows: list[list[Cell]] = []
    if step.rule:
        rows.append([[target], [page.text("local", LABEL)], page.wrapped(step.rule, width=room)])
        target = Text()
    rows.append([[target], [page.text("contribution", LABEL)], lines])
    if step.total is not None:
        total = page.tensor(step.total, used, shape=True)
        remark = f"of the {step.uses} contributions to {step.input}"
        rows.append([[], [page.text("sum", LABEL)], page.remarked(total, remark, used)])
    return rows


# -- gradients --------------------------------------------------------------------------------------


def _gradients(page: _Page, x: Explanation) -> None:
    page.heading("Gradients", "Jᵀ·v, by three routes")
    for gradient in x.gradients.values():
        page.blank()
        _formula(page, gradient)
        _routes(page, gradient)


def _routes(page: _Page, gradient: Gradient) -> None:
    """The routes' values: under each other for a vector, side by side for a matrix that is narrow."""
    routes = {"closed form": gradient.value, "chain rule": gradient.chain_rule}
    if gradient.torch is not None:
        routes["PyTorch"] = gradient.torch
    values = [numbers.settled(v, gradient.value, gradient.tolerance) for v in routes.values()]
    titles = [page.text(title, LABEL) for title in routes]
    verdict = Text()
    if gradient.verdict in _WORDS:
        verdict = page.text(_WORDS[gradient.verdict], VERDICTS[gradient.verdict])
    used = 4 + 11 + 2
    cells = [page.tensor(value, used + 14, shape=True) for value in values]
    narrow = sum(max(t.cell_len for t in cell) for cell in cells) + 16 <= page.style.width
    short = max(map(len, cells)) == 1 and not numbers.abbreviated(gradient.value)
    if gradient.value.ndim == 1 and short:
        cells = [[page.text(line)] for line in numbers.together(values, page.style.precision)]
    elif gradient.value.ndim > 1 and narrow:
        page.grid([[[title] for title in titles], cells], gap=4, indent=4)
        if verdict:
            page.add(verdict, indent=4)
        return
    cells[-1][-1].append_text(Text("  ")).append_text(verdict)
    page.grid([[[title], cell] for title, cell in zip(titles, cells, strict=True)], indent=4)


# -- verdict ----------------------------------------------------------------------------------------


def _verdict(page: _Page, x: Explanation) -> None:
    if x.check is not None:
        page.heading("Verdict")
        _conclusion(page, x.check)
    if x.notes:
        page.blank()
        page.heading("Notes")
        for note in x.notes:
            page.add(page.text("- "), page.text(note.text), hang=2)


def _conclusion(page: _Page, check: Check) -> None:
    bound = ""
    if check.tolerance is not None:
        bound = f", largest difference allowed {numbers.number(check.tolerance, 2)}"
    words = {
        "agree": f"agree: the closed form, the chain rule and PyTorch give the same gradients "
        f"({check.dtype}{bound}).",
        "convention": f"convention: the routes differ where mathematics leaves a choice "
        f"({check.dtype}{bound}).",
        "mismatch": f"MISMATCH: the routes give different gradients ({check.dtype}{bound}).",
        "skipped": "skipped: the closed form and the chain rule were not checked against PyTorch.",
        "failed": "not checked: PyTorch could not be asked.",
    }
    word, colon, rest = words.get(check.status, check.status).partition(":")
    page.add(
        page.text(word + colon, VERDICTS.get(check.status, "")),
        page.text(f"{rest} {check.reason}".rstrip()),
        hang=2,
    )
    if check.differences:
        page.blank()
        page.grid([_difference(page, d, check.status) for d in check.differences], gap=3)


def _difference(page: _Page, d: Difference, status: str) -> list[Cell]:
    """One row: which element, what each route gave, and how far apart that is."""
    where = f"{d.input}.grad[{','.join(map(str, d.index))}]" if d.index else f"{d.input}.grad"
    values = numbers.distinct(*d.values, precision=page.style.precision)
    apart = numbers.number(abs(d.values[0] - d.values[1]), 2)
    also = f"largest of {d.count}" if d.count > 1 else ""
    return [
        [page.text(where, VERDICTS.get(status, ""))],
        [page.text(f"{d.routes[0]} {values[0]}")],
        [page.text(f"{d.routes[1]} {values[1]}")],
        [page.text(f"differ by {apart}, allowed {numbers.number(d.tolerance, 2)}")],
        [page.text(also, LABEL)],
    ]


def _listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


_SECTIONS = {
    "question": _question,
    "forward": _forward,
    "jacobian": _jacobian,
    "steps": _chain_rule,
    "gradients": _gradients,
    "check": _verdict,
}
