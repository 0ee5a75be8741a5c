"""What figures look like: labels apart from each other, one look per method, and which way is better."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

import train
from scripts.paper import bars, distance, labels, methods, tradeoff
from scripts.paper.figures import errors_of
from scripts.paper.sweeps import read, read_file
from scripts.series import Swept
from sfa import curves, pictures
from sfa.config import ConfigError
from sfa.methods import METHODS

SAFE = {"#D55E00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#767676", "black"}  # Okabe and Ito, grey
X, Y = {"Law": ["b"]}, {"Math": ["a"]}
Drawn = list[Figure]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drawn]:
    """The figures that are drawn, kept open when they are saved."""
    figures: Drawn = []
    for module in (bars, distance, methods, tradeoff, curves):
        monkeypatch.setattr(module, "save", lambda figure, out: figures.append(figure) or out)
    yield figures
    plt.close("all")


def run(method: str, before: tuple[float, float], after: tuple[float, float], **other: Any) -> dict[str, Any]:
    """Results of a stream of tasks a and b: scores after each, and the keys of the other arguments."""
    metric = {"metric": "loss", "lower_is_better": True} if other.pop("loss", False) else {"metric": "acc"}
    scores = {"base": (0.1, 0.2), "a": before, "b": after}
    rows = [
        {"after": stage, "evaluation": name, "value": value, **metric}
        for stage, values in scores.items()
        for name, value in zip("ab", values, strict=True)
    ]
    stages = [{"task": name, "method": method, "l2_from_anchor": 1.0 + after[1], "steps": 8} for name in "ab"]
    tasks = [{"name": name, "evals": [name], "evaluate_only": False} for name in "ab"]
    metrics = {"average": sum(after) / 2}
    return {"stages": stages, "evaluations": rows, "config": {"tasks": tasks}, "metrics": metrics, **other}


def swept(seeds: int = 3, **other: Any) -> Swept:
    """Sequential training, SFA over p, and WiSE-FT and Task Arithmetic close to it, some in one place."""
    ends: list[tuple[dict[str, Any], tuple[float, float]]] = [
        ({"method": "sequential"}, (0.0, 0.82)),
        *(({"method": "sfa", "sfa.p": p}, (0.8 - (p == 1) * 0.6, 0.5 + 0.3 * p)) for p in (1, 0.75, 0.5, 0.25)),
        *(({"method": "wise_ft", "wise_ft.beta": b}, (0.2 * b, 0.8)) for b in (0.1, 0.25, 0.5)),
        *(({"method": "ewc", "ewc.strength": s}, (0.001 * s, 0.81)) for s in (1, 3, 10)),
        ({"method": "task_arithmetic", "task_arithmetic.weights": [0.25, 0.75]}, (0.0, 0.82)),
    ]
    shift = [0.02 * seed for seed in range(seeds)]
    return [(point, [run("sfa", (0.8, 0.2), (a + s, b + s), **other) for s in shift]) for point, (a, b) in ends]


def points_labels(ax: Axes) -> list[Any]:
    return [text for text in ax.texts if text.get_text()]


def test_labels_cover_neither_each_other_nor_marks_and_every_point_has_one(drawn: Drawn, tmp_path: Path) -> None:
    tradeoff.draw([tradeoff.Panel(swept(), X, Y)], tmp_path / "t.png")
    ax = drawn[0].axes[0]
    texts = points_labels(ax)
    assert sorted(text.get_text() for text in texts) == sorted(
        ["1", "0.75", "0.5", "0.25", "0.1", "0.25", "0.5", "1", "3", "10", "0.25:0.75"]
    )
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max) for box in boxes)
    marks = [ax.transData.transform(p) for line in ax.lines if line.get_marker() != "None" for p in line.get_xydata()]
    assert len(marks) > 11 and not any(box.contains(*mark) for box in boxes for mark in marks)


def test_labels_of_one_place_are_moved_apart_the_same_every_time() -> None:
    def places() -> list[tuple[float, float]]:
        _, ax = plt.subplots()
        texts = [ax.text(0.5, 0.5, f"p={i}") for i in range(6)]
        labels.spread(ax, texts, [(0.5, 0.5)], [[(0, 0.5), (1, 0.5)]])
        boxes = [text.get_window_extent() for text in texts]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        centre = ax.transData.transform((0.5, 0.5))
        assert max(np.abs((box.min + box.max) / 2 - centre).max() for box in boxes) < 120
        plt.close()
        return [text.get_position() for text in texts]

    assert places() == places()


def test_marks_at_the_edge_are_whole_and_intervals_are_behind_the_curves(drawn: Drawn, tmp_path: Path) -> None:
    tradeoff.draw([tradeoff.Panel(swept(), X, Y)], tmp_path / "t.png")
    ax = drawn[0].axes[0]
    marked = [line for line in ax.lines if line.get_marker() not in ("None", "", None)]
    assert marked and not any(line.get_clip_on() for line in marked)
    intervals = [container for container in ax.containers if isinstance(container, ErrorbarContainer)]
    assert intervals and all(
        bar.get_zorder() < min(line.get_zorder() for line in marked) for container in intervals for bar in container[2]
    )


def test_one_seed_has_no_interval(drawn: Drawn, tmp_path: Path) -> None:
    tradeoff.draw([tradeoff.Panel(swept(seeds=1), X, Y)], tmp_path / "t.png")
    bars.draw(swept(seeds=1), tmp_path / "b.png")
    for figure in drawn:
        assert not any(isinstance(container, ErrorbarContainer) for container in figure.axes[0].containers)
    bars.draw(swept(seeds=2), tmp_path / "b.png")
    assert any(isinstance(container, ErrorbarContainer) for container in drawn[-1].axes[0].containers)


def test_axes_say_the_metric_and_which_way_is_better(drawn: Drawn, tmp_path: Path) -> None:
    for loss in (False, True):
        results = swept(loss=loss)
        tradeoff.draw([tradeoff.Panel(results, X, {"Math": ["a"], "Law": ["b"]})], tmp_path / "t.png")
        distance.draw(results, Y, tmp_path / "d.png")
    scores, by_distance, losses, losses_by_distance = (figure.axes[0] for figure in drawn)
    assert scores.get_xlabel() == "Law: accuracy, higher is better →"
    assert scores.get_ylabel() == "mean of Math and Law: accuracy, higher is better →"
    assert losses.get_xlabel() == "Law: loss, nats per token, ← lower is better"
    assert by_distance.get_ylabel().endswith("→") and "← lower" in losses_by_distance.get_ylabel()


def test_panels_of_one_figure_have_the_stream_as_their_title(drawn: Drawn, tmp_path: Path) -> None:
    results = swept()
    panel = tradeoff.Panel(results, X, Y, tradeoff.stream_title(results, X, Y))
    tradeoff.draw([panel, tradeoff.Panel(results, Y, X, "other")], tmp_path / "t.png")
    assert [ax.get_title() for ax in drawn[0].axes] == ["Math → Law", "other"]
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert {"SFA (p)", "WiSE-FT (β)", "EWC (λ)"} <= {*legend} and len(legend) == len({*legend})


def test_figure_6_is_one_picture_of_both_orders() -> None:
    for name in ("words_orders", "table7"):
        path = Path(train.__file__).parent / "yamls" / "sweeps" / f"{name}.yaml"
        figures = yaml.safe_load(path.read_text())["figures"]
        assert [figure["name"] for figure in figures] == ["6", "6"] and figures[0]["stream"] != figures[1]["stream"]


SWEEPS = sorted((Path(train.__file__).parent / "yamls" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize(
    "path", [path for path in SWEEPS if "\nfigures:" in path.read_text()], ids=lambda path: path.stem
)
def test_figures_of_the_projects_sweeps_name_what_their_runs_have(path: Path) -> None:
    runs = read(path, ["dry_run=true", "seeds=[17]"])  # models need not exist
    scored = [(run, run.config.evaluations()) for run in runs]
    figures = enumerate(read_file(path)[0].figures)
    assert [line for i, figure in figures for line in errors_of(figure, f"figures.{i}", runs, scored)] == []


def test_other_figures_of_one_name_are_an_error(tmp_path: Path) -> None:
    figures = [{"name": "1", "kind": "bars"}, {"name": "1", "kind": "bars"}]
    file = tmp_path / "x.yaml"
    config = str(Path(train.__file__).parent / "yamls" / "mnist.yaml")
    file.write_text(yaml.safe_dump({"config": config, "figures": figures, "runs": [{"method": "sequential"}]}))
    with pytest.raises(ConfigError, match="two figures are named 1"):
        read_file(file)


def test_no_two_methods_look_the_same_and_the_colour_blind_can_tell_them() -> None:
    looks = {name: kind.look for name, kind in METHODS.items() if kind.__module__.startswith("sfa.")}
    assert {look.colour for look in looks.values()} <= SAFE
    for kind in (lambda look: (look.colour, look.dash), lambda look: (look.colour, look.marker)):
        seen: dict[Any, str] = {}
        for name, look in looks.items():
            assert seen.setdefault(kind(look), name) == name, (name, seen[kind(look)])
    assert not {*pictures.COLOURS} & {look.colour for look in looks.values()}


def test_bars_and_lines_of_a_method_have_its_colour(drawn: Drawn, tmp_path: Path) -> None:
    results = swept()
    bars.draw(results, tmp_path / "b.png")
    containers = [c for c in drawn[0].axes[0].containers if isinstance(c, BarContainer)]
    colours = [plt.matplotlib.colors.to_hex(container[0].get_facecolor()).upper() for container in containers]
    assert colours == [METHODS[point["method"]].look.colour for point, _ in results]


def test_names_of_lines_across_the_bars_are_apart_and_in_the_picture(drawn: Drawn, tmp_path: Path) -> None:
    rehearsal = [
        ({"method": "rehearsal", "rehearsal.fraction": f}, [run("", (0.8, 0.2), (0.5, f))]) for f in (0.05, 0.1)
    ]
    together = [({"method": "multitask"}, [run("", (0.8, 0.2), (0.5, 0.06))])]
    bars.draw([*swept(seeds=1), *rehearsal, *together], tmp_path / "b.png")
    drawn[0].draw_without_rendering()
    names = {text.get_text(): text.get_window_extent() for text in drawn[0].axes[0].texts}
    shown = [names[name] for name in ("rehearsal 5%", "rehearsal 10%", "multitask")]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(shown, 2))
    assert all(box.x0 > 0 and box.x1 < drawn[0].bbox.x1 for box in shown)


def stored(folder: Path, scores: list[tuple[int, float]], merges: list[tuple[int, float, float]]) -> Path:
    """A run of one task whose scores during training and merges were recorded."""
    made = {"date": "2026-01-01", "hardware": "cpu", "torch": "2.7.0"}
    steps = {"steps": 8, "merge_steps": [m[0] for m in merges], "l2_from_anchor": 1.5}
    costs = {"seconds": 1.0, "tokens": 8, "peak_bytes": 1, "stored_examples": 0}
    stage = {"task": "a", "method": "sfa", "fingerprint": "0" * 16, **steps, **costs}
    score = {"evaluation": "a", "metric": "acc", "stderr": None, "n": 9}
    place = folder / "stages" / ("0" * 16)
    place.mkdir(parents=True)
    recorded = [{"step": s, "l2_before": b, "l2_after": a, "seconds": 0.1} for s, b, a in merges]
    identity = {"parent": None, "spec": {}, "made": made, "files": {}}
    (place / "manifest.json").write_text(json.dumps({**stage, **identity, "merges": recorded}))
    during = [{**score, "value": value, "step": step, "key": "k", "final": False} for step, value in scores]
    (place / "evaluations.json").write_text(json.dumps(during))
    config = {"method": "sfa", "sfa": {"p": 0.5}, "eval": {"tasks": None}}
    tasks = [{"name": "a", "evals": ["a"], "evaluate_only": False}]
    rows = [{**score, "value": value, "after": after} for after, value in (("base", 0.0), ("a", 0.9))]
    content = {"schema": 2, "name": "x", "seed": 1, "config": {**config, "tasks": tasks}, "stages": [stage]}
    (folder / "x").mkdir()
    (folder / "x" / "results.json").write_text(json.dumps({**content, "evaluations": rows, "metrics": None}))
    return folder / "x"


def test_a_merge_is_a_jump_of_the_distance_and_no_slope_of_the_score(drawn: Drawn, tmp_path: Path) -> None:
    folder = stored(tmp_path, [(2, 0.3), (4, 0.6), (6, 0.5)], [(4, 2.0, 1.0), (8, 3.0, 1.5)])
    assert curves.distances(folder) == [[(0, 0.0), (4, 2.0), (4, 1.0), (8, 3.0), (8, 1.5)]]
    curves.draw([folder], tmp_path / "c.png")
    scores, moved = drawn[0].axes
    assert [tuple(p) for p in moved.lines[-1].get_xydata()] == [(0, 0), (4, 2), (4, 1), (8, 3), (8, 1.5)]
    solid, dotted = (line for line in scores.lines if len(line.get_xdata()) > 2)
    pieces = "".join("." if np.isnan(y) else "x" for y in solid.get_ydata())
    assert pieces == "xx.xx.x"  # 0 and 2; 4, after a merge, and 6; 8, after another
    assert [x for x, y in dotted.get_xydata() if not np.isnan(y)] == [2, 4, 6, 8]
    assert dotted.get_linestyle() != "-" and dotted.get_linewidth() < solid.get_linewidth()
    assert scores.get_ylabel() == "score\nhigher is better →"


def test_a_score_taken_just_before_a_merge_shows_the_jump(drawn: Drawn, tmp_path: Path) -> None:
    folder = stored(tmp_path, [(4, 0.2), (4, 0.6)], [(4, 2.0, 1.0), (8, 3.0, 1.5)])
    curves.draw([folder], tmp_path / "c.png")
    solid = next(line for line in drawn[0].axes[0].lines if len(line.get_xdata()) > 2)
    assert [tuple(p) for p in solid.get_xydata()][:3] == [(0, 0), (4, 0.2), (4, 0.6)]
    assert np.isnan(solid.get_ydata()[3])


def test_a_mark_of_a_method_is_as_large_as_its_training_is_long(drawn: Drawn, tmp_path: Path) -> None:
    results = swept()
    for point, runs in results:
        for one in runs:
            for stage in one["stages"]:
                stage["seconds"] = 30.0 if point["method"] == "sfa" else 10.0
    methods.draw(results, X, Y, tmp_path / "methods.png", by_time=True)
    (ax,) = drawn[0].axes
    settings = methods.settings_of(results, X, Y)
    areas = [float(marks.get_sizes()[0]) for marks in ax.collections if hasattr(marks, "get_sizes")][::2]
    assert areas == [methods.AREA * (3 if one.method == "sfa" else 1) for one in settings]
    assert "SFA 0.25" in [text.get_text() for text in ax.texts] and len(ax.texts) == len(settings)
    folder = methods.draw_each(results, X, Y, tmp_path / "each")
    assert {path.stem for path in folder.iterdir()} == {one.method for one in settings}


def test_settings_of_a_method_that_share_their_first_value_have_different_labels(drawn: Drawn, tmp_path: Path) -> None:
    runs = next(runs for point, runs in swept() if point["method"] == "sfa")
    further: list[dict[str, float]] = [{}, {"sfa.beta_end": 0.1, "train.lr": 1.0}]
    results = [({"method": "sfa", "sfa.p": 0.25, **more}, runs) for more in further]
    methods.draw(results, X, Y, tmp_path / "methods.png")
    (ax,) = drawn[0].axes
    assert sorted(text.get_text() for text in ax.texts) == ["SFA 0.25", "SFA 0.25, beta_end 0.1, train.lr 1"]
