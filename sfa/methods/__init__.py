"""Methods against forgetting, one per file. Each registers itself; nothing outside its file refers to it by name.

Other packages add methods with an entry point in the group ``sfa.methods`` that names the module or class.
"""

import importlib
import pkgutil
from importlib.metadata import entry_points

from sfa.methods.base import METHODS, Method, plain_method

__all__ = ["METHODS", "Method", "plain_method"]

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
for _entry in entry_points(group="sfa.methods"):  # from other installed packages
    _entry.load()
