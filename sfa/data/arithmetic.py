"""The quickstart's math task: multiplication word problems from reasoning-gym."""

from functools import cache
from typing import ClassVar

from pydantic import Field

from sfa.data.task import Row, Split, Task, held_out


class Arithmetic(Task):
    """How many legs have 17 spiders? Each question is a number of animals of one kind; a fifth of the questions, by
    their text, is held out, so the model must combine numbers and animals that it has not seen together."""

    name: str = "arithmetic"
    evals: tuple[str, ...] = ("arithmetic",)
    package: ClassVar[str] = "reasoning-gym"

    max_count: int = Field(30, ge=1, description="largest number of animals")

    def rows(self, split: Split) -> list[Row]:
        return [
            {"prompt": f"Question: {question}\nAnswer:", "response": answer}
            for question, answer in _problems(self.max_count).items()
            if held_out(question, 2) == (split == "test")
        ]


@cache
def _problems(max_count: int) -> dict[str, str]:
    """Questions and their answers."""
    import reasoning_gym

    options = {"min_animals": 1, "max_animals": 1, "min_instances": 1, "max_instances": max_count}
    generated = reasoning_gym.create_dataset("leg_counting", size=12_000, seed=0, **options)
    return {str(item["question"]).rpartition("Now, ")[2].strip(): str(item["answer"]) for item in generated}
