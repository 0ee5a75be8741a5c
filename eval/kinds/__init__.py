"""The kinds of evaluation, one file each. Importing this package registers them all."""

import importlib
import pkgutil

from eval.kind import KINDS

__all__ = ["KINDS"]

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
