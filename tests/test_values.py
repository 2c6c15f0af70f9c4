"""Values as typed, in files and from Python: what is accepted, and every message whole."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradexplain import explain
from gradexplain.errors import GradexplainError, InputError, UnsupportedError
from gradexplain.explanation import Array, Shape
from gradexplain.limits import MAX_ELEMENTS, MAX_VALUE_TEXT
from gradexplain.reading.arrays import ONES, as_array, bind
from gradexplain.reading.typed import (
    parse_binding,
    parse_bindings,
    parse_shape,
    parse_shapes,
    parse_value,
)


def error_of(call: Callable[[], object]) -> GradexplainError:
    with pytest.raises(GradexplainError) as caught:
        call()
    return caught.value


def same(found: object, expected: object) -> None:
    """Both are float64 arrays of one shape with the same elements, NaN included."""
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.asarray(expected, dtype=np.float64), strict=True)


# ---- what is typed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1,1,0.0001", [0.1, 1, 0.0001]),
        ("[[1,0],[0,2]]", [[1, 0], [0, 2]]),
        ("[1,0],[0,2]", [[1, 0], [0, 2]]),
        ("1", 1),
        ("1,", [1]),
        ("[1]", [1]),
        ("[[1, 2,],]", [[1, 2]]),
        (" -0.1 , 1 ", [-0.1, 1]),
        ("- 1", -1),
        ("+1e-3,.5,2.,1E+2", [0.001, 0.5, 2, 100]),
        (
            "inf,-inf,nan,Infinity,-Infinity,NaN",
            [math.inf, -math.inf, math.nan, math.inf, -math.inf, math.nan],
        ),
        ("[true, False]", [1, 0]),
        ("True", 1),
        ("tensor(2.5)", 2.5),
        ("tensor([1., 2.])", [1, 2]),
        ("torch.tensor([[1., 2.]], dtype=torch.float64, requires_grad=True,)", [[1, 2]]),
        ("tensor([3.], device='cuda:0', grad_fn=<AddBackward0>)", [3]),
        ("np.array([1,\n   2])", [1, 2]),
        ("9007199254740993", 9007199254740992),
    ],
)
def test_parse_value(text: str, expected: object) -> None:
    same(parse_value(text, "--grad"), expected)


def test_ones() -> None:
    assert parse_value(" ones ", "--grad") is ONES
    assert as_array("ones", "grad") is ONES
    assert as_array(ONES, "grad") is ONES


#: Messages as they are printed.  The second line of each shows the whole text that leads to it.
MESSAGES = r"""
--grad: a list of length 1 stands beside a list of length 2
  [[1,2],[3]]
         ^^^
remedy: give all lists of one level the same length

--grad: a list of length 1 stands beside a number
  [1,[2]]
     ^^^
remedy: give all lists of one level the same length

--grad: a number stands beside a list of length 2
  [[1,2],3]
         ^
remedy: give all lists of one level the same length

--grad: a list of length 2 stands beside a list of shape (2, 2)
  [[[1,2],[3,4]],[5,6]]
                 ^^^^^
remedy: give all lists of one level the same length

--grad: an empty list holds no elements
  []
  ^^
remedy: write numbers in it, or delete it

--grad: an empty list holds no elements
  [[],[]]
   ^^
remedy: write numbers in it, or delete it

--grad: a comma is missing before this
  [1 2 3]
     ^
remedy: write commas between elements

--grad: `[` is never closed
  [1,2
  ^
remedy: write `]` where it ends

--grad: `]` closes a list that was never opened
  1]
   ^
remedy: delete it

--grad: a number or a list was expected, not `,`
  1,,2
    ^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: a number or a list was expected, not `,`
  ,1
  ^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: a number or a list was expected, not `(`
  (1,2)
  ^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: a number or a list was expected, not `/`
  1/3
   ^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: a number or a list was expected, not `x`
  x
  ^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: a number or a list was expected, not `zeros`
  zeros
  ^^^^^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: a number or a list was expected, not `x10`
  0x10
   ^^^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: a number or a list was expected, not `_0`
  1_0
   ^^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: `−` is not a minus sign
  −1
  ^
remedy: write `-`

--grad: this number is too large for a float64
  1e999
  ^^^^^
remedy: write one below 1.8e308

--grad: this number is too large for a float64
  -1e999
  ^^^^^^
remedy: write one below 1.8e308

--grad: `(` is never closed
  tensor([1,2]
        ^
remedy: write `)` at the end

--grad: `...` stands for elements that were left out in print
  tensor([1.,...,2.])
             ^^^
remedy: save the values with numpy.save() and give `@file.npy`

--grad: a number or a list was expected, not `;`
  1;2
   ^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: a number or a list was expected, not `__import__`
  __import__('os')
  ^^^^^^^^^^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: a number or a list was expected, not `red`
  [red]1[/red]
   ^^^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: a number or a list was expected, not `-`
  -true
  ^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`

--grad: a number or a list was expected, not `@`
  1,@x.npy
    ^
remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`
""".strip().split("\n\n")


@pytest.mark.parametrize("message", MESSAGES)
def test_message(message: str) -> None:
    error = error_of(lambda: parse_value(message.split("\n")[1][2:], "--grad"))
    assert str(error) == message
    assert type(error) is InputError


@pytest.mark.parametrize("text", ["", "  \n", "tensor()"])
def test_no_value(text: str) -> None:
    assert str(error_of(lambda: parse_value(text, "--grad"))) == (
        "--grad: there is no value\nremedy: write numbers, as in `0.1,1,0.0001` or `[[1,0],[0,2]]`"
    )


def test_place_in_a_binding_and_in_a_later_line() -> None:
    assert str(error_of(lambda: parse_binding("x=[[1,2],\n[3]]"))) == (
        "--at x: a list of length 1 stands beside a list of length 2\n"
        "  [3]]\n"
        "  ^^^\n"
        "remedy: give all lists of one level the same length"
    )
    assert str(error_of(lambda: parse_binding("x==1"))) == (
        "--at x: a number or a list was expected, not `=`\n"
        "  x==1\n"
        "    ^\n"
        "remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`"
    )


def test_terminal_escapes_are_shown_literally() -> None:
    message = str(error_of(lambda: parse_value("\x1b[31m", "--grad")))
    assert message.startswith("--grad: a number or a list was expected, not `\\x1b`\n  \\x1b[31m\n")


def test_nesting() -> None:
    same(parse_value("[" * 16 + "7" + "]" * 16, "--grad"), np.full((1,) * 16, 7.0))
    error = error_of(lambda: parse_value("[" * 100_000, "--grad"))
    assert error.message == "--grad: lists are nested more than 16 deep"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        "-" * 1_000_000,
        " " * (MAX_VALUE_TEXT - 1) + "x",
        "tensor(1" + ",dtype=   " * 100_000,
        "tensor(1" + " " * 1_000_000,
        "+" + " " * 1_000_000,
        "9" * 1_000_000,
        "1" * (MAX_VALUE_TEXT + 1),
    ],
    ids=["open", "minus", "blanks", "options", "wrapper", "plus", "digits", "long"],
)
def test_long_text_ends_with_a_short_message(text: str) -> None:
    error = error_of(lambda: parse_value(text, "--grad"))
    assert len(str(error)) < 400


@settings(deadline=2_000)
@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from([*"[],-+. \n@=()", "1", "2.5e3", "nan", "inf", "ones", "tensor(", "true"]),
        max_size=40,
    ).map("".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    for call in (lambda: parse_value(text, "--grad"), lambda: parse_shape(text)):
        try:
            call()
        except GradexplainError as error:
            assert str(error).split("\n")[-1].startswith("remedy: ")


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(max_dims=4, max_side=3),
        elements=st.floats(allow_nan=True, allow_infinity=True),
    )
)
def test_lists_are_read_back_to_the_bit(values: Array) -> None:
    text = json.dumps(values.tolist())
    same(parse_value(text, "--grad"), values)
    same(parse_value(f"tensor({text})", "--grad"), values)
    same(as_array(values.tolist(), "grad"), values)


# ---- names and shapes ----------------------------------------------------------------------------


def test_parse_binding() -> None:
    name, value = parse_binding(" été = [1, 2] ")
    assert name == "été"
    same(value, [1, 2])
    assert parse_binding("ｘ=ones") == ("x", ONES)


def test_parse_bindings() -> None:
    assert list(parse_bindings(["b=1", "a=2"])) == ["b", "a"]
    assert str(error_of(lambda: parse_bindings(["x=1", "x=2"]))) == (
        "--at gives x twice\nremedy: delete one of the two"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "--at takes NAME=VALUE, not `x`\n"),
        ("=1", "--at: there is no name\n  =1\n  ^\n"),
        ("1x=3", "--at: `1x` is not a name\n  1x=3\n  ^^\n"),
        ("for=1", "--at: `for` is not a name\n  for=1\n  ^^^\n"),
        ("[x]=1", "--at: `[x]` is not a name\n  [x]=1\n  ^^^\n"),
    ],
)
def test_binding_without_a_name(text: str, message: str) -> None:
    assert str(error_of(lambda: parse_binding(text))) == message + "remedy: write `--at x=1,2,3`"


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("x=2,3", (2, 3)),
        ("x=", ()),
        ("x=()", ()),
        ("x=(2, 3)", (2, 3)),
        ("x=[2,3]", (2, 3)),
        ("x = 3,", (3,)),
        ("x=16000000", (MAX_ELEMENTS,)),
    ],
)
def test_parse_shape(text: str, shape: Shape) -> None:
    assert parse_shape(text) == ("x", shape)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x=2x3",
            (
                "--shape x: `2x3` is not a size\n  x=2x3\n    ^^^\n"
                "remedy: write whole numbers with commas between them, as in `--shape x=2,3`"
            ),
        ),
        (
            "x=-1,2",
            (
                "--shape x: `-1` is not a size\n  x=-1,2\n    ^^^^\n"
                "remedy: write whole numbers with commas between them, as in `--shape x=2,3`"
            ),
        ),
        (
            "x=1,,2",
            (
                "--shape x: a size is missing\n  x=1,,2\n    ^^^^\n"
                "remedy: write whole numbers with commas between them, as in `--shape x=2,3`"
            ),
        ),
        (
            "x=1000000,1000000",
            (
                "--shape x: 1,000,000,000,000 elements; at most 16,000,000 are supported\n"
                "remedy: use a smaller shape; the formulas are the same"
            ),
        ),
        (
            "x=" + "9" * 5_000,
            (
                "--shape x: more than 10**18 elements; at most 16,000,000 are supported\n"
                "remedy: use a smaller shape; the formulas are the same"
            ),
        ),
        (
            "x=0,3",
            (
                "--shape x: a tensor of shape (0, 3) holds no elements to differentiate by\n"
                "remedy: use sizes of at least 1"
            ),
        ),
        (
            "x=" + "1," * 20,
            "--shape x: a tensor of 20 dimensions; at most 16 are supported\nremedy: reshape it",
        ),
        ("x", "--shape takes NAME=D0,D1,…, not `x`\nremedy: write `--shape x=2,3`"),
    ],
)
def test_bad_shape(text: str, message: str) -> None:
    assert str(error_of(lambda: parse_shape(text))) == message


def test_parse_shapes() -> None:
    assert parse_shapes(["b=2", "a="]) == {"b": (2,), "a": ()}
    assert str(error_of(lambda: parse_shapes(["x=1", "x=1"]))) == (
        "--shape gives x twice\nremedy: delete one of the two"
    )


# ---- what comes from Python ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (2.5, 2.5),
        (True, 1),
        ([1, 2.5], [1, 2.5]),
        (((1, 2), [3, 4]), [[1, 2], [3, 4]]),
        (np.float32(0.1), 0.10000000149011612),
        (np.arange(3), [0, 1, 2]),
        (np.array([True, False]), [1, 0]),
        (np.arange(6, dtype=">f4").reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
        (2**60, 2**60),
        (np.array([-(2**63), 2**53, 3 * 2**60]), [-(2.0**63), 2.0**53, 3 * 2.0**60]),
        (torch.arange(3), [0, 1, 2]),
        (torch.tensor(2.5), 2.5),
        (torch.ones(2, requires_grad=True), [1, 1]),
        (torch.tensor([0.5], dtype=torch.bfloat16), [0.5]),
        (torch.tensor([True]), [1]),
        (torch.ones(1, 2).T.expand(2, 2), [[1, 1], [1, 1]]),
        ([torch.ones(2), torch.zeros(2)], [[1, 1], [0, 0]]),
    ],
    ids=repr,
)
def test_as_array(value: object, expected: object) -> None:
    same(as_array(value, "at['x']"), expected)


def test_as_array_copies() -> None:
    for given_value in (np.zeros(2), torch.zeros(2, dtype=torch.float64)):
        found = as_array(given_value, "grad")
        assert isinstance(found, np.ndarray)
        found[0] = 1
        assert given_value[0] == 0


FROM_PYTHON = 'remedy: give a number, a list of numbers, a NumPy array, a tensor, or "ones"'
ROUND = "remedy: give it as a float, rounded as you mean it"
DENSE = (
    "only dense tensors with elements are supported\n"
    "remedy: give `x.to_dense()` or `x.dequantize()`"
)
COMPLEX = (
    "complex numbers are not supported\nremedy: give the real and the imaginary part as two inputs"
)
TERA = (
    "1,000,000,000,000 elements; at most 16,000,000 are supported\n"
    "remedy: use a smaller shape; the formulas are the same"
)
TOO_PRECISE = f"no float64 holds the integer 9007199254740993 exactly\n{ROUND}"
SPARSE = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (2,), check_invariants=True)
RECURSIVE: list[object] = []
RECURSIVE.append(RECURSIVE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2], [3]], f"lists of one level differ in length\n{FROM_PYTHON}"),
        ("1,2", f"text instead of real numbers\n{FROM_PYTHON}"),
        ([1, "2"], f"text instead of real numbers\n{FROM_PYTHON}"),
        (None, f"Python objects instead of real numbers\n{FROM_PYTHON}"),
        ({"a": 1}, f"Python objects instead of real numbers\n{FROM_PYTHON}"),
        (np.datetime64("2020"), f"dates instead of real numbers\n{FROM_PYTHON}"),
        ([torch.ones(2, requires_grad=True)], f"it is not made of numbers\n{FROM_PYTHON}"),
        (2**70, f"integers beyond 64 bits are not supported\n{ROUND}"),
        (2**53 + 1, TOO_PRECISE),
        ([1.0, None], f"Python objects instead of real numbers\n{FROM_PYTHON}"),
        (2**62 - 1, f"no float64 holds the integer {2**62 - 1} exactly\n{ROUND}"),
        (torch.tensor([1, 2**53 + 1]), TOO_PRECISE),
        (
            np.array([2**64 - 1], dtype=np.uint64),
            f"no float64 holds the integer 18446744073709551615 exactly\n{ROUND}",
        ),
        (1j, COMPLEX),
        (torch.ones(2, dtype=torch.complex64), COMPLEX),
        (torch.ones(2, device="meta"), DENSE),
        (SPARSE, DENSE),
        (torch.ones(1).expand(10**6, 10**6), TERA),
        (np.broadcast_to(1.0, (10**6, 10**6)), TERA),
        (
            [],
            (
                "a tensor of shape (0,) holds no elements to differentiate by\n"
                "remedy: use sizes of at least 1"
            ),
        ),
    ],
)
def test_bad_value_from_python(value: object, message: str) -> None:
    assert str(error_of(lambda: as_array(value, "at['x']"))) == f"at['x']: {message}"


def test_list_that_holds_itself() -> None:
    assert error_of(lambda: as_array(RECURSIVE, "grad")).remedy is not None


def test_pytorch_is_not_imported() -> None:
    code = (
        "import sys; from gradexplain.reading.arrays import as_array; from gradexplain.reading.typed import parse_value;"
        "as_array([1, 2], 'x'); parse_value('[1]', 'x'); assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(path: str) -> object:
    return parse_value(f"@{path}", "--grad")


def read_error(path: str) -> str:
    return str(error_of(lambda: read(path)))


def npy(shape: object, element: str = "<f8", content: bytes = b"") -> None:
    """Write ``x.npy`` with a header that claims ``shape``."""
    file = io.BytesIO()
    header = {"descr": element, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    Path("x.npy").write_bytes(file.getvalue() + content)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">f4"),
        np.array(2, dtype=np.int8),
        np.array([True, False]),
        np.ones(2, dtype=np.float16),
    ],
)
def test_npy(values: Array) -> None:
    np.save("x.npy", values)
    same(read("x.npy"), values)


def test_npy_is_never_unpickled() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, ("exploded",)

    np.save("x.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    assert read_error("x.npy") == (
        "--grad @x.npy: Python objects are never loaded, as that could run code\n"
        'remedy: save numbers: numpy.save("x.npy", x.astype(float))'
    )
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("shape", "element", "message"),
    [
        (
            (1000, 1000),
            "<f8",
            (
                "the file ends before the 1,000,000 elements that its header announces\n"
                'remedy: save it anew with numpy.save("x.npy", x)'
            ),
        ),
        (
            (10**9, 10**9),
            "<f8",
            (
                "more than 10**18 elements; at most 16,000,000 are supported\n"
                "remedy: use a smaller shape; the formulas are the same"
            ),
        ),
        ((-1, 2), "<f8", "a size is negative\nremedy: write sizes of at least 1"),
        ((2,), "<c16", COMPLEX),
        ((2,), "<U500000000", f"text instead of real numbers\n{FROM_PYTHON}"),
        ((2,), "|V2000000000", f"records instead of real numbers\n{FROM_PYTHON}"),
    ],
)
def test_npy_claims_are_checked(shape: object, element: str, message: str) -> None:
    npy(shape, element)
    assert read_error("x.npy") == f"--grad @x.npy: {message}"


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 9_000, b"\x93NUMPY\x09\x00"],
)
def test_damaged_npy(content: bytes) -> None:
    Path("x.npy").write_bytes(content)
    assert read_error("x.npy") == (
        "--grad @x.npy: not a .npy file of one array\n"
        'remedy: save it anew with numpy.save("x.npy", x)'
    )


def test_json() -> None:
    Path("x.json").write_text("\ufeff[[1, 2.5],\r\n [NaN, -Infinity]]\n", encoding="utf-8")
    same(read("x.json"), [[1, 2.5], [math.nan, -math.inf]])


def test_bad_json() -> None:
    Path("x.json").write_text("[[1,2],\n [3]]")
    assert read_error("x.json") == (
        "--grad @x.json: a list of length 1 stands beside a list of length 2\n"
        "   [3]]\n"
        "   ^^^\n"
        "remedy: give all lists of one level the same length"
    )
    Path("x.json").write_text('{"x": [1]}')
    assert read_error("x.json") == (
        "--grad @x.json: a number or a list was expected, not `{`\n"
        '  {"x": [1]}\n'
        "  ^\n"
        "remedy: write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`"
    )
    Path("x.json").write_bytes(b"\xff\xfe\x00")
    assert read_error("x.json") == (
        "--grad @x.json: not a text in UTF-8\n"
        'remedy: save it anew with json.dump(x.tolist(), open("x.json", "w"))'
    )
    Path("x.json").write_bytes(b"1," * MAX_VALUE_TEXT)
    assert read_error("x.json") == (
        "--grad @x.json: the file has 8,000,000 bytes; at most 4,000,000 are read\n"
        "remedy: save fewer elements, as a .npy file"
    )
    Path("x.json").write_text("@y.json")
    assert "a number or a list was expected, not `@`" in read_error("x.json")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(10)[2:4],
        torch.nn.Parameter(torch.ones(2)),
        torch.ones(1).expand(3, 2),
        torch.tensor([0.5], dtype=torch.bfloat16),
        torch.tensor(True),
    ],
    ids=["transposed", "part", "parameter", "expanded", "bfloat16", "bool"],
)
@pytest.mark.parametrize("path", ["x.pt", "x.PTH"])
def test_pt(tensor: torch.Tensor, path: str) -> None:
    torch.save(tensor, path)
    same(read(path), tensor.detach().double().numpy())


SAVE = 'remedy: save the one tensor: torch.save(x.detach(), "x.pt")'
NOT_DENSE = f"not a file of one dense tensor\n{SAVE}"


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"w": torch.ones(2)}, f"holds an object of type dict, not one tensor\n{SAVE}"),
        (3, f"holds an object of type int, not one tensor\n{SAVE}"),
        (torch.ones(2, device="meta"), NOT_DENSE),
        (SPARSE, NOT_DENSE),
        (bytearray(b"x"), NOT_DENSE),
        (torch.nn.Linear(2, 2), NOT_DENSE),
        (torch.ones(2, dtype=torch.complex64), COMPLEX),
        (torch.ones(1).expand(10**6, 10**6), TERA),
    ],
    ids=["dict", "int", "meta", "sparse", "bytearray", "module", "complex", "expanded"],
)
def test_pt_of_something_else(saved: object, message: str) -> None:
    torch.save(saved, "x.pt")
    assert read_error("x.pt") == f"--grad @x.pt: {message}"


def rewrite(change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Save three elements as ``x.pt``, with ``data.pkl`` changed."""
    torch.save(torch.arange(3.0), "whole.pt")
    with zipfile.ZipFile("whole.pt") as whole, zipfile.ZipFile("x.pt", "w", compression) as out:
        for name in whole.namelist():
            content = whole.read(name)
            out.writestr(name, change(content) if name.endswith("data.pkl") else content)


THREE, THOUSAND = b"K\x03", b"J\xe8\x03\x00\x00"  # as a pickle spells them


def test_pt_claims_are_checked() -> None:
    refused = f"--grad @x.pt: PyTorch cannot load this file\n{SAVE}"
    rewrite(lambda pickle: pickle.replace(b"K\x00" + THREE, b"K\x00" + THOUSAND))  # the shape
    assert read_error("x.pt") == refused
    rewrite(lambda pickle: pickle.replace(THREE, THOUSAND))  # the storage as well
    assert read_error("x.pt") in (
        refused,
        f"--grad @x.pt: the file ends before the elements that it announces\n{SAVE}",
    )


def test_pt_is_never_decompressed() -> None:
    rewrite(lambda pickle: pickle, zipfile.ZIP_DEFLATED)
    assert read_error("x.pt") == f"--grad @x.pt: {NOT_DENSE}"


@pytest.mark.parametrize("cut", [0, 10, 500])
def test_damaged_pt(cut: int) -> None:
    torch.save(torch.ones(2), "x.pt")
    Path("x.pt").write_bytes(Path("x.pt").read_bytes()[:cut])
    assert read_error("x.pt") == (
        f"--grad @x.pt: not a file in the format that torch.save writes today\n{SAVE}"
    )


PATH = "remedy: check the path; a relative one starts at the current directory"
FORMATS = (
    "expected a file that ends in .npy, .json or .pt\n"
    'remedy: save the array with numpy.save("x.npy", x) and give `@x.npy`'
)


def test_what_is_not_a_file() -> None:
    os.mkdir("dir.npy")
    os.mkfifo("fifo.npy")
    os.symlink("/dev/zero", "zero.json")
    for path, message in [
        ("none.npy", f"there is no such file\n{PATH}"),
        ("dir.npy", f"this is a directory, not a file\n{PATH}"),
        ("fifo.npy", f"this is a pipe or a device, not a file\n{PATH}"),
        ("zero.json", f"this is a pipe or a device, not a file\n{PATH}"),
        ("dir.npy/x.npy", f"there is no such file\n{PATH}"),
        ("n" * 300 + ".npy", f"cannot be read (File name too long)\n{PATH}"),
        ("x.csv", FORMATS),
        ("", FORMATS),
        (
            "x.npz",
            (
                "an archive of several arrays is not supported\n"
                'remedy: save the one array: numpy.save("x.npy", numpy.load("x.npz")["x"])'
            ),
        ),
    ]:
        assert read_error(path) == f"--grad @{path}: {message}"
    assert read_error("\0.npy") == f"--grad @\\x00.npy: cannot be read (not a path)\n{PATH}"


def test_file_of_too_many_bytes() -> None:
    with open("x.npy", "wb") as file:
        file.truncate(10**12)  # a sparse file: it takes no room
    assert read_error("x.npy") == (
        "--grad @x.npy: the file has 1,000,000,000,000 bytes; at most 257,000,000 are read\n"
        "remedy: save fewer elements, as a .npy file"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file() -> None:
    Path("x.npy").touch(mode=0)
    assert read_error("x.npy") == f"--grad @x.npy: cannot be read (Permission denied)\n{PATH}"


def test_names_of_files_are_shown_literally() -> None:
    assert read_error("[red]\x1b.npy").startswith("--grad @[red]\\x1b.npy: there is no such file\n")


# ---- what the dtype holds ------------------------------------------------------------------------


def test_bind() -> None:
    values = np.array([0.1, math.inf, -math.inf, math.nan, 1e-50])
    same(bind(values, "float64", "--at x"), values)
    same(bind(values, "float32", "--at x"), [0.10000000149011612, math.inf, -math.inf, math.nan, 0])
    same(bind(np.array(0.1), "float32", "--at x"), 0.10000000149011612)


def test_bind_overflow() -> None:
    assert str(error_of(lambda: bind(np.array([[1, -1e39]]), "float32", "--at x"))) == (
        "--at x: -1e+39 is too large for float32, whose largest number is 3.4e38\n"
        "remedy: use `--dtype float64`"
    )


def test_kinds_of_error() -> None:
    """What PyTorch could do is not supported; what makes no sense is wrong input."""
    assert type(error_of(lambda: parse_shape("x=10000,10000"))) is UnsupportedError
    assert type(error_of(lambda: as_array(1j, "grad"))) is UnsupportedError
    assert type(error_of(lambda: read("x.npz"))) is UnsupportedError
    assert type(error_of(lambda: as_array(None, "grad"))) is InputError
    assert type(error_of(lambda: read("none.npy"))) is InputError


@pytest.mark.parametrize(
    ("expression", "shapes"),
    [
        ("torch.linalg.inv(x).sum()", {"x": (3, 3)}),
        ("torch.logdet(x)", {"x": (3, 3)}),
        ("det(x)", {"x": (3, 3)}),
        ("torch.linalg.cholesky(x).sum()", {"x": (3, 3)}),
        ("torch.linalg.solve(A, b).sum()", {"A": (3, 3), "b": (3,)}),
        ("sqrt(1 - x**2).sum()", {"x": (3,)}),
        ("x.acosh().sum()", {"x": (3,)}),
        ("torch.special.logit(x).sum()", {"x": (3, 4)}),
        ("F.hardtanh(x).sum()", {"x": (3, 4)}),
        ("torch.einsum('bij,kj->bik', x, w).relu().mean()", {"x": (2, 3, 4), "w": (5, 4)}),
    ],
)
def test_example_values_are_where_there_is_a_derivative(
    expression: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    found = explain(expression, shapes=shapes)
    assert found.check is not None and found.check.status == "agree"
    assert all(np.isfinite(gradient.value).all() for gradient in found.gradients.values())
