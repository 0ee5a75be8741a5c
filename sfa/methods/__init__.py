"""What can be done about forgetting, a method a file. Each registers itself; nothing outside its file names it.

Other packages add methods with an entry point of the group ``sfa.methods`` that names the module or class.
"""

import importlib
import pkgutil
from importlib.metadata import entry_points

from sfa.methods.base import METHODS, Method, method

__all__ = ["METHODS", "Method", "method"]

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
for _entry in entry_points(group="sfa.methods"):  # of other packages that are installed
    _entry.load()
