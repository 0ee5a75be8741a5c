"""What a run prints: scores with their errors and changes, ten lines a stage, and no library's bars."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm
from tqdm.auto import tqdm as auto

import train
from sfa.stages.progress import as_clock, fitting
from sfa.stages.results import matrix_text
from sfa.stages.score_lines import in_lines, kept, score_text, stage_line
from sfa.terminal import quiet
from tests.small_stream import config, data, task


def score(value: float, name: str = "a", stderr: float | None = 0.03, **more: Any) -> Any:
    return {"evaluation": name, "metric": "acc", "value": value, "stderr": stderr, "n": 1200, **more}


def loss(value: float) -> Any:
    return score(value, lower_is_better=True)


def test_a_score_is_said_with_its_error_its_change_and_what_is_kept() -> None:
    assert score_text(score(0.5)) == "a 0.500 ± 0.030 (n=1,200)"
    assert score_text(score(0.5, stderr=None), score(0.75)) == "a 0.500 (n=1,200, -0.250 worse)"
    assert score_text(loss(0.5), loss(0.75)) == "a 0.500 ± 0.030 (n=1,200, -0.250 better)"
    assert score_text(score(0.5), score(0.5001)) == "a 0.500 ± 0.030 (n=1,200, unchanged)"
    line = score_text(score(0.62), score(0.7), score(0.1), score(0.7))
    assert line == "a 0.620 ± 0.030 (n=1,200, -0.080 worse, kept 87% of what was gained)"
    line = score_text(score(0.05), score(0.7), score(0.1), score(0.7))
    assert line == "a 0.050 ± 0.030 (n=1,200, -0.650 worse, kept none of what was gained)"
    line = score_text(score(0.5, also={"f1": 0.25}, dropped=3))
    assert line == "a 0.500 ± 0.030 (n=1,200, f1 0.250, 3 too long: dropped)"


def test_what_is_kept_of_a_loss_is_what_is_kept_of_its_decline() -> None:
    assert kept(loss(1.5), loss(4.0), loss(1.0)) == pytest.approx(2.5 / 3)
    assert kept(loss(5.0), loss(4.0), loss(1.0)) == pytest.approx(-1 / 3)
    assert kept(loss(1.5), loss(4.0), loss(4.5)) is None and kept(score(0.5), score(0.4), score(0.4)) is None


def test_a_line_compares_each_evaluation_with_its_own() -> None:
    before = {"a": score(0.7), "b": score(0.1, "b")}
    line = stage_line("b", [score(0.4), score(0.9, "b")], before, ({"a": score(0.1)}, {"a": score(0.7)}))
    assert "kept 50% of what was gained)  b 0.900" in line and "+0.800 better)" in line and "kept" not in line[70:]


def test_what_is_kept_is_said_of_every_evaluation_of_the_first_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data(Path(), "first", "second")
    rows = [{"text": f"{i}?", "label": "ab"[i % 2]} for i in range(40)]
    Path("topics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    topics = {"name": "topics", "source": "topics.jsonl", "prompt": "{text}", "response": "{label}"}
    tasks = [{**topics, "choices": ["a", "b"]}, task(Path(), "second")]
    made = config(Path(), tasks=tasks, eval={"tasks": ["topics_loss", "second_loss"], "interval": None})
    assert train.main([made]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("after second:"))
    assert re.search(r"topics_loss [^)]*kept \S+ of what was gained", line), line


def test_bars_of_libraries_are_disabled_even_if_they_are_asked_for() -> None:
    quiet()
    shown = io.StringIO()
    for bar in (tqdm, auto):
        assert list(bar(range(3), disable=False, file=shown)) == [0, 1, 2]
    assert shown.getvalue() == ""


def test_a_log_has_ten_lines_a_stage_and_ends_with_where_the_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data(Path(), "first", "second")
    longer = {"max_duration": "20ba", "global_batch_size": 2, "seq_len": 48, "lr": 1e-2}
    assert train.main([config(Path(), "first", "second", train=longer)]) == 0
    printed = capsys.readouterr().out.splitlines()
    for title in ("[1/2] first (sequential)", "[2/2] second (sfa)"):
        lines = [line for line in printed if line.startswith(title)]
        assert len(lines) == 10
        for line in lines[:-1]:
            assert re.search(r"\d+/20  loss +\d\.\d{3}  lr \d\.\de-\d\d  [\d,]+ tokens/s .*\d+:\d\d left", line), line
    assert "of the run" in printed[1] and "next merge 10" in next(line for line in printed if "(sfa)" in line)
    assert re.search(
        r"after second: first_loss \d\.\d{3} ± \d.*(better|worse|unchanged), kept -?\d+%", "\n".join(printed)
    )
    (model,) = [line for line in printed if line.startswith("model: ")]
    assert (Path(model.removeprefix("model: ")) / "model.safetensors").is_file()
    assert printed[-1] == "next: sfa export runs/mine models/mine"


def test_a_live_line_leaves_out_what_does_not_fit() -> None:
    parts = ["[1/2] maths  5/60", "loss  1.000", "0:05 left"]
    assert fitting(parts, 80) == "[1/2] maths  5/60  loss  1.000  0:05 left"
    assert fitting(parts, 40) == "[1/2] maths  5/60  loss  1.000"
    assert fitting(parts, 10) == "[1/2] mat…"


def test_scores_are_in_as_many_lines_as_the_terminal_requires() -> None:
    scores = [score(0.5, name) for name in "abc"]
    line = stage_line("maths", scores)
    assert "\n" not in line and stage_line("maths", scores, width=len(line)) == line
    each = [f"  {name} 0.500 ± 0.030 (n=1,200)" for name in "abc"]
    assert stage_line("maths", scores, width=60).splitlines() == ["after maths:", *each]
    assert in_lines(["aa", "bb", "cc"], 6) == "aa  bb\n  cc" and in_lines(["a" * 9], 6) == "a" * 9


def test_a_wide_table_has_a_row_for_each_evaluation() -> None:
    scores = [{"after": after, **score(0.5, f"evaluation{i}")} for after in ("base", "maths") for i in range(3)]
    found: Any = {
        "stages": [{"task": "maths", "l2_from_anchor": 1.0}],
        "evaluations": scores,
        "metrics": None,
        "config": {"tasks": []},
    }
    wide, narrow = matrix_text(found).splitlines(), matrix_text(found, 40).splitlines()
    assert [line.split()[0] for line in wide[:3]] == ["after", "base", "maths"]
    assert [line.split()[0] for line in narrow[:5]] == ["after", "evaluation0", "evaluation1", "evaluation2", "L2"]
    assert max(map(len, narrow)) <= 40


def test_durations_are_shown_like_a_clock() -> None:
    assert [as_clock(seconds) for seconds in (4.6, 75, 3675)] == ["0:05", "1:15", "1:01:15"]
