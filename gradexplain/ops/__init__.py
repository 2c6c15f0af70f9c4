"""The operations: one record each, by family.  Importing this package fills the registry."""

from importlib import import_module
from pkgutil import iter_modules

from gradexplain.ops.base import (
    Op,
    Parameter,
    all_ops,
    all_spellings,
    by_schema,
    by_spelling,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Op", "Parameter", "all_ops", "all_spellings", "by_schema", "by_spelling"]
