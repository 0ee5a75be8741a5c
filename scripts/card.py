"""Model cards, as the hub reads them: what a model was made from and how, and what it scores."""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData, try_to_load_from_cache

from scripts import cells
from sfa.methods import METHODS
from sfa.records import FinalScore, Manifest, Results
from sfa.runs import CARD, CARD_MARK, read_manifest_of, read_results
from sfa.stages.results import named_metrics
from sfa.store import read_json

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
UNKNOWN = "unknown"  # the hub's word for a licence that is not known
BODY = """
{mark}
# {title}

{paragraphs}
"""


def of_run(run: Path, model: Path, licence: str | None = None) -> str:
    """The card of a finished run's last model.

    Args:
        run: the run's folder.
        model: folder of the model.
        licence: the hub's name of its licence; ``None``: that of the base model, if its card says.
    """
    results = read_results(run)
    config: Any = results["config"]
    manifests = [read_manifest_of(run, stage["fingerprint"]) for stage in results["stages"]]
    last, tasks = results["stages"][-1], [str(task["name"]) for task in config["tasks"]]
    name = config["model"].get("base") or config["model"].get("name")
    kind = METHODS.get(last["method"])
    is_merge = kind is not None and bool(kind.merge_name)
    relation = "adapter" if (model / "adapter_config.json").is_file() else "merge" if is_merge else "finetune"
    data = _data([name] if name else [], relation, _sources(config["tasks"]), licence, model)
    settings = {key: value for key, value in (config.get(config["method"]) or {}).items() if value is not None}
    said = ", ".join(f"{key}={value}" for key, value in settings.items())
    origin = f"`{name}`" if name else f"random weights ({config['model']['architecture']})"
    paragraphs = [
        f"Trained from {origin} on {' → '.join(tasks)}, in this order, with the method `{config['method']}`"
        + (f" ({said})." if said else "."),
        *_scores(results),
        "## Training",
        cells.markdown(_stage_lines(results, manifests)),
        _settings(results, config, manifests),
        "## Again",
        cells.code(f"sfa run {shlex.join(results['arguments'])}") if "arguments" in results else "",
    ]
    return _card(data, results["name"], paragraphs)


def _scores(results: Results) -> list[str]:
    if not results["evaluations"]:
        return []
    metrics = "; ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in named_metrics(results))
    explained = f"± is the standard error over the rows of an evaluation, n. {metrics}"
    return ["## Scores", cells.markdown(score_lines(results)), explained]


def of_merge(method: str, models: Sequence[Path], base: Path | None, out: Path, paragraphs: Iterable[str]) -> str:
    """The card of a merge of model folders."""
    names = [str(folder) for folder in ([base] if base is not None else models)]
    return _card(_data(names, "merge", [], None, out), f"{method} of models", paragraphs)


def score_lines(results: Results) -> list[list[str]]:
    """A row of cells per stage with every evaluation's score ± its standard error, header first."""
    rows = {(row["after"], row["evaluation"]): row for row in results["evaluations"]}
    names = list(dict.fromkeys(row["evaluation"] for row in results["evaluations"]))
    counts = {name: next(row for row in results["evaluations"] if row["evaluation"] == name) for name in names}
    lines = [["after", *(f"{name} ({counts[name]['metric']}, n={counts[name]['n']})" for name in names)]]
    for after in dict.fromkeys(row["after"] for row in results["evaluations"]):
        scored = [rows.get((after, name)) for name in names]
        lines.append([after, *("–" if row is None else _with_error(row) for row in scored)])
    return lines


def _with_error(row: FinalScore) -> str:
    """A score with its standard error, which a single row has not."""
    return f"{row['value']:.3f}" + ("" if row["stderr"] is None or row["n"] < 2 else f" ± {row['stderr']:.3f}")


def _stage_lines(results: Results, manifests: Sequence[Manifest]) -> list[list[str]]:
    lines = [["stage", "method", "steps", "merges after step", "tokens", "seconds", "L2 from the stage before"]]
    for stage, manifest in zip(results["stages"], manifests, strict=True):
        merges = ", ".join(map(str, stage["merge_steps"][:12])) + (" …" if len(stage["merge_steps"]) > 12 else "")
        lines.append(
            [
                stage["task"],
                stage["method"],
                f"{stage['steps']:,}",
                merges or "none",
                f"{stage['tokens']:,}",
                f"{stage['seconds']:.0f}",
                f"{manifest['l2_from_anchor']:.3f}",
            ]
        )
    return lines


def _settings(results: Results, config: Any, manifests: Sequence[Manifest]) -> str:
    train = ", ".join(f"{key} {value}" for key, value in config["train"].items() if value not in (None, False))
    made = manifests[-1]["made"]
    return f"Seed {results['seed']}; {train}. {made['hardware']}, torch {made['torch']}, {made['date']}."


def _sources(tasks: Iterable[Any]) -> list[str]:
    """The data sets of tasks that are on the hub."""
    named = [task.get("source") for task in tasks]
    return [name for name in named if isinstance(name, str) and _is_on_hub(name) and "/" in name]


def _is_on_hub(name: str) -> bool:
    return HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def _data(
    names: Sequence[str], relation: str, sources: Sequence[str], licence: str | None, model: Path
) -> ModelCardData:
    """The front matter. A base model in a folder is named by what its own card names."""
    cards = [_front_matter(name) for name in names]
    bases: list[str] = []
    for name, card in zip(names, cards, strict=True):
        known = [name] if _is_on_hub(name) else card.get("base_model") or []
        bases += [known] if isinstance(known, str) else known
    licences = {str(card["license"]) for card in cards if "license" in card}
    return ModelCardData(
        license=licence or (licences.pop() if len(licences) == 1 else UNKNOWN),
        base_model=list(dict.fromkeys(bases)) or None,
        base_model_relation=relation if bases else None,
        datasets=list(dict.fromkeys(sources)) or None,
        library_name="peft" if relation == "adapter" else "transformers",
        pipeline_tag=_pipeline(model),
        tags=["sfa", "continual-learning", *(["merge"] if relation == "merge" else [])],
    )


def _front_matter(name: str) -> dict[str, Any]:
    """The front matter of a local or downloaded model's card; empty if there is none."""
    local = Path(name) / CARD
    cached = try_to_load_from_cache(name, CARD) if _is_on_hub(name) else None
    file = local if local.is_file() else Path(cached) if isinstance(cached, str) else None
    text = file.read_text(encoding="utf-8", errors="replace") if file is not None else ""
    found = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    content = yaml.safe_load(found[1]) if found else None
    return content if isinstance(content, dict) else {}


def _pipeline(model: Path) -> str | None:
    """The hub's name for what a model does."""
    if (model / "preprocessor_config.json").is_file():
        return "image-classification"
    if not (model / "config.json").is_file():  # adapters
        return "text-generation"
    return "text2text-generation" if read_json(model / "config.json").get("is_encoder_decoder") else "text-generation"


def _card(data: ModelCardData, title: str, paragraphs: Iterable[str]) -> str:
    body = BODY.format(mark=CARD_MARK, title=title, paragraphs="\n\n".join(p for p in paragraphs if p))
    return f"---\n{data.to_yaml()}\n---\n{body}"
