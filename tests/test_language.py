"""Names that are not operations: every message whole, with what to write instead."""

from __future__ import annotations

import pytest

from gradexplain import explain
from gradexplain.errors import GradexplainError
from gradexplain.reading.language import read
from gradexplain.reading.syntax import parse

#: Each message after the expression that leads to it.
MESSAGES = r"""
torch.lu_solve(x)
`torch.lu_solve` is not supported yet
  torch.lu_solve(x)
  ^^^^^^^^^^^^^^
remedy: `gradexplain ops` lists what is; gradexplain trace FILE runs a script that uses it

x.cholesky_inverse()
`cholesky_inverse` is not supported yet
  x.cholesky_inverse()
    ^^^^^^^^^^^^^^^^
remedy: `gradexplain ops` lists what is; gradexplain trace FILE runs a script that uses it

torch.stft(x)
`torch.stft` works with complex numbers, which are not read
  torch.stft(x)
  ^^^^^^^^^^
remedy: gradexplain trace FILE runs the script; in a formula write the real and the imaginary part as two tensors

torch.rand(3) * x
`torch.rand` is not supported: it is random, and an explanation is the same every time
  torch.rand(3) * x
  ^^^^^^^^^^
remedy: name an input instead, and give it values with --at

sofmax(x)
`sofmax` is not a function of PyTorch
  sofmax(x)
  ^^^^^^
remedy: did you mean `softmax`?

x.quux()
`quux` is not a method of PyTorch
  x.quux()
    ^^^^
remedy: `gradexplain ops` lists what is known

y = x**2; y.backward()
grad can be implicitly created only for scalar outputs; y has shape (3, 3)
  y = x**2; y.backward()
            ^^^^^^^^^^^^
remedy: give v in that shape, as in `.backward(torch.ones(3, 3))`, or make the output a scalar, as in `y.sum().backward()`

x.grad
`grad` is no operation here
  x.grad
  ^^^^^^
remedy: leave it out: .grad is worked out for every input

x.requires_grad * 2
`requires_grad` is no operation here
  x.requires_grad * 2
    ^^^^^^^^^^^^^
remedy: leave it out: every input requires grad, or those that --wrt names
""".strip()


@pytest.mark.parametrize("case", MESSAGES.split("\n\n"))
def test_message(case: str) -> None:
    text, _, message = case.partition("\n")
    with pytest.raises(GradexplainError) as error:
        read(parse(text), lambda name: (3, 3))
    assert str(error.value) == message


def test_a_comment_within_a_statement_is_not_joined() -> None:
    program = "y = (x * 2   # twice\n     + x**2  # and '#' squared\n     )\ny.sum()"
    assert explain(program, shapes={"x": (2,)}).statements[0] == "y = (x * 2 + x**2 )"
