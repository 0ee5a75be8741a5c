"""The quickstart's math task: multiplication word problems from reasoning-gym."""

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
        import reasoning_gym

        options = {"min_animals": 1, "max_animals": 1, "min_instances": 1, "max_instances": self.max_count}
        generated = reasoning_gym.create_dataset("leg_counting", size=12_000, seed=0, **options)
        rows: dict[str, Row] = {}
        for item in generated:
            question = str(item["question"]).rpartition("Now, ")[2].strip()
            if held_out(question, 2) == (split == "test"):
                rows[question] = {"prompt": f"Question: {question}\nAnswer:", "response": str(item["answer"])}
        return list(rows.values())
