"""The three routes to the gradients, none of which sees another's result.

`closed` evaluates the closed form of the whole expression, `chain` goes backward one operation at a
time, `pytorch` runs the same graph in PyTorch and calls ``backward``.
"""
