"""Sweeps: what a file expands to, what its runs share, and what happens when a stage fails."""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import train
from eval import available
from scripts import executor, sweep
from scripts.interval import half_width
from scripts.paper import bars, tradeoff
from scripts.paper.sweeps import PaperSweep, read
from scripts.series import line, points_of
from sfa.config import ConfigError
from sfa.config.schema import Config
from sfa.methods import METHODS
from sfa.sweeps import expand, stages

MNIST = Path(train.__file__).parent / "yamls" / "mnist.yaml"
SMALL = {"train.max_duration": "4ba", "eval.limit": 20}


def written(folder: Path, text: str) -> Path:
    file = folder / "small.yaml"
    file.write_text(f"config: {MNIST}\nset: {json.dumps(SMALL)}\n{text}")
    return file


def test_a_grid_is_every_combination_for_every_seed(tmp_path: Path) -> None:
    text = "seeds: [3, 4]\nruns:\n- method: [sequential, l2]\n"
    text += "- {method: sfa, sfa.beta: [0.1, 0.2], sfa.every: [2ba, 3ba]}\n"
    runs = read(written(tmp_path, text), ["train.lr=0.5"])
    labels = ["sequential", "l2", *(f"sfa beta={b} every={e}ba" for b in (0.1, 0.2) for e in (2, 3))]
    assert [run.label for run in runs] == labels * 2
    assert [run.config.seed for run in runs] == [3] * 6 + [4] * 6
    assert {run.config.train.lr for run in runs} == {0.5} and {run.config.eval.limit for run in runs} == {20}
    assert runs[3].config.sfa.every == "3ba" and runs[3].config.name == "mnist-sfa-beta-0.1-every-3ba-3"
    assert len({run.config.name for run in runs}) == 12
    assert read(tmp_path / "small.yaml", ["seeds=[9]"])[0].config.seed == 9


def test_orders_of_the_tasks_are_repeats_like_seeds(tmp_path: Path) -> None:
    text = "seeds: [3, 4]\norders: [[0, 1], [1, 0]]\nruns:\n- method: [sequential, l2]\n"
    runs = read(written(tmp_path, text))
    assert [(run.label, run.config.seed, run.order) for run in runs[:4]] == [
        ("sequential", 3, (0, 1)), ("l2", 3, (0, 1)), ("sequential", 3, (1, 0)), ("l2", 3, (1, 0))]  # fmt: skip
    assert [task.name for task in runs[2].config.tasks] == ["odd", "even"]
    assert runs[2].config.name == "mnist-sequential-10-3" and len({run.config.name for run in runs}) == 8
    # The orders share only the base: one base per seed, and for each order 2 tasks and another for l2.
    assert len(stages(runs)) == 2 * (1 + 2 * 3)
    with pytest.raises(ConfigError, match="order: must contain each of"):
        read(tmp_path / "small.yaml", ["orders=[[0, 0]]"])


def test_the_sweep_of_all_methods_trains_each_stage_once() -> None:
    """A seed: the base; of sequential 3, multitask 1, O-LoRA 3, thirteen that train 2 each (rehearsal twice), WiSE-FT
    and SLERP 1 and their 2 averages, single tasks 2; seven merges of 3 and two of 2 of these, and MagMax's 3."""
    runs = read(MNIST.parent / "sweeps" / "methods.yaml", ["seeds=[17]"])
    assert {run.config.method for run in runs} == {*METHODS}
    assert len(runs) == len(METHODS) + 1
    assert len(stages(runs)) == 1 + 3 + 1 + 3 + 13 * 2 + 2 * 3 + 2 + 7 * 3 + 2 * 2 + 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: []\n", "runs"),
        ("runs: [{method: sfa}]\nsed: [1]\n", "sed"),
        ("runs: [{method: sfaa}]\n", "did you mean sfa?"),
        ("runs: [{method: sfa, sfa.bta: 1}]\n", "sfa.bta"),
    ],
)
def test_a_wrong_sweep_exits_2_and_says_why(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main([str(written(tmp_path, text))]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(ConfigError):
        read(tmp_path / "absent.yaml")


def test_the_errors_of_a_sweep_and_of_all_its_runs_are_reported_at_once(tmp_path: Path) -> None:
    """Those of all runs once, those of single ones with their labels."""
    text = "seeds: [1, 2, x]\nfigure: []\nruns: [{method: sfaa}, {method: sfa, sfa.beta: [2, 0.5]},\n"
    text += "  {method: l2, l2.strenght: 1}, {method: l2, seed: 3}]\n"
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, text), ["orders=017", "train.lr=-1", "eval.tasks=[nope]"], available)
    begun = ["orders: ", "seeds.2: ", "figure: ", "runs.3.seed: ", "train.lr: ", "eval.tasks: ", "sfaa: method: "]
    begun += ["sfa beta=2: sfa.beta: ", "l2 strenght=1: l2.strenght: "]
    assert [next(start for start in begun if line.startswith(start)) for line in caught.value.errors] == begun


def test_what_the_runs_mend_is_no_error(tmp_path: Path) -> None:
    """The config alone is wrong: p is too small, the learning rate negative, the schedule unknown."""
    wrong = ["method=sfa", "sfa.every=null", "sfa.p=0.001", "train.lr=-1", "train.schedule=cosin"]
    mended = "train.lr: 0.1, train.schedule: linear"
    runs = read(written(tmp_path, f"runs: [{{method: [sequential, l2], {mended}}}]\n"), wrong)
    assert [run.config.name for run in runs] == [
        f"mnist-{method}-train.lr-0.1-train.schedule-linear-17" for method in ("sequential", "l2")
    ]
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, f"runs: [{{method: [l2, sfa], {mended}}}, {{method: l2}}]\n"), wrong)
    begun = ["sfa train.lr=0.1 ", "train.lr: must be", "train.schedule: must be"]
    assert [next(start for start in begun if line.startswith(start)) for line in caught.value.errors] == begun


def test_a_sweep_runs_goes_on_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "seeds: [3, 4]\nruns:\n- method: [sequential, multitask]\n"
    text += "- {method: rehearsal, rehearsal.fraction: [0.1, 0.2]}\n"
    text += "- {method: sfa, sfa.every: 2ba, sfa.beta: [0.1, 0.3, 0.5]}\n- {method: l2, l2.strength: [0.1, 1]}\n"
    file, out = written(tmp_path, text), tmp_path / "runs"
    arguments = [str(file), f"save_folder={out}", "--jobs", "2", "--out", str(tmp_path / "table.md")]
    assert sweep.main(arguments) == 0
    first = re.sub(" +", " ", capsys.readouterr().out)  # the columns are padded
    assert "18 runs, 22 stages, 22 of them to make" in first and "\nsfa every=2ba beta=0.3 " in first
    written_table = re.sub(" +", " ", (tmp_path / "table.md").read_text())
    assert "Seeds [3, 4]" in written_table and "| sfa every=2ba beta=0.3 |" in written_table
    assert sweep.main(arguments) == 0
    assert "22 stages, 0 of them to make" in capsys.readouterr().out
    results = points_of(read(file, [f"save_folder={out}"]))
    assert [len(runs) for _, runs in results] == [2] * 9
    x, y = {"Even": ["even_accuracy"]}, {"Odd": ["odd_accuracy"]}
    points = line(results, "sfa", "sfa.beta", x, y)
    finals = []
    for seed in (3, 4):
        rows = json.loads((out / f"mnist-sfa-every-2ba-beta-0.3-{seed}" / "results.json").read_text())["evaluations"]
        finals.append({row["evaluation"]: row["value"] for row in rows if row["after"] == "odd"})
    assert [point.value for point in points] == [0.1, 0.3, 0.5]
    assert points[1].x == pytest.approx(sum(final["even_accuracy"] for final in finals) / 2)
    assert points[1].dy == pytest.approx(half_width([final["odd_accuracy"] for final in finals]))
    panel = tradeoff.Panel(results, x, y)
    for picture in (tradeoff.draw([panel], tmp_path / "t.png"), bars.draw(results, tmp_path / "b.png")):
        assert picture.stat().st_size > 10_000 and picture.with_suffix(".pdf").read_bytes()[:5] == b"%PDF-"


def test_a_stage_that_fails_stops_only_what_needs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "runs:\n- method: sequential\n- {method: sequential, train.lr: 0.02, 'tasks.0.source': %s}\n"
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (broken / name).write_bytes(b"no digits")
    file, out = written(tmp_path, text % broken), tmp_path / "runs"
    assert sweep.main([str(file), f"save_folder={out}"]) == 1
    captured = capsys.readouterr()
    assert (out / "mnist-sequential-17" / "results.json").is_file()
    assert captured.err.count("a stage that it needs failed") == 1 and "exit code 1, log" in captured.err
    log = Path(captured.err.split("log ")[1].splitlines()[0])
    assert "is not a complete IDX file" in log.read_text()


def test_table_1_needs_eight_trainings(capsys: pytest.CaptureFixture[str]) -> None:
    """A loop over its rows would take 25."""
    assert sweep.main([str(MNIST.parent / "sweeps" / "table1.yaml"), "dry_run=true"]) == 0
    printed = capsys.readouterr().out
    assert "trainings: 8; a loop over the runs would take 25" in printed
    assert "14 runs, 16 stages, 0 done, 16 to do" in printed


def weights(out: Path, name: str) -> dict[str, torch.Tensor]:
    stage = json.loads((out / name / "results.json").read_text())["stages"][-1]["fingerprint"]
    return load_file(out / "stages" / stage / "model" / "model.safetensors")


@pytest.mark.slow
def test_on_ray_a_killed_worker_s_stage_goes_on_and_a_failed_one_stops_only_what_needs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real Ray on this machine; a worker is killed after its stage's first checkpoint."""
    (tmp_path / "empty").mkdir()
    good = "runs:\n- method: sequential\n"
    broken = f"- {{method: sequential, train.lr: 1.0e-3, 'tasks.0.source': {tmp_path / 'empty'}}}\n"
    longer = ["train.max_duration=800ba", "train.save_interval=100ba"]
    undisturbed = [
        f"save_folder={tmp_path / 'undisturbed'}",
        "--jobs",
        "2",
    ]  # one thread each, as in a Ray worker
    assert sweep.main([str(written(tmp_path, good)), *longer, *undisturbed]) == 0
    out, killed = tmp_path / "ray", []

    def kill() -> None:
        while not killed:
            saved = list(out.glob("stages/*/checkpoints/*"))
            workers = [p for p in psutil.process_iter(["cmdline"]) if "ray::_make" in (p.info["cmdline"] or [""])[0]]
            if saved and workers:
                killed.append(workers[0].pid)
                workers[0].kill()
            time.sleep(0.01)

    threading.Thread(target=kill, daemon=True).start()
    assert sweep.main([str(written(tmp_path, good + broken)), *longer, f"save_folder={out}", "--ray", "local"]) == 1
    assert len(killed) == 1
    expected, actual = weights(tmp_path / "undisturbed", "mnist-sequential-17"), weights(out, "mnist-sequential-17")
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    failures = capsys.readouterr().err
    assert failures.count("a stage that it needs failed") == 1 and "exit code 1, log" in failures


def test_concurrent_sweeps_train_every_stage_once(tmp_path: Path) -> None:
    """Both plan all stages, since none exists yet; the second to reach a stage waits for it and reuses it."""
    file, out = written(tmp_path, "runs:\n- method: [sequential, l2]\n"), tmp_path / "runs"
    command = [sys.executable, "-m", "scripts.sweep", str(file), f"save_folder={out}", "train.max_duration=60ba"]
    both = [
        subprocess.Popen([*command, "--name", name], cwd=MNIST.parent.parent, stdout=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert len(list(out.glob("stages/*/manifest.json"))) == 4
    assert all("4 of them to make" in text for text in outputs)
    logs = [file.read_text() for file in (out / "logs").glob("*.log")]
    assert sorted(text.count("  60/60  ") for text in logs if "60/60" in text) == [1, 1, 1]
    first, second = (json.loads((out / f"{name}.json").read_text())["runs"] for name in ("first", "second"))
    assert first == second and all((out / run["name"] / "results.json").is_file() for run in first)


def test_stages_on_several_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert executor.composer(1, at_once=3) == []
    assert executor.composer(2, at_once=3)[:2] == ["env", "OMP_NUM_THREADS=2"]
    assert executor.composer(2)[1:] == ["-n", "2"]  # each rank limits its own threads
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert executor.composer(2, at_once=3)[1:] == ["-n", "2"]


def test_a_run_may_set_the_block_of_its_method(tmp_path: Path) -> None:
    """In either notation; no key of a sweep shadows one of the config."""
    assert not {*PaperSweep.row_keys} & {*Config.model_fields}
    text = (
        "runs:\n- {method: l2, l2: {strength: 0.5}}\n- {method: l2, l2: {strength: [0.7, 0.9], anchor_device: cpu}}\n"
    )
    text += '- {method: l2, l2.strength: 0.1, loggers: {file: {filename: "no"}}}\n'
    runs = read(written(tmp_path, text))
    assert [run.config.l2.strength for run in runs] == [0.5, 0.7, 0.9, 0.1]
    assert runs[0].point == {"method": "l2", "l2.strength": 0.5} and runs[0].label == "l2 strength=0.5"
    assert runs[3].config.loggers["file"] == {"filename": "no"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: [{method: l2, seed: 3}]\n", "runs.0.seed: is set by the sweep, with seeds: [17, 18]"),
        ("runs: [{method: l2, name: mine}]\n", "runs.0.name: is set by the sweep"),
        ("runs: [{method: l2, order: [1, 0]}]\n", "runs.0.order: is set by the sweep"),
        ("runs: [{method: l2, l2: {strength: 1}, l2.strength: 2}]\n", "l2.strength: is given twice"),
        ("runs: [{method: l2}, {method: l2}]\n", "'l2' is not the only run called mnist-l2-17"),
    ],
)
def test_what_a_sweep_would_overwrite_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(written(tmp_path, text))


def test_an_overridden_seed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed=5: is set by the sweep, with seeds"):
        read(written(tmp_path, "runs: [{method: l2}]\n"), ["seed=5"])


def test_runs_whose_labels_differ_have_separate_folders(tmp_path: Path) -> None:
    text = "runs:\n- {method: ties, ties.scale: [1, -1]}\n- {method: l1, loggers.file.filename: [é, è, e]}\n"
    names = [run.config.name for run in read(written(tmp_path, text))]
    assert len(set(names)) == 5 and names[0] == "mnist-ties-scale-1-17"
    glyphs, rest = MNIST.parent / "glyphs.yaml", list(range(2, 20))
    orders = [[1, 11, *(i for i in [0, *rest] if i != 11)], [11, 1, *(i for i in [0, *rest] if i != 11)]]
    runs = expand(glyphs, [{"method": "sequential"}], [17], ["dry_run=true"], None, orders)
    assert len({run.config.name for run in runs}) == 2


def test_concurrent_stages_share_fisher_information(tmp_path: Path) -> None:
    """Several strengths of EWC compute it at the same weights, at the same time."""
    text = "runs:\n- {method: ewc, ewc.strength: [1, 2, 3, 4]}\n"
    arguments = [str(written(tmp_path, text)), f"save_folder={tmp_path / 'runs'}", "ewc.examples=200", "--jobs", "4"]
    assert sweep.main(arguments) == 0
    assert len(list((tmp_path / "runs").glob("stages/*/fisher-*"))) == 1
    assert len(list((tmp_path / "runs").glob("stages/*/manifest.json"))) == 1 + 1 + 4
