"""A stage's checkpoints: the newest whole one, loaded under whatever parallelism the stage goes on with.

FSDP2 writes folders of shards, unless it is told to write whole files as one process and DDP do.
"""

import shutil
import zipfile
from pathlib import Path

from composer.core import State
from composer.utils import FSDP2Config, dist
from rich.console import Console
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from sfa.pickles import foreign
from sfa.store import DamagedStage


def newest_checkpoint(folder: Path, console: Console) -> Path | None:
    """The newest whole checkpoint, to go on from. One that a process died over while writing is told and left out.

    Raises:
        DamagedStage: a checkpoint's pickle would import something that no checkpoint of this suite holds; Composer
            would run it.
    """
    found = sorted(folder.glob("ep*-ba*"), key=lambda path: int(path.stem.rpartition("ba")[2]), reverse=True)
    for checkpoint in found:
        if _whole(checkpoint):
            wrong = foreign(checkpoint / ".metadata" if checkpoint.is_dir() else checkpoint)
            if wrong is not None:
                raise DamagedStage(f"{checkpoint} was not written here: loading it would run {wrong}")
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
            dcp_to_torch_save(checkpoint, temporary)
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


def _whole(checkpoint: Path) -> bool:
    """Whether all of a checkpoint is there: of a sharded one the metadata, which are written last; of a file, which is
    a zip archive, the directory at its end and every checksum."""
    if checkpoint.is_dir():
        return (checkpoint / ".metadata").is_file()
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False
