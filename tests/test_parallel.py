"""Two ranks on gloo through the Composer launcher: DDP, FSDP2 with sharded and full checkpoints, and plain FSDP1."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfa import SFA
from tests import COMPOSER
from tests.toy import Regression, penalty, reference, saver_every_step, trainer, weights

ROOT = Path(__file__).parent.parent
STEPS, P = 12, 0.25
KINDS = ("momentum", "adamw")
FORMS = ("ddp", "fsdp2-sharded", "fsdp2-full")


def single(kind: str, anchor: str | None = None, **more: Any) -> dict[str, torch.Tensor]:
    model = Regression(outputs=3)
    fit = trainer(model, STEPS, [SFA(p=P, anchor=anchor)], kind, **more)
    fit.fit()
    fit.close()
    return weights(model)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two ranks filled, beginning with checkpoints of a single process to go on from."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "anchor").mkdir()
    save_file(weights(Regression(outputs=3, seed=5)), folder / "anchor" / "model.safetensors")
    for kind in KINDS:
        single(kind, callbacks=[saver_every_step(folder / "one" / kind, STEPS)])
    command = [COMPOSER, "-n", "2", "-m", "tests.parallel_worker", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def record(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "record.json").read_text()))


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], atol: float = 1e-6) -> None:
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [*FORMS, "fsdp1"])
def test_two_ranks_equal_algorithm_1_in_one_process(out: Path, form: str, kind: str) -> None:
    assert_same(load_file(out / f"{form}-{kind}.safetensors"), reference(Regression(outputs=3), STEPS, P, 0.5, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_resumed_on_two_ranks_is_bitwise_the_same(out: Path, form: str, kind: str) -> None:
    for step in (2, 3, 4, 9, 11):
        assert record(out)[f"resumed {form}-{kind} at {step}"] == [True, [3, 6, 9, 12]], step


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_on_one_rank_and_continued_on_two(out: Path, kind: str) -> None:
    whole = single(kind)
    assert_same(load_file(out / f"elastic-ddp-{kind}.safetensors"), whole)
    assert_same(load_file(out / f"elastic-fsdp2-{kind}.safetensors"), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["ddp", "fsdp2-full"])
def test_stopped_on_two_ranks_and_continued_on_one(out: Path, form: str, kind: str) -> None:
    checkpoint = out / "checkpoints" / f"{form}-{kind}" / "ep0-ba4.pt"
    assert_same(single(kind, load_path=str(checkpoint)), single(kind))


@pytest.mark.parametrize("form", FORMS)
def test_the_anchor_can_be_read_from_a_folder(out: Path, form: str) -> None:
    assert_same(load_file(out / f"{form}-folder.safetensors"), single("momentum", str(out / "anchor")))


def test_merging_does_not_communicate(out: Path) -> None:
    counts = record(out)["collectives"]
    assert counts["of one all_reduce"] == 1  # the counter counts
    assert counts["merges"] > 100
    assert counts["while merging"] == 0


def test_the_ranks_share_the_cores(out: Path) -> None:
    threads = torch.get_num_threads()
    assert record(out)["threads"] == [threads if "OMP_NUM_THREADS" in os.environ else max(1, threads // 2)] * 2


def test_a_rank_holds_its_share_of_the_anchor(out: Path) -> None:
    records = record(out)
    assert records["anchor bytes"] == [records["model bytes"] / 2] * 2


@pytest.mark.parametrize("form", FORMS)
def test_the_logged_norm_is_that_of_the_whole_model(out: Path, form: str) -> None:
    start = weights(Regression(outputs=3))
    final = load_file(out / f"{form}-momentum.safetensors")
    moved = sum(((final[n] - w).double() ** 2).sum() for n, w in start.items()) ** 0.5
    assert record(out)[f"{form}-momentum"][-1]["l2_after"] == pytest.approx(float(moved), rel=1e-5)


@pytest.mark.parametrize("kind", ["l1", "l2", "ewc"])
@pytest.mark.parametrize("form", FORMS)
def test_a_penalty_on_two_ranks_is_that_of_one_and_resumes_bitwise(
    out: Path, form: str, kind: str, tmp_path: Path
) -> None:
    model = Regression(outputs=3)
    fit = trainer(model, STEPS, [penalty(kind, tmp_path / "fisher")], "momentum")
    fit.fit()
    fit.close()
    assert_same(load_file(out / f"{form}-{kind}.safetensors"), weights(model))
    assert record(out)[f"resumed {form}-{kind}"]
    if kind == "ewc":
        first, second = (folder / "model.safetensors" for folder in (tmp_path / "fisher", out / f"fisher-{form}"))
        assert_same(load_file(second), load_file(first), atol=1e-7)
