"""Random abuse of the command line: see `tests.fuzz.kinds` for what is tried, `tests.fuzz.trial` for what
must hold.

    python -m tests.fuzz --minutes 60 --seed 7

prints each failure as the command that shows it, and at the end a table of what was tried.

    python -m tests.fuzz --lines

runs what once took all time and memory, and prints what it takes now.

    python -m tests.fuzz --signals 300 --seed 7

stops commands at any moment by SIGINT, SIGTERM and SIGHUP: see `tests.fuzz.moments`.
"""
