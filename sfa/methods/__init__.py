"""What can be done about forgetting, a method a file. Each registers itself; nothing outside its file names it."""

import importlib
import pkgutil

from sfa.methods.base import METHODS, Method, method

__all__ = ["METHODS", "Method", "method"]

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
