"""Second derivatives: gradients as values that are differentiated again.

`gradients` makes the graphs, `making` the Hessian (`model`), `twice` the second pass of ``run --order 2``.
"""
