"""The tasks that a stream is made of, by name."""

# Importing a module registers its tasks.
from sfa.data import arithmetic, digits, glyphs, instructions, law, licences, magicoder, metamathqa, returns  # noqa: F401
from sfa.data.custom import Custom
from sfa.data.images import Images, ImageTask, LabelSplit
from sfa.data.task import TASKS, FileName, Row, Split, Task, looking_in, owner, registered, runs_generated_code

__all__ = [
    "TASKS",
    "Custom",
    "FileName",
    "ImageTask",
    "Images",
    "LabelSplit",
    "Row",
    "Split",
    "Task",
    "looking_in",
    "owner",
    "registered",
    "runs_generated_code",
]
