"""Functions that the library writes in terms of others: their values and gradients are PyTorch's own."""

from __future__ import annotations

import ast
import warnings

import numpy as np
import pytest
import torch

import gradexplain
from gradexplain.ops.samples import parse
from gradexplain.reading import library

SAMPLES = [text for made in library.compositions() for text in made.samples]

#: Modules without parameters, and with them: what makes one, and what it is called with.
PLAIN = [
    "nn.ReflectionPad2d(1)(x[1,1,3,3])", "nn.ReplicationPad1d((2, 1))(x[1,2,3])", "nn.CircularPad2d(1)(x[1,1,2,3])",
    "nn.ConstantPad1d(1, 2.5)(x[1,2,3])", "nn.ZeroPad2d((1, 0, 2, 1))(x[1,1,2,2])", "nn.PixelShuffle(2)(x[1,4,1,2])",
    "nn.Unfold(2, stride=2)(x[1,1,4,4])", "nn.Fold((3, 3), 2)(x[1,4,4])", "nn.LPPool2d(2, 2)(x[1,1,2,4])",
    "nn.MaxPool3d(2)(x[1,1,2,2,4])", "nn.AvgPool3d((1, 2, 2))(x[1,1,2,2,4])", "nn.AdaptiveAvgPool3d(1)(x[1,2,2,2,1])",
    "nn.AdaptiveMaxPool1d(2)(x[1,2,5])", "nn.LocalResponseNorm(2)(x[1,3,2])", "nn.Softmax2d()(x[1,3,2,1])",
    "nn.InstanceNorm1d(2)(x[1,2,4])", "nn.UpsamplingBilinear2d(scale_factor=2)(x[1,1,2,3])",
    "nn.ChannelShuffle(2)(x[1,4,2])", "nn.TripletMarginWithDistanceLoss(margin=2.0)(a[2,3], b[2,3], c[2,3])",
    "nn.MultiMarginLoss(p=2)(x[2,3], torch.tensor([2, 0]))", "nn.RReLU().eval()(x[3] - 2)",
]  # fmt: skip
MODULES = [
    ("nn.Bilinear(2, 3, 2)", "m(x[4,2], y[4,3])"),
    ("nn.ConvTranspose2d(2, 1, 2, stride=2)", "m(x[1,2,2,3])"),
    ("nn.InstanceNorm2d(2, affine=True)", "m(x[1,2,2,3])"),
    ("nn.EmbeddingBag(4, 2, mode='sum')", "m(torch.tensor([[0, 3], [1, 1]]))"),
    ("nn.LSTM(2, 1, bidirectional=True, batch_first=True)", "m(x[1,2,2])[0]"),
    ("nn.RNN(2, 3, nonlinearity='relu', bias=False)", "m(x[3,2])[1]"),
    ("nn.GRUCell(2, 3)", "m(x[2,2], h[2,3])"),
    ("nn.MultiheadAttention(4, 2, kdim=3, vdim=2)", "m(q[2,1,4], k[3,1,3], v1[3,1,2])[0]"),
    ("nn.TransformerEncoderLayer(4, 2, 3, 0.0, batch_first=True)", "m(x[1,2,4])"),
    ("nn.TransformerEncoderLayer(4, 1, 3, 0.0, 'gelu', norm_first=True)", "m(x[2,1,4])"),
    ("nn.TransformerDecoderLayer(2, 1, 3, 0.0)", "m(x[2,1,2], y[2,1,2], torch.ones(2, 2).triu(1) * -9.0)"),
    ("nn.TransformerEncoder(nn.TransformerEncoderLayer(2, 1, 2, 0.0), 1)", "m(x[1,1,2])"),
]  # fmt: skip


@pytest.mark.parametrize("text", [*SAMPLES, *PLAIN])
def test_functions_are_pytorchs_own(text: str) -> None:
    expression, shapes = parse(text)
    compared(gradexplain.explain(expression, shapes=shapes, grad="ones"), "", expression)


def test_eigenvectors_are_refused() -> None:
    with pytest.raises(gradexplain.GradexplainError) as caught:
        gradexplain.explain("torch.linalg.eigh(x)[1].sum()", shapes={"x": (2, 2)})
    assert caught.value.message == "`torch.linalg.eigh(x)[1].sum()` is not a tensor"
    assert caught.value.remedy == "their sign is open; only the eigenvalues are differentiated here"


@pytest.mark.parametrize(("module", "text"), MODULES)
def test_modules_are_pytorchs_own(module: str, text: str) -> None:
    expression, shapes = parse(text)
    found = gradexplain.explain(
        f"m = {module}\n{expression}", shapes=shapes, grad="ones", dtype="float64"
    )
    compared(found, module, expression)


def compared(found: gradexplain.Explanation, module: str, expression: str) -> None:
    """The explanation's numbers and PyTorch's, where the module has the parameters that were explained."""
    assert found.check.status == "agree"
    leaves = {n: torch.tensor(v.value, requires_grad=True) for n, v in found.inputs.items()}
    known = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, **leaves}
    if module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layouts that are slow
            known["m"] = eval(module, known).double()
        for name, parameter in known["m"].named_parameters():
            leaf = "m_" + name.replace(".", "_")
            parameter.data = leaves[leaf].data
            leaves[leaf] = parameter
    y = eval(expression, known)
    np.testing.assert_allclose(y.detach().numpy(), found.output.value, rtol=1e-12)
    y.sum().backward()
    for name, gradient in found.gradients.items():
        own = leaves[name].grad.numpy()
        np.testing.assert_allclose(own, gradient.value, rtol=1e-8, atol=1e-12)


def test_no_name_stands_twice() -> None:
    body = ast.parse(library._text()).body
    names = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert len(names) == len(set(names))
