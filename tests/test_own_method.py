"""A method that the suite knows nothing of, defined in tests/own_method.py, does all that the suite's own do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import train
from scripts import figures, merge, tables
from sfa.config import ConfigError, load
from sfa.methods import METHODS
from sfa.stages.plan import plan
from tests import small
from tests.own_method import Shrink
from tests.small import QUICKSTART

METHODS.pop("shrink")  # importing it registered it, and other tests go over all methods of the suite

SMALL = [*small.SMALL, "train.max_duration=4ba", "eval.limit=6", "tasks=[arithmetic,returns]"]


@pytest.fixture(autouse=True, scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An installed package with an entry point, so that the processes of a sweep find the method too."""
    folder = tmp_path_factory.mktemp("site")
    about = folder / "own_method-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own-method\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sfa.methods]\nshrink = tests.own_method\n")
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(folder), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        METHODS["shrink"] = Shrink
        yield
        METHODS.pop("shrink")


def weights(folder: Path, fingerprint: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "stages" / fingerprint / "model" / "model.safetensors")


def test_its_config_is_checked() -> None:
    with pytest.raises(ConfigError) as caught:
        load(QUICKSTART, [*SMALL, "method=shrnk", "shrink.shar=1"])
    assert any(error.startswith("method: ") and "did you mean shrink?" in error for error in caught.value.errors)
    assert any(error.startswith("shrink.shar: ") and "did you mean share?" in error for error in caught.value.errors)
    with pytest.raises(ConfigError, match=r"shrink\.share: must be less than or equal to 1, not 2"):
        load(QUICKSTART, [*SMALL, "shrink.share=2"])
    with pytest.raises(ConfigError, match="shrink acts from the second trained task on"):
        load(QUICKSTART, [*SMALL, "method=shrink", "tasks=[returns]"])


def test_its_settings_are_part_of_the_fingerprint() -> None:
    def ends(*more: str) -> str:
        return plan(load(QUICKSTART, [*SMALL, "method=shrink", *more]))[-1].fingerprint

    assert ends() == ends("shrink.share=0.5") != ends("shrink.share=0.4")


def test_it_runs_and_goes_on_and_merges_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [QUICKSTART, *SMALL, "method=shrink", "shrink.share=0.25", f"save_folder={tmp_path}", "name=own"]
    assert train.main([*arguments, "dry_run=true"]) == 0
    assert "merges 2 models, share 0.25; no training" in capsys.readouterr().out
    assert train.main(arguments) == 0
    results = json.loads((tmp_path / "own" / "results.json").read_text())
    assert [stage["method"] for stage in results["stages"]] == ["sequential", "shrink"]
    made = {file.parent.name: file.stat().st_mtime_ns for file in tmp_path.glob("stages/*/manifest.json")}
    assert train.main(arguments) == 0
    assert made == {file.parent.name: file.stat().st_mtime_ns for file in tmp_path.glob("stages/*/manifest.json")}
    fingerprint = results["stages"][1]["fingerprint"]
    manifest = json.loads((tmp_path / "stages" / fingerprint / "manifest.json").read_text())
    old, new = manifest["spec"]["sources"]
    merged = weights(tmp_path, fingerprint)
    before, after = weights(tmp_path, old), weights(tmp_path, new)
    assert all(torch.equal(merged[n], before[n] + 0.25 * (after[n] - before[n])) for n in merged)
    folders = [str(tmp_path / "stages" / name / "model") for name in (old, new)]
    # scripts.merge was imported before the method was there, as it is not where the package is installed
    merge.MERGES["shrink"] = Shrink
    try:
        assert merge.main(["shrink", *folders, "--share", "0.25", "--out", str(tmp_path / "merged")]) == 0
    finally:
        del merge.MERGES["shrink"]
    by_command = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(by_command[n], merged[n]) for n in merged)


def test_it_is_in_sweeps_tables_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"paper": [0.5, 0.5]}
    content = {
        "config": QUICKSTART,
        "seeds": [17],
        "set": {"tasks": ["arithmetic", "returns"]},
        "table": {"title": "Own", "columns": ["arithmetic", "returns"], "original": [0.1, 0.1]},
        "figures": [
            {"name": "1", "kind": "bars"},
            {"name": "2", "kind": "tradeoff", "x": {"r": ["returns"]}, "y": {"a": ["arithmetic"]}},
        ],
        "runs": [
            {"method": "sequential", "row": "sequential", **scores},
            {"method": "shrink", "shrink.share": 0.5, "row": "shrunk", **scores},
        ],
    }
    file = tmp_path / "sweeps" / "own.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(content))
    small = [part for part in SMALL if not part.startswith("tasks=")]
    # In a process of its own: one that has started stages before would fork from a server without the package.
    command = [sys.executable, "-m", "scripts.sweep", str(file), *small, f"save_folder={tmp_path}"]
    swept = subprocess.run(command, check=False, cwd=Path(QUICKSTART).parent.parent, capture_output=True, text=True)
    assert swept.returncode == 0, swept.stderr
    assert "shrink share=0.5" in swept.stdout
    assert tables.main([str(file), *small, f"save_folder={tmp_path}"]) == 0
    assert "shrunk" in capsys.readouterr().out
    assert figures.main([str(file), *small, f"save_folder={tmp_path}", "--out", str(tmp_path / "figures")]) == 0
    assert len(list((tmp_path / "figures").glob("*.png"))) == 2
