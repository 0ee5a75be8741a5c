"""A wrong config exits 2 and says everything that is wrong, each with its key, what is allowed and the nearest key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from eval import available
from sfa.config import ConfigError, load
from sfa.data import TASKS
from sfa.stages.describe import describe
from sfa.stages.plan import plan

ROOT = Path(__file__).parent.parent
GOOD: dict[str, Any] = {
    "name": "good",
    "model": {
        "architecture": "gpt_neox",
        "config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
        "tokenizer": {"train_on": ["arithmetic"], "vocab_size": 400},
    },
    "tasks": ["arithmetic", {"name": "returns", "train": {"max_duration": "10ba"}}],
    "train": {"max_duration": "20ba"},
}


def write(folder: Path, content: Any) -> str:
    file = folder / "config.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(file)


def errors(folder: Path, content: Any, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, content), overrides, available)
    return caught.value.errors


def test_a_task_may_override_the_train_block(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD), ["train.lr=1e-3"])
    first, second = (config.train_of(task) for task in config.tasks)
    assert (first.max_duration, second.max_duration, second.lr) == ("20ba", "10ba", 1e-3)


def test_every_error_is_reported_with_its_key_and_the_nearest_known_one(tmp_path: Path) -> None:
    wrong = {
        **GOOD,
        "metod": "sfa",
        "seed": -1,
        "tasks": ["arithmetics", {"name": "returns", "line": 5, "train": {"lr": "fast"}}],
        "train": {"lr": 0, "max_duration": "3 epochs", "warm_up": "10ba"},
        "sfa": {"betta": 0.5},
        "eval": {"tasks": ["return"]},
    }
    messages = "\n".join(errors(tmp_path, wrong))
    for expected in [
        "metod: unknown key; did you mean method?",
        "seed: must be greater than or equal to 0, not -1",
        "tasks.0: 'arithmetics' is not a registered task; did you mean arithmetic?",
        "tasks.1.line: unknown key; did you mean lines?",
        "tasks.1.train.lr: must be a valid number, unable to parse string as a number, not 'fast'",
        "train.lr: must be greater than 0, not 0",
        'train.max_duration: is not allowed, not \'3 epochs\' (epochs, batches or tokens, like "1ep" or "300ba")',
        "train.warm_up: unknown key; did you mean warmup?",
        "sfa.betta: unknown key; did you mean beta? (known: anchor, anchor_device, beta, beta_end, every, layers, "
        "lora_merge, merge_at_end, merge_optimizer, p, reset_optimizer_on_merge, when)",
    ]:
        assert expected in messages, f"{expected}\n--- not in ---\n{messages}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=sfaa"], "did you mean sfa?"),
        (["sfa.every=5ba"], "sfa: give either p or every; to use one where a file sets the other, add sfa.p=null or"),
        (["method=sfa", "sfa.p=0.01"], "sfa.p: 0.01 of 10 steps is less than one step; allowed from 1/10 to 1"),
        (
            ["method=rehearsal", "rehearsal.fraction=0.01", "train.global_batch_size=4"],
            "rehearsal.fraction: 0.01 of 40 sequences is less than one; allowed from 1/40",
        ),
        (["sfa.p=0"], "sfa.p: must be greater than 0, not 0"),
        (["model.name=x"], "model: set either name (pretrained) or architecture (random weights)"),
        (["eval.tasks=[gsm9k]"], "eval.tasks: 'gsm9k' is not an evaluation"),
        (["model.tokenizer.train_on=[lawn]"], "model.tokenizer.train_on: 'lawn' is not a registered task"),
        (["tasks=[arithmetic,arithmetic]"], "tasks: arithmetic is listed 2 times"),
        (["tasks=arithmetic"], "tasks: must be a list of registered tasks"),
        (
            ["tasks=[{name: ../up, source: x, prompt: '{a}', response: '{b}'}]"],
            "tasks.0.name: is not allowed, not '../up'",
        ),
        (["name=../up"], "name: is not allowed, not '../up' (names the folder of the results)"),
        (["loggers={printer: {}}"], "loggers.printer"),
        (["tasks=[{name: law, tos: {source: ./none}}]"], "tasks.0: ./none is no folder of"),
        (["data_folder=./none"], "data_folder: must be a folder"),
        (["seed"], "seed: an override is written key=value"),
        (["name=${nothing}"], "cannot be read: Interpolation key 'nothing' not found"),
    ],
)
def test_single_errors(overrides: list[str], message: str, tmp_path: Path) -> None:
    assert message in "\n".join(errors(tmp_path, GOOD, *overrides))


EVERY_KIND = {  # an error of each check, with the key that its line starts with
    "foo": "foo",  # no key=value
    "nope.yaml": "nope.yaml",
    "seed=017": "seed",  # a number that would be misread
    "train.lr=-1": "train.lr",
    "model.tokenizer.vocab_size=1": "model.tokenizer.vocab_size",
    "sfa.p=3": "sfa.p",
    "sfa.betta=0.5": "sfa.betta",
    "tasks.0.line=5": "tasks.0.line",
    "tasks.1.train.lr=fast": "tasks.1.train.lr",
    "tasks.1.evals=[nope]": "tasks.1.evals",
    "order=[0,0]": "order",
    "eval.tasks=[nope]": "eval.tasks",
    "eval.general=[nope]": "eval.general",
    "eval.batch_size=0": "eval.batch_size",
    "save_folder='{}'": "save_folder",
    "data_folder=./none": "data_folder",
    "model.config.hidden=1": "model.config.hidden",
    "model.system=You": "model.system",
    "model.tokenizer.train_on=[lawn]": "model.tokenizer.train_on",
    "loggers={file: {nope: 1}}": "loggers.file.nope",
    "ranks": "train.global_batch_size",
}


@pytest.mark.parametrize("second", EVERY_KIND)
@pytest.mark.parametrize("first", ["foo", "sfa.p=3", "sfa.betta=0.5", "eval.tasks=[nope]", "model.system=You"])
def test_an_error_of_one_check_hides_no_other(
    first: str, second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "ranks" in (first, second):
        monkeypatch.setenv("WORLD_SIZE", "3")
    overrides = [override for override in dict.fromkeys([first, second]) if override != "ranks"]
    lines = errors(tmp_path, GOOD, *overrides)
    expected = {EVERY_KIND[first], EVERY_KIND[second]}
    assert {line.partition(":")[0] for line in lines} == expected, lines


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["tasks=[arithmetics,returns]", "eval.tasks=[arithmetics_loss,nope]"], {"tasks.0", "eval.tasks"}),
        (["train.seq_len=x", "model.config.max_position_embeddings=64"], {"train.seq_len"}),
        (["model.name=x", "train.lr=-1", "seed=-1"], {"model", "train.lr", "seed"}),
        (["name=null", "seed=-1", "sfa.p=2", "method=x"], {"name", "seed", "sfa.p", "method"}),
        (["model.architecture=5", "model.name=x"], {"model.architecture"}),
        (["tasks=[nope,{name: law, tos: {source: ./none}}]", "seed=-1"], {"tasks.0", "tasks.1", "seed"}),
        (["tasks=[arithmetic]", "method=sfa", "eval.batch_size=0"], {"method", "eval.batch_size"}),
        (["tasks=[arithmetic]", "method=sfa", "from_run=./none"], {"from_run"}),
        (["tasks=[arithmetic]", "method=sfa", "model.base=5"], {"model.base"}),
    ],
)
def test_nothing_is_concluded_from_what_stands_for_an_invalid_value(
    overrides: list[str], keys: set[str], tmp_path: Path
) -> None:
    assert {line.partition(":")[0] for line in errors(tmp_path, GOOD, *overrides)} == keys


@pytest.mark.parametrize("content", ["a: [1", "- just\n- a list\n", "name: one\nname: two\n", ""])
def test_files_that_are_no_config(content: str, tmp_path: Path) -> None:
    assert errors(tmp_path, content)


def test_ranks_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    messages = errors(tmp_path, GOOD, "parallelism=none")
    assert "parallelism: 3 processes were started, so it must be ddp or fsdp2, not none" in messages
    assert "train.global_batch_size: must be a multiple of the 3 ranks, not 64" in messages


def test_the_command_exits_2_without_a_traceback_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, {**GOOD, "metod": "sfa"})
    monkeypatch.chdir(tmp_path)
    assert train.main([file, "train.lr=-1"]) == 2
    printed = capsys.readouterr()
    assert "2 errors" in printed.err and "Traceback" not in printed.err and printed.out == ""
    assert train.main(["nothing.yaml"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_the_dry_run_names_stages_merges_and_sizes_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert train.main([file, "method=sfa", "dry_run=true"]) == 0
    printed = capsys.readouterr().out
    for expected in ["base", "20 steps, at most 1,310,720 tokens, no merges", "merges at 3, 5, 8, 10 (β=0.5)"]:
        assert expected in printed
    for expected in ["parameters: ", "memory: ", "disk: "]:
        assert expected in printed
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_runs_share_the_stages_they_have_in_common(tmp_path: Path) -> None:
    def fingerprints(*overrides: str) -> list[str]:
        return [stage.fingerprint for stage in plan(load(write(tmp_path, GOOD), overrides))]

    plain, averaged = fingerprints(), fingerprints("method=sfa")
    assert plain[:2] == averaged[:2]
    assert plain[2] != averaged[2]
    assert fingerprints("method=sfa", "name=other", "sfa.anchor_device=device", "train.microbatch_size=1") == averaged
    for changed in ("sfa.p=0.5", "sfa.beta=0.4", "seed=1", "train.lr=1e-4", "tasks=[arithmetic,returns]"):
        assert fingerprints("method=sfa", changed)[2] != averaged[2]
    assert fingerprints("sfa.beta=0.4") == plain  # the block of another method waits unused


@pytest.mark.parametrize("method", ["sfa", "wise_ft", "rehearsal", "l1", "l2", "ewc", "soup", "fisher"])
def test_a_method_that_would_do_nothing_is_an_error(method: str, tmp_path: Path) -> None:
    """The first task of a stream is trained alike under every method, so a stream of one shows nothing of any."""
    (error,) = errors(tmp_path, {**GOOD, "tasks": ["returns"]}, f"method={method}")
    assert error.startswith(f"method: {method} ") and "this stream trains only returns" in error
    assert "method=sequential" in error
    held = {**GOOD, "tasks": [{"name": "arithmetic", "evaluate_only": True}, "returns"]}
    assert errors(tmp_path, held, f"method={method}") == [error]


def test_methods_that_act_on_one_task_may_have_one(tmp_path: Path) -> None:
    for method in ("sequential", "multitask", "task_arithmetic", "ties"):
        assert load(write(tmp_path, {**GOOD, "tasks": ["returns"]}), [f"method={method}"]).method == method


@pytest.mark.parametrize("name", ["base", "multitask"])
def test_a_task_is_not_called_as_a_stage(name: str, tmp_path: Path) -> None:
    mine = {"name": name, "source": str(tmp_path), "prompt": "{a}", "response": "{b}"}
    (tmp_path / "train.jsonl").write_text('{"a": "1", "b": "2"}\n')
    messages = errors(tmp_path, {**GOOD, "tasks": ["arithmetic", mine]})
    assert messages == [f"tasks: {name} is reserved for a stage in results; give the task another name"]


@pytest.mark.parametrize("setting", ["sfa.beta=0", "wise_ft.beta=0", "rehearsal.fraction=0", "l2.strength=0"])
def test_a_setting_that_does_nothing_is_reported(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, method = write(tmp_path, GOOD), setting.partition(".")[0]
    assert train.main([file, f"method={method}", setting, "dry_run=true"]) == 0
    assert f"{setting} leaves the weights as method=sequential makes them" in capsys.readouterr().out
    assert train.main([file, f"method={method}", "dry_run=true"]) == 0
    assert "leaves the weights" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "notice"),
    [
        ("sfa: {beta: 1}", "sfa.beta=1 leaves the weights as they were before each task that it acts on"),
        ("slerp: {beta: 1}", "slerp.beta=1 leaves the weights as they were before each task that it acts on"),
        ("ties: {scale: 0}", "ties.scale=0 leaves the weights as they were before each task that it acts on"),
        ("magmax: {scale: 0}", "magmax.scale=0 leaves the weights as they were before each task that it acts on"),
        ("task_arithmetic: {weights: [0, 0]}", "task_arithmetic.weights=[0.0, 0.0] leaves the weights of the base"),
        ("der: {alpha: 0}", "der.alpha=0 and der.beta=0 leave the weights as method=sequential makes them"),
        ("sfa: {beta: 0, layers: {embed: 0}, beta_end: 0}", "sfa.beta=0 leaves the weights as method=sequential"),
        ("sfa: {beta: 1, layers: {embed: 0}}", None),
        ("sfa: {beta: 1, p: 0.5, merge_at_end: false}", None),
        ("sfa: {beta: 0, beta_end: 1}", None),
        ("task_arithmetic: {weights: [0, 1]}", None),
        ("der: {alpha: 0, beta: 1}", None),
    ],
)
def test_a_setting_that_undoes_a_task_is_reported_too(settings: str, notice: str | None, tmp_path: Path) -> None:
    method, content = next(iter(yaml.safe_load(settings).items()))
    found = load(write(tmp_path, {**GOOD, "method": method, method: content})).method_settings.neutral_notice()
    assert found == notice or (found or "").startswith(notice or "-")


WHOLE = [file for file in sorted((ROOT / "yamls").glob("*.yaml")) if not file.name.startswith("small")]


@pytest.mark.parametrize("file", WHOLE, ids=lambda file: file.name)
def test_every_config_of_the_project_is_valid(file: Path) -> None:
    assert plan(load(file, ["dry_run=true"], available))


def test_a_model_that_is_still_to_be_made_is_reported_before_a_run_and_not_before_a_dry_run(tmp_path: Path) -> None:
    glyphs = ROOT / "yamls" / "glyphs.yaml"
    with pytest.raises(ConfigError, match="models/absent is neither; make models/absent"):
        load(glyphs, ["model.name=models/absent"], available)
    assert load(glyphs, ["model.name=models/absent", "dry_run=true"], available).tasks
    with pytest.raises(ConfigError, match="runs/absent is neither"):
        load(glyphs, ["model.name=runs/absent", "dry_run=true"], available)


def test_former_names_of_keys_work_and_say_so(tmp_path: Path) -> None:
    former = {**GOOD, "trial": "5ba", "tasks": [{"name": "arithmetic", "held_back": True}, "returns"]}
    config = load(write(tmp_path, former), ["method=sequential"])
    assert config.tasks[0].evaluate_only and config.train_of(config.tasks[1]).max_duration == "5ba"
    assert config.deprecations == [
        "trial is now called trial_duration; the former name works for one release",
        "tasks.0.held_back is now called tasks.0.evaluate_only; the former name works for one release",
    ]
    assert all(line in describe(config) for line in config.deprecations)
    now = {**GOOD, "trial_duration": "5ba", "tasks": [{"name": "arithmetic", "evaluate_only": True}, "returns"]}
    same = load(write(tmp_path, now), ["method=sequential"])
    assert same.model_dump() == config.model_dump() and same.deprecations == []
    assert errors(tmp_path, {**now, "trial": "6ba"}) == [
        "trial: is the former name of trial_duration, which is set too"
    ]


def test_an_evaluation_that_runs_what_a_model_writes_must_be_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is: its task says so."""
    monkeypatch.setattr(TASKS["returns"], "code_evals", ("returns",))
    content = {**GOOD, "tasks": ["arithmetic", "returns"]}
    (error,) = errors(tmp_path, content)
    assert error.startswith("eval.run_generated_code: must be true for returns, which runs what the model writes")
    load(write(tmp_path, content), ["eval.run_generated_code=true"], available)


def test_a_further_file_that_does_not_fit_is_an_error_of_its_key(tmp_path: Path) -> None:
    path = write(tmp_path, {**GOOD, "sfa": {"p": 0.5}})
    further = tmp_path / "further.yaml"
    further.write_text("sfa: [0.25]\ntasks: {returns: {}}\ntrain: {betas: {}, lr: 1.0e-3}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, [str(further), "tasks.1.train.lr=2"])
    assert caught.value.errors == [
        f"sfa: is a list in {further}, and a mapping before",
        f"tasks: is a mapping in {further}, and a list before",
    ]


@pytest.mark.parametrize("tasks", ["${absent}", ["${absent}"], ["returns", "${absent}"], {"x": "${absent}"}])
@pytest.mark.parametrize("override", ["seed=18", "tasks.0.train.lr=1.0e-3", "tasks.7.train.lr=1.0e-3"])
def test_an_interpolation_of_nothing_is_an_error(tmp_path: Path, tasks: Any, override: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Interpolation key 'absent' not found"):
        load(write(tmp_path, {**GOOD, "tasks": tasks}), [override])


def test_a_task_given_by_an_interpolation_can_be_changed(tmp_path: Path) -> None:
    path = write(tmp_path, {**GOOD, "name": "returns", "tasks": ["arithmetic", "${name}"]})
    assert load(path, ["tasks.1.train.lr=0.5"]).tasks[1].train == {"lr": 0.5}
