"""A value, a path or a model that cannot be used is reported with its key and what to do; nothing is guessed."""

import os
from pathlib import Path
from typing import Any

import pytest
import transformers

import train
from eval import available
from scripts import compare, sweep
from sfa.config import ConfigError, load, loggers
from sfa.config.reading import read_value, written
from sfa.families import family_of
from sfa.families.decoder import Decoder
from sfa.families.image_classifier import ImageClassifier
from sfa.models import building
from sfa.models.isolation import NotCausal, padding_reason
from sfa.models.pretrained import ModelError
from sfa.models.settings import Model
from sfa.models.tokenizer_training import train_tokenizer
from tests.test_config import GOOD, write

LINE = "would be read as the number"


def wrong(folder: Path, *overrides: str) -> str:
    """The only error of a config."""
    with pytest.raises(ConfigError) as caught:
        load(write(folder, GOOD), overrides, available)
    (error,) = caught.value.errors
    return error


@pytest.mark.parametrize(
    "override",
    [
        "train.lr=.inf",
        "train.lr=inf",
        "train.lr=1e999",
        "train.betas=[.nan,0.9]",
        "train.max_grad_norm=.inf",
        "train.weight_decay=.inf",
        "tasks.0.train.lr=.nan",
        "ties.weights=[.nan,1]",
        "ties.scale=-.inf",
        "sfa.beta=nan",
        "rehearsal.fraction=.nan",
        "ewc.strength=inf",
        "l1.strength=.inf",
        "model.config.rope_theta=.inf",
        "loggers={file: {flush_interval: .inf}}",
    ],
)
def test_every_number_is_finite(override: str, tmp_path: Path) -> None:
    key = override.partition("=")[0]
    error = wrong(tmp_path, override)
    assert error.startswith(key.rpartition(".config")[0] or key.partition("={")[0]) and "finite number" in error


@pytest.mark.parametrize("text", ["017", "0x11", "0b11", "1_7", "1:30", "190:20:30", "-017"])
def test_a_number_that_reads_otherwise_than_it_looks_is_refused(text: str, tmp_path: Path) -> None:
    assert wrong(tmp_path, f"seed={text}").startswith(f"seed: {text} {LINE}")
    assert wrong(tmp_path, f"name={text}").startswith(f"name: {text} {LINE}")
    assert wrong(tmp_path, f"tasks=[{{name: returns, lines: {text}}}]").startswith(f"tasks.0.lines: {text} {LINE}")
    assert f"train.lr: {text} {LINE}" in wrong_file(tmp_path, f"name: x\ntrain: {{lr: {text}}}\n")
    with pytest.raises(ConfigError, match=LINE):
        load(write(tmp_path, GOOD), [str(other(tmp_path, f"seed: {text}\n"))])


def test_a_file_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    assert "cannot be read: it is nested too deeply" in wrong_file(tmp_path, "name: " + "[" * 5000 + "]" * 5000 + "\n")
    assert "cannot be read: it is nested too deeply" in wrong(tmp_path, "model.config=" + "[" * 5000 + "]" * 5000)


def wrong_file(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text))
    (error,) = caught.value.errors
    return error


def other(folder: Path, text: str) -> Path:
    file = folder / "other.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("override", "value"),
    [("seed=1_000", 1000), ("seed='017'", 17), ("seed=1e3", 1000), ("seed=1.0", 1), ("seed=08", 8), ("seed=+5", 5)],
)
def test_a_number_that_reads_as_it_looks_is_taken(override: str, value: int, tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD), [override]).seed == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=true", "seed: must be a number, not true"),
        ("seed=yes", "seed: must be a number, not true"),
        ("train.lr=off", "train.lr: must be a number, not false"),
        ("train.betas=[true,0.9]", "train.betas: must be a number, not true"),
        ("order=[true,0]", "order: must be a number, not true"),
        ("name=yes", "name: must be a valid string, not True; in quotes it is text"),
        ("name=1e5", "name: must be a valid string, not 100000.0; in quotes it is text"),
        ("sfa.p=1/4", "sfa.p: must be a valid number, unable to parse string as a number, not '1/4'"),
        ("sfa={p: 0.5, p: 0.6}", "sfa.p: occurs twice, in lines 1 and 1"),
        ("sfa={p: 0.5", "sfa: cannot be read: line 1: "),
        ("save_folder=s3://bucket/x", "save_folder: must be a local folder, not s3://bucket/x"),
        ("save_folder=hdfs://host/x", "save_folder: must be a local folder, not hdfs://host/x"),
        ("data_folder=gs://bucket/x", "data_folder: must be a local folder, not gs://bucket/x"),
        ("save_folder=", "save_folder: must be a path, not None"),
        ("save_folder=''", "save_folder: must be a path, not ''"),
        ("save_folder=~nobody-here/x", "save_folder: ~nobody-here/x is not in a user's home folder"),
        ("save_folder=FOLDER/file", "FOLDER/file is not a folder"),
        ("save_folder=FOLDER/file/below", "FOLDER/file is not a folder"),
        ("save_folder=FOLDER/dangling", "FOLDER/dangling is a broken link"),
        ("save_folder=FOLDER/dangling/below", "FOLDER/dangling is a broken link"),
        (
            f"save_folder=/tmp/{'x' * 300}",
            "save_folder: must be a path of at most 4095 bytes, 255 per name, not /tmp/x",
        ),
        (f"save_folder={'x/' * 2500}", "save_folder: must be a path of at most 4095 bytes, 255 per name, not x/x/"),
        (f"data_folder=/tmp/{'x' * 300}", "data_folder: must be a path of at most 4095 bytes"),
        (f"tasks=[{{name: law, tos: {{source: {'x' * 5000}}}}}]", "tasks.0: must be a path of at most 4095 bytes"),
        ('save_folder="a\\0b"', "save_folder: must be a path without NUL, not 'a\\x00b'"),
        ("data_folder=FOLDER/loop", "data_folder: must be a folder, and FOLDER/loop is not one"),
        ("a\udc80b=1", "'a\\udc80b=1': is not UTF-8 text"),
        ("tasks=[{name: law, tos: {source: ~/none}}]", "tasks.0: ~/none is no folder of"),
        ("tasks=[{name: law, tos: {source: 's3://b/x'}}]", "tasks.0: 's3://b/x' is neither a hub name nor a local"),
        (
            "loggers={wandb: {}}",
            "loggers.wandb: needs the package wandb_absent, which is not installed: pip install '.[wandb]'",
        ),
        ("loggers={mlflow: {}}", "loggers.mlflow: needs the package mlflow_absent, which"),
        ("loggers={trackio: {}}", "loggers.trackio: needs the package trackio_absent, which"),
        ("save_folder=FOLDER/{rank}", "save_folder: must not contain braces"),
        ("loggers={tensorboard: {log_dirr: x}}", "loggers.tensorboard.log_dirr: unknown key; did you mean log_dir?"),
        ("loggers={file: {flush_interval: often}}", "loggers.file.flush_interval: must be a valid integer"),
    ],
)
def test_a_value_that_cannot_be_meant(
    override: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    packages = ("wandb", "mlflow", "trackio")
    monkeypatch.setattr(loggers, "PACKAGES", {package: f"{package}_absent" for package in packages})
    assert message.replace("FOLDER", str(tmp_path)) in wrong(tmp_path, override.replace("FOLDER", str(tmp_path)))


def test_home_is_expanded_wherever_a_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "rows" / "mine"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"q": "a", "a": "b"}\n')
    mine = "{name: mine, source: SOURCE, prompt: '{q}', response: '{a}'}"
    overrides = ["save_folder=~/runs", "data_folder=~/rows", f"tasks=[{mine.replace('SOURCE', '~/rows/mine')}]"]
    config = load(write(tmp_path, GOOD), overrides)
    assert (config.save_folder, config.data_folder) == (tmp_path / "runs", tmp_path / "rows")
    there = load(write(tmp_path, GOOD), [f"tasks=[{mine.replace('SOURCE', str(folder))}]"])
    assert config.tasks[0].data_spec() == there.tasks[0].data_spec()
    assert Model(name="~/model").name == str(tmp_path / "model")
    assert compare.main(["~/runs/none"]) == 2


def exit_code(*arguments: str) -> int:
    """Of a sweep, which argparse may end."""
    try:
        return sweep.main([*arguments])
    except SystemExit as error:
        return int(error.code or 0)


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "a\0b", "loop", "pipe", "/dev/zero", "folder", "list.yaml"])
def test_a_file_that_cannot_be_a_config_or_a_sweep(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("list.yaml").write_text("[1, 2]\n")
    assert train.main([name, "dry_run=true"]) == 2
    assert "Traceback" not in (output := capsys.readouterr().err) and len(output.splitlines()) == 2, output
    assert exit_code(name, "dry_run=true") == 2
    assert "Traceback" not in (output := capsys.readouterr().err) and output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--orders", "[1,0]"], "--orders needs --over; for a sweep's file, write orders=[…]"),
        (["--seeds", "1"], "--seeds needs --over; for a sweep's file, write seeds=[…]"),
        ([], "is the config of one run: vary it with --over, or name a sweep's file"),
        (["--over", "sfa.p", "1", "--orders", "x"], "--orders takes places of tasks, like [0,2,1], not x"),
        (["--over", "sfa.p", "1", "--orders", "[a]"], "--orders takes places of tasks, like [0,2,1], not ['a']"),
        (["--over", "sfa.p", "1", "--against", "p=1"], "--against names a run of the sweep, not 'p=1': sfa.p=1"),
        (["--over", "sfa.p", "1", "--name", "../x"], "--name names a file in save_folder, so it cannot be '../x'"),
        (["--over", "sfa.p", "1", "--name", ""], "--name names a file in save_folder, so it cannot be ''"),
        (["--over", "sfa.p", "1", "--name", "x" * 5000], "--name names a file in save_folder, so it cannot be 'xxx"),
    ],
)
def test_a_sweeps_command_line_that_cannot_be_meant(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(str(write(tmp_path, GOOD)), "dry_run=true", *arguments) == 2
    assert message in capsys.readouterr().err


def test_keys_given_twice_are_named_with_their_lines(tmp_path: Path) -> None:
    text = "name: x\ntrain:\n  lr: 0.1\n  lr: 0.2\nname: y\n"
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    assert caught.value.errors == [
        "train.lr: occurs twice, in lines 3 and 4",
        "name: occurs twice, in lines 1 and 5",
    ]


@pytest.mark.parametrize(
    "value", ["017", "plain", "a: b", "[1", "yes", "1e5", None, True, 3, 1e-5, [0.25, None], ["a"]]
)
def test_a_sweeps_value_comes_through_its_command_line_as_it_is(value: Any) -> None:
    again = read_value(written(value), "key")
    assert again == value and type(again) is type(value)


def folder_of(kind: str, folder: Path, **options: Any) -> Model:
    """A model of which there is the configuration alone."""
    transformers.CONFIG_MAPPING[kind](**options).save_pretrained(folder)
    return Model(name=str(folder))


@pytest.mark.parametrize(
    "kind", ["gemma3", "qwen2_vl", "llava", "mllama", "paligemma", "idefics3", "llama4", "whisper", "moshi", "t5gemma2"]
)
def test_a_model_that_takes_more_than_text_is_refused(kind: str, tmp_path: Path) -> None:
    (error,) = building.configuration_errors(folder_of(kind, tmp_path), Decoder(), 32)
    assert error.startswith("model.name: ") and f"{kind} takes images or sound as well as text" in error
    assert "a text-only checkpoint is required" in error


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm", "xlnet", "bert-generation"])
def test_an_encoder_is_refused_for_text(kind: str, tmp_path: Path) -> None:
    (error,) = building.configuration_errors(folder_of(kind, tmp_path), Decoder(), 32)
    assert f"{kind} is an encoder: it reads text in both directions, and a decoder is required" in error


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("resnet", {}, "image_size is required: resnet takes images of any size"),
        ("poolformer", {}, "image_size is required: poolformer takes images of any size"),
        ("vit", {"image_size": "big"}, "no model can be built: "),
        ("gpt2", {}, "gpt2 is no image classifier, and the tasks need one"),
        ("deit", {"image_size": 32, "num_hidden_layers": 1}, None),
        ("poolformer", {"image_size": 32, "hidden_sizes": [8] * 4, "depths": [1] * 4}, None),
        ("resnet", {"image_size": 32, "embedding_size": 8, "hidden_sizes": [8] * 4, "depths": [1] * 4}, None),
    ],
)
def test_image_classifiers_of_any_architecture(architecture: str, config: dict[str, Any], message: str | None) -> None:
    model_settings = Model(architecture=architecture, config=config)
    messages = building.configuration_errors(model_settings, ImageClassifier(3), 32)
    if message is not None:
        assert len(messages) == 1 and message in messages[0], messages
        return
    assert not messages
    model, processor = building.build(model_settings, 17, ImageClassifier(3))
    assert model.config.num_labels == 3 and processor.size["height"] == 32


def test_what_a_new_model_cannot_do_is_reported_before_it_is_trained(tmp_path: Path) -> None:
    small = {
        "vocab_size": 9,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    both = transformers.BertConfig(**small)
    with pytest.raises(ValueError, match="bert is an encoder"):
        family_of(both)
    tokenizer = train_tokenizer(300, [])
    with pytest.raises(NotCausal, match="the model sees the tokens that it should predict"):
        padding_reason(transformers.BertLMHeadModel(both), tokenizer, 4)
    decoder = transformers.BertLMHeadModel(transformers.BertConfig(**small, is_decoder=True))
    padding_reason(decoder, tokenizer, 4)
    assert decoder.training  # as it was
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelError, match=r"^the model .* cannot be used: [^\n]*$"):
        building.build(Model(name=str(tmp_path)), 17, Decoder())
