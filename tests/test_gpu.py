"""On a CUDA device: θ_o in pinned memory, and a stream in bfloat16 by every form of parallelism, against the CPU's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from sfa.anchor import DEVICE_BYTES, Anchor
from tests.small import QUICKSTART, SMALL

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


def shards(seed: int) -> dict[str, torch.Tensor]:
    """Three tensors on the device: one larger than a bucket, a small one, and an empty one."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"large": (DEVICE_BYTES // 4 + 7,), "small": (30, 5), "empty": (0, 5)}
    return {name: torch.randn(shape, generator=generator).to(DEVICE) for name, shape in shapes.items()}


def test_theta_o_in_host_memory_is_pinned_and_merges_as_on_the_device() -> None:
    host, there = Anchor(shards(1), "cpu"), Anchor(shards(1), "device")
    assert all(shard.is_pinned() for shard in host.shards.values() if shard.numel())
    assert {shard.device.type for shard in host.shards.values()} == {"cpu"}
    ours, theirs, expected = shards(2), shards(2), shards(2)
    distance = [anchor.measure_and_merge(theta, 0.25) for anchor, theta in ((host, ours), (there, theirs))]
    assert distance[0] == distance[1]
    moved = [(expected[name] - theta_o).double() for name, theta_o in shards(1).items()]
    assert distance[0] == pytest.approx(sum(float(part.square().sum()) for part in moved), rel=1e-5)
    for name, theta_o in shards(1).items():
        assert torch.equal(ours[name], theirs[name])
        torch.testing.assert_close(ours[name], 0.25 * theta_o + 0.75 * expected[name])


def test_a_merge_takes_two_buckets_of_device_memory_at_most() -> None:
    theta = shards(2)
    anchor = Anchor(shards(1), "cpu")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    anchor.merge_into(theta, 0.5)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before <= 2 * DEVICE_BYTES


def stages(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """The manifests of a stream's stages."""
    steps = ["train.max_duration=8ba", "train.global_batch_size=4", "train.seq_len=128", "eval.limit=20"]
    run = [QUICKSTART, *SMALL, *steps, "method=sfa", f"save_folder={folder}", *overrides]
    assert train.main(run) == 0
    results = json.loads((folder / "quickstart" / "results.json").read_text())
    manifests = [folder / "stages" / stage["fingerprint"] / "manifest.json" for stage in results["stages"]]
    return [json.loads(manifest.read_text()) for manifest in manifests]


@pytest.mark.parametrize("options", [["parallelism=ddp"], ["parallelism=fsdp2"], ["train.compile=true"]])
def test_a_stream_in_bfloat16_ends_near_that_in_float32(options: list[str], tmp_path: Path) -> None:
    """Every stage merges at the same steps and moves about as far, with θ_o in host memory and on the device."""
    exact = stages(tmp_path / "fp32", "train.precision=fp32")
    assert [len(stage["merge_steps"]) for stage in exact] == [0, 4, 4]
    for device in ("cpu", "device"):
        found = stages(tmp_path / device, "train.precision=amp_bf16", f"sfa.anchor_device={device}", *options)
        for ours, expected in zip(found, exact, strict=True):
            assert ours["merge_steps"] == expected["merge_steps"]
            assert ours["l2_from_anchor"] == pytest.approx(expected["l2_from_anchor"], rel=0.05)
