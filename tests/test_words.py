"""The tasks of the small language bed: what is held out is in no text that a model is trained on."""

import re
from collections import Counter

import pytest

from sfa.data import registered


def runs_of(text: str, words: int = 8) -> set[tuple[str, ...]]:
    plain = re.findall(r"[a-z]+", text.lower())
    return set(zip(*(plain[i:] for i in range(words)), strict=False))


@pytest.fixture(scope="module")
def pretraining() -> list[str]:
    return [row["prompt"] + row["response"] for row in registered("other_words").rows("train")]


def test_a_legal_terms_row_is_an_excerpt_with_one_blank_and_a_letter() -> None:
    for split, least in (("train", 3000), ("test", 500)):
        rows = registered("legal_terms").rows(split)  # type: ignore[arg-type]
        assert len(rows) >= least
        assert len(set(Counter(row["response"] for row in rows).values())) == 1  # equal numbers
        for row in rows:
            assert row["prompt"].count("____") == 1 and row["prompt"].endswith("\nMissing:")
            words = [word.lower().strip(".,;:()\"'“”") for word in row["prompt"].split()]
            assert not {"damages", "patent", "termination", "warranty"} & {*words}
            assert row["response"] in "ABCD" and row["choices"] == ["A", "B", "C", "D"]


def test_held_out_excerpts_share_no_eight_words_with_a_training_text(pretraining: list[str]) -> None:
    legal = registered("legal_terms")
    training = {run for row in legal.rows("train") for run in runs_around_the_blank(row["prompt"])}
    training |= {run for text in pretraining for run in runs_of(text)}
    for row in legal.rows("test"):
        assert not runs_around_the_blank(row["prompt"]) & training


def runs_around_the_blank(prompt: str) -> set[tuple[str, ...]]:
    before, _, after = prompt.removeprefix("Licence:").removesuffix("Missing:").partition("____")
    return runs_of(before) | runs_of(after)


def test_pretraining_has_no_end_of_a_program_and_no_question_of_the_stream(pretraining: list[str]) -> None:
    ends = {row["prompt"] for row in registered("returns").rows("test")}
    code = {
        line for prompt in ends for line in prompt.splitlines() if line.startswith("    return ") and len(line) > 60
    }
    assert code and not code & {line for text in pretraining for line in text.splitlines()}
    assert not any("how many legs" in text for text in pretraining)
    assert sum("What is" in text and "times" in text for text in pretraining) > 1000
