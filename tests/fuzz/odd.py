"""Odder things: every option by what it takes, depth, sizes, letters, claims, strangers' files, batches."""

from __future__ import annotations

import json
import random
from pathlib import Path

import click

from gradexplain.cli.program import cli
from gradexplain.ops import all_ops
from gradexplain.ops.samples import parse

#: What every operation is tried with: its text, and the shapes of its inputs.
SAMPLES = [parse(sample) for op in all_ops() for sample in op.samples]
_POINTWISE = [
    "exp",
    "tanh",
    "sin",
    "relu",
    "sqrt",
    "log1p",
    "erf",
    "torch.neg",
    "F.gelu",
    "abs",
    "lgamma",
]
_REDUCING = [
    "softmax({}, dim=0)",
    "({}).sum()",
    "({}).cumsum(0)",
    "({}).T",
    "({})[0]",
    "logsumexp({}, 0)",
    "({})/2",
    "maximum({}, y)",
    "y - ({})",
    "({})**2",
    "x if True else {}",
    "[{}][0]",
    "({}, x)[0]",
    "torch.stack([{}, x])",
    "(lambda q: q*q)({})",
    "sum([{}, x, y])",
    "({}).clone().detach()",
    "where({} > 0, x, y)",
    "einsum('i,i', {}, x)",
]
_SIZES = [0, 1, 2, 3, 7, 64, 1000, 4097, 10**6, 16_000_000, 10**9, 2**63, 10**30, -1]
_LETTERS = [
    "x",
    "λ",
    "ʼn",
    "é",
    "e\u0301",
    "ﬁ",
    "𝒙",
    "ª",
    "ℵ",
    "מ",
    "ن",
    "ผ",
    "中",
    "한",
    "𓀀",
    "x\u0332",
    "_",
    "__",
    "µ",
    "Ω",
    "Å",
    "ſ",
    "\u200dx",
    "x\u200b",
    "\u2066x",
    "\ufeffx",
    "ⅷ",
    "①",
    "self",
    "ctx",
    "torch",
    "v",
    "y",
    "t1",
    "grad_output",
    "None_",
    "nan",
    "inf",
    "pi",
    "e",
    "δ",
    "Σ",
    "J",
    "N",
    "import_",
    "async",
    "match",
    "lambda_",
    "print",
    "class",
    "d0",
    "o0",
    "x.grad",
    "∂",
    "x²",
    "x'",
    "🐍",
]


def registry(chance: random.Random, folder: Path) -> list[str]:
    """Any command with any of its options, each with a value that it could take, in any combination."""
    name = chance.choice([n for n in cli.commands if n not in ("batch", "trace", "completion")])
    command = cli.commands[name]
    text, shapes = chance.choice(SAMPLES)
    given = [text]
    if name == "why":
        given.append(
            f"{chance.choice([*shapes, 'x'])}[{chance.choice(['0', '0,0', '-1', '9', ''])}]"
        )
    elif name in ("ops", "explain", "schema", "help", "man"):
        words = [
            "exp",
            "softmax",
            "GX101",
            "GX999",
            "run",
            "check",
            "trace",
            "json",
            "language",
            "",
            "é",
        ]
        given = chance.choice([[], [chance.choice(words)]])
    options = [
        o
        for o in command.params
        if isinstance(o, click.Option) and not {"--open", "--help"} & {*o.opts}
    ]
    for option in chance.sample(options, chance.randrange(min(7, len(options) + 1))):
        flag = chance.choice([o for o in option.opts if o.startswith("--")])
        if option.is_flag:
            given.append(flag)
        else:
            given.append(f"{flag}={_value(option, text, shapes, chance, folder)}")
    given += [f"--shape={n}={_sizes(s)}" for n, s in shapes.items() if name in _WITH_SHAPES]
    return [name, *given]


_WITH_SHAPES = {"run", "hessian", "why", "codegen", "check", "stability"}


def _value(
    option: click.Option,
    text: str,
    shapes: dict[str, tuple[int, ...]],
    chance: random.Random,
    folder: Path,
) -> str:
    kind, inputs = option.type, [*shapes, "x"]
    if isinstance(kind, click.Choice):
        return str(chance.choice([*kind.choices]))
    if isinstance(kind, (click.IntRange, click.FloatRange)):
        low, high = kind.min or 0, kind.max or 10**6
        return str(chance.choice([low, low + 1, high, min(high, 10**4)]))
    name = chance.choice(inputs)
    known = {
        "--file": str(folder / "absent.txt"),
        "--output": chance.choice([str(folder / "out"), str(folder), "/dev/null", "-"]),
        "--timeout": chance.choice(["5", "none", "0.01"]),
        "--memory": chance.choice(["512MiB", "none", "2GB"]),
        "--grad": chance.choice(["ones", "1", "0", "nan", "[1,2]", "1e308"]),
        "--at": f"{name}={chance.choice(['1', '1,2', '[[1,2],[3,4]]', 'inf', '-0.0', 'True', '1e-320'])}",
        "--shape": f"{name}={chance.choice(['1', '2,3', '', 'N', '0', 'N,N', '2,M'])}",
        "--range": f"{name}={chance.choice(['0,1', '-1e300,1e300', '1,1', '5,-5', '-inf,inf', '0,nan', '1e-300,1'])}",
        "--wrt": chance.choice([name, ",".join(inputs), ",", "w,w"]),
        "--element": f"{name}[{chance.choice(['0', '0,0', '-1', '99'])}]",
        "--vector": chance.choice(["ones", f"{name}=ones", "1,2"]),
        "--from": chance.choice(["y", name, "s"]),
        "--retain-grad": chance.choice(["y", name, "s"]),
        "--claim": f"{name}: {chance.choice(['v', 'v*2', 'v.sum()', 'None', '0', f'v*({text})'])}",
        "--as": f"{name}: v",
        "--intended": "straight-through",
        "--against": text,
        "--arg": f"{name}={chance.choice(['1', '[1]', 'None', 'float32'])}",
        "--name": chance.choice(["F", "torch", "self", "λ", "é́", "class", "a b"]),
    }
    return known.get(option.opts[0], known.get(option.opts[-1], name))


def deep(chance: random.Random, folder: Path) -> list[str]:
    """Long and deep programs: calls in calls, chains of operators, assignments, lists, loops, functions."""
    n = chance.choice([2, 10, 40, 99, 150, 400, 1500])
    kind = chance.randrange(8)
    text = "x"
    if kind == 0:
        parts = [chance.choice(_POINTWISE) for _ in range(n)]
        text = "".join(f"{p}(" for p in parts) + "x" + ")" * n
    elif kind == 1:
        for _ in range(min(n, 150)):
            text = chance.choice(_REDUCING).format(text)
    elif kind == 2:
        names = [f"a{k % chance.choice([1, 3, 2000])}" for k in range(n)]
        text = "".join(f"{a} {chance.choice('+-*/+')} " for a in names) + "x"
    elif kind == 3:
        lines = [f"z = {chance.choice(['tanh(z)', 'z*x', 'z + x', 'z/2', 'relu(z - 1)'])}"] * n
        text = "\n".join(["z = x", *lines, "z"])
    elif kind == 4:
        inside = ",".join([chance.choice(["x", "x*2", "y"])] * n)
        text = f"torch.{chance.choice(['stack', 'cat', 'hstack'])}([{inside}]).sum()"
    elif kind == 5:
        body = chance.choice(["z = z*x", "z = z + i*x", "z = tanh(z)\n    w = z", "z[0] = z[0]*2"])
        text = f"z = x.clone()\nfor i in range({n}):\n    {body}\nz.sum()"
    elif kind == 6:
        text = f"def f(q, k):\n    return q if k == 0 else f(q*x, k - 1)\nf(x, {n})"
    else:
        text = "x" + chance.choice(
            ["[0]", ".T", "**2", "[None]", ".sum()", "[:]", " if True else y"]
        ) * min(n, 190)
    given = [f"--shape={a}=3" for a in ("x", "y") if chance.random() < 0.7 and a in text]
    command = chance.choice(["run", "run", "codegen", "hessian"])
    return [
        command,
        text,
        *given,
        *([] if command == "codegen" else ["--grad", "ones", "--no-check"]),
    ]


def shapes(chance: random.Random, folder: Path) -> list[str]:
    """Operations at sizes from 0 to beyond any memory, letters, and more axes than there may be."""
    text, named = chance.choice(SAMPLES)
    command = chance.choice(["run", "run", "hessian", "codegen", "check", "stability", "why"])
    given = [command, text]
    for name, shape in named.items():
        rank = len(shape) if chance.random() < 0.8 else chance.choice([0, 1, 5, 16, 17, 40])
        sizes = [
            str(chance.choice([*_SIZES, "N", "M"]))
            if chance.random() < 0.4
            else str((*shape, 2, 2)[k % (len(shape) + 2)])
            for k in range(rank)
        ]
        given.append(f"--shape={name}={','.join(sizes)}")
    if command == "why":
        given.append("x[0]")
    elif command == "check":
        given += ["--claim", f"{next(iter(named), 'x')}: v"]
    elif command == "stability":
        given += ["--range", f"{next(iter(named), 'x')}=-1,1"]
    elif command != "codegen":
        given += ["--grad", "ones"]
    return given


def names(chance: random.Random, folder: Path) -> list[str]:
    """Names and comments in every script, in every command and format."""
    a, b = chance.choice(_LETTERS), chance.choice(_LETTERS)
    text = chance.choice(
        [
            "{a}*2",
            "{b} = {a}*{a}; {b} + 1",
            "def {b}(q): return q*{a}\n{b}({a})",
            "{a}.sum() # {b}",
            "{a}@{b}",
            "F.relu({a}, inplace={b})",
            "{a}[{b}]",
            "d = {{'{a}': {b}}}; d['{a}']",
            "({a}:={b})*{a}",
        ]
    )
    command = chance.choice(["run", "hessian", "codegen", "check", "why", "stability"])
    given = [command, text.format(a=a, b=b)]
    if command in ("run", "hessian"):
        given += [
            "--grad",
            "ones",
            "--format",
            chance.choice(["text", "json", "latex", "html", "markdown"]),
        ]
    if command in ("run", "hessian", "why"):
        given += chance.choice([["--at", f"{a}=2"], ["--shape", f"{a}=2,2"], []]) + ["--no-check"]
    if command == "why":
        given.append(f"{a}[0]")
    if command == "check":
        given += ["--claim", f"{a}: v*{b}"]
    if command == "stability":
        given += ["--range", f"{a}=0,1"]
    if command == "codegen":
        given += chance.choice([[], ["--name", b], ["--test"]])
    return given


def claims(chance: random.Random, folder: Path) -> list[str]:
    """Claims that are almost gradients, of every operation."""
    text, named = chance.choice(SAMPLES)
    x = chance.choice([*named, "x"])
    part = [
        "v",
        x,
        f"({text})",
        f"{x}.sum()",
        "v.T",
        "1",
        "0",
        "2",
        f"{x}**2",
        "exp(v)",
        f"v[{x} > 0]",
        "v.sum(0)",
        "v@v",
        "torch.ones(3)",
        "None",
    ]
    claim = chance.choice(part)
    for _ in range(chance.randrange(4)):
        claim += chance.choice([" * ", " + ", " - ", " / ", " @ "]) + chance.choice(part)
    if chance.random() < 0.1:
        claim = claim[: chance.randrange(len(claim))]
    given = [
        "check",
        text,
        "--claim",
        f"{x}: {claim}",
        *(f"--shape={n}={_sizes(s)}" for n, s in named.items()),
    ]
    given += chance.choice(
        [
            [],
            [],
            ["--order", "2"],
            ["--all"],
            ["--grad", "ones"],
            ["--dtype", "float16,bfloat16"],
            ["--intended", "straight-through", "--as", f"{x}: v"],
            ["--against", text],
            ["--format", "sarif"],
        ]
    )
    return given


_FUNCTION = """\
import torch
{head}
class F(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x{more}):
        {forward}
    @staticmethod
    def backward(ctx, {g}):
        {backward}
"""


def functions(chance: random.Random, folder: Path) -> list[str]:
    """A stranger's Function that does what none should, held by ``check``."""
    source = _FUNCTION.format(
        head=chance.choice(
            [
                "",
                "import os",
                "raise KeyError('at the top')",
                "torch.Tensor.sum = None",
                "raise SystemExit(4)",
                "print('\\x1b[31m')",
                "F = 3",
                "def f(: pass",
                "import nosuchmodule",
                "\x0c",
                "x = '" + "é" * 3000 + "'",
                "torch.set_default_dtype(torch.float64)",
                "import warnings; warnings.warn('w')",
            ]
        ),
        more=chance.choice(["", "", ", y", ", *rest", ", k=2", ", **kw", ", n: int"]),
        forward=chance.choice(
            [
                "return x * 2",
                "ctx.save_for_backward(x); return x.exp()",
                "return 3",
                "return None",
                "return x, x*2",
                "raise ValueError('no ' * 500)",
                "return x.numpy()",
                "return x.sum().item()",
                "x.mul_(2); return x",
                "return torch.empty(0)",
                "return x[None].expand(3, *x.shape)",
                "raise KeyboardInterrupt",
                "return x.int()",
                "import os; os.close(1); return x",
                "return [x, [x]]",
                "return x * torch.rand(1)",
                "ctx.x = x; return x.sort()[0]",
            ]
        ),
        g=chance.choice(["g", "g", "g", "*g", "", "g, h"]),
        backward=chance.choice(
            [
                "return g * 2",
                "return g",
                "return None",
                "return g, None",
                "return g.sum()",
                "return 'no'",
                "raise TypeError",
                "return ctx.saved_tensors[0] * g",
                "return g.T",
                "return g[0]",
                "return g.double() if g.ndim else 1",
                "return self.g",
                "return g * float('nan')",
                "raise RecursionError",
                "return backward(ctx, g)",
                "return torch.autograd.grad(g, g)",
                "yield g",
                "return g.half()",
                "return torch.zeros(10**12)",
                "return g.cuda()",
                "exit(3)",
                "return (g,) * 9",
                "return g * ctx.x",
            ]
        ),
    )
    path = folder / "function.py"
    path.write_text(source, encoding="utf-8")
    name = chance.choice(["F", "F", "F", "G", "torch", "F.forward"])
    given = chance.choice(
        [
            [],
            ["--shape", "x=2,3"],
            ["--at", "x=1,2,3"],
            ["--shape", "x=0"],
            ["--order", "2"],
            ["--format", "sarif"],
        ]
    )
    return ["check", f"{path}:{name}", *given]


_LINES = [
    "y = x * 2",
    "y = y.exp()",
    "y.sum().backward()",
    "x.grad = None",
    "y.backward(torch.ones_like(y))",
    "x = x.detach()",
    "y = torch.cat([y, y])",
    "x.requires_grad_(False)",
    "with torch.no_grad(): y = x + 1",
    "y = y[y > 0]",
    "torch.autograd.grad(y.sum(), x)",
    "y = torch.nn.Linear(3, 2)(x)",
    "opt = torch.optim.SGD([x], lr=0.1); opt.step()",
    "raise RuntimeError('é' * 900)",
    "sys.exit(5)",
    "sys.exit('bye')",
    "y = y.sort().values",
    "del x",
    "y.register_hook(lambda g: g * 2)",
    "y.register_hook(lambda g: 1/0)",
    "assert False",
    "y = torch.linalg.svd(torch.ones(3, 3) * x)[1]",
    "y = torch.fft.fft(y).real",
    "y.data = torch.zeros(5)",
    "torch.Tensor.backward = None",
    "y = y.to(torch.bfloat16)",
    "y = torch.utils.checkpoint.checkpoint(torch.sin, y, use_reentrant=False)",
    "y = torch.vmap(torch.sin)(y)",
    "import threading; t = threading.Thread(target=lambda: None); t.start()",
    "torch.set_default_dtype(torch.float64)",
    "y = y.view(-1).as_strided((2,), (1,))",
    "x = torch.ones(3, requires_grad=True)",
    "y = x",
    "raise KeyboardInterrupt",
    "class M(torch.nn.Module):\n    forward = lambda s, q: q*q\ny = M()(x)",
    "y = y.to_sparse().to_dense()",
    "y = torch.where(x > 1, x, 0/x)",
    "sys.stdout.close()",
    "sys.stdout = None",
    "import os; os.chdir('/')",
    "x.grad.zero_()",
    "y = torch.complex(x, x).abs()",
    "for k in range(300): y = y * 1.01",
]


def scripts(chance: random.Random, folder: Path) -> list[str]:
    """A stranger's script that does what none should, run by ``trace``."""
    lines = ["import sys, torch", "x = torch.ones(3, requires_grad=True)", "y = x*x"]
    lines += [chance.choice(_LINES) for _ in range(chance.randrange(1, 9))]
    if chance.random() < 0.7:
        lines.append("y.sum().backward()")
    path = folder / chance.choice(["script.py", "a b.py", "é.py", "x.y.py"])
    path.write_text("\n".join(lines), encoding="utf-8")
    given = chance.choice(
        [
            [],
            [],
            ["--full"],
            ["--last"],
            ["--call", "2"],
            ["--format", "json"],
            ["--format", "html"],
            ["--op", "mul"],
            ["--param", "x"],
            ["--values", "--format", "json"],
            ["--at-line", "4"],
            ["--width", "20"],
        ]
    )
    return ["trace", *given, str(path), *chance.choice([[], ["--epochs", "3"]])]


def batches(chance: random.Random, folder: Path) -> list[str]:
    """Problems of which some are none, some crash, and some are of no use."""
    lines = []
    for _ in range(chance.randrange(1, 5)):
        text, named = chance.choice(SAMPLES)
        problem: dict[str, object] = {
            "expression": text,
            "shapes": {n: list(s) for n, s in named.items()},
            "check": False,
        }
        if chance.random() < 0.3:
            problem["command"] = chance.choice(["hessian", "run", "check", "rm", 3, None])
        if chance.random() < 0.5:
            key = chance.choice(
                [
                    "at",
                    "shapes",
                    "grad",
                    "id",
                    "wrt",
                    "dtype",
                    "expression",
                    "check",
                    "claims",
                    "é",
                    "vector",
                ]
            )
            problem[key] = chance.choice(
                [
                    None,
                    1,
                    -1.5,
                    "x",
                    [],
                    {},
                    [[1], 2],
                    {"x": "y"},
                    {"x": [10**9, 10**9]},
                    {"x": [1e400]},
                    True,
                    "ones",
                    {"x": {"y": 1}},
                    ["x", "x"],
                    "\ud800",
                    10**400,
                    "a" * 9999,
                ]
            )
        text = json.dumps(problem)
        if chance.random() < 0.2:
            place = chance.randrange(len(text))
            text = (
                text[:place]
                + chance.choice(["", "}", "\x00", "\ud800", "NaN", "[" * 2000, '"', "é"])
                + text[place + 1 :]
            )
        lines.append(text + chance.choice(["\n", "\n", "\r\n", "\n\n", ""]))
    path = folder / "problems.jsonl"
    path.write_text("".join(lines), encoding="utf-8", errors="surrogatepass", newline="")
    more = chance.choice(
        [
            [],
            ["--unordered"],
            ["--timeout", "5"],
            ["--memory", "300MiB"],
            ["--resume", "-o", str(folder / "none")],
        ]
    )
    return ["batch", str(path), "--jobs", "1", *more]


def _sizes(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))
