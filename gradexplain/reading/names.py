"""Names of PyTorch: its modules, its constants, and what to say of a name that no record has."""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Collection, Iterable
from functools import reduce

from gradexplain.errors import GradexplainError, InputError, UnsupportedError
from gradexplain.graph import NamedNumber
from gradexplain.ops import Op, all_spellings, by_spelling
from gradexplain.reading.program import Program
from gradexplain.reading.said import lacking, refused

#: Modules by the names that they go by without an import.
DEFAULTS = {
    "torch": "torch", "F": "torch.nn.functional", "nn": "torch.nn", "math": "math", "np": "numpy",
    "numpy": "numpy", "functional": "torch.nn.functional", "special": "torch.special",
    "linalg": "torch.linalg", "Tensor": "torch.Tensor", "optim": "torch.optim",
    "autograd": "torch.autograd", "jnp": "jax.numpy", "jax": "jax", "tf": "tensorflow",
}  # fmt: skip

#: Where the records of a module's functions are: their home, "" for any.
HOMES = {
    "torch": "torch", "torch.cuda": "cuda", "torch.nn.functional": "F", "torch.special": "special", "torch.functional": "torch",
    "torch.linalg": "linalg", "torch.Tensor": "Tensor", "torch.nn": "", "math": "", "numpy": "",
    **dict.fromkeys(("jax", "jax.numpy", "jax.nn", "tensorflow", "tensorflow.math", "tensorflow.nn"), ""),
    "torch.fft": "fft", "numpy.linalg": "linalg", "cmath": "", "scipy.special": "special",
}  # fmt: skip

#: Modules that a text may name; of any other nothing is known.
MODULES = {*HOMES, "torch.autograd", "torch.autograd.functional", "torch.func", "torch.optim",
           "torch.nn.init", "torch.random", "torch.cuda", "torch.nn.parameter", "torch.nn.utils",
           "numpy.random", "torch.autograd.variable", "torch.nn.modules", "torch.optim.sgd",
           "torch.optim.lr_scheduler", "functools", "operator", "itertools", "argparse",
           "torch.amp", "torch.cuda.amp", "torch.distributions",
           "torch.utils.data", "torch.utils", "torch.utils.checkpoint", "functorch"}  # fmt: skip

CONSTANTS = {
    "pi": NamedNumber("pi", math.pi), "e": NamedNumber("e", math.e), "inf": math.inf,
    "nan": math.nan, "tau": math.tau, "newaxis": None,
}  # fmt: skip

#: What draws random numbers.
_RANDOM = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "dropout",
           "uniform", "poisson", "dropout1d", "dropout2d", "alpha_dropout", "empty"}  # fmt: skip

#: What makes or takes complex numbers.
_COMPLEX = {"complex", "polar", "view_as_complex", "view_as_real", "angle", "conj", "stft", "istft",
            "imag"}  # fmt: skip

#: Where a bare name is looked for, in this order.
_BARE = ("torch", "F", "linalg", "special", "Tensor")


def functions(module: str, name: str) -> list[Op]:
    """The records of a function, looked for in its module, or everywhere where it has none."""
    homes = (module,) if module else _BARE
    for home in homes:
        records = by_spelling(f"{home}.{name}")
        if records:
            return records
    return []


#: What belongs to a script around an expression, and what does its work here.
_INSTEAD = {
    "backward": "leave it out: backward is called for you, and --grad is its argument",
    "grad": "leave it out: .grad is worked out for every input",
    "retain_grad": "leave it out; --retain-grad NAME shows .grad of an intermediate",
    "requires_grad": "leave it out: every input requires grad, or those that --wrt names",
    "cuda": "leave it out: a gradient is the same on every device",
    **dict.fromkeys(
        ("item", "tolist", "numpy"), "leave it out: values are shown as they are, and a gradient needs tensors"
    ),
    **dict.fromkeys(("no_grad", "inference_mode"), "write `.detach()` where the gradient is to stop"),
    "is_grad_enabled": "leave it out: gradients are always enabled here",
}  # fmt: skip


def unknown(
    name: str, what: str, path: str | None = None, attributes: bool = False
) -> GradexplainError:
    """The error for a name that no record has: unknown to PyTorch too, or not supported yet."""
    shown = f"`{path}`" if path and "." in path and what == "a function" else f"`{name}`"
    last = {spelling.rpartition(".")[2] for spelling in all_spellings()} - {"getitem", "positive"}
    near = difflib.get_close_matches(name, sorted(last), n=1, cutoff=0.7)
    remedy = f"did you mean `{near[0]}`?" if near else "`gradexplain ops` lists what is known"
    if name.rstrip("_").removesuffix("_like") in _RANDOM:
        return lacking("random", shown=shown)
    if _known_to_torch(name, attributes, path or ""):
        if (path or "").startswith("torch.fft.") or name in _COMPLEX:
            return lacking("complex function", shown=shown)
        if name in _INSTEAD:
            return UnsupportedError(f"{shown} is no operation here", remedy=_INSTEAD[name])
        return lacking("no record", shown=shown)
    return InputError(f"{shown} is not {what} of PyTorch", remedy=remedy)


def _known_to_torch(name: str, attributes: bool, path: str) -> bool:
    """Asked only on the way to an error: the answer takes an import of PyTorch."""
    try:
        import torch
    except ImportError:
        return False
    homes = [torch.Tensor] if attributes else [
        torch, torch.nn.functional, torch.linalg, torch.special, torch.Tensor,
    ]  # fmt: skip
    if path.startswith("torch.") and reduce(
        lambda home, part: getattr(home, part, None), path.split(".")[1:], torch
    ):
        return True
    return not name.startswith("_") and any(hasattr(home, name) for home in homes)


def _of_module(node: ast.Attribute) -> bool:
    """Whether ``F`` in ``F.relu`` is the module, and not an input as in ``F.T``."""
    if not isinstance(node.value, ast.Name) or node.value.id not in DEFAULTS:
        return False
    home = HOMES.get(DEFAULTS[node.value.id], "")
    return bool(functions(home, node.attr)) or not by_spelling(f"Tensor.{node.attr}")


def free_names(program: Program) -> tuple[str, ...]:
    """The inputs of a program in order of first use, without knowing any shape."""
    assigned: set[str] = set()
    found: dict[str, None] = {}
    for statement in program.statements:
        parts = [*ast.walk(statement.value)]
        functions = {id(node.func) for node in parts if isinstance(node, ast.Call)}
        homes = {id(n.value) for n in parts if isinstance(n, ast.Attribute) and _of_module(n)}
        nodes = [n for n in parts if isinstance(n, ast.Name) and id(n) not in functions | homes]
        inside = {n.id for n in nodes if isinstance(n.ctx, ast.Store)}  # by := or for
        for node in sorted(nodes, key=lambda n: (n.lineno, n.col_offset)):
            if node.id in assigned | inside or node.id in CONSTANTS or node.id in MODULES:
                continue
            found.setdefault(node.id)
        assigned |= set(statement.targets)
    return tuple(found)


def check_names(names: Iterable[str], inputs: Collection[str]) -> None:
    """Whether what options name are inputs, else `InputError`."""
    for name in names:
        if name not in inputs:
            known = ", ".join(inputs) or "none"
            raise refused("no input", name=name, known=known)
