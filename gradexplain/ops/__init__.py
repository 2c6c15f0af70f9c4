"""The operations: one record each, by family.  Importing this package fills the registry."""

from gradexplain.ops import (
    activations,
    contractions,
    creation,
    extrema,
    indexing,
    joins,
    linalg,
    losses,
    normalisations,
    norms,
    pointwise,
    reductions,
    scatters,
    shapes,
)
from gradexplain.ops.base import (
    Op,
    Parameter,
    all_ops,
    all_spellings,
    by_schema,
    by_spelling,
)

__all__ = [
    "Op",
    "Parameter",
    "activations",
    "all_ops",
    "all_spellings",
    "by_schema",
    "by_spelling",
    "contractions",
    "creation",
    "extrema",
    "indexing",
    "joins",
    "linalg",
    "losses",
    "normalisations",
    "norms",
    "pointwise",
    "reductions",
    "scatters",
    "shapes",
]
