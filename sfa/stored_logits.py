"""The logits that a model had on stored sequences, in a file, read row by row."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import State
from composer.utils import dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sfa.data.array_cache import built_once
from sfa.data.batches import collate, learned_tokens
from sfa.data.packing import Arrays
from sfa.models.stored import read_model
from sfa.store import fingerprint, verify_checksums

GROUP = 8  # sequences of a forward pass


class StoredLogits:
    """A model's logits of the learned tokens of ``arrays``, float32, in full: ``[learned tokens, vocab]``.

    They are computed once, without dropout and in float32, and cached beside the model, so that a training that resumes
    and other trainings with the same sequences read the same numbers.

    Args:
        folder: folder of the stage that the sequences are from, which holds the file.
        model: folder of the model.
        arrays: the stored sequences.
    """

    def __init__(self, folder: Path, model: Path, arrays: Arrays):
        contents = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
        self.folder = folder / f"logits-{fingerprint(contents)}"
        self.model, self.arrays = model, arrays
        self.ends = np.cumsum([0, *learned_tokens(arrays["labels"])]).tolist()
        self._file: Any = None

    def make(self, module: Any, state: State, report: Callable[[str], None]) -> int:
        """Computes the file if it does not exist, and opens it. All ranks call it; rank 0 computes.

        Returns:
            Its size in bytes.

        Raises:
            DamagedStage: the file was changed.
        """
        if dist.get_global_rank() == 0:
            with built_once(self.folder) as temporary:
                if temporary is not None:
                    self._compute(module, state, report, temporary)
        dist.barrier()
        file = verify_checksums(self.folder) / "logits.safetensors"
        self._file = safe_open(file, framework="pt").get_slice("logits")
        return file.stat().st_size

    def of(self, row: int) -> Tensor:
        """The logits of one sequence, ``[learned tokens, vocab]``."""
        logits: Tensor = self._file[self.ends[row] : self.ends[row + 1]]
        return logits

    @torch.no_grad()
    def _compute(self, module: Any, state: State, report: Callable[[str], None], folder: Path) -> None:
        model = state.device.module_to_device(read_model(self.model).eval())
        logits: Tensor | None = None
        for start in range(0, len(self.ends) - 1, GROUP):
            part = range(start, min(start + GROUP, len(self.ends) - 1))
            items = [{name: torch.from_numpy(np.array(array[i])) for name, array in self.arrays.items()} for i in part]
            batch = state.device.batch_to_device(collate(items))
            found = module.family.learned_logits(model, module.processor, batch).float().cpu()
            if logits is None:
                count = self.ends[-1] * found.shape[-1] * found.element_size()
                size = f"{self.ends[-1]:,} x {found.shape[-1]:,} numbers, {count / 2**20:,.1f} MiB"
                report(f"stores the logits of a past task's learned tokens: {size}")
                logits = torch.empty(self.ends[-1], found.shape[-1])
            logits[self.ends[part[0]] : self.ends[part[-1] + 1]] = found
        assert logits is not None, "a past task has stored sequences"
        save_file({"logits": logits}, folder / "logits.safetensors")
