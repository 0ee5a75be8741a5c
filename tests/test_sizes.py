"""The paper's sizes: counted, computed, and on one rank of a group whose others do not exist."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from scripts import sizes
from scripts.bench import shapes
from sfa.config.schema import Train
from sfa.models.outline import PAPER, outline
from sfa.stages.needs import needs_of
from tests.gathered_worker import CASES as GATHERED
from tests.simulated_worker import CASES
from tests.test_full_size import QWEN

ROOT = Path(__file__).parent.parent
KNOWN = {  # as published with the weights
    "Pythia-2.8B": 2_775_208_960,
    "Llama-2-7B": 6_738_415_616,
    "T0pp": 11_135_332_352,
    "Llama-2-70B": 68_976_648_192,
}


@pytest.mark.parametrize("shape", KNOWN)
def test_a_paper_s_model_has_its_published_number_of_parameters(shape: str) -> None:
    assert sizes.parameter_count(shape) == KNOWN[shape]


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ("Pythia-2.8B", "EleutherAI/pythia-2.8b"),
        ("Llama-2-7B", "meta-llama/Llama-2-7b-hf"),
        ("T0pp", "bigscience/T0pp"),
        ("Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B"),
    ],
)
def test_what_a_dry_run_knows_of_the_paper_s_models_is_what_they_are(shape: str, name: str) -> None:
    if shape == "Qwen2.5-1.5B":
        with torch.device("meta"):
            model: Any = Qwen2ForCausalLM(Qwen2Config(**QWEN))
    else:
        model = shapes.build(shape, "meta")
    assert PAPER[name] == outline(model)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("microbatch", [None, 1])
def test_gradients_that_are_added_up_take_memory_beside_the_gradient(is_tied: bool, microbatch: int | None) -> None:
    """Counted from the tensors that a backward pass makes, of two microbatches or one."""
    config: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model = LlamaForCausalLM(LlamaConfig(**config, vocab_size=8192, tie_word_embeddings=is_tied))
    settings = Train(global_batch_size=2, microbatch_size=microbatch, seq_len=8, max_duration="1ba")
    rows = torch.zeros(2, 4, dtype=torch.int64)
    batches = [rows] if microbatch is None else list(rows.split(microbatch))
    size = 4 * 8192 * 64
    for batch in batches:
        loss = model(input_ids=batch, labels=batch).loss
        has_gradients = any(p.grad is not None for p in model.parameters())
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            loss.backward()
    events = [
        e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]" and abs(e.nbytes()) == size
    ]
    living = np.cumsum([np.sign(e.nbytes()) for e in sorted(events, key=lambda e: e.start_ns())])
    kept = 0 if has_gradients else 2 - is_tied  # those of the first microbatch stay
    assert (max(living) - kept) * size == needs_of([settings]).while_added(outline(model))


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    out = tmp_path_factory.mktemp("gathered") / "peaks.json"
    command = [sys.executable, "-m", "tests.gathered_worker", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return list(json.loads(out.read_text()))


@pytest.mark.parametrize("case", range(len(GATHERED)), ids=map(str, GATHERED))
def test_a_rank_gathers_what_the_dry_run_says(case: int, peaks: list[float]) -> None:
    """On many ranks. On two, the shards of the last gradients count for more, which are not there yet at the peak."""
    low, high = (0.97, 1.03) if GATHERED[case][-1] > 2 else (0.85, 1.0)
    assert low < peaks[case] < high


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("simulated") / "found.json"
    command = [sys.executable, "-m", "tests.simulated_worker", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(out.read_text()))


@pytest.mark.parametrize(("ranks", "rank"), CASES)
def test_one_of_many_ranks_holds_exactly_its_shards(ranks: int, rank: int, found: dict[str, Any]) -> None:
    """Of every tensor the rows that ``torch.chunk`` gives, which may be none."""
    record, total = found[f"{rank} of {ranks}"], 0
    held = {name.removeprefix("model."): shape for name, shape in record["shapes"].items()}
    for name, parameter in shapes.build("1M", "meta").named_parameters():
        chunks = parameter.chunk(ranks)
        mine = list(chunks[rank].shape) if rank < len(chunks) else [0, *parameter.shape[1:]]
        assert held.pop(name) == mine, name
        total += 4 * torch.Size(mine).numel()
    assert not held and record["bytes"] == total and record["is copy"]


@pytest.mark.parametrize(("ranks", "rank"), CASES)
def test_one_of_many_ranks_merges_without_communication(ranks: int, rank: int, found: dict[str, Any]) -> None:
    record = found[f"{rank} of {ranks}"]
    assert record["is merged"]
    assert record["of one all_reduce"] == 1  # the counter counts
    assert record["while merging"] == 0
    assert record["with the distance"] == 1  # that is logged, a single number


@pytest.mark.parametrize("ranks", [1, 8, 64, 1024])
def test_the_first_rank_holds_the_most(ranks: int, found: dict[str, Any]) -> None:
    chunks = [parameter.chunk(ranks)[0] for parameter in shapes.build("1M", "meta").parameters()]
    assert sizes.largest_shard("1M", ranks) == sum(chunk.numel() for chunk in chunks)
    if f"0 of {ranks}" in found:
        assert found[f"0 of {ranks}"]["bytes"] == 4 * sizes.largest_shard("1M", ranks)


def test_the_time_of_a_merge_is_interpolated_between_measured_sizes() -> None:
    measured = {10**6: 1e-9, 10**8: 3e-9}
    assert sizes.cpu_seconds(10**6, measured) == pytest.approx(1e-3)
    assert sizes.cpu_seconds(10**7, measured) == pytest.approx(2e-2)
    assert sizes.cpu_seconds(10**9, measured) == pytest.approx(3)  # linear beyond them


def test_the_table_is_computed_from_what_it_assumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def row(*assumptions: str) -> list[str]:
        out = tmp_path / "sizes.md"
        assert sizes.main(["--out", str(out), *assumptions]) == 0
        (line,) = re.findall(r"^\| Llama-2-7B +\| 8 .*$", out.read_text(), re.MULTILINE)
        return [cell.strip() for cell in line.strip("|").split("|")]

    shard = KNOWN["Llama-2-7B"] / 8  # all of its tensors divide by 8
    gib = [f"{each * shard / 2**30:.1f} GiB" for each in (16, 4, 12)]
    # 4 merges of a copy at 10 GB/s, in 480 steps of 64 sequences of 1,024 tokens at 100 TFLOP/s and GPU.
    merge, stage = 4 * shard / 10e9, 6 * shard * 480 * 64 * 1024 / 100e12
    cells = row("--rate", "100", "--link", "10")
    assert cells[2:5] == [gib[0], gib[1], f"{merge * 1e3:.3g} ms"]
    assert cells[6:] == [f"{4 * merge / stage:.2%}", gib[2]]
    assert row("--rate", "100", "--link", "20")[4] == f"{merge * 500:.3g} ms"
    assert row("--memory", "12")[2].endswith("†") and not row("--memory", "13")[2].endswith("†")
    assert sizes.main(["--bench", str(tmp_path / "none.json")]) == 2
    assert "make bench LINES=growth" in capsys.readouterr().err
