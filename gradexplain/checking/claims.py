"""A claim: for each input, the gradient that someone says is right, as a program in the language.

    claims := [NAME ":"] program ((";" | line break) NAME ":" program)*

In a program ``v`` (or ``grad_output``, or the name chosen) is the upstream gradient; the inputs,
the named intermediates and the output of the expression stand for their values.  ``None`` claims
that the backward returns none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradexplain.errors import InputError, Span
from gradexplain.graph import Graph, Node, Ref, put
from gradexplain.ops.base import Shape, show_shape
from gradexplain.reading.language import read
from gradexplain.reading.program import Program
from gradexplain.reading.syntax import parse
from gradexplain.routes.names import free_names

_HEAD = re.compile(r"\s*([^\W\d]\w*)\s*:(?![:=])")


@dataclass(frozen=True, slots=True)
class Claim:
    """``program`` is None where the claim is that there is no gradient."""

    name: str
    program: Program | None
    text: str


def split_claims(text: str) -> list[tuple[str, str]]:
    """``(input, program)`` for each claim in a text; the input is "" where none is named."""
    depth, starts = 0, [0]
    for place, ch in enumerate(text):
        depth += (ch in "([{") - (ch in ")]}")
        if depth == 0 and ch in ";\n" and _HEAD.match(text, place + 1):
            starts.append(place + 1)
    found = []
    for start, end in zip(starts, [*starts[1:], len(text) + 1], strict=True):
        piece = text[start : end - (end <= len(text))]
        head = _HEAD.match(piece)
        name, body = (head[1], piece[head.end() :]) if head else ("", piece)
        found.append((name, body.strip()))
    return found


def read_claims(texts: Sequence[str] | Mapping[str, str], inputs: Sequence[str]) -> list[Claim]:
    """The claims about ``inputs``; a text that names no input is about the only one."""
    if isinstance(texts, Mapping):
        pairs = [(str(name), str(text)) for name, text in texts.items()]
    else:
        pairs = [pair for text in texts for pair in split_claims(text)]
    claims: dict[str, Claim] = {}
    for name, text in pairs:
        if not name:
            if len(inputs) != 1:
                raise InputError(
                    f"the claim does not say which input it is about: {', '.join(inputs)}",
                    remedy=f'begin it with a name, as in --claim "{inputs[0]}: v*…"',
                )
            name = inputs[0]
        if name not in inputs:
            raise InputError(
                f"the claim is about {name}, which is not an input of the expression; "
                f"its inputs are: {', '.join(inputs) or 'none'}",
                remedy="check the spelling before the colon",
            )
        if name in claims:
            raise InputError(
                f"there are two claims about {name}", remedy="leave one of the two out"
            )
        if not text:
            raise InputError(
                f"the claim about {name} is empty", remedy=f'write it as in "{name}: v*…"'
            )
        program = None if text in ("None", "none") else parse(text)
        claims[name] = Claim(name, program, text)
    if not claims:
        raise InputError(
            "there is no claim to check",
            remedy='say what the backward returns, as in --claim "x: v/x.sum(dim=0)"',
        )
    return [claims[name] for name in inputs if name in claims]


def upstream_names(graph: Graph, chosen: str | None) -> tuple[str, ...]:
    """What ``v`` may be called in a claim; the first is its name in formulas."""
    taken = {node.label for node in graph.nodes if node.named or node.is_leaf}
    if chosen is not None:
        if not chosen.isidentifier() or chosen in taken:
            why = "is a value of the expression" if chosen in taken else "is not a name"
            raise InputError(
                f"--grad-name {chosen} {why}", remedy="choose another name for the gradient"
            )
        return (chosen,)
    names = [n for n in (free_names(graph)[0], "v", "grad_output") if n not in taken]
    return tuple(dict.fromkeys(names))


def claim_graph(claim: Claim, forward: Graph, grad_names: Sequence[str]) -> Graph:
    """The graph of a claim: its leaves are ``v`` and values of ``forward`` by label."""
    known = {n.label: n.shape for n in forward.nodes if not n.is_literal and not n.integer}
    known |= dict.fromkeys(grad_names, forward.out.shape)
    integers = {n.label: n.value for n in forward.nodes if n.integer}

    def shape_of(name: str) -> Shape:
        if name in known:
            return known[name]
        if name in integers:
            node = forward.by_label(name)
            assert node is not None
            return node.shape
        named = [n.label for n in forward.nodes if n.is_leaf or (n.named and not n.is_literal)]
        raise InputError(
            f"the claim about {claim.name} uses {name}, which is nothing that the expression has",
            remedy=f"it may use {grad_names[0]} and {', '.join(named)}",
        )

    assert claim.program is not None
    return read(claim.program, shape_of)


def declared(claim: Claim, known: Mapping[str, Shape]) -> Graph:
    """The graph of what is declared as a gradient, of the names in ``known``."""

    def shape_of(name: str) -> Shape:
        if name not in known:
            raise InputError(
                f"what is declared of {claim.name} uses {name}",
                remedy=f"it may use {', '.join(known)}",
            )
        return known[name]

    if claim.program is None:
        raise InputError(f"{claim.name}: None declares no gradient", remedy="write 0*v")
    return read(claim.program, shape_of)


def combined(
    forward: Graph, claims: Mapping[str, Graph], grad_names: Sequence[str]
) -> tuple[Graph, dict[str, int]]:
    """One graph of the forward and the claims, whose output is the forward's.

    Returns it with the ids of the claims' results.  ``v`` is a leaf called ``grad_names[0]``.
    """
    nodes = list(forward.nodes)
    by_label = {node.label: node.id for node in nodes}
    nowhere = Span(0, 0)
    v = Node(len(nodes), grad_names[0], True, None, (), forward.out.shape, nowhere)
    nodes.append(v)
    by_label |= dict.fromkeys(grad_names, v.id)
    results = {}
    taken = set(by_label)
    for name, graph in claims.items():
        place: dict[int, Ref] = {}
        for node in graph.nodes:
            if node.is_leaf:
                place[node.id] = Ref(by_label[node.label])
                continue
            label = node.label
            while label in taken:
                label += "′"
            taken.add(label)
            named = node.named and node.id != graph.output
            args = put(node.args, place.__getitem__)
            place[node.id] = Ref(len(nodes))
            nodes.append(
                Node(len(nodes), label, named, node.op, args, node.shape, nowhere,
                     node.value, node.integer)
            )  # fmt: skip
        results[name] = place[graph.output].id
    return Graph(forward.source, tuple(nodes), forward.output), results


def wrong_shape(claim: Claim, found: Shape, expected: Shape) -> InputError:
    """The claim's result cannot be a gradient of its input."""
    return InputError(
        f"the claim about {claim.name} has shape {show_shape(found)}, but {claim.name} has shape "
        f"{show_shape(expected)}; a gradient has the shape of its input",
        remedy="sum what broadcasting widened, or reshape the result",
    )


Evaluate = Callable[[Mapping[str, Any], Sequence[Any]], list[dict[str, Any]]]
