"""Run by torch's launcher on two ranks (see test_trainers_parallel.py). Writes to argv[1] what each case ended with."""

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaForCausalLM, TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from sfa import Averager
from sfa.anchor import Anchor
from sfa.huggingface import SFACallback
from sfa.live import Parameters
from sfa.trainers import deepspeed as zero_masters
from tests.tiny import BETA, ROWS, P, T, loss, model, optimizer, rows
from tests.tiny_trainer import steps, trainer
from tests.trainer_cases import CASES, RESUMED, Case

warnings.filterwarnings("ignore")
collectives: dict[str, int] = {}


def count(kind: type, method: str) -> None:
    """Counts the collectives inside a method."""
    original = getattr(kind, method)

    def counted(self: Any, *args: Any) -> Any:
        with CommDebugMode() as mode:
            result = original(self, *args)
        collectives[method] = collectives.get(method, 0) + mode.get_total_counts()
        return result

    setattr(kind, method, counted)


class Watch(TrainerCallback):
    """Notes the bytes that SFA holds, and makes FSDP2 average gradients on gloo, which adds them up (torch 2.7)."""

    def __init__(self, averager: Averager):
        self.averager = averager
        self.bytes = 0

    def on_train_begin(self, *args: Any, model: Any = None, **kwargs: Any) -> None:
        average_gradients(model)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.bytes = self.averager.bytes


def average_gradients(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_all_reduce_hook(lambda gradient: gradient.div_(distributed.get_world_size()))


def zero(case: Case) -> dict[str, Any]:
    stage = {"stage": int(case.cell.parallelism[-1]), "stage3_gather_16bit_weights_on_model_save": True}
    stage |= {"stage3_param_persistence_threshold": 20 if case.kind == "adamw" else 0}
    if case.offload:
        stage["offload_optimizer"] = {"device": "cpu"}
    return {
        "zero_optimization": stage,
        "bf16": {"enabled": case.cell.precision == "bf16"},
        "train_micro_batch_size_per_gpu": ROWS // case.accumulation // 2,
        "gradient_accumulation_steps": case.accumulation,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


@contextlib.contextmanager
def fresh() -> Iterator[None]:
    """Forgets what Accelerate and DeepSpeed keep of the last case."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        del os.environ[name]
    collectives.clear()
    yield
    unset_hf_deepspeed_config()


def network_of(case: Case) -> Any:
    is_low = case.cell.precision == "bf16" and not case.cell.parallelism.startswith("ZeRO")
    return model(dtype=torch.bfloat16 if is_low else torch.float32, lora=case.cell.weights == "LoRA")


def with_trainer(
    case: Case, out: Path, network: Any = None, resume: str | None = None, **more: Any
) -> tuple[Any, dict[str, Any]]:
    network = network or network_of(case)
    callback = SFACallback(p=P, beta=BETA, anchor=str(out / "anchor") if case.anchor else None, merge=case.merge)  # type: ignore[arg-type]
    watch = Watch(callback.averager)
    if case.cell.parallelism.startswith("ZeRO"):
        more |= {"deepspeed": zero(case), "bf16": case.cell.precision == "bf16"}
    fit = trainer(network, out / case.name, [callback, watch], case.kind, case.accumulation, ranks=2, **more)
    if case.cell.parallelism == "FSDP2":
        shard_on_cpu(fit)
    fit.train(resume_from_checkpoint=resume)
    return fit, {"merges": steps(callback), "bytes": watch.bytes}


def shard_on_cpu(fit: Any) -> None:
    """Accelerate refuses to shard on a CPU, but can."""
    layer = ["LlamaDecoderLayer"]
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, transformer_cls_names_to_wrap=layer)
    plugin.set_auto_wrap_policy(fit.model)
    fit.accelerator.state._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    fit.is_fsdp_enabled = True


def in_a_loop(case: Case, out: Path) -> tuple[Any, dict[str, Any]]:
    network, rank = network_of(case), distributed.get_rank()
    anchor = str(out / "anchor") if case.anchor else None
    if case.cell.trainer == "Accelerate":
        return with_accelerate(case, network, anchor)
    if case.cell.trainer == "Lightning":
        return with_lightning(network, out)
    if case.cell.parallelism.startswith("ZeRO"):
        import deepspeed

        trained, *_ = deepspeed.initialize(
            model=network, optimizer=optimizer(network.parameters(), case.kind), config=zero(case)
        )
    elif case.cell.parallelism == "DDP":
        trained = DistributedDataParallel(network)
    elif case.cell.parallelism == "FSDP1":
        trained = FullyShardedDataParallel(network, **flat(case))
    else:
        trained = fully_shard(network)
        average_gradients(trained)
    averager = Averager(trained, T, p=P, beta=BETA, anchor=anchor)
    opt = optimizer(trained.parameters(), case.kind)
    for t in range(T):
        batch = rows()[t * ROWS : (t + 1) * ROWS][rank * 2 : rank * 2 + 2]
        if hasattr(trained, "backward"):
            trained.backward(loss(trained, batch))
            trained.step()
        else:
            loss(trained, batch).backward()
            opt.step()
            opt.zero_grad()
        averager.step()
    return trained, {"merges": [merge["step"] for merge in averager.merges], "bytes": averager.bytes}


def flat(case: Case) -> dict[str, Any]:
    """FSDP1 with its units of layers and original parameters, or the whole model as one flat parameter."""
    policy = ModuleWrapPolicy({LlamaDecoderLayer}) if case.anchor else None
    return {"device_id": torch.device("cpu"), "use_orig_params": case.anchor, "auto_wrap_policy": policy}


def with_accelerate(case: Case, network: nn.Module, anchor: str | None) -> tuple[Any, dict[str, Any]]:
    accelerator = Accelerator(cpu=True)
    trained, opt = accelerator.prepare(network, optimizer(network.parameters(), case.kind))
    averager = Averager(trained, T, p=P, beta=BETA, anchor=anchor)
    for t in range(T):
        batch = rows()[t * ROWS : (t + 1) * ROWS][accelerator.process_index * 2 :][:2]
        accelerator.backward(loss(trained, batch))
        opt.step()
        opt.zero_grad()
        averager.step()
    return trained, {"merges": [merge["step"] for merge in averager.merges], "bytes": averager.bytes}


def with_lightning(network: nn.Module, out: Path) -> tuple[Any, dict[str, Any]]:
    from sfa.lightning import SFACallback as Callback
    from tests import test_lightning

    class Bytes(lightning.Callback):
        held = 0

        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            self.held = callback.averager.bytes

    callback, watch = Callback(p=P, beta=BETA), Bytes()
    test_lightning.fit(network, out, [callback, watch], ranks=2, devices=2, strategy="ddp")
    return network, {"merges": [merge["step"] for merge in callback.averager.merges], "bytes": watch.held}


def full(trained: Any) -> dict[str, Tensor]:
    """All trained weights on this rank, as the model computes with them."""
    if isinstance(trained, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(trained):
            return {name: p.detach().clone() for name, p in trained.named_parameters()}
    network = getattr(trained, "module", trained)
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not any(hasattr(p, "ds_id") for p in parameters.values()):
        return {
            name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for name, p in parameters.items()
        }
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters.values())):
        return {name: p.detach().clone() for name, p in parameters.items()}


def masters(trained: Any) -> dict[str, Tensor]:
    """DeepSpeed's float32 weights."""
    from deepspeed.utils import safe_get_full_fp32_param

    return {name: safe_get_full_fp32_param(p) for name, p in trained.module.named_parameters() if p.requires_grad}


def keep(path: Path, tensors: dict[str, Tensor]) -> None:
    if distributed.get_rank() == 0:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def resume(case: Case, out: Path, record: dict[str, Any]) -> None:
    """Fits from checkpoints before, at and after a merge. The sharded model was read from a folder, where θ_o is."""
    start = LlamaForCausalLM.from_pretrained
    with fresh():
        with_trainer(case, out / "resumed", start(out / "start"), save_strategy="steps", save_steps=1)
    for at in (2, 3, 4):
        with fresh():
            checkpoint = str(out / "resumed" / case.name / f"checkpoint-{at}")
            fit, noted = with_trainer(case, out / "again", start(out / "start"), checkpoint)
            keep(out / f"{case.name}, resumed {at}.safetensors", full(fit.model_wrapped))
            record[f"{case.name}, resumed {at}"] = noted


def main(out: Path) -> None:
    count(Anchor, "measure_and_merge")
    for kind in (Parameters, zero_masters.Zero12, zero_masters.Zero3):
        count(kind, "publish")
    record: dict[str, Any] = {}
    for case in sorted(CASES, key=lambda case: case.cell.parallelism):  # DeepSpeed last: it changes torch
        with fresh():
            if case.cell.trainer == "Trainer":
                fit, noted = with_trainer(case, out)
                trained = fit.model_wrapped
                if case.cell.parallelism != "FSDP2":  # the test's own way to it is not the Trainer's
                    fit.save_model(str(out / "saved" / case.name))
            else:
                trained, noted = in_a_loop(case, out)
            noted["collectives"] = dict(collectives)
            noted["all bytes"] = [0, 0]
            distributed.all_gather_object(noted["all bytes"], noted.pop("bytes"))
            keep(out / f"{case.name}.safetensors", full(trained))
            if case.cell.parallelism.startswith("ZeRO") and case.cell.precision == "bf16":
                keep(out / f"{case.name}, masters.safetensors", masters(trained))
            record[case.name] = noted
    for case in RESUMED:
        resume(case, out, record)
    with CommDebugMode() as mode:
        distributed.all_reduce(torch.ones(1))
    record["of one all_reduce"] = mode.get_total_counts()
    if distributed.get_rank() == 0:
        (out / "record.json").write_text(json.dumps(record))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
