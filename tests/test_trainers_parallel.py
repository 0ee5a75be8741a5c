"""Two ranks on gloo, under every kind of parallelism, end where Algorithm 1 in a plain loop ends on one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM

from sfa import merge_steps
from sfa.live import plain
from tests import peers
from tests.once import filled_once
from tests.tiny import P, T, algorithm_1, assert_close, model, weights
from tests.trainer_cases import CASES, RESUMED, Case, cells

# bfloat16 has 8 bits: a weight of 0.5 is off by 0.001, and so is each step between the merges.
TOLERANCE = {"fp32": 1e-6, "bf16": 4e-3}


def marked(found: list[Case]) -> list[Any]:
    return [pytest.param(case, marks=cells(case.cell), id=case.name) for case in found]


def fill(folder: Path) -> None:
    model(seed=3).save_pretrained(folder / "anchor")
    model().save_pretrained(folder / "start")
    peers.run_on_two_ranks("tests.trainers_worker", str(folder))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    return filled_once(tmp_path_factory, worker_id, "trainers", fill)


@pytest.fixture(scope="module")
def record(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "record.json").read_text()))


def expected(case: Case) -> dict[str, Tensor]:
    network = model(dtype=torch.float32, lora=case.cell.weights == "LoRA")
    theta_o = weights(model(seed=3)) if case.anchor else None
    return algorithm_1(network, kind=case.kind, accumulation=case.accumulation, theta_o=theta_o)


def found(out: Path, name: str) -> dict[str, Tensor]:
    return {plain(key): tensor for key, tensor in load_file(out / f"{name}.safetensors").items()}


@pytest.mark.parametrize("case", marked([case for case in CASES if case.merge == "factors"]))
def test_two_ranks_end_where_algorithm_1_ends(case: Case, out: Path, record: dict[str, Any]) -> None:
    assert record[case.name]["merges"] == merge_steps(T, P)
    assert_close(found(out, case.name), expected(case), TOLERANCE[case.cell.precision])


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.cell.trainer == "Trainer" and case.cell.parallelism != "FSDP2"],
    ids=lambda case: case.name,
)
def test_the_saved_folder_is_the_merged_model(case: Case, out: Path) -> None:
    saved, ours = out / "saved" / case.name, found(out, case.name)
    if case.cell.weights == "full":
        loaded = LlamaForCausalLM.from_pretrained(saved)
    else:
        loaded = PeftModel.from_pretrained(model(), saved, is_trainable=True, autocast_adapter_dtype=False)
    assert_close(weights(loaded), ours, 0)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.cell.parallelism.startswith("ZeRO") and case.cell.precision == "bf16"],
    ids=lambda case: case.name,
)
def test_deepspeeds_masters_are_merged_and_the_model_is_their_copy(case: Case, out: Path) -> None:
    """The masters are closer to float32 than 16 bits can be, and what is saved is the masters, rounded."""
    masters = found(out, f"{case.name}, masters")
    assert all(tensor.dtype == torch.float32 for tensor in masters.values())
    assert_close(masters, expected(case), TOLERANCE["bf16"])
    copies = found(out, case.name)
    assert all(torch.equal(copies[name], tensor.bfloat16()) for name, tensor in masters.items())


@pytest.mark.parametrize("at", [2, 3, 4])
@pytest.mark.parametrize("case", RESUMED, ids=lambda case: case.name)
def test_a_fit_interrupted_before_at_and_after_a_merge_resumes(
    case: Case, at: int, out: Path, record: dict[str, Any]
) -> None:
    assert record[f"{case.name}, resumed {at}"]["merges"] == merge_steps(T, P)
    assert_close(found(out, f"{case.name}, resumed {at}"), expected(case))


def test_merging_needs_no_communication(record: dict[str, Any]) -> None:
    """But for ZeRO-1 and 2, which copy masters to a whole model on every rank as their own step does."""
    assert record["of one all_reduce"] == 1  # so they are counted
    for case in CASES:
        counted = record[case.name]["collectives"]
        assert counted["measure_and_merge"] == 0, case
        gathers = case.cell.parallelism in ("ZeRO-1", "ZeRO-2") or case.kind == "adamw"
        assert (counted["publish"] > 0) == gathers, case


def test_each_rank_holds_theta_o_of_its_own_shards(record: dict[str, Any]) -> None:
    size = sum(tensor.nbytes for tensor in weights(model()).values())
    for name, (one, two) in (
        (case.name, record[case.name]["all bytes"]) for case in CASES if case.cell.weights == "full"
    ):
        if "DDP" in name:  # in 16 bits, with a float32 shadow of θ beside a float32 θ_o
            assert one == two == (2 * size if "bf16" in name else size), name
        elif "bf16" in name and "FSDP" in name:
            assert size * 2 <= one + two <= size * 2 * 1.05, name
        else:
            assert size <= one + two <= size * 1.05, name  # shards are filled up to equal sizes
            assert max(one, two) <= size * 0.65, name


def test_the_products_of_adapters_are_averaged(out: Path, record: dict[str, Any]) -> None:
    """Both ranks hold whole factors. After one merge the products are close, and the factors differ from averages."""
    product, factors = found(out, "Trainer, DDP, LoRA, fp32, product"), found(out, "Trainer, DDP, LoRA, fp32")
    assert record["Trainer, DDP, LoRA, fp32, product"]["merges"] == merge_steps(T, P)
    assert any(not torch.equal(product[name], factors[name]) for name in factors)
    for name in [name for name in factors if "lora_A" in name]:
        b = name.replace("lora_A", "lora_B")
        torch.testing.assert_close(product[b] @ product[name], factors[b] @ factors[name], rtol=0, atol=1e-3)
