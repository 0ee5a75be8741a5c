"""lm-eval on a model during its training, against its command line on the same model in a folder."""

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import LlamaConfig, LlamaForCausalLM

from eval import TASK_FILES
from eval.evaluator import Evaluations
from eval.kind import Settings
from eval.kinds.lm_eval import LMEval
from scripts.bench.measure import Missing, Row, Setup, commands_in_turn
from sfa.data import registered
from sfa.data.source import SourceError
from sfa.models import stored
from sfa.models.tokenizer_training import train_tokenizer

EVALUATIONS = ["gsm8k", "casehold", "tos", "overruling"]
PRETRAINED = Path("models/smollm2-135m")
BOUND = 0.7


@dataclass(frozen=True)
class Case:
    """What is scored: the model in ``folder`` on ``rows`` of each evaluation, ``batch_size`` at once.

    ``rounds`` count; the ``warm_up`` rounds before them do not, and are not needed after a case that has loaded the
    libraries."""

    name: str
    folder: Path
    rows: int
    batch_size: int
    warm_up: int = 1
    rounds: int = 3


def run(setup: Setup) -> list[Row]:
    """Time of the four evaluations of law and math. Ours is the time an evaluation adds to a training, except for the
    first, which reads the rows; lm-eval's is that of its command, which must start, read the model and build the tasks.

    Raises:
        Missing: the rows or the pretrained model were not found.
        RuntimeError: their scores differ, or the command failed.
    """
    if setup.small:
        return [_measure(Case("random Llama", _random_model(setup, 16), 3, 2), setup)]
    if not PRETRAINED.is_dir():
        raise Missing(f"{PRETRAINED} does not exist: make {PRETRAINED}")
    return [
        _measure(Case("random Llama", _random_model(setup, 128), 50, 34), setup),
        _measure(Case("SmolLM2-135M", PRETRAINED, 12, 12, warm_up=0, rounds=2), setup),
    ]


def _measure(case: Case, setup: Setup) -> Row:
    model, tokenizer = stored.read_model(case.folder).to(setup.device).train(), stored.read_processor(case.folder)
    settings = Settings("instruction", limit=case.rows, batch_size=case.batch_size, data_folder=setup.data_folder)
    evaluations = Evaluations(EVALUATIONS, [], settings)
    tasks, out = setup.scratch / "tasks", setup.scratch / "scores"
    try:
        scores = {score["evaluation"]: score["value"] for score in evaluations(model, tokenizer)}
    except SourceError as error:
        raise Missing(f"{error}; use a data folder with gsm8k, casehold, claudette_tos and overruling") from error
    _write_tasks(evaluations, tasks)
    command = [
        str(Path(sys.executable).parent / "lm_eval"),
        *("run", "--model", "hf", "--model_args", f"pretrained={case.folder},dtype=float32"),
        *("--tasks", ",".join(EVALUATIONS), "--include_path", str(tasks)),
        *("--batch_size", str(case.batch_size), "--device", setup.device, "--output_path", str(out)),
    ]
    ours: list[float] = []

    def before(_: str) -> None:
        shutil.rmtree(out, ignore_errors=True)
        started = time.perf_counter()
        evaluations(model, tokenizer)
        ours.append(time.perf_counter() - started)

    rounds = setup.rounds(case.rounds)
    theirs = commands_in_turn({"lm_eval": command}, rounds, before, case.warm_up)["lm_eval"].seconds
    if (their_scores := _their_scores(out, case.rows)) != scores:
        raise RuntimeError(f"the scores of {case.name} differ: {scores} here, {their_scores} by the lm_eval command")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    return Row(
        line="lm-eval during training: time added by the four law/math evals",
        case=f"{case.name}, {parameters:.1f}M parameters, {case.rows} rows each, batches of {case.batch_size}",
        against="the lm-eval command line on the saved model, same rows",
        ours=ours[-rounds:],
        other=theirs,
        bound=BOUND,
        note=f"both score {', '.join(f'{name} {value:.3f}' for name, value in scores.items())}",
    )


def _write_tasks(evaluations: Evaluations, folder: Path) -> None:
    """Writes task files for the command line with the same rows, prompts, choices and answers as ``evaluations``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, kind in evaluations.kinds.items():
        assert isinstance(kind, LMEval)
        task = kind.tasks[name]
        rows = folder / f"{name}.jsonl"
        task.dataset["test"].to_json(rows)
        config = load_yaml(TASK_FILES / f"{name}.yaml") | {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(rows)}},
            "test_split": "test",
            "target_delimiter": task.config.target_delimiter,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))


def _their_scores(out: Path, rows: int) -> dict[str, float]:
    """The scores that the command has written to ``out``, by evaluation.

    Raises:
        RuntimeError: it has not scored ``rows`` rows.
    """
    (file,) = out.rglob("results_*.json")
    results: dict[str, Any] = json.loads(file.read_text())
    if any(scored["effective"] != rows for scored in results["n-samples"].values()):
        raise RuntimeError(f"{rows} rows of each evaluation were expected, not {results['n-samples']}")
    metrics = ("acc,", "exact_match,")
    return {
        name: next(float(value) for metric, value in values.items() if metric.startswith(metrics))
        for name, values in results["results"].items()
    }


def _random_model(setup: Setup, hidden: int) -> Path:
    """A model so small that an evaluation's time is almost all overhead."""
    folder = setup.scratch / "random"
    try:
        tokenizer = train_tokenizer(4096, [registered("law", data_folder=setup.data_folder)])
    except SourceError as error:
        raise Missing(f"{error}; use a data folder with casehold, claudette_tos and overruling") from error
    end = int(tokenizer.eos_token_id)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
