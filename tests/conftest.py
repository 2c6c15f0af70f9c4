"""What the tests share: PyTorch is loaded once, so that every explanation asks it in this process."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch

from gradexplain.ops.samples import parse as sample  # noqa: F401

# The tensors are small: threads only wait for each other, for hundreds of times as long as they work
# where the machine is busy.
torch.set_num_threads(1)
