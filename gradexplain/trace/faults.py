"""The errors that autograd raises, in the words of someone who wonders why, with the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gradexplain.recording.frames import Site, is_library
from gradexplain.texts import blocks
from gradexplain.trace.diagnose.finding import at as _at
from gradexplain.trace.diagnose.finding import row
from gradexplain.trace.groups import bare_name
from gradexplain.trace.saved import carried_over, freed_at, overwritten
from gradexplain.trace.snapshot import Fault

_TEXTS = {head: said for head, *said in blocks("trace", "faults.txt")}

#: A pattern of the message, why the error comes, and what to write instead.
_MISTAKES = tuple(blocks("trace", "mistakes.txt"))


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

    def words(self) -> dict[str, str]:
        """What the sentences of ``mistakes.txt`` may name."""
        kind, args, _ = self.failed or (None, (), None)
        tensors = [arg for arg in args if hasattr(arg, "shape")]
        name, shapes = self.root(), ""
        if self.roots and self.given and self.given[0] is not None:
            found, expected = _shape(self.given[0]), _shape(self.roots[0])
            shapes = f"v has shape {found}, {name} has shape {expected}. "
        return {
            "call": kind.name.strip("_") if kind is not None else "the operation",
            "shapes": " and ".join(map(_shape, tensors[:2])),
            "changed": (self.variables.name(args[0]) if args else "") or "x",
            "name": name, "Name": name[0].upper() + name[1:] if name == "the output" else name,
            "shape": _shape(self.roots[0]) if self.roots else "more than one element",
            "v_shapes": shapes,
        }  # fmt: skip


def explain_fault(
    error: Exception, recorder: Any, variables: Any, site: Site | None, **known: Any
) -> Fault:
    """The fault behind an exception: known ones are explained."""
    message = str(error).strip()
    failed = recorder.failed if recorder.failed_with == id(error) else None
    scene = _Scene(recorder, variables, site, failed=failed, **known)
    worker = re.match(r"Caught (\w+) in DataLoader worker process", message)
    if worker:
        return _in_a_worker(worker[1], message, scene)
    fault = Fault(type(error).__name__, message, site)
    for pattern, explain in _KNOWN:
        match = re.search(pattern, message)
        if match:
            fault.why, fault.remedy = explain(match, scene)
            break
    else:
        source = "" if site is None else site.source
        fault.why, fault.remedy = _mistaken(f"{message}\n{source}", scene)
    return fault


def _mistaken(message: str, scene: _Scene) -> tuple[str, str]:
    """Why an error comes and the remedy; both empty where it is not among the known."""
    for pattern, why, remedy in _MISTAKES:
        match = re.search(pattern, message)
        if match:
            groups, known = ["", *(group or "" for group in match.groups())], scene.words()
            if not known["shapes"]:
                why = why.replace(" ({shapes})", "")
            return why.format(*groups, **known), remedy.format(*groups, **known)
    return "", ""


def _told(key: str, **values: str) -> tuple[str, str]:
    """Why an error comes and the remedy, as ``faults.txt`` has them."""
    why, remedy = (part.format(**values) for part in _TEXTS[key])
    return why, remedy


def _in_a_worker(kind: str, message: str, scene: _Scene) -> Fault:
    """An error of the script's own code in a worker process, whose traceback is in the message."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', message)
    own = [Site(file, int(number)) for file, number in lines if not is_library(file)]
    said = message.splitlines()[-1]
    why, remedy = _mistaken(said, scene)
    told = _told("worker", place=_at(scene.site), why=why)
    return Fault(
        kind, said.removeprefix(f"{kind}: "), own[-1] if own else scene.site,
        told[0].strip(), remedy or told[1],
    )  # fmt: skip


def _shape(tensor: Any) -> str:
    return str(tuple(tensor.shape))


def _freed(match: re.Match[str], scene: _Scene) -> tuple[str, str]:
    first, carried, made = None, "", None
    if scene.capture is not None:
        first = freed_at(scene.capture)
        carried, made = carried_over(scene.capture)
    by = f"The backward at {_at(first)}" if first is not None else "An earlier backward"
    kind = "alone"
    if made is not None:
        kind = "shared" if first is not None and first != scene.site else "carried over"
        carried = carried or _kept_name(made.source)
    return _told(
        f"freed: {kind}", by=by, name=scene.root(), made=_at(made), first=_at(first),
        what=carried or "a value", h=carried or "h",
    )  # fmt: skip


def _kept_name(source: str) -> str:
    """The name that a line assigns and reads: ``h`` in ``out, h = rnn(x, h)``."""
    targets, _, rest = source.partition("=")
    read = set(re.findall(r"[A-Za-z_][\w.]*", rest))
    names = [name for name in re.findall(r"[A-Za-z_][\w.]*", targets) if name in read]
    return names[0] if len(names) == 1 else ""


def _modified(match: re.Match[str], scene: _Scene) -> tuple[str, str]:
    kind = re.search(r"output (\d+) of (\w+)", match.string)
    found = None
    if scene.capture is not None:
        found = overwritten(scene.capture, kind[2] if kind else "")
    what = (found.name if found is not None else "") or "a tensor"
    changed_at = None if found is None else found.changed_at
    saved = "An operation"
    if found is not None and found.saved_at is not None:
        saved = f"{found.saved} at {_at(found.saved_at)}"
        what = f"its result {found.name}".rstrip() if found.result else what
    stepped = [s for s in scene.recorder.steps if changed_at is None or s[1] == changed_at]
    if stepped:
        optimizer, place = stepped[-1]
        return _told("stepped", saved=saved, what=what, optimizer=optimizer, place=_at(place))
    known = found is not None and changed_at is not None
    how = "It was changed in place afterwards."
    if found is not None and known:
        how = f"{found.changed} at {_at(changed_at)} changed it in place."
    where = f" at {_at(changed_at)}" if known else ""
    return _told("changed", saved=saved, what=what, how=how, where=where)


def _no_grad(match: re.Match[str], scene: _Scene) -> tuple[str, str]:
    name = scene.root()
    cuts = scene.recorder.ends.of(scene.roots[0])[0] if scene.roots else ()
    for cut in cuts[:1]:
        again = _kept_name(cut.site.source) if cut.site is not None and cut.why == "no_grad" else ""
        return _told(
            f"no way: {'replaced' if again else cut.why}", name=name, cut=cut.name,
            place=_at(cut.site), what=again,
        )  # fmt: skip
    ends = scene.recorder.ends
    left = [found for found in ends.exits.values() if found.name != "grad.__get__"]
    if left and left[-1].site is not None:
        tensor = left[-1].tensor or "one that does"
        return _told(
            "no way: left", name=name, cut=left[-1].name, place=_at(left[-1].site), tensor=tensor
        )
    frozen = [(tensor(), place) for tensor, place in ends.frozen.values()]
    places = [place for tensor, place in frozen if tensor is not None and not tensor.requires_grad]
    if places:
        return _told("no way: frozen", name=name, place=_at(places[-1]), count=str(len(places)))
    return _told("no way: other", name=name)


def _anomalous(match: re.Match[str], scene: _Scene) -> tuple[str, str]:
    groups = scene.capture.groups if scene.capture is not None else ()
    made = [g.call.site for g in groups if g.call and match[1] in [n.name() for n in g.nodes]]
    places = " or ".join(dict.fromkeys(map(_at, made))) or _at(None)
    name = bare_name(match[1])
    why, remedy = _told("anomaly", name=name.lower(), places=places)
    return why, remedy + row("steep", name.lower())[1]


_KNOWN: tuple[tuple[str, Callable[[re.Match[str], _Scene], tuple[str, str]]], ...] = (
    (r"backward through the graph a second time", _freed),
    (r"modified by an inplace operation", _modified),
    (r"does not require grad and does not have a grad_fn", _no_grad),
    (r"Function '(\w+)' returned nan values in its", _anomalous),
)  # fmt: skip
