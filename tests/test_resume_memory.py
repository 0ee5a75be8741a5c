"""A checkpoint is not in memory beside the model that it is loaded into."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sfa.stages import checkpoint_files
from sfa.stages.callbacks import Stopper
from tests.test_untrusted import run


def mapped_file(tensor: torch.Tensor) -> str:
    """The file that a tensor's memory is mapped from; empty if there is none."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(bound, 16) for bound in line.split()[0].split("-"))
        if first <= address < last:
            return Path(line.partition("/")[2]).name
    raise AssertionError("a tensor's memory is always mapped")


def test_weights_of_a_checkpoint_are_mapped_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stopper.batch_end
    load = checkpoint_files._load_mapped
    files: list[str] = []

    def soon(self: Stopper, state: Any, logger: Any) -> None:
        self.requested = state.timestamp.batch.value == 2
        stop(self, state, logger)

    def spied(*arguments: Any, **options: Any) -> Any:
        loaded = load(*arguments, **options)
        files.extend({mapped_file(tensor) for tensor in loaded["state"]["model"].values()})
        return loaded

    with monkeypatch.context() as patch:
        patch.setattr(Stopper, "batch_end", soon)
        assert run(tmp_path) == 130
    monkeypatch.setattr(checkpoint_files, "_load_mapped", spied)
    assert run(tmp_path) == 0
    assert files == ["ep0-ba2.pt"]
