"""Run by the Composer launcher on two ranks (see test_parallel.py). Writes to argv[1] what each scenario ended with."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from composer.core import Algorithm
from composer.utils import FSDP2Config, dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor.debug import CommDebugMode

from sfa import SFA
from sfa.anchor import Anchor, trained_shards
from sfa.parallel import average_gradients_on_gloo, join
from tests.toy import BATCH, Regression, data, optimizer, penalty, saver_every_step, trainer

warnings.filterwarnings("ignore")
STEPS, P = 12, 0.25
FORMS = {"ddp": None, "fsdp2-sharded": "sharded", "fsdp2-full": "full"}
collectives = {"while merging": 0, "merges": 0}
measure_and_merge = Anchor.measure_and_merge


def counted(self: Anchor, *args: Any) -> float:
    with CommDebugMode() as mode:
        square = measure_and_merge(self, *args)
    collectives["while merging"] += mode.get_total_counts()
    collectives["merges"] += 1
    return square


def run(
    form: str, kind: str, checkpoints: Path | None, load: Path | None, hidden: int = 15, anchor: str | None = None
) -> tuple[SFA, dict[str, Any]]:
    sfa = SFA(p=P, anchor=anchor)
    return sfa, fitted(form, kind, sfa, checkpoints, load, hidden)


def fitted(
    form: str, kind: str, algorithm: Algorithm, checkpoints: Path | None, load: Path | None, hidden: int = 15
) -> dict[str, Any]:
    model = Regression(hidden, outputs=3)
    state = FORMS[form]
    fit = trainer(
        model,
        STEPS,
        [algorithm],
        kind,
        ranks=dist.get_world_size(),
        callbacks=[saver_every_step(checkpoints, STEPS)] if checkpoints else [],
        load_path=str(load) if load else None,
        parallelism_config={"fsdp": FSDP2Config(state_dict_type=state)} if state else None,
    )
    average_gradients_on_gloo(fit.state.model)
    fit.fit()
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    fit.close()
    return dict(full)


def keep(out: Path, name: str, full: dict[str, Any]) -> None:
    if dist.get_global_rank() == 0:
        save_file({key: value.contiguous() for key, value in full.items()}, out / f"{name}.safetensors")


def plain_fsdp1(kind: str) -> dict[str, Any]:
    """FSDP1 without Composer, whose support for it needs a GPU: the anchor merges its shards all the same."""
    rank, ranks = dist.get_global_rank(), dist.get_world_size()
    model = Regression(outputs=3)
    wrapped = FullyShardedDataParallel(model.net, use_orig_params=True, device_id=torch.device("cpu"))
    opt = optimizer(wrapped, kind)
    anchor = Anchor(trained_shards(wrapped))
    x, y = data(STEPS, outputs=3)
    for t in range(1, STEPS + 1):
        mine = slice((t - 1) * BATCH + rank, t * BATCH, ranks)
        opt.zero_grad()
        nn.functional.mse_loss(wrapped(x[mine]), y[mine]).backward()
        opt.step()
        if t % 3 == 0:
            anchor.merge_into(trained_shards(wrapped), 0.5)
    with FullyShardedDataParallel.summon_full_params(wrapped):
        return {f"net.{name}": p.detach().clone() for name, p in model.net.named_parameters()}


def main(out: Path) -> None:
    join("cpu")
    Anchor.measure_and_merge = counted  # type: ignore[method-assign]
    record: dict[str, Any] = {}
    for form in FORMS:
        for kind in ("momentum", "adamw"):
            folder = out / "checkpoints" / f"{form}-{kind}"
            sfa, full = run(form, kind, folder, None)
            keep(out, f"{form}-{kind}", full)
            record[f"{form}-{kind}"] = sfa.merges
            for step in (2, 3, 4, 9, 11):
                name = f"ep0-ba{step}" if form == "fsdp2-sharded" else f"ep0-ba{step}.pt"
                resumed, again = run(form, kind, None, folder / name)
                same = all(torch.equal(again[key], value) for key, value in full.items())
                record[f"resumed {form}-{kind} at {step}"] = [same, [m["step"] for m in resumed.merges]]
        theta_o = out / "anchor"
        keep(out, f"{form}-folder", run(form, "momentum", None, None, anchor=str(theta_o))[1])
    for form in FORMS:
        for kind in ("l1", "l2", "ewc"):
            folder = out / "checkpoints" / f"{form}-{kind}"
            full = fitted(form, "momentum", penalty(kind, out / f"fisher-{form}"), folder, None)
            keep(out, f"{form}-{kind}", full)
            name = "ep0-ba4" if form == "fsdp2-sharded" else "ep0-ba4.pt"
            again = fitted(form, "momentum", penalty(kind, out / f"fisher-{form}"), None, folder / name)
            record[f"resumed {form}-{kind}"] = all(torch.equal(again[key], value) for key, value in full.items())
    for kind in ("momentum", "adamw"):
        keep(out, f"fsdp1-{kind}", plain_fsdp1(kind))
        single = out / "one" / kind / "ep0-ba4.pt"  # written by a single process
        keep(out, f"elastic-ddp-{kind}", run("ddp", kind, None, single)[1])
        keep(out, f"elastic-fsdp2-{kind}", run("fsdp2-full", kind, None, single)[1])
    sfa, _ = run("fsdp2-sharded", "sgd", None, None, hidden=16)
    assert sfa.averager.anchor is not None
    model_bytes = sum(p.nbytes for p in Regression(16, outputs=4).parameters())
    sfa4 = Anchor(trained_shards(shard_even()))
    record["threads"] = dist.all_gather_object(torch.get_num_threads())
    record["anchor bytes"] = dist.all_gather_object(sfa4.bytes)
    record["model bytes"] = model_bytes
    with CommDebugMode() as mode:
        torch.distributed.all_reduce(torch.ones(1))
    record["collectives"] = {**collectives, "of one all_reduce": mode.get_total_counts()}
    if dist.get_global_rank() == 0:
        (out / "record.json").write_text(json.dumps(record))
    dist.barrier()


def shard_even() -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    model = Regression(16, outputs=4)
    fully_shard(model.net)
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1]))
