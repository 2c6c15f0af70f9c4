"""The edit of the user's own source that makes a backward right: the fault by its mend.

Every rule of `gradexplain.checking.rules` is tried at every place of the source, the changed
backward is run, and the first that is right at every trial names the fault.  Where no single edit
is right, pairs are tried.  What is found is shown as the changed line, which has been run.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import linecache
import textwrap
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from gradexplain.checking import numeric, solving
from gradexplain.checking.bench import Bench
from gradexplain.checking.formula_bench import FormulaBench
from gradexplain.checking.places import Edit, Slot, bearing, edits, slots
from gradexplain.checking.report import Fault, Patch
from gradexplain.checking.rewriting import text
from gradexplain.checking.trials import Trial

torch = numeric.torch_module()


def find(
    bench: Bench | FormulaBench,
    *,
    pairs: bool = True,
    first: Collection[str] = (),
    known: Sequence[list[Edit]] = (),
) -> list[Edit]:
    """The edit, or the two, that make a backward right; none where there are none.  Those that are
    ``known`` of other inputs are tried before all, then faults of the codes ``first``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of edits that the user never made
        return _find(bench, pairs, first, known)


def _find(
    bench: Bench | FormulaBench, pairs: bool, first: Collection[str], known: Sequence[list[Edit]]
) -> list[Edit]:
    if bench.tree is None or bench.right():
        return []
    if mend := among(bench, known):
        return mend
    scope = bench.scope()
    kept: list[Edit] = []
    solved = solving.Solved(bench) if isinstance(bench, Bench) else None
    around = bearing(bench.tree, bench.returned)
    split: dict[bool, list[Slot]] = {True: [], False: []}
    for slot in around:
        split[solved is None or solved.hopeful(slot)].append(slot)
    # A place at which no other value would do may still be of the wrong shape.
    tried = itertools.chain(
        (e for e in edits(split[False], scope) if e.code in ("wrong_dim", "missing_keepdim")),
        *(edits(some, scope, first) for some in split.values()),
    )
    unnamed: list[Edit] = []
    later: list[Edit] = []
    for edit in itertools.islice(tried, bench.most):
        if solved is not None and solved.senseless(edit):
            continue
        if edit.paired:
            kept.append(edit)
        if unnamed and edit.code == "unknown":
            continue
        may = solved.may(edit) if solved is not None else True
        if may is None and bench.tried > bench.run // 8:
            later.append(edit)  # it may be right, as a thousand were not
        elif may is not False and _right(bench, [edit]):
            if edit.code != "unknown":
                return [edit]
            unnamed = [edit]
    if unnamed:
        return unnamed
    last = itertools.chain(solved.edits(scope) if solved is not None else (), later)
    for edit in itertools.islice(last, bench.run // 2):
        if _right(bench, [edit]):
            return [edit]
    return _pair(bench, kept) if pairs else []


def mendable(trials: Sequence[Trial]) -> bool:
    """Whether one edit of the user's own source makes the backward right at these trials."""
    setting = trials[0].setting
    some = (Bench(f, trials[:4], setting.wanted) for f in setting.functions)
    return any(find(one, pairs=False) for one in some)


def among(bench: Bench | FormulaBench, known: Sequence[list[Edit]]) -> list[Edit]:
    """The first of the mends that are known that makes right what the bench asks for."""
    places = {id(slot.owner) for slot in slots(bench.tree)} if bench.tree is not None else ()
    fit = (mend for mend in known if all(id(e.slot.owner) in places for e in mend))
    return next((mend for mend in fit if _right(bench, mend)), [])


def _right(bench: Bench | FormulaBench, mend: Sequence[Edit]) -> bool:
    """Whether the backward is right with these edits; of two one may be inside the other."""
    with _made(mend) as done:
        bench.tried += 1
        right = done and bench.right()
        if right and isinstance(bench, Bench) and not bench.right_beside():
            bench.nearly = bench.nearly or list(mend)
            return False
        return right


@contextlib.contextmanager
def _made(mend: Sequence[Edit]) -> Iterator[bool]:
    """The tree with these edits, of which one may be inside the other; whether both can be made."""
    outer, inner = mend[0], mend[-1]
    if outer is not inner and _inside(outer, inner):
        outer, inner = inner, outer
    nested = outer is not inner and _inside(inner, outer) and not any(
        n is inner.slot.owner for n in ast.walk(outer.new)
    )  # fmt: skip
    # An operator is changed where it stands, so that the other edit keeps its place.
    if nested and not (_operator(outer.old) and _operator(outer.new)):
        yield False
        return
    kept = outer.old.op if nested else None
    if nested:
        outer.old.op = outer.new.op
    else:
        outer.slot.put(outer.new)
    inner.slot.put(inner.new)
    yield True
    inner.slot.put(inner.old)
    if nested:
        outer.old.op = kept
    else:
        outer.slot.put(outer.old)


def written(bench: Bench, name: str, line: str) -> list[Edit]:
    """The returned value replaced by the right gradient as a line of PyTorch, in the backward's
    own names; none where it cannot be said in them, or is not right.
    """
    if bench.tree is None or not line:
        return []
    scope = bench.scope()
    leaves = dict(zip(bench.trials[0].setting.wanted, bench.made[0][1], strict=True))
    known = bench.seen
    put: dict[str, str] = {"v": next(iter(sorted(scope.upstream)), "v")}
    put["grad_output"] = put["v"]
    for label, leaf in leaves.items():
        same = [n for n, t in known.items() if isinstance(t, torch.Tensor) and t.shape == leaf.shape
                and torch.equal(t.to(leaf.dtype), leaf.detach())]  # fmt: skip
        if same:
            put[label] = same[0]
    put.setdefault("y", next(iter(sorted(scope.outputs)), "y"))
    expression = ast.parse(line.partition(" = ")[2], mode="eval").body
    for part in ast.walk(expression):
        if isinstance(part, ast.Name):
            part.id = put.get(part.id, part.id)
    for slot in slots(bench.tree):
        returns = isinstance(slot.owner, ast.Return) and not isinstance(slot.get(), ast.Tuple)
        element = isinstance(slot.owner, ast.Tuple) and slot.place == "head"
        if not isinstance(slot.within, ast.AST) or not (
            returns or (element and slot.index in bench.returned)
        ):
            continue
        edit = Edit("unknown", slot, slot.get(), expression, False)
        if _right(bench, [edit]):
            return [edit]
    return []


def _pair(bench: Bench | FormulaBench, kept: list[Edit]) -> list[Edit]:
    """The first two edits that are right together, of those whose result has the right shape."""
    running: list[Edit] = []
    for edit in sorted(kept, key=_likelihood)[: bench.run // 4]:
        edit.slot.put(edit.new)
        runs = bench.runs()
        edit.slot.put(edit.old)
        if runs:
            running.append(edit)
    some = itertools.islice(itertools.combinations(running, 2), 60_000)
    ranked = sorted(some, key=lambda pair: sum(map(_likelihood, pair)))
    for one, two in ranked[: max(0, bench.run - bench.tried)]:
        if one.slot is not two.slot and _right(bench, [one, two]):
            return [one, two]
    return []


def _operator(node: Any) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub))


_LIKELY = ("wrong_sign", "exponent", "transposed", "missing_factor", "square_of_difference",
           "constant_factor", "output_for_input", "sum_vs_mean", "missing_keepdim", "eps")  # fmt: skip


_ORDER = {code: i for i, code in enumerate(_LIKELY)}


def _likelihood(edit: Edit) -> int:
    return _ORDER.get(edit.code, 20)


def _inside(one: Edit, two: Edit) -> bool:
    """Whether an edit's place is within what another replaces."""
    return any(part is one.slot.owner for part in ast.walk(two.old))


# -- saying it -------------------------------------------------------------------------------------


def fault(bench: Bench | FormulaBench, found: Sequence[Edit]) -> Fault:
    """The fault that edits undo: its name, the line that mends it, and where it stands."""
    code = "+".join(sorted({e.code for e in found}))
    sentence = "; and ".join(e.sentence for e in found)
    if isinstance(bench, FormulaBench):
        return Fault(code, sentence, f"{bench.name}: {bench.mended}")
    file = inspect.getsourcefile(inspect.unwrap(bench.function.backward)) or ""
    patches: dict[int, Patch] = {}
    joined = _joined(file, found) if len(found) == 2 else None
    for edit in found:
        patch = joined or _patched(bench, file, edit, patches)
        if patch is not None:
            patches[patch.line] = patch
    remedy = "; ".join(p.text.strip() for p in patches.values())
    return Fault(code, sentence, remedy, tuple(patches.values()))


def _joined(file: str, found: Sequence[Edit]) -> Patch | None:
    """Two edits of one statement, which is written anew."""
    one, two = found
    statement = one.slot.within
    if statement is None or statement is not two.slot.within:
        return None
    line, end = statement.lineno, statement.end_lineno  # type: ignore[attr-defined]
    lines = _lines(file, line, end)
    with _made(found):
        # What is replaced whole is not changed where it stood.
        shown = text(next((e.new for e in found if e.old is statement), statement))
    column: int = statement.col_offset  # type: ignore[attr-defined]
    tail = lines[-1][statement.end_col_offset :]  # type: ignore[attr-defined]
    whole = lines[0][:column] + shown + tail
    return Patch(line, end, whole, "\n".join(lines), column, len(lines[0].rstrip()) - column)


def _patched(bench: Bench, file: str, edit: Edit, before: dict[int, Patch]) -> Patch | None:
    """The user's own lines with the edit made, everything else as it was written."""
    old, slot = edit.old, edit.slot
    if not hasattr(old, "lineno"):  # a slice: its subscript is written anew
        return None
    line, end = old.lineno, old.end_lineno
    lines = _lines(file, line, end)
    start = len(lines[0].encode()[: old.col_offset].decode())
    stop = len(lines[-1].encode()[: old.end_col_offset].decode())
    head, tail = lines[0][:start], lines[-1][stop:]
    new = text(edit.new).replace("\n", "\n" + " " * start)
    if line in before or bench.tree is None:
        return None
    if isinstance(edit.new, ast.expr) and not isinstance(edit.new, ast.Slice):
        whole = next(n for n in ast.walk(bench.tree) if isinstance(n, ast.stmt) and n is not bench.tree
                     and any(part is slot.owner for part in ast.walk(n)))  # fmt: skip
        above, below = _lines(file, whole.lineno, line - 1), _lines(file, end + 1, whole.end_lineno)
        plain, wrapped = (
            "\n".join([*above, head + shown + tail, *below]) for shown in (new, f"({new})")
        )
        new = new if _says(plain) == _says(wrapped) else f"({new})"
    if isinstance(edit.new, ast.Tuple) and new.startswith("(") and slot.field in ("value", "slice"):
        new = new[1:-1]  # slices may stand in no brackets
    width = stop - start if line == end else len(lines[0]) - start
    return Patch(line, end, head + new + tail, "\n".join(lines), start, width)


def _lines(file: str, line: int, end: int | None) -> list[str]:
    return [linecache.getline(file, n).rstrip("\n") for n in range(line, (end or line) + 1)]


def _says(source: str) -> str:
    """What a statement says, whatever its parentheses; itself, where it is none."""
    try:
        return ast.dump(ast.parse(textwrap.dedent(source)))
    except SyntaxError:
        return source
