"""A formula over tensors as a small array program, and what can be made of one.

`lower` turns a formula into a program (`program`); each other file is one interpretation: `numeric`
(NumPy in a dtype), `exact` (mpmath), `magnitude` (error bounds beside either), `cost`.
"""
