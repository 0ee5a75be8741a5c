"""A stage's checkpoints: finds the newest complete one and converts it for the parallelism of the resumed training.

FSDP2 writes folders of shards unless configured to write single files, as one process and DDP do.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from composer.core import State
from composer.utils import FSDP2Config, dist
from rich.console import Console
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from sfa.stages.checkpoint_files import ShardReader, is_whole, list_checkpoints, weights_only


def newest_checkpoint(folder: Path, console: Console) -> Path | None:
    """The newest complete checkpoint to resume from; incomplete ones are skipped with a message. All ranks call it.

    Raises:
        UntrustedCheckpoint: one contains something that checkpoints of this suite do not.
    """
    for checkpoint in list_checkpoints(folder):
        if is_whole(checkpoint):
            return checkpoint
        console.print(f"{checkpoint} is torn or damaged and is not used")
    return None


def for_parallelism(checkpoint: Path, parallelism: str) -> Path:
    """``checkpoint`` in a format that ``parallelism`` can load. One process and DDP load only single files: shards are
    replaced by one file. All ranks call it."""
    if parallelism == "fsdp2" or checkpoint.is_file():
        return checkpoint
    file = checkpoint.with_name(f"{checkpoint.name}.pt")
    dist.barrier()  # all ranks have found the newest one
    if dist.get_global_rank() == 0:
        temporary = file.with_name(f".{file.name}.part")
        try:
            state: dict[str, Any] = {}
            with weights_only():
                reader = ShardReader(str(checkpoint))
                _load_state_dict(state, storage_reader=reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
            torch.save(state, temporary)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
        shutil.rmtree(checkpoint)
    dist.barrier()
    return file


def kind(checkpoint: Path | None, wanted: str) -> str:
    """``full`` or ``sharded``: how FSDP2 must load ``checkpoint``; ``wanted`` if there is none."""
    if checkpoint is None:
        return wanted
    return "full" if checkpoint.is_file() else "sharded"


def write_as(state: State, wanted: str) -> None:
    """Makes FSDP2 write ``full`` or ``sharded`` checkpoints; by default Composer writes the kind that it loaded."""
    if isinstance(state.fsdp_config, FSDP2Config):
        state.fsdp_config.state_dict_type = wanted
