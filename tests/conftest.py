"""What the tests share: PyTorch is loaded once, so that every explanation asks it in this process."""

from __future__ import annotations

import gc
import warnings
from importlib import import_module

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch

from gradexplain.ops.samples import parse

#: A record's sample as an expression and its inputs' shapes.
sample = parse

# The tensors are small: threads only wait for each other, for hundreds of times as long as they work
# where the machine is busy.
torch.set_num_threads(1)

import_module("gradexplain.explaining.engine")

# What is loaded by now stays: to look through it for garbage again and again takes a sixth of the time.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 20, 20)
