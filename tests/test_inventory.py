"""``sfa list`` and ``sfa prune``: who needs which stage, and nothing that a run needs is deleted."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from scripts import list_runs, prune
from sfa import runs
from sfa.inventory import take, unneeded
from sfa.store import lock
from tests.test_commands import kept_run

WEEK = 7 * 24 * 3600


def stage(folder: Path, number: int, parent: int | None = None, made: bool = True, **spec: Any) -> str:
    """A stage, a week old, with a model of 100 bytes and a checkpoint of 50."""
    name = f"{number:016x}"
    place = folder / "stages" / name
    for file, size in (("model/model.safetensors", 100), ("checkpoints/last.pt", 50)):
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(b"0" * size)
    if made:
        about = {"date": "2026-01-01", "hardware": "cpu", "torch": "2.7"}
        manifest = {"fingerprint": name, "task": "a", "method": "sequential", "spec": spec, "made": about, "steps": 1}
        manifest |= {"parent": None if parent is None else f"{parent:016x}", "files": {}, "merge_steps": []}
        costs = dict.fromkeys(("seconds", "tokens", "peak_bytes", "stored_examples", "l2_from_anchor"), 1)
        (place / "manifest.json").write_text(json.dumps({**manifest, **costs}))
    for file in [*place.rglob("*"), place]:
        os.utime(file, (time.time() - WEEK,) * 2)
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of stage 0xf0 on 1 with a merge of 2, of which 3 is read; 4 and a half-made 5 are of no run."""
    run = kept_run(tmp_path)
    save_folder = run.parent
    stage(save_folder, 1, model={"name": str(save_folder / "stages" / f"{3:016x}" / "model")})
    stage(save_folder, 2, 1)
    stage(save_folder, 3)
    stage(save_folder, 0xF0, 1, sources=[f"{1:016x}", f"{2:016x}"])
    stage(save_folder, 4, 1)
    stage(save_folder, 5, made=False)
    return save_folder


def unneeded_names(folder: Path, age: float = 1) -> set[str]:
    return {str(removal.path.relative_to(folder / "stages")) for removal in unneeded(take(folder), age)}


def test_what_a_run_needs_is_known_through_parents_sources_and_models(folder: Path) -> None:
    users = {entry.folder.name: list(entry.users) for entry in take(folder).stages}
    assert users == {f"{n:016x}": ["one"] if n in (1, 2, 3, 0xF0) else [] for n in (1, 2, 3, 4, 5, 0xF0)}
    checkpoints = {f"{n:016x}/checkpoints" for n in (1, 2, 3, 0xF0)}
    assert unneeded_names(folder) == {f"{4:016x}", f"{5:016x}", *checkpoints}


def test_what_is_new_or_in_the_making_is_kept(folder: Path) -> None:
    assert unneeded_names(folder, 8) == set()
    with lock(folder / "stages" / f"{5:016x}"):
        assert f"{5:016x}" not in unneeded_names(folder)


def test_a_run_that_goes_on_for_days_keeps_its_finished_stages(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no results yet; 4 may be its first stage, and 5 the one that it is training."""
    with lock(folder / "stages" / f"{5:016x}"):
        assert not {f"{4:016x}", f"{5:016x}"} & unneeded_names(folder)
    os.utime(folder / "stages" / f"{5:016x}")  # a checkpoint was written, or it is between two stages
    assert f"{4:016x}" not in unneeded_names(folder)
    assert prune.main([str(folder), "--yes"]) == 0
    assert f"{5:016x} may be of a run that goes on, so finished stages are kept" in capsys.readouterr().out
    assert len(take(folder).stages) == 6


def test_what_a_damaged_file_needs_is_kept_and_it_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "one" / "results.json").write_text("{")
    assert unneeded_names(folder) == {f"{5:016x}"}
    assert prune.main([str(folder), "--yes"]) == 0
    assert f"are kept: {folder / 'one' / 'results.json'} is torn or damaged" in capsys.readouterr().out
    assert {entry.folder.name for entry in take(folder).stages} == {f"{n:016x}" for n in (1, 2, 3, 4, 0xF0)}


def test_a_damaged_manifest_is_named_and_can_be_deleted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = folder / "stages" / f"{0xF0:016x}" / "manifest.json"
    manifest.write_text("[]")
    for file in [manifest, manifest.parent]:
        os.utime(file, (time.time() - WEEK,) * 2)
    assert list_runs.main([str(folder), "--stages"]) == 0
    printed = capsys.readouterr().out
    assert str(manifest) in printed and "1 damaged" in printed
    assert {f"{n:016x}" for n in (1, 2, 3, 4)}.isdisjoint(unneeded_names(folder))  # the run needs 1, 2 and 3 through it
    assert f"{0xF0:016x}" in unneeded_names(folder)


def test_prune_lists_first_and_deletes_if_it_is_told_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {entry.folder.name: entry.size for entry in take(folder).stages}
    assert prune.main([str(folder)]) == 0
    assert "in 6 folders; --yes deletes them" in capsys.readouterr().out
    assert {entry.folder.name: entry.size for entry in take(folder).stages} == before
    assert prune.main([str(folder), "--yes"]) == 0
    assert {entry.folder.name for entry in take(folder).stages} == {f"{n:016x}" for n in (1, 2, 3, 0xF0)}
    assert all(runs.is_made(entry.folder) and entry.size < 700 for entry in take(folder).stages)
    assert prune.main([str(folder)]) == 0 and capsys.readouterr().out.endswith("nothing to delete\n")


def test_the_list_names_runs_and_stages(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "results.json").write_text("{")
    assert list_runs.main([str(folder), "--stages"]) == 0
    printed = capsys.readouterr().out
    assert any(line.split()[:3] == ["one", "sequential", "a"] for line in printed.splitlines())
    assert "results.json is torn or damaged" in printed and "half-made" in printed
    assert "2 runs, 6 stages of" in printed and "1 half-made, 1 needed by no run" in printed
    assert list_runs.main([str(folder / "none")]) == 2
