"""The figures and the report, from a small sweep; the report in a real browser."""

import json
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import train
from scripts import figures, report, sweep
from scripts.paper import bars

MNIST = Path(train.__file__).parent / "yamls" / "mnist.yaml"
SMALL = f"""config: {MNIST}
set: {{train.max_duration: 4ba, eval.limit: 50, eval.interval: 2ba}}
seeds: [3, 4]
figures:
  - {{name: "9", kind: tradeoff, x: {{Even: [even_accuracy]}}, y: {{Odd: [odd_accuracy]}}}}
  - {{name: "1", kind: bars, methods: [sequential, sfa]}}
  - {{name: "10", kind: distance, y: {{Even: [even_accuracy]}}}}
  - {{name: "2", kind: stream, runs: [sequential, sfa every=None p=0.5]}}
  - {{name: "12", kind: together, evaluation: even_accuracy, runs: [sequential, multitask]}}
runs:
  - method: [sequential, multitask]
  - {{method: sequential, "tasks.0.evaluate_only": true}}
  - {{method: sfa, sfa.every: null, sfa.p: [1, 0.5]}}
  - {{method: wise_ft, wise_ft.beta: [0.3, 0.6]}}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    (folder / "sweeps").mkdir()
    text = "".join(line for line in SMALL.splitlines(keepends=True) if "evaluate_only" not in line)
    (folder / "sweeps" / "small.yaml").write_text(text)
    assert sweep.main([str(folder / "sweeps" / "small.yaml"), f"save_folder={folder}", "--jobs", "2"]) == 0
    return folder


def test_every_kind_of_figure_is_drawn_twice(swept: Path) -> None:
    assert figures.main([str(swept / "sweeps" / "small.yaml"), f"save_folder={swept}", "--out", str(swept / "f")]) == 0
    for name in ("9", "1", "10", "2", "12"):
        picture = swept / "f" / f"figure{name}_small.png"
        width, height = struct.unpack(">II", picture.read_bytes()[16:24])
        assert width > 500 and height > 400
        assert picture.with_suffix(".pdf").read_bytes()[:5] == b"%PDF-"


@pytest.mark.parametrize("finished", ["sequential-3", "multitask-4", "sfa-every-None-p-0.5-3", "wise_ft-beta-0.3-4"])
def test_figures_of_an_unfinished_sweep_show_what_is_finished(
    swept: Path, finished: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (f"mnist-{finished}", "stages"):
        (tmp_path / folder).symlink_to(swept / folder)
    file = str(swept / "sweeps" / "small.yaml")
    assert figures.main([file, f"save_folder={tmp_path}", "--out", str(tmp_path / "f")]) == 0
    drawn = capsys.readouterr()
    assert drawn.err == f"{file}: 11 of 12 runs have no results\n"
    method = finished.partition("-")[0]
    shown = {"sequential": {"1", "10", "2", "12"}, "multitask": {"12"}, "sfa": {"1", "2"}, "wise_ft": set()}
    assert {*drawn.out.split()} == {str(tmp_path / "f" / f"figure{name}_small.png") for name in {"9", *shown[method]}}


def test_a_figure_of_what_no_run_has_is_an_error(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (swept / "sweeps" / "small.yaml").read_text()
    wrong = {
        "runs: [sequential, sfa every=None p=0.5]": "runs: [sequential, sfa p=0.5]",
        "methods: [sequential, sfa]": "methods: [sequential, l2], where: {sfa.p: 0.25}, stream: [even, odds]",
        "y: {Odd: [odd_accuracy]}": "y: {Odd: [odd_acc]}",
        "evaluation: even_accuracy": "evaluation: evn_accuracy",
    }
    for right, other in wrong.items():
        assert right in text
        text = text.replace(right, other)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "small.yaml").write_text(text)
    options = [f"save_folder={swept}", "--out", str(tmp_path / "f")]
    assert figures.main([str(tmp_path / "sweeps" / "small.yaml"), *options]) == 2
    lines = capsys.readouterr().err.splitlines()[1:]
    assert [line.split(" (allowed")[0].strip() for line in lines] == [
        "figures.0.y.Odd: 'odd_acc' is not a score of every run; did you mean odd_accuracy?",
        "figures.1.methods: 'l2' is not of a run",
        "figures.1.stream: 'odds' is not a task; did you mean odd?",
        "figures.1.where.sfa.p: 0.25 is its value in no run",
        "figures.3.runs: 'sfa p=0.5' is not a run; did you mean sfa every=None p=0.5?",
        "figures.4.evaluation: 'evn_accuracy' is not a score of every run; did you mean even_accuracy?",
    ]
    assert not (tmp_path / "f").exists()


def test_figures_are_of_the_seeds_that_are_named(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever the sweep was last run with."""
    shown: list[int] = []
    monkeypatch.setattr(
        bars, "draw", lambda results, out: shown.extend(r["seed"] for _, runs in results for r in runs) or out
    )
    for seeds in ("[3]", "[4]", "[3,4]"):
        shown.clear()
        options = [f"save_folder={swept}", f"seeds={seeds}", "--out", str(tmp_path)]
        assert figures.main([str(swept / "sweeps" / "small.yaml"), *options]) == 0
        assert sorted({*shown}) == json.loads(seeds)


def test_no_results_are_no_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert figures.main([str(MNIST.parent / "sweeps" / "mnist.yaml"), f"save_folder={tmp_path}"]) == 1
    assert "nothing to draw" in capsys.readouterr().err
    (tmp_path / "empty.json").write_text(json.dumps({"sweep": "empty", "runs": []}))
    assert report.main([str(tmp_path / "empty.json")]) == 2
    assert "has results" in capsys.readouterr().err


@pytest.fixture
def browser() -> Iterator[Any]:
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", *quiet):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


TEXTS = """const plot = document.querySelector('.plane');
return plot._fullData.filter(trace => trace.visible === true).flatMap(trace => trace.customdata ?? [])"""


def test_the_report_works_in_a_browser_without_the_network(swept: Path, browser: Any) -> None:
    page = swept / "report.html"
    assert report.main([str(swept / "small.json"), "--out", str(page)]) == 0
    browser.set_window_size(1400, 900)
    browser.get(page.as_uri())
    assert "sequential" in browser.find_element("css selector", "tbody").text
    plane = "document.querySelector('.plane')"
    names = browser.execute_script(f"return {plane}.data.map(trace => trace.name)")
    assert {"sequential", "multitask", "SFA", "WiSE-FT"} <= set(names)
    texts = browser.execute_script(TEXTS)
    assert any("p=0.5" in text and "even" in text and "±" in text for text in texts)

    def visible() -> list[Any]:
        return list(browser.execute_script(f"return {plane}._fullData.map(trace => trace.visible)"))

    assert set(visible()) == {True}
    labels = browser.execute_script(f"return {plane}.layout.annotations.map(label => label.text)")
    assert {"p=1", "p=0.5", "β=0.3", "β=0.6", "sequential", "multitask"} == set(labels)
    browser.find_elements("css selector", ".plane .legendtoggle")[0].click()
    time.sleep(1)  # a second click within this time would be a double click
    hidden = [name for name, shown in zip(names, visible(), strict=True) if shown == "legendonly"]
    assert len(set(hidden)) == 1
    assert visible().count("legendonly") == names.count(hidden[0])
    before = browser.execute_script(f"return {plane}.data.at(-1).x")
    browser.execute_script("const s = document.querySelector('select.x'); s.value = 'even'; s.onchange()")
    assert browser.execute_script(f"return {plane}.data.at(-1).x") != before
    browser.execute_script("const s = document.querySelector('select.run'); s.selectedIndex = 1; s.onchange()")
    assert browser.execute_script("return document.querySelector('.curves').data.length") == 2
    heat = "[...document.querySelector('.matrix').children].flatMap(row => row.data)"
    assert browser.execute_script(f"return {heat}.length") == 6
    browser.execute_script("const s = document.querySelector('.setting'); s.selectedIndex = 3; s.onchange()")
    assert browser.execute_script(f"return {heat}.map(trace => [trace.z.length, trace.z[0].length])") == [[2, 3]]
    for width in (1400, 400):
        browser.set_window_size(width, 900)
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        time.sleep(0.5)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        block = browser.execute_script("return document.querySelector('.plane').parentElement.clientWidth")
        plot = browser.execute_script(f"return {plane}._fullLayout.width")
        assert plot == block and plot > (0.4 if width > 600 else 0.7) * width
        points = len({tuple(text.split("<br>")) for text in browser.execute_script(TEXTS)})
        assert browser.execute_script(f"return {plane}.layout.annotations.length") == points
    for scheme, ink in (("dark", "#e4e8ec"), ("light", "#1b1f24")):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        time.sleep(0.3)
        assert browser.execute_script(f"return {plane}.layout.font.color") == ink
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in requests if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:"))] == []


def test_a_report_on_paper_is_light_whole_and_as_wide_as_the_paper(swept: Path, browser: Any) -> None:
    page = swept / "paper.html"
    assert report.main([str(next(swept.glob("mnist-sfa-*p-0.5*-3"))), "--out", str(page)]) == 0
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())
    assert browser.execute_script("return document.querySelector('.plane .legendtext').textContent") == "base model"
    assert len(browser.find_elements("css selector", ".plane .legendtext")) == 2  # of one method, too
    state = """const plots = [...document.querySelectorAll('.js-plotly-plot')].map(plot => plot._fullLayout);
      const closed = document.querySelectorAll('details:not([open])').length;
      return [...plots.map(layout => [layout.width, layout.font.color]), closed]"""
    before = browser.execute_script(state)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    *plots, closed = browser.execute_script(state)
    assert len(plots) == 3 and all(plot == [690, "#1b1f24"] for plot in plots) and closed == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(state) == before
