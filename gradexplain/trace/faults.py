"""The errors that autograd raises, in the words of someone who wonders why, with the remedy."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gradexplain.document.keys import HIDDEN, Key, Keys
from gradexplain.recording.frames import Site, is_library
from gradexplain.trace import mistakes
from gradexplain.trace.diagnose.finding import assigned
from gradexplain.trace.diagnose.finding import at as _at
from gradexplain.trace.saved import carried_over, freed_at, overwritten


@dataclass(slots=True)
class Fault:
    """An exception of the script: ``why`` it came and the ``remedy``, both empty where unknown."""

    type: str
    message: str
    site: Site | None
    why: str = ""
    remedy: str = ""

    JSON: ClassVar[Keys] = {
        "message": HIDDEN,
        "told": Key("message"),
        "site": HIDDEN,
        "line": Key(),
    }

    @property
    def told(self) -> str:
        """The message on one line."""
        return " ".join(self.message.split())

    @property
    def line(self) -> int | None:
        return self.site.line if self.site is not None else None


@dataclass(slots=True)
class _Scene:
    """What is known when an error is raised."""

    recorder: Any
    variables: Any
    site: Site | None = None
    roots: list[Any] = field(default_factory=list)
    given: list[Any] = field(default_factory=list)
    capture: Any = None
    failed: Any = None

    def root(self) -> str:
        return (self.variables.name(self.roots[0]) if self.roots else "") or "the output"

    def start(self) -> str:
        name = self.root()
        return name[0].upper() + name[1:] if name == "the output" else name

    def failing(self) -> str:
        """The name of the tensor that the failed call was to change."""
        if self.failed is None:
            return "x"
        _, args, _ = self.failed
        name = self.variables.name(args[0]) if args else ""
        return name or "x"


def explain_fault(
    error: Exception, recorder: Any, variables: Any, site: Site | None, **known: Any
) -> Fault:
    """The fault behind an exception: known ones are explained."""
    message = str(error).strip()
    failed = recorder.failed if recorder.failed_with == id(error) else None
    scene = _Scene(recorder, variables, site, failed=failed, **known)
    worker = re.match(r"Caught (\w+) in DataLoader worker process", message)
    if worker:
        return _in_a_worker(worker[1], message, site)
    fault = Fault(type(error).__name__, message, site)
    for pattern, explain in _KNOWN:
        match = re.search(pattern, message)
        if match:
            fault.why, fault.remedy = explain(match, scene)
            break
    else:
        fault.why, fault.remedy = mistakes.explained(message, failed)
    return fault


def _in_a_worker(kind: str, message: str, site: Site | None) -> Fault:
    """An error of the script's own code in a worker process, whose traceback is in the message."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', message)
    own = [Site(file, int(number)) for file, number in lines if not is_library(file)]
    said = message.splitlines()[-1]
    why, remedy = mistakes.explained(said, None)
    return Fault(
        kind, said.removeprefix(f"{kind}: "), own[-1] if own else site,
        f"It was raised in a worker process of the DataLoader that {_at(site)} goes through. {why}".strip(),
        remedy or "correct that line; with num_workers=0 it is raised in the script itself, where a "
        "debugger reaches it.",
    )  # fmt: skip


def _shape(tensor: Any) -> str:
    return str(tuple(tensor.shape))


def _scalar_only(match: re.Match[str], scene: _Scene) -> tuple[str, str]:
    name = scene.root()
    shape = _shape(scene.roots[0]) if scene.roots else "more than one element"
    return (
        f"{name} has shape {shape}. backward() without an argument means v = 1, the gradient of a "
        f"scalar with respect to itself; for {name} PyTorch cannot know how its elements are "
        "weighted.",
        f"pass v in that shape, as in {name}.backward(torch.ones_like({name})), or make a scalar "
        f"first, as in {name}.sum().backward() or {name}.mean().backward().",
    )


def _mismatch(match: re.Match[str], scene: _Scene) -> tuple[str, str]:
    name = scene.root()
    shapes = ""
    if scene.roots and scene.given and scene.given[0] is not None:
        found, expected = _shape(scene.given[0]), _shape(scene.roots[0])
        shapes = f"v has shape {found}, {name} has shape {expected}. "
    return (
        f"{shapes}The argument of backward is the gradient of a scalar with respect to {name}, one "
        f"number for each element of {name}: it has {name}'s shape.",
        f"pass v in the shape of {name}, as in torch.ones_like({name}).",
    )


def _freed(match: re.Match[str], scene: _Scene) -> tuple[str, str]:
    name = scene.root()
    first, carried, made = None, "", None
    if scene.capture is not None:
        first = freed_at(scene.capture)
        carried, made = carried_over(scene.capture)
    by = f"The backward at {_at(first)}" if first is not None else "An earlier backward"
    why = (
        f"{by} went through the same graph and freed what its operations had saved for it, so "
        f"there is nothing left to compute the gradient of {name} with."
    )
    if made is not None and first is not None and first != scene.site:
        return (
            f"{why} Both are computed from what {_at(made)} makes.",
            f"add the losses and call backward once, or pass retain_graph=True at {_at(first)}.",
        )
    if made is not None:
        carried = carried or _kept_name(made.source)
        what = carried or "a value"
        return (
            f"{why} This graph hangs on that one by {what}, made at {_at(made)} in a step before and "
            "used again.",
            f"detach {what} where one step ends and the next begins, as in "
            f"{carried or 'h'} = {carried or 'h'}.detach(); if the gradient is to go through both "
            "steps, add the losses and call backward once.",
        )
    return (
        why,
        "if both gradients are wanted, add the losses and call backward once, or pass "
        "retain_graph=True to the earlier call; if a value is carried over from one step to the "
        "next, detach() it; if the output is meant to be computed anew, do so before backward.",
    )


def _kept_name(source: str) -> str:
    """The name that a line assigns and reads: ``h`` in ``out, h = rnn(x, h)``."""
    targets, _, rest = source.partition("=")
    read = set(re.findall(r"[A-Za-z_][\w.]*", rest))
    names = [name for name in re.findall(r"[A-Za-z_][\w.]*", targets) if name in read]
    return names[0] if len(names) == 1 else ""


def _leaf_in_place(match: re.Match[str], scene: _Scene) -> tuple[str, str]:
    name = scene.failing()
    view = "view of a leaf" in match[0]
    what = f"{name} is a view of a leaf" if view else f"{name} is a leaf"
    return (
        f"{what} that requires grad: its .grad belongs to the value it has. Changed in place with "
        "gradients on, it would no longer be a leaf, and the old value's gradient would be lost.",
        "to update it (as an optimizer does), change it under `with torch.no_grad():`; to compute "
        f"with it, make a new tensor, as in `{name} = {name} + …` or {name}.clone().",
    )


def _modified(match: re.Match[str], scene: _Scene) -> tuple[str, str]:
    kind = re.search(r"output (\d+) of (\w+)", match.string)
    found = None
    if scene.capture is not None:
        found = overwritten(scene.capture, kind[2] if kind else "")
    what = (found.name if found is not None else "") or "a tensor"
    changed_at = None if found is None else found.changed_at
    saved = "An operation"
    if found is not None and found.saved_at is not None:
        saved = f"{_spoken(found.saved)} at {_at(found.saved_at)}"
        what = f"its result {found.name}".rstrip() if found.result else what
    stepped = [s for s in scene.recorder.steps if changed_at is None or s[1] == changed_at]
    if found is not None and found.changed_at is not None and not stepped:
        how = f"{_spoken(found.changed)} at {_at(changed_at)} changed it in place."
        where = f" at {_at(changed_at)}"
    elif stepped:
        optimizer, place = stepped[-1]
        how = f"{optimizer}.step() at {_at(place)} changes the parameters in place."
        return (
            f"{saved} saved {what} for the backward pass. {how} PyTorch noticed by the "
            "tensor's version and refuses to compute with the wrong value.",
            "call every backward before the optimizer's step, or compute the output anew after it.",
        )
    else:
        how, where = "It was changed in place afterwards.", ""
    return (
        f"{saved} saved {what} for the backward pass. {how} PyTorch noticed by the tensor's "
        "version and refuses to compute with the wrong value.",
        f"make a new tensor{where} instead of changing the old one (`x = x + 1`, not `x += 1`), or "
        "change a clone().",
    )


#: Calls that Python spells as operators.
_SPOKEN = {
    "__iadd__": "+=", "__isub__": "-=", "__imul__": "*=", "__itruediv__": "/=", "__idiv__": "/=",
    "__ipow__": "**=", "__setitem__": "x[…] = …", "__mul__": "*", "__rmul__": "*", "__add__": "+",
    "__truediv__": "/", "__pow__": "**", "__matmul__": "@", "__sub__": "-", "__rtruediv__": "/",
    "__radd__": "+", "__rsub__": "-",
}  # fmt: skip


def _spoken(name: str) -> str:
    return _SPOKEN.get(name, name)


def _no_grad(match: re.Match[str], scene: _Scene) -> tuple[str, str]:
    name = scene.root()
    cuts = scene.recorder.ends.of(scene.roots[0])[0] if scene.roots else ()
    if cuts:
        cut = cuts[0]
        what = {
            "no_grad": f"it was computed under torch.no_grad() ({_at(cut.site)})",
            "detached": f"its way to the leaves was cut by {cut.name} ({_at(cut.site)})",
            "copied": f"torch.{cut.name} ({_at(cut.site)}) copies numbers and leaves the graph behind",
            "no derivative": f"{cut.name} ({_at(cut.site)}) has no derivative",
        }[cut.why]
        remedy = {
            "no_grad": "compute it outside of torch.no_grad().",
            "detached": f"leave out {cut.name}, or call backward on something that still depends "
            "on a leaf.",
            "copied": "use torch.stack for a list of tensors, or the tensor itself.",
            "no derivative": f"use a function with a derivative in place of {cut.name}.",
        }[cut.why]
        return f"{name} has no grad_fn: {what}, so nothing leads back to a leaf.", remedy
    for _, place, value in assigned("" if scene.site is None else scene.site.filename, name):
        text = ast.unparse(value)
        if re.search(r"\bgrad\(", text) and "create_graph" not in text:
            return (
                f"{name} is a gradient ({_at(place)}) that was computed without a graph of its own, so it "
                "cannot be differentiated again.",
                f"pass create_graph=True at {_at(place)}.",
            )
    left = [found for found in scene.recorder.ends.exits.values() if found.name != "grad.__get__"]
    if left and left[-1].site is not None:
        found = left[-1]
        return (
            f"{name} does not depend on any tensor that requires grad: {found.name}() at "
            f"{_at(found.site)} turned {found.tensor or 'one that does'} into plain numbers, and "
            "nothing leads back from there.",
            f"keep the tensor instead of {found.name}() on the way to {name}.",
        )
    return (
        f"{name} does not depend on any tensor that requires grad, so there is nothing to "
        "differentiate by.",
        "make the inputs you want gradients of with requires_grad=True (or call "
        "x.requires_grad_()), before computing the output; check for torch.no_grad(), detach(), "
        ".data, .item() and torch.tensor(…) on the way.",
    )


def _unused(match: re.Match[str], scene: _Scene) -> tuple[str, str]:
    return (
        f"{scene.start()} was not computed from one of the inputs that autograd.grad was asked "
        "for.",
        "ask only for inputs that it was computed from, or pass allow_unused=True, which gives "
        "None for the others.",
    )


_KNOWN: tuple[tuple[str, Callable[[re.Match[str], _Scene], tuple[str, str]]], ...] = (
    (r"grad can be (implicitly )?created only for scalar", _scalar_only),
    (r"Mismatch in shape", _mismatch),
    (r"backward through the graph a second time", _freed),
    (r"a (view of a )?leaf Variable that requires grad is being used in an in", _leaf_in_place),
    (r"modified by an inplace operation", _modified),
    (r"does not require grad and does not have a grad_fn", _no_grad),
    (r"appears to not have been used in the graph", _unused),
)  # fmt: skip
