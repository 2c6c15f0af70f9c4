"""The command line: it maps options to calls, and outcomes to exit codes.

Nothing here imports NumPy, SymPy, PyTorch or rich before a command runs, so that ``--help`` is quick.
"""

from gradexplain.cli.main import main

__all__ = ["main"]
