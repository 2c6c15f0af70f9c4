"""`check` and `assert_backward`: from a question to a `CheckReport`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gradexplain.checking import conditions, formulas, manners, numeric
from gradexplain.checking.case import Case
from gradexplain.checking.claims import wrong_shape
from gradexplain.checking.code import Asked, integers, subjects_of, varied_subjects
from gradexplain.checking.dtypes import measured
from gradexplain.checking.faults import UNMENDED, diagnose
from gradexplain.checking.forwards import Question
from gradexplain.checking.making import made, where
from gradexplain.checking.operation import GIVEN, OPTIONAL, Operation, none_places
from gradexplain.checking.report import (
    CheckReport,
    Entry,
    Fault,
    InputReport,
    PointReport,
    together,
)
from gradexplain.checking.setting import CodeSetting
from gradexplain.checking.subjects import FormulaSubject, Subject
from gradexplain.checking.told import said
from gradexplain.checking.trials import Kin, Trial, Tries, held
from gradexplain.codegen.line import gradient_line
from gradexplain.errors import GradexplainError, InputError
from gradexplain.explanation import Array
from gradexplain.ops.base import Shape
from gradexplain.reading.arrays import ONES, as_array
from gradexplain.reading.syntax import parse
from gradexplain.supervisor import link
from gradexplain.supervisor.within import within
from gradexplain.verdict import compare

#: Entries that a report lists, and rows and columns of its picture.
_LISTED, _PICTURED = 2000, 64


def check(
    subject: Any,
    claim: str | Sequence[str] | Mapping[str, str] | None = None,
    *,
    at: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    grad: Any = None,
    grad_name: str | None = None,
    dtype: str = "float64",
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
    absent: Sequence[str] = (),
    frozen: Sequence[str] = (),
    intended: str | Sequence[str] | Mapping[str, str] | None = None,
    against: Any = None,
    order: int = 1,
    timeout: float | None = None,
) -> CheckReport:
    """Is a hand-written backward right, and if not, what is wrong with it?

    ``subject`` is an expression, with a ``claim`` about the gradient by each input (``{"x":
    "v/x"}`` or ``"x: v/x"``, ``v`` being the upstream gradient); or an operation whose own
    backward is the claim: a ``torch.autograd.Function``, a module, a ``custom_op`` or a callable
    that applies one; or a function of tensors with a claim.

    ``at`` gives values, ``shapes`` shapes, by the names of forward's parameters; without either
    several points of several shapes are tried.  Integers stay integers, and where one of the
    tensors requires grad, gradients are asked for those alone that do.  ``arguments`` are
    parameters that are no tensors; those of ``absent`` are None, those of ``frozen`` need no
    gradient.  With ``grad`` only that upstream gradient is compared.

    J is held against that of the forward, or of ``against`` (an expression or a callable of the
    same inputs), or against what is ``intended``: ``"straight-through"``, or claims.

    ``dtype`` may name several with commas between them, float16 and bfloat16 among them: J is
    compared in float64, and the claim is then run in each of them.  With ``order=2`` the derivatives
    of the gradients are compared too.

    ``timeout`` is `gradexplain.explain`'s, for an expression.

    Raises `GradexplainError` where the question makes no sense.
    """
    if timeout is not None:
        if not isinstance(subject, str):
            raise InputError(
                "timeout is for an expression: your own code runs in your own process",
                remedy="leave it out, or run gradexplain check FILE.py:NAME --timeout SECONDS",
            )
        asked: dict[str, Any] = {"at": at, "shapes": shapes, "grad": grad, "grad_name": grad_name, "dtype": dtype,
                 "seed": seed, "arguments": arguments, "absent": absent, "frozen": frozen,
                 "intended": intended, "against": against, "order": order}  # fmt: skip
        return within(timeout, partial(check, subject, claim, **asked))
    dtype, dtypes = _dtypes(dtype)
    if order not in (1, 2):
        raise InputError(
            f"order {order} is not 1 or 2", remedy="use 1, or 2 for second derivatives"
        )
    texts: Sequence[str] | Mapping[str, str] | None = [claim] if isinstance(claim, str) else claim
    sizes: dict[str, Shape] = {
        name: tuple(int(n) for n in shape) for name, shape in (shapes or {}).items()
    }
    given = {n: _value(v, n, sizes, dtype) for n, v in (at or {}).items()}
    upstream = None if grad is None else as_array(grad, "grad")
    for name, shape in sizes.items():
        if name in given and given[name].shape != shape:
            raise InputError(
                f"{name} has shape {given[name].shape} by its value but {shape} by its shape",
                remedy="leave one of the two out",
            )
    run = partial(check_subject, dtype=dtype, grad=upstream, order=order, dtypes=dtypes)
    if isinstance(subject, str):
        if texts is None:
            raise InputError(
                "there is no claim to check",
                remedy='say what the backward returns, as in claim="x: v/x.sum(dim=0)"',
            )
        return run(FormulaSubject(parse(subject), texts, grad_name), given, sizes)
    question = Question(texts, grad_name, seed, intended, against)
    arguments = {**(arguments or {}), **dict.fromkeys(absent)}
    return check_code(subject, question, at or {}, given, sizes, arguments, frozen, run)


def check_code(
    subject: Any,
    question: Question,
    at: Mapping[str, Any],
    given: dict[str, Array],
    sizes: dict[str, Shape],
    arguments: Mapping[str, Any],
    frozen: Sequence[str],
    run: Callable[..., CheckReport],
) -> CheckReport:
    """The report on an operation: at the first way to read its parameters at which it runs."""
    wanted = None
    if any(getattr(v, "requires_grad", False) for v in at.values()):
        wanted = tuple(n for n, v in at.items() if getattr(v, "requires_grad", False))
    whole = {n: integers(v) for n, v in at.items()}
    whole = {n: v for n, v in whole.items() if v is not None}
    operation = Operation(subject)
    names, none = [p.name for p in operation.parameters], none_places(operation.function)
    # What is 0 or 1 and gets None is data: a mask, a label, one hot.
    frozen = (*frozen, *(n for n, v in given.items() if n in names and names.index(n) in none
                         and v.size > 1 and np.isin(v, (0, 1)).all()))  # fmt: skip
    first: GradexplainError | None = None
    unlike = partial(varied_subjects, subject, question)
    for kept in [whole, {}] if whole else [{}]:
        floats = {n: v for n, v in given.items() if n not in kept}
        asked = Asked(arguments, (*floats, *(n for n in sizes if n not in given)), kept,
                      tuple(frozen), wanted)  # fmt: skip
        tried = 0
        try:
            found = subjects_of(subject, question, asked)
        except InputError as error:
            first = first or error
            continue
        for one in found:
            here = {n: s for n, s in sizes.items() if n not in kept}
            try:
                report = run(one, floats, here, beside=(partial(unlike, asked, one), ()))
            except InputError as error:
                first = first or error
                tried += 1
                continue
            data = _data(report, one, asked)
            if data:
                asked = replace(asked, frozen=(*asked.frozen, *data))
                found, tried = subjects_of(subject, question, asked), 0
                one = next((o for o in found if set(o.names) == set(one.names)), found[0])
                report = run(one, floats, here, beside=(partial(unlike, asked, one), ()))
            others = [o for o in found[tried + 1 :] if set(o.names) < set(one.names)]
            # An argument that may be left out is, and others take other values than their defaults:
            # the backward has to be right then too.
            fewer = others[:1] if len(one.names) > len(asked.tensors) else []
            alike = tuple(unlike(asked, one, report.points[0])) if report.right else ()
            kin: Sequence[Any] = (one, *alike)
            for other in [*fewer, *alike] if report.right else ():
                with contextlib.suppress(GradexplainError):
                    elsewhere = run(other, floats, here, beside=(kin, report.points))
                    if elsewhere.verdict == "wrong":
                        return elsewhere
            return report
    assert first is not None
    raise first


def _data(report: CheckReport, one: Subject, asked: Asked) -> tuple[str, ...]:
    """The inputs of a loss for which the backward never returns a gradient: data, which need none."""
    none = tuple(n for n, code in report.faults.items() if code == "none")
    loss = bool(report.points) and report.points[0].out_shape == () and asked.wanted is None
    mirrored: frozenset[str] = getattr(one, "mirrored", frozenset())
    shapes = {n: i.shape for n, i in report.inputs.items()}
    # A matrix of another shape than the first input's is a weight, and so is what is called so.
    weights = {n for n in none if n in OPTIONAL or (
        n not in GIVEN and shapes[n] != shapes.get(one.names[0])
        and len(shapes[n]) >= max(2, len(shapes.get(one.names[0], ()))))}  # fmt: skip
    data = loss and one.names[0] not in none and not (mirrored | weights) & set(none)
    return none if data and len(none) < len(report.inputs) else ()


def _dtypes(text: str) -> tuple[str, tuple[str, ...]]:
    """The dtype in which J is compared, and those in which the claim is run besides."""
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in compare.FORMATS:
            raise InputError(
                f"dtype {name!r} is not supported",
                remedy=f"use {', '.join(compare.FORMATS)}, or several with commas between them",
            )
    if len(names) == 1 and names[0] in compare.ROUNDOFF:
        return names[0], ()
    return "float64", tuple(dict.fromkeys(names))


def _value(value: Any, name: str, sizes: Mapping[str, Shape], dtype: str) -> Array:
    values = as_array(value, f"at[{name!r}]")
    if values is ONES:
        if name not in sizes:
            raise InputError(
                f"at[{name!r}] is ones, of no known shape", remedy="give its shape too"
            )
        values = np.ones(sizes[name])
    return held(values, dtype)


def check_subject(
    subject: Subject,
    given: Mapping[str, Array],
    shapes: Mapping[str, Shape],
    dtype: str = "float64",
    grad: Any = None,
    *,
    write: bool = True,
    order: int = 1,
    dtypes: Sequence[str] = (),
    beside: Kin | None = None,
) -> CheckReport:
    """The report on a subject.  Without ``write`` it says no more than whether each gradient is
    right; what mends it has to be right of the subjects ``beside`` it too.
    """
    tries = Tries(subject, dtype)
    with numeric.settled(tries.dtype), np.errstate(all="ignore"):  # inf and nan are answers
        tries.kin = beside
        return _report(subject, tries, given, shapes, grad, write, order, dtypes)


def _report(
    subject: Subject,
    tries: Tries,
    given: Mapping[str, Array],
    shapes: Mapping[str, Shape],
    grad: Any,
    write: bool,
    order: int,
    dtypes: Sequence[str],
) -> CheckReport:
    upstream = None if grad is None or grad is ONES else np.asarray(grad, dtype=np.float64)
    trials = made(tries, given, shapes, upstream)
    if upstream is not None and upstream.shape != trials[0].out_shape:
        raise InputError(
            f"mismatch in shape: v has shape {upstream.shape} and {subject.output} has shape "
            f"{trials[0].out_shape}",
            remedy="give v in the output's shape, or leave it out: all of J is compared then",
        )
    first = trials[0]
    ones = grad is ONES
    reference = "closed form" if first.setting.graph is not None else "autograd"
    report = CheckReport(
        subject=subject.title,
        output=subject.output,
        dtype=tries.dtype,
        verdict="right",
        inputs={},
        points=[],
        reference=reference,
        v_name=first.setting.grad_names[0],
        grad=upstream,
        order=order,
    )
    if write:
        link.missing("what is wrong, and why", lambda: _so_far(report, trials, ones))
    whole = {n: s for n, s in shapes.items() if n not in given}
    report.notes += conditions.but_for_constants(trials)
    if not write and any(_wrong(t, n, report, ones) for t in trials for n in first.setting.wanted):
        return _so_far(report, trials, ones)
    if hasattr(subject, "mirrored"):
        subject.mirrored = frozenset(n for n in first.setting.wanted[1:] if _mirrored(first, n))
    plain = upstream is None and grad is None and not all(t.right(n) for t in trials
                                                          for n in first.setting.wanted)  # fmt: skip
    symmetric = ""
    if plain:
        asked = trials, tries, first.setting.wanted, given, whole
        found = conditions.met(conditions.on_data(first, given), *asked)
        is_code = bool(first.setting.functions)
        if found is not None:
            report.condition, trials = found[0].text, found[1]
        elif is_code and (number := conditions.as_numbers(trials, tries, given, whole)):
            report.condition, trials = number
        else:
            found = conditions.met(conditions.on_matrices(first, given), *asked)
            if found is not None:
                report.notes.append(f"It is right where {found[0].text}.")
                symmetric = found[0].name
    joint = _joint(trials, tries, report)
    for name in first.setting.wanted:
        report.inputs[name] = _input(name, trials, tries, report, write, ones, joint)
    mended = [i for i in report.inputs.values() if i.patch]
    if len({i.patch for i in mended}) > 1:
        # Mends of one input each may not go together, where one of them mends all.
        all_of = Case(mended[0].name, trials, tries, report.output, report.v_name)
        all_of.together = tuple(i.name for i in mended)
        fault = all_of.agreed()
        for one in mended if fault is not None else ():
            one.fault = fault
    together(report)
    report.points = _points(report, trials, ones)
    for one in report.inputs.values():
        if symmetric and one.fault is not None and one.fault.code == "unknown":
            text = f"the gradient by {one.name} is right for symmetric {symmetric} only"
            one.fault = replace(one.fault, code="symmetric_assumption", sentence=text)
    if order == 2 or dtypes or isinstance(first.setting, CodeSetting):
        _further(report, trials, tries, order, dtypes)
    verdicts = {i.verdict for i in report.inputs.values()} | {d.verdict for d in report.dtypes}
    report.verdict = next((v for v in ("wrong", "cannot tell") if v in verdicts), "right")
    for claim in getattr(subject, "claimed", ()):
        if claim.name in report.inputs:
            report.inputs[claim.name].text = " ".join(claim.text.split())
    _notes(report, subject, trials)
    return report


def _points(report: CheckReport, trials: list[Trial], ones: bool) -> list[PointReport]:
    found = []
    for trial in trials:
        setting = trial.setting
        wrong = tuple(n for n in setting.wanted if _wrong(trial, n, report, ones))
        shapes = dict(setting.shapes)
        found.append(PointReport(trial.what, shapes, dict(trial.values), trial.out_shape, wrong))
    return found


def _so_far(report: CheckReport, trials: list[Trial], ones: bool) -> CheckReport:
    """Which gradients are wrong, where it has not been found out yet what is wrong with them."""
    report.points = _points(report, trials, ones)
    for name in trials[0].setting.wanted:
        if name not in report.inputs:
            verdict = "wrong" if any(name in point.wrong for point in report.points) else "right"
            report.inputs[name] = InputReport(name, trials[0].shape(name), verdict)
    report.verdict = "cannot tell"
    return report


def _mirrored(trial: Trial, name: str) -> bool:
    one, other = trial.true[trial.setting.wanted[0]], trial.true[name]
    return one.shape == other.shape and bool(np.allclose(np.abs(one), np.abs(other)))


def _further(
    report: CheckReport, trials: list[Trial], tries: Tries, order: int, dtypes: Sequence[str]
) -> None:
    """What is asked beyond J: how the backward may be used, second derivatives, other dtypes."""
    first = next(t for t in trials if not t.special)
    if report.grad is None and all(i.verdict == "right" for i in report.inputs.values()):
        found: Mapping[str, Fault] = {}
        if isinstance(first.setting, CodeSetting):
            found, notes = manners.faults(first)
            report.notes.extend(notes)
            if order == 2 and not found:
                found = manners.second(first)
        for name, fault in found.items():
            report.inputs[name].fault, report.inputs[name].verdict = fault, "wrong"
    for dtype in dtypes:
        report.dtypes.extend(measured(first, tries, dtype))


def _input(
    name: str, trials: list[Trial], tries: Tries, report: CheckReport, write: bool, ones: bool,
    joint: Fault | None,
) -> InputReport:  # fmt: skip
    found = InputReport(name, trials[0].shape(name))
    wrong = [t for t in trials if _wrong(t, name, report, ones)]
    tolerances = [t.tolerance(name).max(initial=0.0) for t in trials]
    found.tolerance = float(max(tolerances))
    if not wrong:
        found.point = 0
        ordinary = [t for t in trials if not t.special]
        passed = all((np.abs(t.true[name]) <= t.tolerance(name)).all() for t in ordinary)
        if passed and any(t.true[name].any() for t in ordinary):
            # Zeros would pass too: rounding allows more than there is.
            found.verdict = "cannot tell"
        _entries(found, trials[0], name)
        if write:
            formulas.describe(found, trials[0], tries, name)
        return found
    found.verdict = "wrong"
    worst = next((t for t in wrong if not t.special), wrong[0])
    found.point = trials.index(worst)
    found.shape = worst.shape(name)
    case = Case(name, trials, tries, report.output, report.v_name)
    found.fault = joint or diagnose(case)
    if found.fault.code == "wrong_shape" and worst.result(name).rows is not None:
        claim = next((c for c in getattr(tries.subject, "claimed", ()) if c.name == name), None)
        if claim is not None:
            # A formula of another shape is no gradient, and no fault explains how it came about.
            rows = np.asarray(worst.result(name).rows)
            raise wrong_shape(claim, rows.shape[1:], found.shape)
    _entries(found, worst, name)
    formulas.describe(found, worst, tries, name)
    found.line = gradient_line(tries.subject.graph_at, worst.setting.shapes, name, report.v_name)
    if worst.setting.functions:
        _mend(found, case)
    return found


def _mend(found: InputReport, case: Case) -> None:
    """A remedy of code is one that has been run; what is only advice is a hint."""
    assert found.fault is not None
    if found.fault.patch or found.fault.code in UNMENDED:
        return
    mend = case.written(found.line)
    found.fault = replace(
        found.fault,
        hint=found.fault.remedy or found.fault.hint,
        remedy="" if mend is None else mend.remedy,
        patch=() if mend is None else mend.patch,
    )


def _joint(trials: list[Trial], tries: Tries, report: CheckReport) -> Fault | None:
    """The one edit that mends every input, where the backward raises and so each is wrong."""
    first = trials[0].setting
    if len(first.wanted) < 2 or not any(
        t.result(first.wanted[0]).problem == "raises" for t in trials
    ):
        return None
    case = Case(first.wanted[0], trials, tries, report.output, report.v_name)
    case.together = tuple(first.wanted)
    return case.repaired()


def _wrong(trial: Trial, name: str, report: CheckReport, ones: bool) -> bool:
    """Whether the claim is wrong at this trial: in any entry of J, or for the one v given."""
    found = trial.implemented
    result = trial.result(name)
    if found.mutated or found.buffer or found.v_changed or name in found.unsteady:
        return True
    if trial.setting.forward_gap(trial.values, trial.dtype) is not None:
        return True
    if result.problem == "none":
        return bool(np.abs(trial.true[name]).max(initial=0.0) > 0)
    if result.problem == "raises" and trial.special and name not in trial.hopeless:
        # A matrix that has no inverse, where the forward needs none.
        trial.raised.add(name)
        return False
    if result.rows is None or result.rows.shape[1:] != trial.shape(name):
        return True
    if report.grad is not None or ones:
        v = np.ones(trial.out_shape) if report.grad is None else report.grad
        row = next((r[name].rows for u, r in trial.probes if u is report.grad), None)
        if row is None:
            row = (
                np.tensordot(v, result.rows, axes=(range(v.ndim), [0]))
                if not v.ndim
                else (v.reshape(-1) @ result.rows.reshape(len(result.rows), -1))
            )
        right = v.reshape(-1) @ trial.true[name]
        tolerance = np.abs(v.reshape(-1)) @ trial.tolerance(name)
        return bool(np.any(compare.differs(np.asarray(row).reshape(-1), right, tolerance)))
    from gradexplain.checking.outcomes import is_linear

    if not trial.special and is_linear(trial, name) != "linear":
        return True
    return not trial.right(name)


def _entries(found: InputReport, trial: Trial, name: str) -> None:
    """The entries of J at one point, the worst first, and their picture."""
    claimed, true = trial.claimed(name), trial.true[name]
    found.total = true.size
    if claimed is None:
        found.wrong = true.size
        return
    wrong = trial.wrong(name)
    found.wrong = int(wrong.sum())
    tolerance = trial.tolerance(name)
    with np.errstate(all="ignore"):
        gap = np.nan_to_num(np.abs(claimed - true), nan=np.inf, posinf=np.inf)
    order = (
        sorted(
            np.ndindex(*true.shape),
            key=lambda at: (not wrong[at], -float(gap[at]) if wrong[at] else 0.0),
        )[:_LISTED]
        if true.size <= 20_000
        else [tuple(at) for at in np.argwhere(wrong)[:_LISTED]]
    )
    shape = trial.shape(name)

    def kind(at: tuple[int, ...]) -> str:
        if not wrong[at]:
            return "right"
        if abs(claimed[at]) <= tolerance[at]:
            return "missing"
        return "extra" if abs(true[at]) <= tolerance[at] else "wrong"

    for at in order:
        o, i = int(at[0]), int(at[1])
        found.entries.append(
            Entry(
                tuple(int(k) for k in np.unravel_index(o, trial.out_shape))
                if trial.out_shape
                else (),
                tuple(int(k) for k in np.unravel_index(i, shape)) if shape else (),
                _settled(float(true[o, i]), float(tolerance[o, i])),
                _settled(float(claimed[o, i]), float(tolerance[o, i])),
                kind((o, i)),
            )
        )
    if max(true.shape) <= _PICTURED:
        marks = {"wrong": "x", "missing": "o", "extra": "+"}
        for o in range(true.shape[0]):
            found.picture.append(
                "".join(
                    marks.get(kind((o, i)), "=" if abs(true[o, i]) > tolerance[o, i] else ".")
                    for i in range(true.shape[1])
                )
            )


def _settled(value: float, tolerance: float) -> float:
    return 0.0 if abs(value) <= tolerance else value


def _notes(report: CheckReport, subject: Subject, trials: list[Trial]) -> None:
    def say(key: str, **names: Any) -> None:
        report.notes.append(said(f"note.{key}", **names))

    right = [n for n in report.inputs if report.inputs[n].verdict == "right"]
    for name in trials[0].implemented.widened:
        if name in right:
            say("widened", name=name)
    if report.dtype == "float32":
        say("float32", worst=max((i.tolerance or 0.0) for i in report.inputs.values()))
    for key, kept in (("raised", "raised"), ("hole", "holes"), ("kink", "kinks")):
        for name in report.inputs if key == "kink" else right:
            trial = next((t for t in trials if name in getattr(t, kept)), None)
            if trial is not None:
                say(key, name=name, where=where(trial), error=trial.result(name).error)
    singular = [t for t in trials if t.singular]
    if singular:
        say("singular", where=where(singular[0]))
    report.notes.extend(getattr(subject, "notes", ()))


def assert_backward(function: Any, *inputs: Any, **options: Any) -> CheckReport:
    """Assert that the backward of an operation is right at ``inputs``.

    ``inputs`` are forward's arguments in order, tensors and others; without any, points of our
    own are tried.  ``options`` are those of `check`.  Fails with the explanation as its message.
    """
    if inputs:
        operation = Operation(function)
        names = [p.name for p in operation.parameters]
        if operation.rest:
            names += [f"{operation.rest}{i}" for i in range(len(inputs) - len(names))]
        if len(inputs) > len(names):
            raise InputError(
                f"{operation.title} takes {len(names)} arguments, found {len(inputs)}",
                remedy=f"give {', '.join(names)}",
            )
        tensors = {n: v for n, v in zip(names, inputs, strict=False) if hasattr(v, "detach")}
        others = {n: v for n, v in zip(names, inputs, strict=False) if not hasattr(v, "detach")}
        options["at"] = {**tensors, **(options.get("at") or {})}
        options["arguments"] = {**others, **(options.get("arguments") or {})}
        floats = [t for t in tensors.values() if t.is_floating_point()]
        if floats and all(str(t.dtype) == "torch.float32" for t in floats):
            options.setdefault("dtype", "float32")
    report = check(function, **options)
    if not report.right:
        raise AssertionError("\n" + str(report))
    return report
