"""The language: what is read, where each part stands in the text, and every message whole."""

from __future__ import annotations

import ast
import random
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradexplain.errors import GradexplainError, InputError, Span, UnsupportedError
from gradexplain.limits import MAX_SOURCE
from gradexplain.reading.language import read
from gradexplain.reading.program import Program, attribute_span, span
from gradexplain.reading.syntax import parse


def marked(program: Program, place: Span) -> str:
    return program.source[place.start : place.end]


#: Messages as they are printed.  The second line of each shows the whole text that leads to it.
MESSAGES = r"""
`^` is not a power in Python but the exclusive or of bits
  x^2y
   ^
remedy: write `**` for a power, as in `x**2`

`^` is not a power in Python but the exclusive or of bits
  é + x^2y
       ^
remedy: write `**` for a power, as in `x**2`

`×` is not part of the language
  a × b c
    ^
remedy: write `*`

`²` is not part of the language
  x² y z
   ^
remedy: write `**2`

`ᵀ` is not part of the language
  xᵀ @ y
   ^
remedy: write `x.T`

this string is not closed
  x'
   ^
remedy: close the string on the same line; a transpose is `x.T`

this string is not closed
  'a
  ^
remedy: close the string on the same line; a transpose is `x.T`

a dict is not a tensor
  {1: 2}
  ^^^^^^
remedy: the last statement must be a tensor

`&&` is not part of the language
  a && b
    ^^
remedy: write `&` or `|` between conditions in parentheses, as in `(a > 0) & (b > 0)`

`<<` is not part of the language
  a << 2
    ^^
remedy: write `*` and `**`, as in `a * 2**n`

`!` is not part of the language
  !x
  ^
remedy: write `not` for the opposite of a condition, prod() for a factorial

`?` is not part of the language
  x?
   ^
remedy: delete it

`\` is not part of the language
  \alpha \beta
  ^
remedy: write it in Python, as in `a/b` for \frac{a}{b}; only the end of a line may be one

`->` cannot stand here
  a -> b
    ^^
remedy: write a value or a name before it, or delete it

the text computes nothing that could be differentiated
  import torch
  ^^^^^^^^^^^^
remedy: end with an expression, as in `y = f(x)`

the text defines `f` and calls nothing
  def f(x): x
  ^^^^^^^^^^^
remedy: call `f` with tensors in the last line: a function is read where it is called

Boolean value of Tensor with more than one value is ambiguous
  if x: y
     ^
remedy: reduce it, as in `x.sum() > 0`, or write where(condition, a, b)

the text defines `A` and calls nothing
  class A: pass
  ^^^^^^^^^^^^^
remedy: call `A` with tensors in the last line: a function is read where it is called

Boolean value of Tensor with more than one value is ambiguous
  while x: y
        ^
remedy: reduce it, as in `x.sum() > 0`, or write where(condition, a, b)

the text computes nothing that could be differentiated
  pass
  ^^^^
remedy: end with an expression, as in `y = f(x)`

there is no operator between `2` and `x`
  2x y
  ^^
remedy: write `2 * x` for a product

there is no operator between `2` and `x`
  2 x y
  ^^^
remedy: write `2 * x` for a product

there is no operator between `a` and `b`
  a b
  ^^^
remedy: write `a * b` for a product, `a(b)` for a call

there is no operator between `)` and `c`
  (a+b) c d
      ^^^
remedy: write `(…) * c` for a product

there is no operator between `]` and `x`
  [red]x[/red]
      ^^
remedy: write `(…) * x` for a product

complex numbers are not supported
  1j
  ^^
remedy: write the real and the imaginary part as two expressions

a string is not a tensor
  f'{x}'
  ^^^^^^
remedy: the last statement must be a tensor

`f` is not a function of PyTorch
  f("a" "b")
  ^
remedy: `gradexplain ops` lists what is known

a leaf Variable that requires grad is being used in an in-place operation
  x += 1
  ^^^^^^
remedy: PyTorch refuses it; write `y = x + …` for a new tensor, or change it under torch.no_grad()

a leaf Variable that requires grad is being used in an in-place operation
  x[0] *= 2
  ^^^^^^^^^
remedy: PyTorch refuses it; write `y = x + …` for a new tensor, or change it under torch.no_grad()

`(` is never closed
  log(x
     ^
remedy: write `)` where it ends

`(` is never closed
  (a; b)
  ^
remedy: write `)` where it ends

`)` closes a bracket that was never opened
  x)
   ^
remedy: delete it, or open the bracket before

`]` cannot close `(`
  f(x]
     ^
remedy: write `)`

`)` cannot close `[`
  x[0)
     ^
remedy: write `]`

something is missing after `+`
  3 +
    ^
remedy: finish the expression; one that goes on in the next line needs ( ) around it

something is missing after `.`
  x.
   ^
remedy: finish the expression; one that goes on in the next line needs ( ) around it

something is missing after `=`
  x =
    ^
remedy: finish the expression; one that goes on in the next line needs ( ) around it

`,` cannot stand here
  a,,b
    ^
remedy: write a value or a name before it, or delete it

`,` cannot stand here
  f(,)
    ^
remedy: write a value or a name before it, or delete it

`=` cannot stand here
  a = = b
      ^
remedy: write a value or a name before it, or delete it

`;` cannot stand here
  a;;b
    ^
remedy: write a value or a name before it, or delete it

`@` cannot stand here
  @x
  ^
remedy: write a value or a name before it, or delete it

only a name can stand to the left of `=`
  f(2) = 3
  ^
remedy: write `name = expression`, or `==` for a comparison

only a name can stand to the left of `=`
  1 = x
  ^
remedy: write `name = expression`, or `==` for a comparison

a value follows a named argument
  f(a=1, 2)
          ^
remedy: move the named arguments to the end

`if` stands without `else`
  a if b
  ^
remedy: write where(condition, a, b)

`007` is not a number
  007
  ^^^
remedy: write it without leading zeros and doubled underscores

`1__0` is not a number
  1__0
  ^^^^
remedy: write it without leading zeros and doubled underscores

a leaf Variable that requires grad is being used in an in-place operation
  x[0] = 1
  ^^^^^^^^
remedy: PyTorch refuses it; write `y = x + …` for a new tensor, or change it under torch.no_grad()

assigning to `.y` is not read
  x.y = 1
    ^
remedy: assign to a plain name

there is no name here to assign to
  () = x
  ^^
remedy: write a name

`__x` is private to Python and cannot be a name here
  __x = 1
  ^^^
remedy: choose a name that does not start with `__`

`and` and `or` do not join conditions on tensors
  a and b
  ^
remedy: write `&` or `|` between conditions in parentheses, as in `(a > 0) & (b > 0)`

Boolean value of Tensor with more than one value is ambiguous
  a if b else c
       ^
remedy: reduce it, as in `x.sum() > 0`, or write where(condition, a, b)

a function is not a tensor
  lambda x: x
  ^^^^^^^^^^^
remedy: the last statement must be a tensor

the last statement gives 3 tensors; backward starts from one
  [i for i in x]
  ^^^^^^^^^^^^^^
remedy: pick one, as in `q[0]`, or join them with cat or stack

permute() takes at most 2 arguments, found 4
  x.permute(*d)
  ^^^^^^^^^^^^^
remedy: the call is permute(input, dims)

`**` cannot unpack a tensor
  f(**k)
    ^^^
remedy: write each argument out, as in `x.sum(dim=0)`

the argument `a` is given twice
  f(a=1, a=2)
         ^^^
remedy: delete one of the two

`await` is not part of the language
  await x
  ^^^^^^^
remedy: leave it out

`yield` is not part of the language
  yield x
  ^^^^^^^
remedy: leave it out

Boolean value of Tensor with more than one value is ambiguous
  0 < x < 1
  ^^^^^^^^^
remedy: reduce it, as in `x.sum() > 0`, or write where(condition, a, b)

`in` and `is` do not compare tensors
  a in b
  ^^^^^^
remedy: compare with `==` or `!=`

`in` and `is` do not compare tensors
  x is None
  ^^^^^^^^^
remedy: compare with `==` or `!=`

`__class__` is private to Python; only methods and functions can be named
  x.__class__
    ^^^^^^^^^
remedy: write a method, as in `x.log()`

`_f` is private to Python; only methods and functions can be named
  x . _f
      ^^
remedy: write a method, as in `x.log()`

`__import__` is private to Python and cannot be a name here
  __import__('os')
  ^^^^^^^^^^
remedy: choose a name that does not start with `__`

a number cannot be called
  import m; 2(a + b)
            ^
remedy: write `*` for a product, as in `2*(a + b)`

`a` is not a function of PyTorch
  (a)(b)(c)
   ^
remedy: `gradexplain ops` lists what is known

the text computes nothing that could be differentiated
  'mean'
  ^^^^^^
remedy: end with an expression, as in `y = f(x)`

a string cannot be an operand of `+`
  f('a' + x)
    ^^^
remedy: operands are tensors and numbers

the text computes nothing that could be differentiated
  ...
  ^^^
remedy: end with an expression, as in `y = f(x)`

`f` is not a function of PyTorch
  f(...)
  ^
remedy: `gradexplain ops` lists what is known

this number is too large for a float64
  1e999
  ^^^^^
remedy: write one below 1.8e308
""".strip().split("\n\n")

#: Those of them that PyTorch could make sense of.
UNSUPPORTED = {
    "`<<` is not part of the language",
    "assigning to `.y` is not read",
    "complex numbers are not supported",
}

#: Messages on texts that are not shown as they are: several lines, or unprintable characters.
SPECIAL = [
    (
        "x.sum(\n  dim=0)^2y",
        (
            "`^` is not a power in Python but the exclusive or of bits\n"
            "    dim=0)^2y\n"
            "          ^\n"
            "remedy: write `**` for a power, as in `x**2`"
        ),
    ),
    ("x \x00", "`\\x00` is not part of the language\n  x \\x00\n    ^^^^\nremedy: delete it"),
    (
        "# \x1b\x00",
        "`\\x00` is not part of the language\n  # \\x1b\\x00\n        ^^^^\nremedy: delete it",
    ),
    ("\x1b[31m", "`\\x1b` is not part of the language\n  \\x1b[31m\n  ^^^^\nremedy: delete it"),
    (
        "y = a\n   + b",
        (
            "this line is indented unlike the first one\n"
            "     + b\n"
            "     ^\n"
            "remedy: indent all statements alike, or put ( ) around one of several lines"
        ),
    ),
    (
        "y = (a + b\nz = y",
        "`(` is never closed\n  y = (a + b\n      ^\nremedy: write `)` where it ends",
    ),
    (
        "a +\nb",
        (
            "something is missing after `+`\n"
            "  a +\n"
            "    ^\n"
            "remedy: finish the expression; one that goes on in the next line needs ( ) around it"
        ),
    ),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_message(message: str) -> None:
    first, text, *_ = message.split("\n")
    with pytest.raises(GradexplainError) as caught:
        read(parse(text[2:]), lambda name: (3,))
    assert str(caught.value) == message
    assert type(caught.value) is (UnsupportedError if first in UNSUPPORTED else InputError)


@pytest.mark.parametrize(("text", "message"), SPECIAL)
def test_message_on_special_text(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value) == message


NOTATIONS = r"""
3a + 2b^2 + ln(c)             -> 3*a + 2*b**2 + log(c)
5x³ − 2·x ÷ y                 -> 5*x**3 - 2*x / y
√x + √(y+1)                   -> sqrt(x) + sqrt(y+1)
|x-1| + ‖y‖                   -> abs(x-1) + norm(y)
cos²(x) + sin^2(y)            -> cos(x)**2 + sin(y)**2
tanh x + ln y                 -> tanh(x) + log(y)
2πr                           -> 2*pi*r
x₁·x₂ ≥ ½                     -> x1*x2 >= (1/2)
2(x+1)                        -> 2*(x+1)
(x+1)(x-1)                    -> (x+1)*(x-1)
σ(w·x) + Σ y                  -> sigmoid(w*x) + sum(y)
a.*b + x.^2 ./ y              -> a*b + x**2 / y
f(x) = x^2                    -> x**2
Math.sin(x)                   -> sin(x)
1e-3x                         -> 1e-3*x
$\frac{1}{1+e^{-x}}$          -> ((1)/(1+e**(-x)))
\sqrt{x_{1}^{2}} \cdot \sin(y) -> sqrt(x_1**2) * sin(y)
\log\left(1 + e^{x}\right)    -> log(1 + e**(x))
"""


@pytest.mark.parametrize("row", NOTATIONS.strip().split("\n"))
def test_other_notations(row: str) -> None:
    text, expected = map(str.strip, row.split("->"))
    program = parse(text)
    assert (program.source, program.notation) == (expected, text.replace("−", "-"))


@pytest.mark.parametrize(
    "text",
    [
        "1/2x",
        "x^2y",
        "a/(b+c)d",
        "sin 2x",
        "x'",
        "x!",
        "1j",
        "y = a\n   + b",
        "lambda x: x^2",
        "xπ 2",
    ],
)
def test_what_may_be_meant_in_two_ways_is_not_read(text: str) -> None:
    with pytest.raises(GradexplainError):
        parse(text)


@pytest.mark.parametrize("text", ["", "  \n\t\n", "# only a comment", ";", "\ufeff", "\\\n"])
def test_empty(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value) == (
        'the expression is empty\nremedy: write one, for example "3*a + 2*b*b + log(c)"'
    )


TOO_DEEP = (
    "the expression holds more than 200 operations inside one another\n"
    "remedy: give parts of it names, as in `s = a + b; s * c`"
)
TOO_MANY = "the expression has more than 20,000 names, numbers and operations\nremedy: shorten it"
BRACKETS_OPEN = (
    "more than 100 brackets are open here\n"
    f"  …{'(' * 71}…\n"
    f"{' ' * 39}^\n"
    "remedy: give parts of it names, as in `s = a + b; s * c`"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-" * (MAX_SOURCE - 1) + "x", TOO_DEEP),
        ("x" + ".T" * 45_000, TOO_DEEP),
        ("x" + "[0]" * 30_000, TOO_DEEP),
        ("x**" * 30_000 + "x", TOO_DEEP),
        ("not " * 20_000 + "x", TOO_DEEP),
        ("a+" * 45_000 + "a", TOO_DEEP),
        ("a;" * 45_000, TOO_MANY),
        ("a," * 45_000, TOO_MANY),
        ("(" * 10_000, BRACKETS_OPEN),
        ("(" * 45_000 + ")" * 45_000, BRACKETS_OPEN),
    ],
    ids=["minus", "T", "index", "power", "not", "sum", "statements", "tuple", "open", "brackets"],
)
def test_large_text_ends_with_one_message(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value) == message


def test_depth_is_shown_at_its_place() -> None:
    with pytest.raises(InputError) as caught:
        parse("y = 2\n" + "-" * 201 + "x")
    assert str(caught.value).startswith(TOO_DEEP.split("\n", maxsplit=1)[0])
    assert caught.value.span is not None
    assert caught.value.span.end == 6 + 202
    parse("-" * 190 + "x")


def test_length() -> None:
    with pytest.raises(InputError) as caught:
        parse("x" * 1_000_000)
    assert str(caught.value) == (
        "the expression has 1,000,000 characters; at most 100,000 are read\n"
        "remedy: shorten it; values belong in --at, as in `--at x=@file.npy`"
    )


def test_length_of_numbers_and_names() -> None:
    parse("9" * 250 + " + " + "x" * 100)
    for text, message in [
        ("9" * 251, "this number has more than 250 digits"),
        ("9" * 10_000, "this number has more than 250 digits"),
        ("x" * 101, "this name has more than 100 characters"),
    ]:
        with pytest.raises(InputError) as caught:
            parse(text)
        assert caught.value.message == message
    hexadecimal = parse("0x" + "f" * 248).statements[0].value
    assert isinstance(hexadecimal, ast.Constant)
    assert isinstance(hexadecimal.value, int)
    float(hexadecimal.value)  # fits


@pytest.mark.parametrize(
    "text",
    [
        "3*a+2*b*b+log(c)",
        "s = x.sum(dim=0); x / s",
        "9**9**9**9",
        "-x @ +y // 2 % ~z",
        "not x",
        "x[0, 1:2, ::2, None, ..., [0, 1], -1]",
        "x[x > 0]",
        "where(x <= 0.5, torch.nn.functional.relu(x), x.T)",
        "cat([a, (b), c,], dim=-1)",
        'loss(x, reduction="mean")',
        "einsum('ij,jk->ik', a, b)",
        "x.max(dim=0, keepdim=True)[0]",
        "f(None, True, 1_000, 1.5e-3, .5, 2.)",
        "été + 𝛼 * 変数",
        "a, b",
        "x!=y",
        "a ; b ;",
        "a \\\n + b",
        "# a comment\nx  # another ^ × '",
        "f(\n    a,  # ^\n\n b)",
        "\ufeffx\r\ny\rz",
        "\tx\n\ty",
        "a\fb".replace("b", "+ b"),
        "a\xa0+ b\u200b",
        "f(“mean”)",
        "y = 1; x += y",
        "for i in range(3): x = x * i",
        "def f(x, *, y=2):\n    return x\nf(3)",
        "import torch; from torch import nn as n, optim",
        "[1 if i else 2 for i in x if i]",
        "f'{x}' '''a\nb'''",
        "{'a': 1, **k}",
        "lambda x: (y := x)",
        "with torch.no_grad():\n    x[0] = 1",
    ],
)
def test_read(text: str) -> None:
    assert parse(text).body


def test_statements() -> None:
    program = parse(
        "  s = x.sum(\r\n dim=0)\n\n  # unpacked\n  é, _ = f(s); q, = g(é)\n  x / é ;\n"
    )
    found = [
        (s.targets, marked(program, s.span), marked(program, span(program, s.value)))
        for s in program.statements
    ]
    assert found == [
        (("s",), "s = x.sum(\ndim=0)", "x.sum(\ndim=0)"),
        (("é", "_"), "é, _ = f(s)", "f(s)"),
        (("q",), "q, = g(é)", "g(é)"),
        ((), "x / é", "x / é"),
    ]


def test_every_node_has_its_place_in_the_text() -> None:
    program = parse("   変 = é.sum(\n dim = -1)\n   (ü  +変[ 0 ,é]) * ｘ . log ( )")
    found = {
        marked(program, span(program, node))
        for statement in program.statements
        for node in ast.walk(statement.value)
        if isinstance(node, (ast.expr, ast.keyword))
    }
    assert found == {
        *("é.sum(\ndim = -1)", "é.sum", "é", "dim = -1", "-1", "1"),
        *("(ü  +変[ 0 ,é]) * ｘ . log ( )", "ü  +変[ 0 ,é]", "ü", "変[ 0 ,é]", "変", "0 ,é", "0"),
        *("ｘ . log ( )", "ｘ . log", "ｘ"),
    }


@pytest.mark.parametrize(
    "text", ["x.log", "x . log", "(x.\n  log)", "(x. # a.b\n log)", "x.\\\nlog"]
)
def test_attribute_span(text: str) -> None:
    program = parse(text)
    node = program.statements[0].value
    assert isinstance(node, ast.Attribute)
    assert marked(program, attribute_span(program, node)) == "log"


def test_names_are_normalised_as_in_python() -> None:
    program = parse("ｙ = ﬁ; y")
    assert program.statements[0].targets == ("y",)
    assert ast.dump(program.statements[0].value) == "Name(id='fi', ctx=Load())"


def test_python_warnings_stay_inside(recwarn: pytest.WarningsRecorder) -> None:
    for text in ("1(2)", "1if x else 2", "x is 1", "'\\d'", "1 is 1", "[1][2, 3]"):
        with suppress(GradexplainError):
            parse(text)
    assert not recwarn.list


PIECES = [
    *("x", "é", "变", "_a", "__b__", "1", "2.5e3", "0x1f", "1j", "'s'", '"', "'", "...", "None"),
    *(" + ", "-", "*", "**", "/", "//", "%", "@", "~", "<", "==", "!=", "=", ":=", "+=", "^", "&"),
    *("(", ")", "[", "]", "{", "}", ",", ":", ".", ";", "\n", "\r\n", " ", "\t", "\f", "\\", "#"),
    *(" if ", " else ", " for ", " in ", " and ", "not ", "lambda ", "await ", "yield ", "import "),
    *("×", "²", "−", "\u00a0", "\u200b", "\u2028", "\x00", "\ud800", "\x1b", "ᵀ", "e\u0301", "٣"),
]


@settings(max_examples=500, deadline=2_000)
@given(st.text(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
@example("\ud800")
@example("# \x00")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        program = parse(text)
    except GradexplainError as error:
        message, *rest = str(error).split("\n")
        assert message
        assert rest[-1].startswith("remedy: ")
        if error.span is not None:
            assert error.source is not None
            assert 0 <= error.span.start <= error.span.end <= len(error.source)
        return
    assert program.body
    for statement in program.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.expr):
                part = marked(program, span(program, node))
                assert part == part.strip()
                assert part


def test_deep_brackets_with_an_error_inside_end() -> None:
    """Python's parser has been exponential in such texts: then this test would not end."""
    chance = random.Random(0)
    for _ in range(100):
        opening = [chance.choice(["(", "[", "f(", "x[", "f(a=", "(a,", "-("]) for _ in range(100)]
        inside = chance.choice(["1 =", "a,,", "*", "a if b", "a=1,b", "lambda", "a=1=2"])
        closing = [")" if "(" in bracket else "]" for bracket in reversed(opening)]
        with pytest.raises(GradexplainError):
            parse("".join([*opening, inside, *closing]))
