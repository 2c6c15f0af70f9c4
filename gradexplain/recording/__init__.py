"""PyTorch's calls, seen as they are made: one table of operators, two policies.

`tape` hangs each call on the node that autograd makes for its result, so that a later ``backward``
can be read; `graphs` builds a graph of records right away.  `operators` says what a function of
PyTorch's is, `patches` how PyTorch is listened to and left as it was, `frames` what the script calls
things and where.  Nothing here raises into the code that is being recorded.
"""
