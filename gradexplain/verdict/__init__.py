"""Whether two routes give the same numbers, and what that makes of the whole.

`compare` holds arrays of numbers against each other, `fold` makes one verdict of many, `status` has the
words and the exit codes.
"""
