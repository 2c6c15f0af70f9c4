"""Several backward calls as text: what each adds, and what ``.grad`` holds after it."""

from __future__ import annotations

from rich.text import Text

from gradexplain.explanation import Accumulated, Array, Call, Explanation, Saved
from gradexplain.render import numbers
from gradexplain.render.page import LABEL, NAME, VERDICTS, WORDS, Cell, Page


def call_text(call: Call, *, short: bool = True) -> str:
    """``L.backward(ones, retain_graph=True)`` as a program would have it."""
    arguments = []
    if call.grad.source == "ones":
        arguments.append("ones")
    elif call.grad.source == "given":
        value = numbers.tensor(call.grad.value)
        arguments.append(value[0] if short and len(value) == 1 and len(value[0]) <= 40 else "v")
    if call.retain_graph:
        arguments.append("retain_graph=True")
    return f"{call.start}.backward({', '.join(arguments)})"


def calls_section(page: Page, x: Explanation) -> None:
    """Every call with its contributions."""
    page.blank()
    page.heading("Calls", "each backward adds its Jᵀ·v to .grad")
    for call in x.calls:
        page.blank()
        if call.zeroed:
            page.add(page.text("optimizer.zero_grad()", NAME), page.text("    every .grad is None"))
        page.add(page.text(f"call {call.number}  ", LABEL), page.text(call_text(call), NAME))
        if call.error:
            page.add(page.text("PyTorch raises: ", VERDICTS["mismatch"]), page.text(call.error),
                     indent=4)  # fmt: skip
            _after_failure(page, call)
        else:
            _table(page, call)
    if x.saved:
        _saved(page, x.saved)


def _value(page: Page, value: Array | None, used: int, nothing: str) -> list[Text]:
    return [page.text(nothing, LABEL)] if value is None else page.tensor(value, used, shape=True)


def _table(page: Page, call: Call) -> None:
    rows: list[list[Cell]] = []
    for name, entry in call.gradients.items():
        cells = _cells(page, entry, 14)
        rows.append([[page.text(name, NAME)], *cells, [_verdict(page, entry)]])
    titles = ["adds", ".grad after it"]
    if any(entry.torch is not None for entry in call.gradients.values()):
        titles.append("PyTorch's .grad")
    heads: list[Cell] = [[Text()], *([page.text(title, LABEL)] for title in titles)]
    table = [heads, *([*row[: len(titles) + 1], row[-1]] for row in rows)]
    widths = [
        max(line.cell_len for row in table if c < len(row) for line in row[c]) + 2
        for c in range(len(titles) + 2)
    ]
    if 4 + sum(widths) <= page.style.width:
        page.grid(table, indent=4)
        return
    stacked: list[list[Cell]] = []
    for row in rows:
        for place, title in enumerate(titles):
            first: Cell = [Text()] if place else row[0]
            stacked.append([first, [page.text(title, LABEL)], row[place + 1]])
        *lines, last = stacked[-1][-1]
        stacked[-1][-1] = [*lines, last + Text("  ") + row[-1][0]]
    page.grid(stacked, indent=4)


def _cells(page: Page, entry: Accumulated, used: int) -> list[Cell]:
    torch = entry.torch
    if torch is not None and entry.after is not None:
        torch = numbers.settled(torch, entry.after, entry.tolerance)
    return [
        _value(page, entry.added, used, "nothing"),
        _value(page, entry.after, used, "None"),
        _value(page, torch, used, "None"),
    ]


def _verdict(page: Page, entry: Accumulated) -> Text:
    if entry.verdict not in WORDS:
        return Text()
    return page.text(WORDS[entry.verdict], VERDICTS[entry.verdict])


def _after_failure(page: Page, call: Call) -> None:
    rows = [
        [[page.text(f"{name}.grad", NAME)], _value(page, entry.torch, 20, "None")]
        for name, entry in call.gradients.items()
    ]
    page.add(page.text("and .grad is by then, in PyTorch:"), indent=4)
    page.grid(rows, indent=6)


def _saved(page: Page, saved: list[Saved]) -> None:
    page.blank()
    page.heading("Freed by call 1", "the tensors that PyTorch's backward nodes had saved")
    page.grid(
        [
            [
                [page.text(s.node, NAME)],
                [page.text(s.function)],
                [page.text(", ".join(s.names) or "saves nothing", "" if s.names else LABEL)],
            ]
            for s in saved
        ]
    )
