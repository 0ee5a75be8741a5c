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
from sfa.data.conversations import Conversations
from sfa.data.custom import Custom
from sfa.data.images import Images, ImageTask, LabelSplit
from sfa.data.kinds import KINDS, kind_of
from sfa.data.natural_instructions import InstructionFile, InstructionFolder
from sfa.data.task import TASKS, FileName, Row, Split, Task, looking_in, owner, registered, runs_generated_code

__all__ = [
    "KINDS",
    "TASKS",
    "Conversations",
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
    "kind_of",
    "looking_in",
    "owner",
    "registered",
    "runs_generated_code",
]
