"""The quickstart, shrunk, through the command line."""

import gc
import io
import json
import os
import shutil
import signal
import subprocess
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import sfa.weights
import train
from sfa import merge_steps
from sfa.anchor import Anchor
from sfa.stages.callbacks import Stopper
from sfa.stages.checkpoints import newest_checkpoint
from sfa.stages.composer_model import StageModel
from tests import COMPOSER, small
from tests.small import LICENCES, QUICKSTART, ROOT

STEPS = 12
SMALL = [*small.SMALL, f"train.max_duration={STEPS}ba", "eval.limit=12", "eval.interval=0.5dur"]


def command(folder: Path, *overrides: str, ranks: int = 1) -> list[str]:
    return [COMPOSER, "-n", str(ranks), "train.py", QUICKSTART, *SMALL, f"save_folder={folder}", *overrides]


def ran(folder: Path, *overrides: str, ranks: int = 1) -> dict[str, Any]:
    """The results of a run: in this process, or in processes of its own if there are several ranks."""
    if ranks == 1:
        assert train.main([QUICKSTART, *SMALL, f"save_folder={folder}", *overrides]) == 0
        return results(folder)
    done = subprocess.run(
        command(folder, *overrides, ranks=ranks), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return results(folder)


def results(folder: Path, name: str = "quickstart") -> dict[str, Any]:
    return dict(json.loads((folder / name / "results.json").read_text()))


def weights(folder: Path, results: dict[str, Any], stage: int = -1) -> dict[str, torch.Tensor]:
    fingerprint = results["stages"][stage]["fingerprint"]
    return load_file(folder / "stages" / fingerprint / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the quickstart ran with SFA."""
    path = tmp_path_factory.mktemp("runs")
    assert train.main([QUICKSTART, *SMALL, f"save_folder={path}", "method=sfa"]) == 0
    return path


def test_the_results_hold_what_the_contract_says(folder: Path) -> None:
    written = results(folder)
    tasks = ["arithmetic", "licences", "returns"]
    assert written["name"] == "quickstart" and written["seed"] == written["config"]["seed"]
    assert [stage["task"] for stage in written["stages"]] == tasks
    assert [stage["method"] for stage in written["stages"]] == ["sequential", "sfa", "sfa"]
    assert [stage["merge_steps"] for stage in written["stages"]] == [[], *[merge_steps(STEPS, 0.25)] * 2]
    for stage in written["stages"]:
        assert stage["steps"] == STEPS and stage["stored_examples"] == 0
        assert min(stage["l2_from_anchor"], stage["seconds"], stage["tokens"], stage["peak_bytes"]) > 0
    rows = {(row["after"], row["evaluation"]) for row in written["evaluations"]}
    assert rows == {(after, task) for after in ["base", *tasks] for task in tasks}
    for row in written["evaluations"]:
        assert 0 <= row["value"] <= 1 and row["n"] == 12
    final = [row["value"] for row in written["evaluations"] if row["after"] == "returns"]
    assert written["metrics"]["average"] == pytest.approx(sum(final) / 3)
    assert (folder / "quickstart" / "curves.png").stat().st_size > 10_000


def test_the_anchor_of_a_task_is_the_merged_model_of_the_one_before(folder: Path) -> None:
    written = results(folder)
    manifests = [json.loads(file.read_text()) for file in (folder / "stages").glob("*/manifest.json")]
    by_task = {manifest["task"]: manifest for manifest in manifests}
    for before, task in (("arithmetic", "licences"), ("licences", "returns")):
        assert by_task[task]["parent"] == by_task[before]["fingerprint"]
    for i, stage in enumerate(written["stages"][1:], 1):
        moved = [(weights(folder, written, i)[n] - w).double() for n, w in weights(folder, written, i - 1).items()]
        distance = float(sum((change**2).sum() for change in moved) ** 0.5)
        assert stage["l2_from_anchor"] == pytest.approx(distance, rel=1e-6)
        assert by_task[stage["task"]]["merges"][-1]["l2_after"] == pytest.approx(distance, rel=1e-4)


def test_a_second_start_makes_nothing_again_and_another_method_shares_the_first_stage(folder: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (folder / "stages").glob("*/manifest.json")}
    first = results(folder)
    assert train.main([QUICKSTART, *SMALL, f"save_folder={folder}", "method=sfa"]) == 0
    assert results(folder) == first
    arguments = [f"save_folder={folder}", "method=sequential", "name=plain"]
    assert train.main([QUICKSTART, *SMALL, *arguments]) == 0
    plain = results(folder, "plain")
    assert plain["stages"][0] == first["stages"][0]
    assert [stage["merge_steps"] for stage in plain["stages"]] == [[], [], []]
    after = {file: file.stat().st_mtime_ns for file in (folder / "stages").glob("*/manifest.json")}
    assert {file: after[file] for file in before} == before
    assert len(after) == len(before) + 2


def test_a_damaged_stage_is_named_and_not_used(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "stages", tmp_path / "stages")
    written = results(folder)
    victim = tmp_path / "stages" / written["stages"][0]["fingerprint"] / "model" / "model.safetensors"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    assert train.main([QUICKSTART, *SMALL, f"save_folder={tmp_path}", "method=sfa", "sfa.beta=0.3"]) == 1
    assert f"{victim} is not the file that was written" in capsys.readouterr().err


def test_evaluating_changes_nothing_in_training(folder: Path, tmp_path: Path) -> None:
    arguments = [f"save_folder={tmp_path}", "method=sfa", "eval.interval=1ba", "train.save_interval=3ba"]
    assert train.main([QUICKSTART, *SMALL, *arguments]) == 0
    ours, theirs = weights(tmp_path, results(tmp_path)), weights(folder, results(folder))
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


def test_no_model_stays_in_memory_after_its_stage(tmp_path: Path) -> None:
    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, StageModel) for thing in gc.get_objects())

    before = alive()
    assert train.main([QUICKSTART, *SMALL, "method=sfa", f"save_folder={tmp_path}"]) == 0
    assert alive() == before


def test_a_trained_model_is_saved_without_gradients_and_anchor_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes as much memory as the model, which under FSDP2 is gathered on one rank to be saved."""
    anchors: list[weakref.ref[Anchor]] = []
    held = []
    create, save = Anchor.__init__, sfa.weights.save_model

    def created(anchor: Anchor, *arguments: Any) -> None:
        anchors.append(weakref.ref(anchor))
        create(anchor, *arguments)

    def checked(model: Any, folder: Path) -> None:
        gc.collect()
        alive = sum(anchor() is not None for anchor in anchors)
        held.append((alive, sum(p.grad is not None for p in model.parameters())))
        save(model, folder)

    monkeypatch.setattr(Anchor, "__init__", created)
    monkeypatch.setattr(sfa.weights, "save_model", checked)
    assert train.main([QUICKSTART, *SMALL, "method=sfa", f"save_folder={tmp_path}"]) == 0
    assert anchors and held == [(0, 0)] * 3  # its three tasks


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp2"])
def test_two_ranks_give_the_same_merges_and_weights(parallelism: str, tmp_path: Path) -> None:
    """With SGD, momentum and clipping, which would show gradients that are summed instead of averaged."""
    sgd = ["method=sfa", "train.optimizer=sgd", "train.momentum=0.9", "train.lr=0.1"]
    assert train.main([QUICKSTART, *SMALL, *sgd, f"save_folder={tmp_path / 'one'}"]) == 0
    first = results(tmp_path / "one")
    second = ran(tmp_path / "two", *sgd, f"parallelism={parallelism}", ranks=2)
    assert [s["merge_steps"] for s in second["stages"]] == [s["merge_steps"] for s in first["stages"]]
    theirs = weights(tmp_path / "two", second)
    for name, weight in weights(tmp_path / "one", first).items():
        torch.testing.assert_close(theirs[name], weight, rtol=0, atol=1e-6)
    assert [row["n"] for row in second["evaluations"]] == [row["n"] for row in first["evaluations"]]
    values = [[row["value"] for row in result["evaluations"]] for result in (first, second)]
    assert values[1] == pytest.approx(values[0], abs=0.1)  # an argmax may flip by rounding


@pytest.mark.parametrize(("ranks", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_interrupted_and_started_again_is_bitwise_the_same(ranks: int, number: int, tmp_path: Path) -> None:
    longer = ["method=sfa", "train.max_duration=40ba", "train.save_interval=10ba", "eval.interval=null"]
    longer += [f"tasks=[arithmetic,{LICENCES}]"]
    longer += ["parallelism=fsdp2"] if ranks > 1 else []
    whole = ran(tmp_path / "whole", *longer, ranks=ranks)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    lockstep = ["eval.unshard=false"]  # scores the same, another way
    process = subprocess.Popen(
        command(tmp_path / "cut", *longer, *lockstep, ranks=ranks),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if list((tmp_path / "cut").glob("stages/*/checkpoints/*ba1[0-9]*")):
            break
        time.sleep(0.01)
    os.killpg(process.pid, number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode != 0, printed
    assert "Interrupted (at step" in printed, printed
    assert "run the same command again" in printed
    assert list((tmp_path / "cut").glob("stages/*/checkpoints/*"))
    again = ran(tmp_path / "cut", *longer, *lockstep, ranks=ranks)
    assert not list((tmp_path / "cut").glob("stages/*/checkpoints"))
    ours = weights(tmp_path / "cut", again)
    assert all(torch.equal(ours[name], weight) for name, weight in weights(tmp_path / "whole", whole).items())
    assert [s["merge_steps"] for s in again["stages"]] == [s["merge_steps"] for s in whole["stages"]]
    assert [row["value"] for row in again["evaluations"]] == [row["value"] for row in whole["evaluations"]]


def test_an_interrupted_training_leaves_one_checkpoint_however_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full size each takes tens of GB."""
    arguments = [f"save_folder={tmp_path}", "tasks=[arithmetic]", "method=sequential", "eval.tasks=[arithmetic_loss]"]
    for stop in (2, 4):
        with monkeypatch.context() as patch:
            at = lambda self, state, logger, stop=stop: setattr(self, "requested", state.timestamp.batch >= stop)  # noqa: E731
            patch.setattr(Stopper, "batch_end", at)
            assert train.main([QUICKSTART, *SMALL, *arguments, "eval.interval=null"]) == 130
        assert [path.name for path in tmp_path.glob("stages/*/checkpoints/*")] == [f"ep0-ba{stop}.pt"]


@pytest.mark.slow
def test_the_quickstart_shows_the_effect_over_three_seeds(tmp_path: Path) -> None:
    """Math is learned, sequential training loses at least half of it, SFA keeps clearly more."""
    kept: dict[str, list[float]] = {"sequential": [], "sfa": []}
    for seed in (17, 18, 19):
        for method, shares in kept.items():
            name = f"{method}-{seed}"
            arguments = [f"seed={seed}", f"method={method}", f"name={name}", f"save_folder={tmp_path}"]
            assert train.main([QUICKSTART, *arguments]) == 0
            rows = results(tmp_path, name)["evaluations"]
            math = {row["after"]: row["value"] for row in rows if row["evaluation"] == "arithmetic"}
            gain = math["arithmetic"] - math["base"]
            assert gain >= 0.5
            shares.append((math["returns"] - math["base"]) / gain)
    assert max(kept["sequential"]) <= 0.5
    assert min(kept["sfa"]) >= max(kept["sequential"]) + 0.2


def test_a_torn_or_damaged_checkpoint_is_reported_and_the_one_before_it_taken(tmp_path: Path) -> None:
    lines = io.StringIO()
    console = Console(file=lines, soft_wrap=True)
    assert newest_checkpoint(tmp_path, console) is None
    for step in (4, 8, 12):
        torch.save({"weights": torch.arange(1000.0) + step}, tmp_path / f"ep0-ba{step}.pt")
    assert newest_checkpoint(tmp_path, console) == tmp_path / "ep0-ba12.pt" and not lines.getvalue()
    whole = (tmp_path / "ep0-ba12.pt").read_bytes()
    (tmp_path / "ep0-ba12.pt").write_bytes(whole[: len(whole) // 2])  # a process died while it wrote
    flipped = bytearray((tmp_path / "ep0-ba8.pt").read_bytes())
    flipped[flipped.index(torch.arange(8.0, 16.0).numpy().tobytes()) + 3] ^= 1  # a bit of the weights
    (tmp_path / "ep0-ba8.pt").write_bytes(flipped)
    assert newest_checkpoint(tmp_path, console) == tmp_path / "ep0-ba4.pt"
    assert [line.split()[0].rpartition("/")[2] for line in lines.getvalue().splitlines()] == [
        "ep0-ba12.pt",
        "ep0-ba8.pt",
    ]
    (tmp_path / "ep0-ba16").mkdir()  # shards without the metadata that are written last
    assert newest_checkpoint(tmp_path, console) == tmp_path / "ep0-ba4.pt"


def test_scores_of_other_evaluations_keep_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that is stopped goes on with fewer evaluations, and with fewer rows of each."""
    arguments = [f"save_folder={tmp_path}", "eval.interval=2ba", "tasks=[arithmetic]", "method=sequential"]
    with monkeypatch.context() as patch:
        patch.setattr(Stopper, "batch_end", lambda self, state, logger: setattr(self, "requested", True))
        assert train.main([QUICKSTART, *SMALL, *arguments, "eval.tasks=[arithmetic,arithmetic_loss]"]) == 130
    with monkeypatch.context() as patch:
        later = lambda self, state, logger: setattr(self, "requested", state.timestamp.batch >= 3)  # noqa: E731
        patch.setattr(Stopper, "batch_end", later)
        assert train.main([QUICKSTART, *SMALL, *arguments, "eval.tasks=[arithmetic,arithmetic_loss]"]) == 130
    assert train.main([QUICKSTART, *SMALL, *arguments, "eval.tasks=[arithmetic]", "eval.limit=8"]) == 0
    written = results(tmp_path)
    rows = json.loads((tmp_path / "stages" / written["stages"][0]["fingerprint"] / "evaluations.json").read_text())
    assert [(row["step"], row["evaluation"], row["n"]) for row in rows[:3]] == [
        (2, "arithmetic", 12), (2, "arithmetic_loss", 12), (4, "arithmetic", 8)]  # fmt: skip
    assert len({row["key"] for row in rows}) == 3
    # Asked for 12 rows again, the score of 8 is not given for it.
    assert train.main([QUICKSTART, *SMALL, *arguments, "eval.tasks=[arithmetic]", "name=again"]) == 0
    assert {row["n"] for row in results(tmp_path, "again")["evaluations"] if row["after"] == "arithmetic"} == {12}


def test_a_signal_in_the_last_step_lets_the_stage_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of a finished training could not be resumed."""

    def in_the_last(stopper: Stopper, state: Any, logger: Any) -> None:
        stopper.requested = state.timestamp.batch >= stopper.total

    monkeypatch.setattr(Stopper, "batch_end", in_the_last)
    arguments = [f"save_folder={tmp_path}", "eval.interval=null", "tasks=[arithmetic]", "method=sequential"]
    assert train.main([QUICKSTART, *SMALL, *arguments, "eval.tasks=[arithmetic_loss]"]) == 0
    assert len(results(tmp_path)["stages"]) == 1
