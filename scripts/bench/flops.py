"""Model FLOPs used by training on one GPU, against the card's dense bf16 rate in the same run."""

from typing import Any

import torch
from composer import Trainer
from torch.utils.data import DataLoader

from scripts.bench import shapes
from scripts.bench.measure import Missing, Row, Setup, in_turn
from sfa.data.batches import collate
from sfa.stages.composer_model import StageModel
from sfa.stages.training import release

LINE = "model FLOPs used on one GPU"
SEQ_LEN, STEPS = 1024, 4
CASES = {"Pythia-2.8B": ("adamw", 8), "Llama-2-7B": ("sgd", 4)}  # optimizer, sequences per step that fit in 80 GB


def run(setup: Setup) -> list[Row]:
    if setup.device != "cuda" and not setup.small:
        raise Missing("requires a GPU: make bench DEVICE=cuda")
    rows = []
    for shape, (kind, batch) in {"1M": ("adamw", 2)}.items() if setup.small else CASES.items():
        model = shapes.build(shape, setup.device)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        operations = _operations(model, STEPS * batch)
        size = 8192 if setup.device == "cuda" else 256
        a, b = (torch.randn(size, size, device=setup.device, dtype=torch.bfloat16) for _ in range(2))
        repeats = max(1, int(operations / (2 * size**3)))  # as many operations as the training has

        def products(a: Any = a, b: Any = b, repeats: int = repeats) -> None:
            for _ in range(repeats):
                torch.mm(a, b)

        works = {"ours": _training(model, kind, batch, setup.device), "card": products}
        taken = in_turn(works, setup.rounds(3))
        card_rates = [2.0 * size**3 * repeats / seconds for seconds in taken["card"]]
        shares = [operations / seconds / rate for seconds, rate in zip(taken["ours"], card_rates, strict=True)]
        case = f"{shape}, {batch} x {SEQ_LEN} tokens, {kind}, bf16, recomputed activations not counted"
        against = f"dense bf16 products of {size} x {size}"
        rows.append(Row(LINE, case, against, [1 / share for share in shares], [1.0] * len(shares), 0.5, "at least", ""))
    return rows


def _operations(model: Any, sequences: int) -> float:
    """Forward and backward: 6 operations per token and parameter other than embeddings, and 12·d·L per token and layer
    for attention."""
    config = model.config
    weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    if config.tie_word_embeddings:
        weights += model.get_output_embeddings().weight.numel()
    attention = 12 * config.num_hidden_layers * config.hidden_size * SEQ_LEN
    return float((6 * weights + attention) * sequences * SEQ_LEN)


def _training(model: Any, kind: str, batch: int, device: str) -> Any:
    tokens = torch.randint(0, model.config.vocab_size, (SEQ_LEN,))
    positions, weight = torch.arange(SEQ_LEN), torch.ones(())
    example = {"input_ids": tokens, "labels": tokens, "position_ids": positions, "weight": weight / SEQ_LEN}
    if kind == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device == "cuda")
    stage_model = StageModel(model, None)

    def train() -> None:
        trainer = Trainer(
            model=stage_model,
            train_dataloader=DataLoader([example] * STEPS * batch, batch_size=batch, collate_fn=collate),  # type: ignore[arg-type]
            max_duration=f"{STEPS}ba",
            optimizers=optimizer,
            precision="amp_bf16" if device == "cuda" else "fp32",
            device="gpu" if device == "cuda" else "cpu",
            progress_bar=False,
            log_to_console=False,
        )
        trainer.fit()
        trainer.close()
        release(trainer)

    return train
