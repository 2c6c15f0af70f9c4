"""Real scripts: what their ``backward`` calls did.

`recorder` sees PyTorch's calls while a script runs, `capture` turns one ``backward`` into plain
data (`snapshot`) with the numbers that flowed, `explain` holds them against the records' formulas
(`links`), and `session` ties them together for Python (`tracing`) and the command line (`script`).
"""

from gradexplain.trace.block import tracing
from gradexplain.trace.session import Trace

__all__ = ["Trace", "tracing"]
