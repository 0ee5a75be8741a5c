"""The tasks that a stream is made of, by name."""

# Importing a module registers its tasks.
from sfa.data import (  # noqa: F401
    arithmetic,
    digits,
    glyphs,
    instructions,
    law,
    legal_terms,
    licences,
    magicoder,
    metamathqa,
    other_words,
    returns,
)
from sfa.data.custom import Custom
from sfa.data.images import Images, ImageTask, LabelSplit
from sfa.data.natural_instructions import InstructionFile, InstructionFolder
from sfa.data.task import TASKS, FileName, Row, Split, Task, looking_in, owner, registered, runs_generated_code

__all__ = [
    "TASKS",
    "Custom",
    "FileName",
    "ImageTask",
    "Images",
    "InstructionFile",
    "InstructionFolder",
    "LabelSplit",
    "Row",
    "Split",
    "Task",
    "looking_in",
    "owner",
    "registered",
    "runs_generated_code",
]
