"""What scripts.merge says of wrong usage and of models that cannot be merged."""

from pathlib import Path
from typing import Any

import pytest

from scripts import merge
from tests.folders import bare


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["average", "one", "two", "--beta", "nan"], 2, "--beta: must be a finite number, not nan"),
        (["average", "one", "two", "--beta", "1.5"], 2, "--beta: must be less than or equal to 1, not 1.5"),
        (["average", "one", "one"], 2, "one is given twice"),
        (["average", "one", "two", "three"], 2, "average takes 2 models"),
        (
            ["average", "one", "two", "--weights", "1", "2"],
            2,
            "for breadcrumbs and dare and della and fisher and task_arithmetic and ties",
        ),
        (
            ["soup", "one", "two", "--base", "three"],
            2,
            "and magmax and model_stock and opcm and task_arithmetic and ties",
        ),
        (["model_stock", "one", "--base", "two"], 1, "Model Stock needs two models or more"),
        (["della", "one", "--base", "two", "--density", "0.9"], 1, "Epsilon must be chosen such that"),
        (["soup", "one", "none"], 2, "none holds no safetensors files"),
        (["soup", "one", "torn"], 1, "torn/model.safetensors"),
        (["task_arithmetic", "one", "--base", "one"], 2, "one is given twice"),
        (["task_arithmetic", "one", "--base", "two", "--weights", "nan"], 2, "--weights.0: must be a finite number"),
        (["ties", "one", "--base", "two", "--weights", "inf"], 2, "--weights.0: must be a finite number"),
        (["ties", "one", "--base", "two", "--scale", "nan"], 2, "--scale: must be a finite number, not nan"),
        (["ties", "one", "--base", "two", "--density", "nan"], 2, "--density: must be a finite number, not nan"),
        (["fisher", "one", "two", "--fishers", "one", "two", "--weights", "0", "0"], 1, "not all zero"),
        (
            ["fisher", "one", "two", "--fishers", "one", "two", "--weights", "1", "-1"],
            1,
            "must not be negative, and not all zero",
        ),
        (["fisher", "one", "two", "--fishers", "one", "minus"], 1, "minus contains a negative value"),
        (["fisher", "one", "two", "--fishers", "one"], 2, "fisher needs as many --fishers as models"),
        (["soup", "one", "two", "--normalize"], 2, "--normalize is only for fisher"),
    ],
)
def test_scripts_merge_ends_with_one_line(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, value in (("one", 1.0), ("two", 2.0), ("three", 3.0), ("minus", -1.0)):
        bare(Path(name), a=[value, 2.0])
    Path("torn").mkdir()
    Path("torn/model.safetensors").write_bytes(Path("one/model.safetensors").read_bytes()[:-3])
    try:
        ended_with: Any = merge.main([*arguments, "--out", "out"])
    except SystemExit as ended:
        ended_with = ended.code
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert (ended_with, message in line) == (code, True), line
    assert not Path("out").exists()
