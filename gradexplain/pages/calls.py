"""Several backward calls, and the backward pass differentiated: what follows the page of ``run``."""

from __future__ import annotations

from collections.abc import Iterable

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.explanation import Accumulated, Call, Explanation, Second
from gradexplain.pages.chain import chain
from gradexplain.pages.jacobian import jacobian
from gradexplain.pages.page import Page
from gradexplain.pages.verdict import ROLES, verdict
from gradexplain.pages.words import definitions, tensor_or, value


def call_text(call: Call) -> str:
    """``L.backward(ones, retain_graph=True)`` as a program would have it."""
    arguments = []
    if call.grad.source == "ones":
        arguments.append("ones")
    elif call.grad.source == "given":
        shown = numbers.tensor(call.grad.value)
        arguments.append(shown[0] if len(shown) == 1 and len(shown[0]) <= 40 else "v")
    if call.retain_graph:
        arguments.append("retain_graph=True")
    return f"{call.start}.backward({', '.join(arguments)})"


def calls(page: Page) -> Iterable[doc.Block]:
    """Every call with what it adds, and the derivation of those from other values."""
    x = page.x
    yield doc.Heading("Calls", "each backward adds its Jᵀ·v to .grad")
    for call in x.calls:
        if call.zeroed:
            yield doc.prose(doc.code("optimizer.zero_grad()"), doc.label("    every .grad is None"))
        yield doc.prose(doc.label(f"call {call.number}  "), doc.code(call_text(call), "flow"))
        if call.error:
            yield doc.prose(doc.Span("PyTorch raises: ", "bad"), call.error, indent=4)
            yield doc.prose("and .grad is by then, in PyTorch:", indent=4)
            rows = [
                (doc.cell(doc.name(f"{n}.grad")), tensor_or(entry.torch))
                for n, entry in call.gradients.items()
            ]
            yield doc.Table(tuple(rows), indent=6)
        else:
            yield _table(call)
    shown = {x.calls[0].start}
    for call in x.calls[1:]:
        if call.explanation is None or call.start in shown or call.error:
            continue
        shown.add(call.start)
        made = Page(call.explanation, page.options)
        yield doc.Heading(f"Call {call.number}", call_text(call))
        yield from made.answer()
        yield from jacobian(made)
        yield from chain(made)
    if x.saved:
        yield doc.Heading("Freed by call 1", "the tensors that PyTorch's backward nodes had saved")
        yield doc.Table(
            tuple(
                doc.row(
                    doc.name(s.node),
                    s.function,
                    ", ".join(s.names) if s.names else doc.label("saves nothing"),
                )
                for s in x.saved
            )
        )


def short(x: Explanation) -> Iterable[doc.Block]:
    """What several calls leave in ``.grad``, in a line or two."""
    for call in x.calls:
        if call.error:
            said = call.error.split(" (or ")[0].split(". ")[0]
            text = doc.line(
                doc.label(f"call {call.number}  "), doc.Span("PyTorch raises: ", "bad"), said
            )
            yield doc.Paragraph(text, indent=2)
    returned = any(note.kind == "returned" for note in x.notes)
    if len(x.calls) > 1 and not x.calls[-1].error and not returned:
        head = f"after {len(x.calls)} calls, each of which adds to .grad"
        yield doc.remark(head, indent=2)
        rows = (
            (doc.cell(doc.name(f"{n}.grad")), tensor_or(e.after))
            for n, e in x.calls[-1].gradients.items()
        )
        yield doc.Table(tuple(rows), indent=4)


def _table(call: Call) -> doc.Table:
    """What a call adds to each ``.grad`` and what that holds then; PyTorch's where it is another."""
    differ = any(e.verdict in ("convention", "mismatch") for e in call.gradients.values())
    theirs = [doc.label("PyTorch's .grad")] * differ
    head = doc.row("", doc.label("adds"), doc.label(".grad after it"), *theirs, "")
    rows = [
        doc.row(
            doc.name(n),
            tensor_or(entry.added, "nothing"),
            tensor_or(entry.after),
            *[tensor_or(entry.torch)] * differ,
            _verdict(entry),
        )
        for n, entry in call.gradients.items()
    ]
    return doc.Table(tuple(rows), head, indent=4)


def _verdict(entry: Accumulated) -> doc.Line:
    words = {"agree": "PyTorch agrees", "convention": "convention", "mismatch": "MISMATCH"}
    word = words.get(entry.verdict)
    return doc.line(doc.Span(word, ROLES[entry.verdict])) if word else ()


def second(page: Page, found: Second) -> Iterable[doc.Block]:
    """The operations of the first pass, the scalar the second starts from, and its chain rule."""
    yield doc.Heading("Backward pass", "as operations on values: what create_graph=True records")
    yield doc.Table(
        tuple(
            doc.row(
                doc.name(page.renamed(f"{row.node}{row.at}")),
                doc.math(f"= {page.renamed(row.text)}"),
                doc.label(numbers.shape(row.shape)),
                doc.Tensor(row.value),
            )
            for row in found.backward
        )
    )
    yield doc.Heading("Second backward", "the same chain rule, on the graph of both passes")
    yield doc.prose("The scalar is the sum of every element of every gradient:", hang=0)
    yield doc.Formula(f"{found.name} = {found.expression}", indent=6)
    made = Page(found.explanation, page.options)
    above = {f"{node}.grad": f"{page.called[node]}.grad" for node in page.said}
    made.said |= above
    made.called |= above
    if found.explanation.steps:
        yield from jacobian(made)
        yield from chain(made)
    else:
        yield doc.prose(f"Nothing flows back: {found.name} depends on no input.")
    yield doc.Heading("Second derivatives", f"of {found.name}")
    for gradient in found.explanation.gradients.values():
        yield doc.Formula(made.renamed(gradient.text), gradient.ranges)
        yield from definitions([made.renamed(text) for text in gradient.where])
        yield value(gradient.value, gradient.name)
    yield from verdict(
        found.explanation.check,
        found.explanation.gradients.values(),
        page.options.precision,
        "second derivatives",
    )
