"""The benchmarks: the ratios of a row, runs at a small size, and the files they write. No time is tested."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.bench import __main__ as bench
from scripts.bench import flops, penalties, shapes
from scripts.bench.measure import Missing, Row, Setup, commands_in_turn, in_turn, peak
from scripts.bench.report import write
from sfa.anchor import HOST_BYTES, Anchor, trained_shards


def test_a_ratio_is_that_of_one_round() -> None:
    row = Row("line", "case", "it", ours=[1.0, 2.0, 4.0], other=[1.0, 4.0, 2.0], bound=1.1)
    assert row.ratios == [1.0, 0.5, 2.0]
    assert row.ratio == 1.0 and row.holds
    faster = Row("line", "case", "it", [1.0, 2.0], [4.0, 4.0], bound=3.5, sense="at least")
    assert faster.ratios == [4.0, 2.0] and faster.ratio == 3.0 and not faster.holds
    uncompared = Row("line", "case", "", [0.0], (), bound=0)
    assert uncompared.holds and not Row("line", "case", "", [1.0], (), bound=0).holds
    assert Row("line", "case", "it", [1.0], [1.0]).holds is None


def test_works_alternate_and_every_other_round_is_reversed() -> None:
    calls: list[str] = []
    taken = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warm_up=1)
    assert calls == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_commands_alternate_and_a_failure_is_reported(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = {name: ["sh", "-c", f"echo {name} >> {log}"] for name in "ab"}
    try:
        taken = commands_in_turn(commands, rounds=2, warm_up=0)
    except Missing as missing:
        pytest.skip(str(missing))
    assert log.read_text().split() == ["a", "b", "a", "b"]
    assert all(
        len(costs.seconds) == len(costs.cpu) == len(costs.peak) == 2 and min(costs.peak) > 0 for costs in taken.values()
    )
    with pytest.raises(RuntimeError, match="exit 3 failed"):
        commands_in_turn({"c": ["sh", "-c", "exit 3"]}, rounds=1, warm_up=0)


@pytest.mark.parametrize(("shape", "low", "high"), [("1M", 0.8e6, 1.2e6), ("135M", 134e6, 136e6), ("1B", 0.9e9, 1.1e9)])
def test_a_shape_has_the_parameters_that_its_name_says(shape: str, low: float, high: float) -> None:
    count = sum(parameter.numel() for parameter in shapes.build(shape, "meta").parameters())
    assert low < count < high


def test_model_flops_are_those_of_the_products() -> None:
    """Three times those of a forward pass, as counted by torch; attention is included."""
    from torch.utils.flop_counter import FlopCounterMode

    model = shapes.build("1M", max_position_embeddings=flops.SEQ_LEN, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, flops.SEQ_LEN, dtype=torch.long), use_cache=False)
    assert flops._operations(model, 1) == pytest.approx(3 * counter.get_total_flops(), rel=0.01)


def test_lines_run_and_are_added_to_others(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    assert bench.main(["--small", "--only", "merging", "flops", "--out", str(out)]) == 0
    assert bench.main(["--small", "--only", "fisher", "--out", str(out)]) == 0
    (record,) = json.loads(out.read_text()).values()
    assert set(record["lines"]) == {"merging", "flops", "fisher"}
    rows = [row for line in record["lines"].values() for row in line["rows"]]
    assert all(row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"] for row in rows)
    assert out.with_suffix(".png").stat().st_size > 10_000
    table = out.with_suffix(".md").read_text()
    assert all(row["case"] in table for row in rows)


def test_a_checkpoint_holds_no_byte_of_the_anchor(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    assert bench.main(["--small", "--only", "memory", "--out", str(out)]) == 0
    (record,) = json.loads(out.read_text()).values()
    checkpoint = record["lines"]["memory"]["rows"][-1]
    assert checkpoint["ours"] == [0.0]


def test_a_merge_takes_one_bucket_of_memory_beyond_the_weights() -> None:
    """Nor does the heap grow bucket by bucket, which once added up to the whole model."""
    shards = trained_shards(shapes.build("10M"))
    anchor = Anchor(shards)
    anchor.measure_and_merge(shards, 0.5)
    assert sum(shard.nbytes for shard in shards.values()) > 15 * HOST_BYTES
    assert peak(lambda: anchor.measure_and_merge(shards, 0.5)) < 1.25 * HOST_BYTES
    assert peak(lambda: anchor.merge_into(shards, 0.5)) < 0.25 * HOST_BYTES


def test_what_is_missing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(model: Any, device: str) -> None:
        raise Missing("no such module: make bench installs it")

    monkeypatch.setattr(penalties, "_avalanche", gone)
    out = tmp_path / "bench.json"
    assert bench.main(["--small", "--only", "penalties", "--out", str(out)]) == 1
    (record,) = json.loads(out.read_text()).values()
    assert record["lines"]["penalties"]["missing"] == "no such module: make bench installs it"
    write(out)
    assert "not measured: no such module" in out.with_suffix(".md").read_text()
    with pytest.raises(Missing, match="DEVICE=cuda"):
        flops.run(Setup("cpu", None, tmp_path))
