"""PyTorch's errors about shapes, types and use, in a sentence with what to write instead.

A row is the pattern of the message, why it comes, and the remedy; ``{1}`` is the pattern's first group,
``{call}`` the operation that failed and ``{shapes}`` the shapes of what it was given.
"""

from __future__ import annotations

import re
from typing import Any

_TARGET = (
    "make the targets class numbers: a tensor of shape (N,) and dtype torch.long, as in y.long(), "
    "beside logits of shape (N, C)."
)

_ROWS: tuple[tuple[str, str, str], ...] = (
    (
        r"mat1 and mat2 must have the same dtype, but got (\w+) and (\w+)",
        "{call} multiplies {1} by {2}: the numbers given are not of the weights' type.",
        "convert the input, as in x.float().",
    ),
    (
        r"expected (?:m1 and m2 to have the same dtype, but got: (\w+) != (\w+)|"
        r"both .* same dtype)",
        "The two factors are not of one type.", "convert the input, as in x.float().",
    ),
    (
        r"expected scalar type (\w+) but found (\w+)",
        "{call} needs {1} and was given {2}.",
        "convert it: x.float() for an input, y.long() for class numbers.",
    ),
    (
        r"[\"']?nll_loss\w*[\"']? not implemented for '?(\w+)'?",
        "cross_entropy and nll_loss take class numbers as targets; these are {1}.", _TARGET,
    ),
    (
        r"(?:Expected floating point type for target with class probabilities, got (\w+))",
        "A target in the shape of the logits means class probabilities; these are {1}.", _TARGET,
    ),
    (
        r"expected target dtype to be Long or Byte, but got (\w+)",
        "cross_entropy takes class numbers as targets; these are {1}.", _TARGET,
    ),
    (
        r"Expected input batch_size \((\d+)\) to match target batch_size \((\d+)\)",
        "There are {1} rows of logits and {2} targets.",
        "give a target for each row: look at what view or reshape did to the batch.",
    ),
    (
        r"0D or 1D target tensor expected, multi-target not supported",
        "cross_entropy takes one class number for each row; the target has more axes ({shapes}).",
        "use y.squeeze(1) for shape (N, 1), or y.argmax(1) for one-hot rows.",
    ),
    (
        r"Target (-?\d+) is out of bounds",
        "Class {1} is not among the logits' columns ({shapes}).",
        "give the last layer as many outputs as there are classes, and count classes from 0.",
    ),
    (
        r"index out of range in self",
        "An index is not smaller than the number of rows of the embedding ({shapes}).",
        "make num_embeddings larger than the largest index, and count from 0.",
    ),
    (
        r"mat1 and mat2 shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x(\d+)\)",
        "The layer takes {3} features, its input has {2} ({shapes}).",
        "make the layer for {2} features, as in nn.Linear({2}, {4}), or flatten the input differently.",
    ),
    (
        r"expected input\[[^\]]*\] to have (\d+) channels, but got (\d+) channels",
        "The convolution takes {1} channels, its input has {2} ({shapes}): the axes are N, C, H, W.",
        "make the layer for {2} channels, or put the channels second with permute(0, 3, 1, 2).",
    ),
    (
        r"The size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\) at non-singleton "
        r"dimension (\d+)",
        "{call} puts {1} elements beside {2} along axis {3} ({shapes}), and neither is 1.",
        "bring both to one shape with reshape, unsqueeze or transpose.",
    ),
    (
        r"shape '\[([^\]]*)\]' is invalid for input of size (\d+)",
        "{2} elements do not fill the shape ({1}).",
        "let one size be found, as in x.view(x.size(0), -1).",
    ),
    (
        r"view size is not compatible with input tensor's size and stride",
        "view needs elements that lie side by side in memory; after transpose, permute or a slice "
        "they do not.",
        "use reshape instead of view.",
    ),
    (
        r"marked with @once_differentiable",
        "The backward of a custom Function is marked once_differentiable: autograd does not record "
        "it, so there is no second derivative.",
        "leave @once_differentiable out and write backward in differentiable operations, or do not "
        "ask for create_graph=True.",
    ),
    (
        r"Inference tensors cannot be saved for backward|Inplace update to inference tensor",
        "A tensor was made under torch.inference_mode(): autograd can never use it.",
        "make it under torch.no_grad() instead, or take a clone() of it outside.",
    ),
    (
        r"Function '(\w+?)(?:Backward\d*)?' returned nan values in its (\d+)th output",
        "The backward of {1} makes nan: its derivative is infinite or undefined at the value it was "
        "given.",
        "keep its argument away from there, as in torch.sqrt(x + 1e-12) or x.clamp_min(1e-12).",
    ),
    (
        r"'(float|int|bool)' object has no attribute 'backward'",
        "The loss is a Python {1}: .item() or arithmetic with numbers has taken it out of the graph.",
        "call backward on the tensor, and .item() only for printing.",
    ),
    (
        r"'ndarray' object has no attribute 'backward'|'numpy\.\w+' object has no attribute 'backward'",
        "The loss is NumPy's: nothing done there is recorded.",
        "compute the loss with PyTorch's own functions.",
    ),
    (
        r"'NoneType' object has no attribute 'backward'",
        "What should be the loss is None: the function that made it returns nothing.",
        "return the loss.",
    ),
    (
        r"unsupported operand type\(s\) for [-+*/]=?: '\w+' and 'NoneType'|"
        r"'NoneType' object has no attribute '(?:data|zero_|norm|clone|detach|numpy|item|abs|mean|sum)'"
        r"|unsupported operand type\(s\) for [-+*/]=?: 'NoneType' and",
        "A .grad that is used here is None: no backward has reached that tensor, or it is no leaf.",
        "call backward first, on something computed from it; for a result call retain_grad().",
    ),
    (
        r"optimizer got an empty parameter list",
        "The optimizer was given no parameters.",
        "pass model.parameters(), and keep layers in nn.ModuleList instead of a plain list.",
    ),
    (
        r"can't optimize a non-leaf Tensor",
        "An optimizer changes leaves; this tensor was computed from others.",
        "make it a leaf: (…).detach().requires_grad_(), or nn.Parameter(…).",
    ),
    (
        r"Boolean value of Tensor with more than one value is ambiguous",
        "An if or while needs one truth value; the tensor has several.",
        "use .all() or .any(), or torch.where to choose element by element.",
    ),
    (
        r"all elements of (?:input|target) should be between 0 and 1",
        "binary_cross_entropy takes probabilities; some are outside of 0…1 or nan.",
        "use binary_cross_entropy_with_logits (BCEWithLogitsLoss) on the raw outputs.",
    ),
    (
        r"Using a target size \(torch\.Size\((\[[^\]]*\])\)\) that is different to the input size "
        r"\(torch\.Size\((\[[^\]]*\])\)\)",
        "The target has shape {1}, the prediction {2}.",
        "bring both to one shape, as in prediction.squeeze(1) or target.unsqueeze(1).",
    ),
    (
        r"result type (\w+) can't be cast to the desired output type (\w+)",
        "An in-place operation cannot put {1} into a tensor of {2}.",
        "make the tensor a float first, as in x = x.float().",
    ),
    (
        r"can't assign a numpy|can't convert .* device|Expected all tensors to be on the same device",
        "Tensors lie on different devices.", "move the input to the model's, as in x.to(device).",
    ),
    (
        r"Trying to backward through .* but a saved tensor has been freed",
        "An earlier backward freed what this one needs.", "call backward once for each forward.",
    ),
    (
        r"only (?:one element tensors|batches of spatial targets)",
        "A single number, or one class for each pixel, is needed here ({shapes}).",
        "reduce it first, as in x.mean().item().",
    ),
    (
        r"Output \d+ of (\w+) is a view and is being modified inplace.*no_grad",
        "A view made under no_grad is changed outside of it.", "make the view where it is changed.",
    ),
)  # fmt: skip


def explained(message: str, failed: Any) -> tuple[str, str]:
    """Why an error comes and the remedy; both empty where it is not among the known."""
    for pattern, why, remedy in _ROWS:
        match = re.search(pattern, message)
        if match:
            groups = ["", *(group or "" for group in match.groups())]
            known = {"call": _call(failed), "shapes": _shapes(failed)}
            why = why.format(*groups, **known).replace(" ()", "")
            return why[0].upper() + why[1:], remedy.format(*groups, **known)
    return "", ""


def _call(failed: Any) -> str:
    return failed[0].name.strip("_") if failed is not None else "the operation"


def _shapes(failed: Any) -> str:
    if failed is None:
        return ""
    tensors = [arg for arg in failed[1] if hasattr(arg, "shape")]
    return " and ".join(str(tuple(tensor.shape)) for tensor in tensors[:2])
