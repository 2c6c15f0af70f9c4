"""Functions as people write them, each right, and what is naturally got wrong in each.

The files beside this one hold one Function after another, each after a line ``# == Title``:

    # option: --arg p=3             options of the command for this Function
    # name: gaussian                what is checked, where it is not the last class
    # code|code: old => new         a fault: the first ``old`` after ``def backward`` becomes ``new``
    # right: old => new             another way to write what is right

A fault may be named by each of its codes; ``code+code`` are two faults at once, in any order.
``python -m tests.functions`` prints the table.
"""
