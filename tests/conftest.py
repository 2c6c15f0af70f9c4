"""What the tests share: PyTorch is loaded once, so that every explanation asks it in this process."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch  # noqa: F401

from gradexplain.ops.samples import parse as sample  # noqa: F401
