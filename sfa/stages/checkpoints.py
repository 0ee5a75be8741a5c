"""A stage's checkpoints: the newest whole one, loaded under whatever parallelism the stage goes on with.

FSDP2 writes folders of shards, unless it is told to write whole files as one process and DDP do.
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

from sfa.stages.checkpoint_files import ShardReader, found, is_whole, tensors_alone


def newest_checkpoint(folder: Path, console: Console) -> Path | None:
    """The newest whole checkpoint, to go on from. One that a process died over while writing is left out with a line.
    All ranks call it.

    Raises:
        ForeignCheckpoint: one holds something that no checkpoint of this suite does.
    """
    for checkpoint in found(folder):
        if is_whole(checkpoint):
            return checkpoint
        console.print(f"{checkpoint} is torn or damaged and is not used")
    return None


def for_parallelism(checkpoint: Path, parallelism: str) -> Path:
    """``checkpoint`` as a training under ``parallelism`` can load it. One process and DDP load files alone: shards are
    written again as one, in their place. All ranks call it."""
    if parallelism == "fsdp2" or checkpoint.is_file():
        return checkpoint
    file = checkpoint.with_name(f"{checkpoint.name}.pt")
    dist.barrier()  # no rank still looks for the newest one
    if dist.get_global_rank() == 0:
        temporary = file.with_name(f".{file.name}.part")
        try:
            state: dict[str, Any] = {}
            with tensors_alone():
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
    """``full`` or ``sharded``: how FSDP2 has to load ``checkpoint``; ``wanted`` where there is none."""
    if checkpoint is None:
        return wanted
    return "full" if checkpoint.is_file() else "sharded"


def write_as(state: State, wanted: str) -> None:
    """From here on FSDP2 writes ``full`` or ``sharded`` checkpoints: Composer would write those of the kind that it
    loaded."""
    if isinstance(state.fsdp_config, FSDP2Config):
        state.fsdp_config.state_dict_type = wanted
