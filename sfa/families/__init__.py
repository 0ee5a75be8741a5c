"""Model families, one per file. Each registers itself; nothing outside its file refers to it by name.

Other packages add families with an entry point in the group ``sfa.families`` that names the module or class.
"""

import importlib
import pkgutil
from importlib.metadata import entry_points

from sfa.families.base import ArrayBuilder, Family, Sequences, WrongFamily, family_of, family_of_tasks

__all__ = ["ArrayBuilder", "Family", "Sequences", "WrongFamily", "family_of", "family_of_tasks"]

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
for _entry in entry_points(group="sfa.families"):  # from other installed packages
    _entry.load()
