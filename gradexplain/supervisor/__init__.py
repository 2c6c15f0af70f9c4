"""What keeps a command within its time and memory, also inside code that cannot be interrupted.

    front     the process that was started: it forks the worker, watches it, and outlives it
    link      the worker's side: its budget, what it tells the front, how it is stopped
    helper    processes that are asked: PyTorch's, and one for `explain(timeout=…)`

The front loads nothing, so that watching costs no time at the start.  Where the system has no `fork`
or no `sigtimedwait` (Windows, macOS) a command runs in the process that was started, unwatched.
"""
