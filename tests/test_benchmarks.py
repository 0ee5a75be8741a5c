"""Benchmarks in their own protocols: prompts, orders and metrics, and folders in the schemas of their releases."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import train
from eval import TASK_FILES, available
from eval.evaluator import Evaluations
from eval.kind import Settings
from sfa.config import ConfigError, load
from sfa.data import Custom, InstructionFile
from sfa.data.source import SourceError, find, identity, splits
from sfa.data.source import load as load_rows

YAMLS = Path(train.__file__).parent / "yamls"
TINY = """
name: tiny
model:
  architecture: gpt_neox
  config: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, initializer_range: 0.3}
  tokenizer: {train_on: null, vocab_size: 300}
method: sequential
train: {max_duration: 3ba, global_batch_size: 2, seq_len: 128, lr: 1.0e-3}
eval: {interval: null, limit: 3}
loggers: {}
"""
NLI = 'What is the logical relationship between the "sentence 1" and the "sentence 2"?'
INSTRUCTIONS = {  # of O-LoRA's release, by kind of task
    "TC": "What is the topic of the following paragraph?",
    "SC": "What is the sentiment of the following paragraph?",
    "NLI": NLI,
    "QQP": 'Whether the "first sentence" and the "second sentence" have the same meaning?',
    "BoolQA": "According to the following passage, is the question true or false?",
    "MultiRC": "According to the following passage and question, is the candidate answer true or false?",
    "WiC": "Given a word and two sentences, whether the word is used with the same sense in both sentence?",
}
ORDERS = {  # table of O-LoRA's paper
    "standard_cl": [
        "dbpedia amazon yahoo agnews",
        "dbpedia amazon agnews yahoo",
        "yahoo amazon agnews dbpedia",
    ],
    "long_cl": [
        "mnli cb wic copa qqp boolqa rte imdb yelp amazon sst2 dbpedia agnews multirc yahoo",
        "multirc boolqa wic mnli cb copa qqp rte imdb sst2 dbpedia agnews yelp amazon yahoo",
        "yelp amazon mnli cb copa qqp rte imdb sst2 dbpedia agnews yahoo multirc boolqa wic",
    ],
}


def answers() -> Any:
    """The module of the scores of what a model writes, which lm-eval loads by its path."""
    spec = importlib.util.spec_from_file_location("answers", TASK_FILES / "declared" / "answers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["standard_cl", "standard_cl_small", "long_cl"])
def test_prompts_are_those_of_o_lora(name: str) -> None:
    for task in load(YAMLS / f"{name}.yaml", ["dry_run=true"], available).tasks:
        assert isinstance(task, Custom) and isinstance(task.choices, list)
        _, kind, dataset = task.source.split("/")
        instruction = INSTRUCTIONS.get(kind)  # rows of COPA hold their question
        question = f"{instruction} Choose one from the option.\nOption: {', '.join(task.choices)} \n"
        question = question if instruction else ""
        assert task.prompt == f"Task:{kind}\nDataset:{dataset}\n{question}{{sentence}}\nAnswer:"
        assert task.evals == (f"{task.name}_label_match",)


@pytest.mark.parametrize("name", ORDERS)
def test_orders_are_those_of_the_header_and_the_paper(name: str) -> None:
    lines = [line for line in (YAMLS / f"{name}.yaml").read_text().splitlines() if "  order " in line]
    assert len(lines) == 3
    for line, order in zip(lines, ORDERS[name], strict=True):
        overrides = ["dry_run=true", *(word for word in line.split() if word.startswith("order="))]
        assert [task.name for task in load(YAMLS / f"{name}.yaml", overrides, available).tasks] == order.split()


def test_trace_is_in_its_own_order_with_its_metrics() -> None:
    tasks = load(YAMLS / "trace.yaml", [], available).tasks
    sources = "C-STANCE FOMC MeetingBank Py150 ScienceQA NumGLUE-cm NumGLUE-ds 20Minuten"
    assert [getattr(task, "source", "").removeprefix("TRACE/") for task in tasks] == sources.split()
    metrics = "exact_match exact_match rouge_l similarity first_letter exact_match exact_match sari"
    assert [task.evals[0].removeprefix(f"{task.name}_") for task in tasks] == metrics.split()
    assert [task.train["max_duration"] for task in tasks] == ["5ep", "3ep", "7ep", "5ep", "3ep", "5ep", "5ep", "7ep"]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A folder in the schema of TRACE's release."""
    for name in ("FOMC", "ScienceQA"):
        (tmp_path / name).mkdir()
        for split, n in (("train", 40), ("eval", 4), ("test", 8)):
            rows = [{"prompt": f"{split} {i} is it A or B? ", "answer": "AB"[i % 2]} for i in range(n)]
            (tmp_path / name / f"{split}.json").write_text(json.dumps(rows))
    return tmp_path


def test_a_stream_from_a_release_in_json_is_trained_and_scored(trace: Path) -> None:
    config = trace / "tiny.yaml"
    tasks = """tasks:
  - {name: fomc, source: TRACE/FOMC, prompt: "{prompt}", response: "{answer}", metric: exact_match}
  - {name: scienceqa, source: TRACE/ScienceQA, prompt: "{prompt}", response: "{answer}", metric: first_letter}
"""
    config.write_text(f"{TINY}{tasks}save_folder: {trace / 'runs'}\ndata_folder: {trace}\n")
    assert train.main([str(config)]) == 0
    rows = json.loads((trace / "runs" / "tiny" / "results.json").read_text())["evaluations"]
    assert [row["evaluation"] for row in rows[:2]] == ["fomc_exact_match", "scienceqa_first_letter"]
    assert [row["metric"] for row in rows[:2]] == ["exact_match", "first_letter"]
    assert all(row["n"] == 3 and 0 <= row["value"] <= 1 and "outcomes" in row for row in rows)


def test_a_metric_determines_no_row_and_no_stage(trace: Path) -> None:
    options = {"name": "a", "source": str(trace / "FOMC"), "prompt": "{prompt}", "response": "{answer}"}
    plain, scored = Custom(**options), Custom(**options, metric="exact_match")
    assert plain.data_spec() == scored.data_spec() and plain.evals == ("a_loss",)
    both = Custom(**options, metric="exact_match", choices=["A", "B"])
    assert set(both.declared()) == {"a_loss", "a_accuracy", "a_exact_match"} and both.evals == ("a_exact_match",)
    evaluations = Evaluations(["a_accuracy", "a_exact_match"], [both], Settings())
    assert len({evaluations.key(name) for name in evaluations.names}) == 2
    with pytest.raises(ValueError, match="label_match"):
        Custom(**options, metric="accuracy")


def test_a_folder_of_json_alone_is_read(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('\ufeff[{"a": 1.50, "b": "x"}, {"a": 2, "b": "ü"}]')
    (tmp_path / "labels.json").write_text('["x", "ü"]')
    source = find(str(tmp_path), None)
    assert splits(source) == ["labels", "train"]
    assert [repr(row["a"]) for row in load_rows(source, "train", ["a"])] == ["1.50", "2"]
    with pytest.raises(SourceError, match="row 0 is not a JSON object"):
        load_rows(source, "labels", ["a"])
    before = identity(source)
    (tmp_path / "train.csv").write_text("a,b\n1,x\n")
    assert set(identity(find(str(tmp_path), None))) == {"train"} != set(before)  # then no JSON is read


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "not an array"), ("[1]", "row 0 is not"), ("[", "Expecting value"), ('[{"a": NaN}]', "not a JSON value")],
)
def test_json_that_is_no_array_of_rows_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(SourceError, match=rf"train\.json cannot be read: .*{message}"):
        load_rows(find(str(tmp_path), None), "train", ["a"])


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    """Two tasks in the schema of Super-NaturalInstructions."""
    (tmp_path / "tasks").mkdir()
    for name, words in {"task2_later": ["b", "bb"], "task1_first": ["a"]}.items():
        rows = [{"id": f"{name}-{i}", "input": f"number {i}", "output": words} for i in range(40)]
        content = {"Definition": ["Say it."], "Positive Examples": [], "Instances": rows}
        (tmp_path / "tasks" / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_any_folder_of_instructions_is_a_stream(instructions: Path) -> None:
    config = instructions / "tiny.yaml"
    config.write_text(
        f"{TINY}tasks: [{{instructions: tasks, limit: 20}}]\nsave_folder: {instructions / 'runs'}\n"
        f"data_folder: {instructions}\n"
    )
    loaded = load(config, [], available)
    assert [task.name for task in loaded.tasks] == ["task1_first", "task2_later"]
    later = loaded.tasks[1]
    assert isinstance(later, InstructionFile) and later.evals == ("task2_later_rouge_l",)
    trained, held = later.rows("train"), later.rows("test")
    assert len(trained) == 20 and held and not {r["prompt"] for r in trained} & {r["prompt"] for r in held}
    head, _, example = trained[0]["prompt"].partition("\n\n")
    assert head == "Definition: Say it." and example.startswith("Now complete the following example -\nInput: number ")
    assert (trained[0]["response"], trained[0]["references"]) == ("b", ["b", "bb"])
    before = later.data_spec()
    file = instructions / "tasks" / "task2_later.json"
    moved = instructions / "elsewhere"
    (instructions / "tasks").rename(moved)
    options = {"name": "task2_later", "folder": str(moved), "file": "task2_later", "limit": 20}
    assert InstructionFile(**options).data_spec() == before  # identified by content
    (moved / file.name).write_text((moved / file.name).read_text().replace("Say it", "Say this"))
    assert InstructionFile(**options).data_spec() != before
    moved.rename(instructions / "tasks")
    assert train.main([str(config), "eval.limit=1"]) == 0
    rows = json.loads((instructions / "runs" / "tiny" / "results.json").read_text())["evaluations"]
    assert {(row["evaluation"], row["metric"]) for row in rows} == {
        ("task1_first_rouge_l", "rougeL"),
        ("task2_later_rouge_l", "rougeL"),
    }


def test_a_folder_of_instructions_that_is_missing_or_wrong_is_named(instructions: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    for entry, message in {
        "{instructions: nowhere}": "tasks.0.instructions: nowhere is no folder of <task>.json; or name them in only",
        "{instructions: tasks, only: [task3]}": "has no task3.json",
        "{instructions: tasks, onli: [task1_first]}": "tasks.0.onli: unknown key; did you mean only?",
    }.items():
        config.write_text(f"{TINY}tasks: [{entry}]\ndata_folder: {instructions}\n")
        with pytest.raises(ConfigError, match=message):
            load(config, [], available)
    for content in ("[]", '{"Definition": "x"}', '{"Definition": "x", "Instances": [{"input": "y"}]}', "{"):
        (instructions / "tasks" / "task1_first.json").write_text(content)
        with pytest.raises(SourceError, match=r"task1_first\.json"):
            InstructionFile(name="x", folder=str(instructions / "tasks"), file="task1_first").rows("train")


def test_what_a_model_writes_is_compared_as_in_the_protocols() -> None:
    scores = answers()

    def of(name: str, response: str, written: str, **doc: Any) -> float:
        (value,) = getattr(scores, name)({"response": response, **doc}, [written]).values()
        return float(value)

    assert of("exact_match", "3.5", " 3.5") == 1 and of("exact_match", "3.5", "35") == of("exact_match", "5", "-5") == 0
    assert of("label_match", "Science or Technology", " science or  technology.") == 1
    assert of("label_match", "World", "World Sports") == 0
    assert of("first_letter", "B\nbecause", "B") == 1 and of("first_letter", "B\nbecause", "") == 0
    assert of("rouge_l", "a b c d", "a c d") == pytest.approx(2 * 0.75 * 1 / 1.75)
    assert of("rouge_l", "x", "a b", references=["x", "a b"]) == 1
    assert of("similarity", "x = <STR_LIT:abc> + <NUM_LIT>", "x = abc + 0") == 1
    assert of("similarity", "ab", "bc") == pytest.approx(2 * 1 / 4) and of("similarity", "ab", "") == 0


def test_sari_is_that_of_published_examples_and_of_the_equation() -> None:
    """The first is the example in the documentation of Hugging Face's metric, 26.953601953601954 of 100."""
    sari = answers().sari
    source, written = "About 95 species are currently accepted.", "About 95 you now get in."
    references = ["About 95 species are currently known.", "About 95 species are now accepted."]
    references += ["95 species are now accepted."]
    assert sari(source, written, references) == pytest.approx(0.26953601953601954)
    assert sari(source, references[1], [references[1]]) == pytest.approx(1)
    # "a b" with the reference "a c", written "a d": of single words, a is kept well (F1 1), b deleted well (1), and d
    # added in vain (0); of pairs, none is kept (precision and recall of nothing, 1), one deleted well, one in vain.
    assert sari("a b", "a d", ["a c"]) == pytest.approx((2 / 3 + 2 / 3 + 1 + 1) / 4)
