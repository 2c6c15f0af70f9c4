"""`gradexplain codegen`: a ``torch.autograd.Function`` from the closed form.

`printer` writes a formula in index notation as vectorised PyTorch; `forward` writes the
expression's own operations; `function` puts them together as a class, and holds it against
`gradexplain check`.
"""
