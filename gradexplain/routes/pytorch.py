"""PyTorch's own answer: the graph run by PyTorch, then ``backward(v)``.

PyTorch takes as long to import as everything else together, so it is loaded in a process of its own
while the formulas are derived (`Asked`), unless this process has loaded it already.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np

from gradexplain.errors import InputError, first_line
from gradexplain.explanation import Array
from gradexplain.graph import Graph, put, refs
from gradexplain.installed import imported
from gradexplain.limits import BUDGET
from gradexplain.ops.base import Op
from gradexplain.routes import process
from gradexplain.supervisor import link
from gradexplain.supervisor.helper import HELPERS, Failed, Helper
from gradexplain.verdict import compare

#: Arrays of so many elements are not copied.
_LARGE = 1 << 18

#: Of arrays with so few elements a line of PyTorch makes none that are large, whatever it does.
_SMALL = 200

#: A value's id, the ids of what it is made from, what makes it again from other tensors, by a question
#: that may be in another dtype, and the operation.
Made = tuple[int, Sequence[int], "Callable[[Question, Mapping[int, Any]], Any] | None", Op | None]


@dataclass(frozen=True, slots=True)
class Question:
    """What PyTorch is asked: the gradients of ``wanted`` after ``output.backward(v)``."""

    graph: Graph
    values: Mapping[str, Array]
    v: Array
    wanted: tuple[str, ...]
    dtype: str
    #: Computed values whose ``.grad`` is kept too (``retain_grad``).
    retain: tuple[str, ...] = ()

    def ask(self) -> Answer:
        """Run the graph in this process."""
        import torch

        graph = self.graph
        try:
            tensors = tensors_of(torch, graph, self.values, self.wanted, self.dtype, run=self.apart)
            output = tensors[graph.output]
            for node in graph.nodes:
                tensor = tensors.get(node.id)
                inside = node.op is not None and node.id != graph.output
                if inside and tensor is not None and tensor.requires_grad:
                    tensor.retain_grad()
            if output.requires_grad:
                v = tensor_of(torch, self.v, output.dtype)
                backward(torch, output, v)
                if graph.out.op is not None:
                    output.grad = v  # what arrives there; no copy of it is made
            steps = self.steps(torch, tensors)
            kept = {
                node.label: steps.upstream.get(node.id)
                for node in graph.nodes
                if node.id in tensors
                and (node.label in self.retain or (node.is_leaf and node.label in self.wanted))
            }
            return Answer(kept, steps=steps)
        except ERRORS as error:
            return Answer({}, refusal(error, self._verb(torch)))

    def run(
        self, torch: Any, op: Op, args: Sequence[Any], tensors: Mapping[int, Any], dtype: Any
    ) -> Any:
        """One operation, with its backward."""
        return call(torch, op, args, tensors, dtype)

    def apart(
        self, torch: Any, op: Op, args: Sequence[Any], tensors: Mapping[int, Any], dtype: Any
    ) -> Any:
        """One operation's result as a tensor of its own, also where it hands on what it was given."""
        found = self.run(torch, op, args, tensors, dtype)
        if found is None:
            return None  # a part of another operation, which PyTorch has no name for
        given = any(found is tensors.get(ref.id) for ref in refs(args))
        return found.view_as(found) if given else found

    def steps(self, torch: Any, tensors: Mapping[int, Any], further: Sequence[Made] = ()) -> Steps:
        """What PyTorch computed on the way, and each operation's backward by itself; ``further`` are
        values beyond the graph."""
        needed, parts = self.graph.needed(), self.graph.parts()
        wide = replace(self, dtype="float64")
        made: list[Made] = []
        for node in self.graph.nodes:
            if node.id not in needed or node.id in parts or node.is_literal:
                continue
            anew = None
            if node.op is not None:
                anew = partial(Question._again, op=node.op, args=node.args)
            made.append((node.id, node.inputs, anew, node.op))
        found = Steps({}, {}, {}, {})
        users = Counter(i for id, sources, *_ in made if id in tensors for i in {*sources})
        for id, sources, again, op in (*made, *further):
            tensor = tensors.get(id)
            if tensor is None:
                continue
            found.forward[id] = numbers_of(torch, tensor, copy=False)
            if not tensor.requires_grad or tensor.grad is None:
                continue
            found.upstream[id] = numbers_of(torch, tensor.grad, copy=False)
            if again is None:
                continue
            found.functions[id] = type(tensor.grad_fn).__name__
            sources = [i for i in sources if isinstance(tensors.get(i), torch.Tensor)]
            alone: dict[int, Any] = {}
            if not further and (op is None or op.saved is None):
                # All that arrives where nobody else reads was made here, at these very numbers.
                readers = (i for i in sources if users[i] == 1 and tensors[i].requires_grad)
                alone = {i: g for i in readers if (g := tensors[i].grad) is not None}
            given = {**tensors, **{i: tensors[i].detach() for i in alone}}
            kept, sent = self._sent(torch, again, given, sources, tensor.grad, op)
            sent |= {i: numbers_of(torch, g, copy=False) for i, g in alone.items()}
            for aside, own in zip(self.graph[id].aside if kept else (), kept, strict=False):
                found.forward[aside] = numbers_of(torch, own).reshape(self.graph[aside].shape)
            found.contributions.update({(id, source): part for source, part in sent.items()})
            if self.dtype == "float64":
                continue
            arrays = (found.forward[i] for i in (id, *sources) if i in found.forward)
            extreme = any(compare.extreme(array, self.dtype).any() for array in arrays)
            if extreme or (op is not None and op.coarse):
                # What differs may be the dtype's arithmetic alone.
                wider = {i: tensors[i].double() for i in sources if tensors[i].is_floating_point()}
                _, sent = wide._sent(torch, again, {**tensors, **wider}, sources, tensor.grad)
                found.wider.update({(id, source): part for source, part in sent.items()})
        return found

    def _sent(
        self, torch: Any, again: Any, tensors: Any, sources: Sequence[int], v: Any, op: Any = None
    ) -> tuple[Any, dict[int, Array]]:  # fmt: skip
        """What a value that is made ``again`` keeps for its backward, and what it sends of ``v``."""
        needs = [i for i in sources if tensors[i].requires_grad]
        inputs = {i: tensors[i].detach().requires_grad_() for i in dict.fromkeys(needs)}
        result = again(self, {**tensors, **inputs}) if inputs else None
        if result is None or not result.requires_grad:
            return (), {}
        # What is kept is freed by backward.
        kept = () if op is None or op.saved is None else op.saved(result.grad_fn)
        sent = backward(torch, result, v.to(result.dtype), [*inputs.values()])
        pairs = zip(inputs, sent, strict=True)
        return kept, {i: numbers_of(torch, a, copy=False) for i, a in pairs if a is not None}

    def _again(self, tensors: Mapping[int, Any], *, op: Op, args: Sequence[Any]) -> Any:
        import torch

        return self.run(torch, op, args, tensors, getattr(torch, self.dtype))

    def _verb(self, torch: Any) -> str:
        """What PyTorch does not do: differentiate the graph, or compute it in the first place."""
        try:
            with torch.no_grad():
                tensors_of(torch, self.graph, self.values, (), self.dtype)
        except ERRORS:
            return "compute"
        return "differentiate"


@dataclass(frozen=True, slots=True)
class Lines:
    """What lines of PyTorch give, the names in them having these values.

    It stands here, and not where the lines are written, so that PyTorch's process need not load SymPy.
    """

    lines: Mapping[str, str]
    values: Mapping[str, Array]
    #: What is run before them.
    before: str

    def ask(self) -> Answer:
        import torch

        known: dict[str, Any] = {
            "torch": torch,
            "F": torch.nn.functional,
            "math": __import__("math"),
        }
        known |= {name: tensor_of(torch, v) for name, v in self.values.items()}
        found: dict[str, Array | None] = {}
        # Our own code, of names that are identifiers: a line that is no Python, or that PyTorch refuses,
        # is not shown, nor one that needs it.
        largest = max(value.size for value in self.values.values())
        with _modest(8 * max(_LARGE, largest)) if largest > _SMALL else nullcontext():
            with suppress(Exception):
                exec(self.before, known)
            for name, text in self.lines.items():
                try:
                    value = eval(text, known)
                except Exception:
                    continue
                found[name] = to_array(torch, torch.as_tensor(value), copy=False)
        return Answer(found)


def _modest(most: int) -> Any:
    """A mode in which PyTorch makes no tensor of more than ``most`` elements: MemoryError instead.

    A line whose values grow as the square of its inputs is none that a reader wants at this size.
    """
    from torch import Tensor
    from torch.overrides import TorchFunctionMode  # a mode of dispatch takes a second to import

    class Modest(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            shapes = [tuple(part.shape) for part in args if isinstance(part, Tensor)]
            wanted = [[part for part in args if isinstance(part, int)]]
            try:
                wanted.append([*np.broadcast_shapes(*shapes)])
            except (
                ValueError
            ):  # the product of matrices; an einsum makes nothing larger than it gives
                if not isinstance(args[0], str):
                    wanted.append([n for shape in shapes for n in shape[:-1]] + [*shapes[-1][-1:]])
            if max(abs(math.prod(sizes)) for sizes in wanted) > most:
                raise MemoryError
            return func(*args, **(kwargs or {}))

    return Modest()


@dataclass(frozen=True, slots=True)
class Steps:
    """PyTorch's numbers on the way, by the nodes' ids.

    ``upstream[n]`` is the gradient that arrived at n, ``contributions[n, m]`` what the backward of
    n's operation alone makes of it for m, at PyTorch's own values.  Where no gradient flows there is
    no entry.
    """

    forward: dict[int, Array]
    upstream: dict[int, Array]
    contributions: dict[tuple[int, int], Array]
    #: What PyTorch calls each operation's backward: ``MulBackward0``.
    functions: dict[int, str]
    #: Contributions as they are in float64, where the dtype's range may not be enough.
    wider: dict[tuple[int, int], Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """``gradients[name]`` is None where PyTorch leaves ``.grad`` None; ``error`` if it raised."""

    gradients: Mapping[str, Array | None]
    error: str = ""
    steps: Steps | None = None
    #: The gradients of the run whose ``steps`` these are, where that is another one.
    stepped: Mapping[str, Array | None] | None = None


def asked_here(question: Askable) -> Any:
    """The answer of this process's own PyTorch, whatever modes the program around it has set."""
    try:
        torch = imported()
    except InputError as error:
        return Answer({}, f"PyTorch could not be asked: {error.message.removeprefix('PyTorch: ')}")
    try:
        with ExitStack() as stack:
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            if torch.is_autocast_enabled("cpu"):
                stack.enter_context(torch.autocast("cpu", enabled=False))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            return question.ask()
    except MemoryError:
        return Answer({}, NO_MEMORY)
    except ERRORS as error:
        return Answer({}, refusal(error, getattr(question, "verb", "differentiate")))


#: Said where PyTorch's process has no memory left.
NO_MEMORY = "PyTorch has not enough memory for this; --memory allows more"


class Askable(Protocol):
    """A question: it travels to the process that has PyTorch, and asks there."""

    def ask(self) -> Any:
        """An answer, or an `Answer` whose ``error`` says why there is none."""


#: What PyTorch raises where it cannot do what it is asked.
ERRORS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)


def refusal(error: Exception, verb: str = "differentiate") -> str:
    """PyTorch's own reason, said to be that."""
    if "can't allocate memory" in str(error) or "bad_alloc" in str(error):
        return NO_MEMORY
    return f"PyTorch itself refuses to {verb} this: {first_line(error)}"


def to_array(torch: Any, tensor: Any, *, copy: bool = True) -> Array | None:
    """A tensor of PyTorch's in float64, None for None."""
    return None if tensor is None else numbers_of(torch, tensor, copy=copy)


def numbers_of(torch: Any, tensor: Any, *, copy: bool = True) -> Array:
    """A tensor of PyTorch's in float64: a copy unless nobody changes it, as backward adds to .grad."""
    array: Array = tensor.detach().to(torch.float64, copy=copy).numpy(force=True)
    return array


def tensor_of(torch: Any, value: Any, dtype: Any = None) -> Any:
    """A tensor of these numbers; of a large array, which nobody changes, it shares the memory."""
    if isinstance(value, np.ndarray) and min(value.strides, default=0) < 0:
        value = value.copy()  # PyTorch has no negative strides
    if not isinstance(value, np.ndarray) or value.size < _LARGE or not value.flags.writeable:
        return torch.tensor(value, dtype=dtype)
    return torch.from_numpy(value).to(dtype)


def tensors_of(
    torch: Any,
    graph: Graph,
    values: Mapping[str, Array],
    wanted: Sequence[str],
    dtype_name: str,
    needed: Set[int] | None = None,
    run: Any = None,
) -> dict[int, Any]:
    """The graph run by PyTorch: every input, and every value that is ``needed`` for the output.

    ``run`` carries out one operation, `call` by default.
    """
    dtype = getattr(torch, dtype_name)
    needed = graph.needed() if needed is None else needed
    tensors: dict[int, Any] = {}
    for node in graph.nodes:
        if node.id not in needed and not node.is_leaf:
            continue
        if node.op is not None:
            tensors[node.id] = (run or call)(torch, node.op, node.args, tensors, dtype)
        elif node.is_literal:
            tensors[node.id] = node.value
        elif node.integer:
            value = values[node.label] if node.is_leaf else node.value
            tensors[node.id] = torch.tensor(value, dtype=torch.int64)
        else:
            value = values[node.label] if node.is_leaf else node.value
            tensor = tensor_of(torch, value, dtype)
            tensors[node.id] = tensor.requires_grad_(node.label in wanted)
    return tensors


def backward(torch: Any, output: Any, v: Any, inputs: Sequence[Any] = ()) -> tuple[Any, ...]:
    """``output.backward(v)``, or ``autograd.grad(output, inputs, v, allow_unused=True)``.

    Their check of v's shape, which was made here already, imports a quarter of a second of modules the
    first time; where they are not loaded, the engine is called as they call it afterwards.
    """
    run = getattr(torch.autograd.graph, "_engine_run_backward", None)
    if run is not None and "torch.fx.experimental.symbolic_shapes" not in sys.modules:
        found = run(
            (output,), (v,), False, False, tuple(inputs),
            allow_unreachable=True, accumulate_grad=not inputs,
        )  # fmt: skip
    elif inputs:
        found = torch.autograd.grad(output, inputs, v, allow_unused=True)
    else:
        found = output.backward(v)
    return found or ()


def call(torch: Any, op: Op, args: Sequence[Any], tensors: Mapping[int, Any], dtype: Any) -> Any:
    """``op`` as PyTorch spells it; its warnings would name a line of this program's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _call(torch, op, args, tensors, dtype)


def _call(torch: Any, op: Op, args: Sequence[Any], tensors: Mapping[int, Any], dtype: Any) -> Any:
    values = list(put(tuple(args), tensors.__getitem__))
    if op.torch is not None:
        if all(isinstance(v, (int, float)) for v in values):
            values[0] = torch.tensor(float(values[0]), dtype=dtype)
        return op.torch(torch, *values)
    positional, keywords = [], {}
    for parameter, value in zip(op.parameters, values, strict=True):
        if parameter.is_aux:
            continue
        if parameter.is_tensor and value is not None:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                value = torch.tensor(float(value), dtype=dtype)
            elif isinstance(value, tuple):
                value = tuple(
                    torch.tensor(float(part), dtype=dtype)
                    if isinstance(part, (int, float))
                    else part
                    for part in value
                )
            if not parameter.keyword_only and not parameter.optional:
                positional.append(value)
                continue
        if not parameter.required and value == parameter.default:
            continue
        keywords[parameter.name] = value
    return function_of(torch, op)(*positional, **keywords)


def function_of(torch: Any, op: Op) -> Any:
    """PyTorch's function of a record's first spelling."""
    home, _, name = op.spellings[0].rpartition(".")
    owner = {
        "torch": torch, "Tensor": torch.Tensor, "F": torch.nn.functional,
        "linalg": torch.linalg, "special": torch.special,
    }[home]  # fmt: skip
    return getattr(owner, name)


class Asked:
    """A question on its way: asked when made, answered by `answer`."""

    def __init__(self, question: Askable) -> None:
        self._question = question
        self._helper: Helper | None = None
        self._failed = ""
        try:
            self._helper = process.take()
        except OSError as error:
            self._failed = f"its process cannot be started: {error.strerror or error}"
        if self._helper is not None:
            self._helper.send(partial(asked_here, question), BUDGET.memory)

    def answer(self) -> Any:
        """PyTorch's answer, waited for once; an `Answer` with an error where there is none."""
        return self._answer

    @cached_property
    def _answer(self) -> Any:
        if self._failed:
            return Answer({}, f"PyTorch could not be asked: {self._failed}")
        if self._helper is None:
            return asked_here(self._question)
        taken, self._helper = self._helper, None
        try:
            return taken.receive(link.remaining())
        except Failed as error:
            return Answer({}, f"PyTorch could not be asked: {error}")
        finally:
            HELPERS.keep(taken)

    def drop(self) -> None:
        """Stop a process whose answer is no longer wanted."""
        if self._helper is not None:
            self._helper.stop()
            HELPERS.keep(self._helper)
            self._helper = None
