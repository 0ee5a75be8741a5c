"""Data and models that cannot be used are reported with the reason, and nothing is trained on them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import train
from scripts import merge

GOOD = [{"question": f"w{i} w{i + 1}", "answer": f"w{i % 7}"} for i in range(60)]


def config(folder: Path, **changes: Any) -> str:
    """The YAML of a stream of two tasks whose rows are in ``folder``."""
    templates = {"prompt": "{question}", "response": "{answer}"}
    content = {
        "name": "run",
        "model": {
            "architecture": "llama",
            "config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
            "tokenizer": {"train_on": ["arithmetic"], "vocab_size": 300},
        },
        "tasks": [{"name": name, "source": str(folder / name), **templates} for name in ("one", "two")],
        "train": {"max_duration": "2ba", "global_batch_size": 2, "seq_len": 32},
        "eval": {"interval": None, "limit": 4},
        "save_folder": str(folder / "runs"),
        "loggers": {},
        **changes,
    }
    for name in ("one", "two"):
        if not (folder / name).exists():
            write(folder / name, GOOD)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "config.yaml")


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def law(folder: Path, labels: list[Any]) -> None:
    """The three data sets of law, of twenty rows each; the labels are those of ToS."""
    holdings = {f"holding_{i}": f"w{i}" for i in range(5)}
    write(folder / "casehold", [{"citing_prompt": f"w{i}", **holdings, "label": i % 5} for i in range(20)])
    write(folder / "claudette_tos", [{"text": f"w{i}", "label": label} for i, label in enumerate(labels)])
    write(folder / "overruling", [{"sentence1": f"w{i}", "label": i % 2} for i in range(20)])


def pretrained(folder: Path, words: int = 200, eos: str | None = "w0", **sizes: Any) -> Path:
    """A model with a tokenizer of whole words, which has no pad token and no chat template."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    LlamaForCausalLM(LlamaConfig(**{**small, "vocab_size": 200, **sizes})).save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w1"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=eos, unk_token="w1").save_pretrained(folder)
    return folder


def two(rows: list[dict[str, Any]]) -> Callable[[Path], None]:
    return lambda folder: write(folder / "two", rows)


def file(name: str, content: bytes) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / "two").mkdir()
        (folder / "two" / name).write_bytes(content)

    return put


DATA: dict[str, tuple[Callable[[Path], None], str]] = {
    "no row": (file("train.csv", b"question,answer\n"), "train.csv cannot be read"),
    "an empty file": (file("train.jsonl", b""), "train.jsonl cannot be read"),
    "an empty file of another kind": (file("train.csv", b""), "train.csv cannot be read"),
    "a torn file": (file("train.parquet", b"PAR1 and no more"), "train.parquet cannot be read"),
    "half a row": (file("train.jsonl", b'{"question": "a", "ans'), "train.jsonl cannot be read"),
    "no training split": (file("test.jsonl", b'{"question": "a", "answer": "b"}\n'), "has no train.parquet, .jsonl or"),
    "a missing column": (
        two([{"question": "a", "reply": "b"}]),
        "two (train) lacks the columns ['answer']; it has ['question', 'reply']",
    ),
    "a missing value": (
        two([*GOOD, {"question": "a", "answer": None}]),
        "two (train): the column answer is empty in 1 of 61 rows",
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_rows_that_cannot_be_used(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = DATA[case]
    make(tmp_path)
    assert train.main([config(tmp_path)]) == 1
    assert message in (output := capsys.readouterr().err), output
    assert "Traceback" not in output
    done = [json.loads(f.read_text())["task"] for f in tmp_path.glob("runs/stages/*/manifest.json")]
    assert "two" not in done


@pytest.mark.parametrize(("label", "message"), [(7, "7"), (-1, "-1"), ("Yes", "'Yes'"), (0.5, "0.5")])
def test_a_label_that_stands_for_nothing(
    label: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    law(tmp_path, [label] * 20)
    file = config(tmp_path, tasks=["law"], data_folder=str(tmp_path), eval={"tasks": ["law_loss"]})
    assert train.main([file]) == 1
    assert f"a label must be a whole number from 0 to 1, not {message}" in capsys.readouterr().err


def test_nothing_is_left_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    law(tmp_path, [0, 1] * 10)
    none = {"name": "law", **{part: {"limit": 0} for part in ("casehold", "tos", "overruling")}}
    file = config(tmp_path, tasks=[none], data_folder=str(tmp_path), eval={"tasks": ["law_loss"]})
    assert train.main([file, "train.seq_len=256"]) == 1
    assert "law has no rows" in capsys.readouterr().err


def test_an_image_with_a_label_that_the_head_has_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.table({"image": [b""] * 4, "label": [0, 1, 2, 3]})
    (tmp_path / "one").mkdir()
    pq.write_table(table, tmp_path / "one" / "train.parquet")
    task = {"name": "one", "source": str(tmp_path / "one"), "image": "image", "label": "label", "classes": 3}
    file = config(tmp_path, tasks=[task], model={"architecture": "mlp"})
    assert train.main([file]) == 1
    assert "label must hold whole numbers from 0 to 2" in capsys.readouterr().err


def test_a_tokenizer_without_pad_token_pads_with_its_end_of_text(tmp_path: Path) -> None:
    file = config(tmp_path, model={"name": str(pretrained(tmp_path / "model"))})
    assert train.main([file]) == 0


MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "fewer embeddings than tokens": (
        {"words": 210},
        {},
        "the tokenizer has 210 tokens, but the model only 200 embeddings",
    ),
    "no end of text": ({"eos": None}, {}, "the tokenizer has no end-of-text token"),
    "no chat template": ({}, {"template": "chat"}, "the tokenizer has no chat template"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_pretrained_model_that_does_not_fit(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, settings, message = MODELS[case]
    model = {"name": str(pretrained(tmp_path / "model", **made)), **settings}
    assert train.main([config(tmp_path, model=model)]) == 1
    assert message in (output := capsys.readouterr().err), output


def test_a_sequence_longer_than_a_pretrained_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"name": str(pretrained(tmp_path / "model", max_position_embeddings=16))}
    assert train.main([config(tmp_path, model=model), "dry_run=true"]) == 2
    assert "train.seq_len: 32 is longer than the 16 positions that the model has" in capsys.readouterr().err


def settings(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def pipe(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


FOLDERS: dict[str, tuple[Callable[[Path], None], int, str]] = {  # what is done to it, exit code, message
    "quantized": (
        lambda folder: settings(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"}),
        2,
        "model.name: no model can be built: it is quantized, and only unquantized weights can be trained and averaged",
    ),
    "quantized in an unknown way": (
        lambda folder: settings(folder / "config.json", quantization_config={"quant_method": "nonsense"}),
        2,
        "model.name: no model can be built: it is quantized",
    ),
    "a thousand million layers": (
        lambda folder: settings(folder / "config.json", num_hidden_layers=10**9),
        2,
        "num_hidden_layers: 1000000000 is too large to build: at most 1000",
    ),
    "weights that are a pipe": (
        lambda folder: pipe(folder / "model.safetensors"),
        2,
        "model.safetensors is not a regular file",
    ),
    "a configuration that is a pipe": (
        lambda folder: pipe(folder / "config.json"),
        2,
        "config.json is not a regular file",
    ),
    "any file that has no end": (
        lambda folder: (folder / "notes.json").symlink_to("/dev/zero"),
        2,
        "notes.json is not a regular file",
    ),
    "a length that is text": (
        lambda folder: settings(folder / "tokenizer_config.json", model_max_length="x"),
        1,
        "cannot be used: '>' not supported between instances of 'int' and 'str'",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_models_folder_that_cannot_be_read_or_trained(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, code, message = FOLDERS[case]
    change(pretrained(tmp_path / "model"))
    assert train.main([config(tmp_path, model={"name": str(tmp_path / "model")})]) == code
    assert message in (output := capsys.readouterr().err), output
    assert "Traceback" not in output and len(output.splitlines()) == code  # a wrong config is named in a line before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.max_duration=1ep", "train.global_batch_size=500"], "1ep of one's 25 sequences is less than one step"),
        (["train.max_duration=1ep", "method=sfa", "sfa.p=0.001"], "sfa.p: 0.001 of 12 steps is less than one step"),
        (["train.max_duration=1ep", "method=rehearsal", "rehearsal.fraction=0.01"], "24 sequences is less than one"),
        (["method=sfa", "sfa.p=null"], "sfa: give p, every or when: all of them are null"),
        (["model.config.max_position_embeddings=16"], "train.seq_len: 32 is longer than the 16 positions"),
        (["model.config.vocab_size=100"], "model.config.vocab_size: 100 is less than the tokenizer's 300"),
        (["model.config.hiden_size=16"], "model.config.hiden_size: llama has no such key"),
        (["model.config.hidden_size=17"], "model.config: no model can be built: "),
        (["model.architecture=lama"], "model.architecture: 'lama' is not a model type of transformers; did you mean"),
        (["model.architecture=vit", "model.config={}"], "model.config: vit is no language model"),
        (["model.template=chat"], "model.template: chat requires a tokenizer with a chat template"),
    ],
)  # fmt: skip
def test_a_run_that_makes_no_sense(
    overrides: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([config(tmp_path), *overrides]) == 2
    assert message in (output := capsys.readouterr().err), output
    done = [json.loads(f.read_text())["task"] for f in tmp_path.glob("runs/stages/*/manifest.json")]
    assert set(done) <= {"base", "one"}


def test_models_of_different_architectures_are_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = pretrained(tmp_path / "a"), pretrained(tmp_path / "b", hidden_size=24)
    assert merge.main(["average", str(first), str(second), "--out", str(tmp_path / "c")]) == 1
    assert "cannot be merged" in capsys.readouterr().err
    assert not list(tmp_path.glob("c/*.safetensors"))
