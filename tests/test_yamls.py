"""Every config of the suite dry-runs, offline, at full size and scaled down."""

import re
from pathlib import Path

import pytest
from transformers import LlamaConfig

import train
from eval import available
from sfa.config import load
from sfa.models.outline import PAPER
from sfa.stages.describe import describe
from sfa.stages.plan import plan

YAMLS = Path(__file__).parent.parent / "yamls"
FULL = sorted(file.name for file in YAMLS.glob("*.yaml") if not file.name.startswith("small"))
PRETRAINED = [name for name in FULL if re.match("pythia|llama2|qwen", name)]


@pytest.mark.parametrize("name", FULL)
def test_a_dry_run_says_what_a_run_needs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (YAMLS / name).read_text()
    assert train.main([str(YAMLS / name), "dry_run=true"]) == 0
    printed = capsys.readouterr().out
    unit = "images" if "split:" in text or "other_glyphs" in text else "tokens"
    assert all(word in printed for word in ("step", unit, "parameters", "memory", "disk", "evaluations: "))
    if "models/" not in text:  # those models are built by make targets
        assert "unknown" not in printed
    if "method: sfa" in text:
        assert "merges at" in printed or "merges every" in printed


@pytest.mark.parametrize("name", FULL)
def test_a_header_says_how_to_start_and_on_what(name: str) -> None:
    header = (YAMLS / name).read_text().partition("\nname:")[0]
    assert ("composer train.py yamls/" in header or "make " in header) and ("ardware: " in header or "cores" in header)


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_header_has_the_papers_numbers_and_the_overrides_of_each_row(name: str) -> None:
    header = (YAMLS / name).read_text().partition("\nname:")[0]
    assert re.search(r"Table \d", header) and "Hardware: " in header and f"yamls/{name}" in header
    rows = re.findall(r"^#   ((?:[\w.]+=\S+ )+) ", header, re.MULTILINE)
    assert len(rows) >= 6
    for overrides in rows:
        load(YAMLS / name, overrides.split(), available)


@pytest.mark.parametrize("name", PRETRAINED)
def test_small_yaml_scales_any_language_config_down_to_two_cores(name: str) -> None:
    config = load(YAMLS / name, [str(YAMLS / "small.yaml"), "dry_run=true"], available)
    assert config.model.name == "models/smollm2-135m" and config.parallelism == "none"
    assert {config.train_of(task).max_duration for task in config.tasks} == {"20ba"}


def test_known_sizes_are_those_of_the_published_configurations() -> None:
    """Counted by hand for Llama 2 7B: embeddings and head, then 32 blocks of attention, three projections, norms."""
    h, f, v = 4096, 11008, 32000
    assert PAPER["meta-llama/Llama-2-7b-hf"].parameters == 2 * v * h + 32 * (4 * h * h + 3 * h * f + 2 * h) + h


def test_a_file_may_follow_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 3\nsfa: {p: 0.5}\n")
    config = load(YAMLS / "quickstart.yaml", ["seed=2", str(file), "sfa.beta=0.4"], available)
    assert (config.seed, config.sfa.p, config.sfa.beta) == (3, 0.5, 0.4)
    assert "multitask" in describe(load(YAMLS / "quickstart.yaml", ["method=multitask"], available))


def test_an_override_reaches_into_the_stream(tmp_path: Path) -> None:
    config = load(YAMLS / "pythia_math_law.yaml", ["tasks.1.train.max_duration=7ba"], available)
    assert config.train_of(config.tasks[1]).max_duration == "7ba"


def test_a_model_in_a_folder_is_identified_by_its_content(tmp_path: Path) -> None:
    LlamaConfig(hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"one")
    override = [f"model.name={tmp_path / 'model'}"]
    before = plan(load(YAMLS / "smollm2_math_law.yaml", override, available))[0].fingerprint
    (tmp_path / "model" / "model.safetensors").write_bytes(b"two")
    assert plan(load(YAMLS / "smollm2_math_law.yaml", override, available))[0].fingerprint != before
