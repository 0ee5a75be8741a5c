"""Run by the Composer launcher on two ranks (see test_shards.py). Writes to argv[1] what each scenario ended with."""

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from composer.core import Algorithm, State
from composer.distributed.prepare_distributed import parallelize_composer_model
from composer.utils import FSDP2Config, dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn.parallel import DistributedDataParallel

import train
from sfa import SFA, weights
from sfa.anchor import trained_shards
from sfa.parallel import average_gradients_on_gloo, join
from sfa.stages.callbacks import Stopper
from sfa.stages.composer_model import StageModel
from tests.exports import MODELS, built
from tests.toy import Regression, penalty, saver_every_step, trainer

warnings.filterwarnings("ignore")
STEPS = 8
DIFFERENT = {"sfa": lambda folder: SFA(p=0.25)}
DIFFERENT |= {kind: lambda folder, kind=kind: penalty(kind, folder) for kind in ("l1", "l2", "ewc")}
Overrides = list[str]


def exports(out: Path) -> dict[str, Any]:
    """Every model, exported from DDP and from FSDP2; read as shards, and written again as shards, by FSDP2."""
    read: dict[str, Any] = {}
    for name in MODELS:
        stage = StageModel(built(name), None)
        weights.save_model(DistributedDataParallel(stage).module.model, out / "ddp" / name)
        sharded = StageModel(built(name), None)
        parallelize_composer_model(sharded, None, FSDP2Config())
        weights.save_model(sharded.model, out / "fsdp2" / name)
        start = {key: shard.clone() for key, shard in trained_shards(sharded).items()}
        # An adapter's folder names the model under it, which is nowhere here.
        if not hasattr(sharded.model, "peft_config"):
            with torch.no_grad():
                for shard in trained_shards(sharded).values():
                    shard.zero_()
            shards = weights.read_shards(sharded, out / "fsdp2" / name)
            read[name] = all(torch.equal(shards[key], shard) for key, shard in start.items())
        weights.write_shards(sharded, start, out / "shards" / name)
    return read


def without_the_folder(out: Path) -> str:
    """What rank 1 says when rank 0 finds no anchor."""
    fit = trainer(Regression(outputs=3), STEPS, [SFA(p=0.5, anchor=str(out / "nowhere"))], ranks=2)
    try:
        fit.fit()
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    finally:
        fit.close()
    return ""


def fitted(
    algorithm: Algorithm, seed: int, save: Path | None = None, load: Path | None = None, sharded: bool = False
) -> nn.Module:
    """The regression that this rank builds with ``seed``, trained with plain SGD."""
    model = Regression(outputs=3, seed=seed)
    fit = trainer(
        model,
        STEPS,
        [algorithm],
        ranks=2,
        callbacks=[saver_every_step(save, STEPS)] if save else [],
        load_path=str(load) if load else None,
        parallelism_config={"fsdp": FSDP2Config()} if sharded else None,
    )
    average_gradients_on_gloo(fit.state.model)
    try:
        fit.fit()
    finally:
        fit.close()
    return model


def replicas(model: nn.Module) -> list[dict[str, Tensor]]:
    return dist.all_gather_object({name: tensor.detach().clone() for name, tensor in model.named_parameters()})


def different_seeds(out: Path) -> dict[str, Any]:
    """Ranks that are built differently: rank 0 as a single process is, rank 1 otherwise."""
    record: dict[str, Any] = {}
    rank = dist.get_global_rank()
    for kind, make in DIFFERENT.items():
        checkpoints = out / "different" / kind
        first, second = replicas(fitted(make(checkpoints / "fisher"), rank, checkpoints))
        if rank == 0:
            save_file(first, out / f"different-{kind}.safetensors")
        again = fitted(make(checkpoints / "fisher"), rank, load=checkpoints / "ep0-ba3.pt")
        resumed = replicas(again)
        record[kind] = {
            "replicas": all(torch.equal(first[name], second[name]) for name in first),
            "resumed": all(torch.equal(first[name], each[name]) for each in resumed for name in first),
        }
        wrong = ""
        try:
            fitted(make(checkpoints / "fisher"), rank + 5, load=checkpoints / "ep0-ba3.pt")
        except ValueError as error:
            wrong = str(error)
        record[kind]["wrong"] = dist.all_gather_object(wrong)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    checkpoints = out / "different" / "fsdp2"
    whole = get_model_state_dict(fitted(SFA(p=0.25), rank, checkpoints, sharded=True), options=options)
    again_ = get_model_state_dict(
        fitted(SFA(p=0.25), rank, load=checkpoints / "ep0-ba3", sharded=True), options=options
    )
    record["fsdp2"] = all(torch.equal(whole[name], again_[name]) for name in whole)
    return record


def stopping_at(step: int) -> Callable[..., None]:
    """In the place of ``Stopper.batch_end``: a signal came in this step."""
    ends = Stopper.batch_end

    def batch_end(self: Stopper, state: State, logger: Any) -> None:
        self.requested = state.timestamp.batch.value == step
        ends(self, state, logger)

    return batch_end


def run(folder: Path, arguments: Overrides, stop: int | None = None) -> int:
    """Exit code of the suite's own entry point, perhaps interrupted after a step."""
    ends = Stopper.batch_end
    if stop is not None:
        Stopper.batch_end = stopping_at(stop)  # type: ignore[method-assign]
    try:
        return train.main([*arguments, f"save_folder={folder}"])
    finally:
        Stopper.batch_end = ends  # type: ignore[method-assign]


def other_parallelism(out: Path, arguments: Overrides, stop: int) -> dict[str, int]:
    """Runs that were interrupted under one parallelism and go on under another. ``sharded`` is left interrupted."""
    forms = {"ddp": ["parallelism=ddp"], "sharded": ["parallelism=fsdp2"]}
    forms["full"] = ["parallelism=fsdp2", "checkpoint=full"]
    _copied(out / "base", out / "sharded")
    codes = {"sharded": run(out / "sharded", [*arguments, *forms["sharded"]], stop)}
    for start, end in (("sharded", "ddp"), ("sharded", "full"), ("one", "sharded")):
        _copied(out / start, out / f"{start}-{end}")
        codes[f"{start}-{end}"] = run(out / f"{start}-{end}", [*arguments, *forms[end]])
    return codes


def _copied(folder: Path, out: Path) -> None:
    if dist.get_global_rank() == 0:
        shutil.copytree(folder, out)
    dist.barrier()


def main(out: Path) -> None:
    join("cpu")
    settings = json.loads((out / "given.json").read_text())
    record = {
        "read": exports(out),
        "nowhere": dist.all_gather_object(without_the_folder(out)),
        "different": different_seeds(out),
        "codes": other_parallelism(out, settings["arguments"], settings["stop"]),
    }
    if dist.get_global_rank() == 0:
        (out / "record.json").write_text(json.dumps(record))
    dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
