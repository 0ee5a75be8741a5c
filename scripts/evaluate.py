"""Scores a run's model, a model folder or a hub model: on the run's tasks, those of a config, or evaluations by name.

sfa evaluate runs/mine
sfa evaluate runs/mine --stage maths --tasks laws
sfa evaluate runs/mine --config other.yaml
sfa evaluate models/mine --config mine.yaml --tasks maths
sfa evaluate runs/stages/<fingerprint>/model --tasks gsm8k casehold --data-folder DIR

The tasks of a config are scored as in its runs: files, choices, losses, generation and images. The model of a trained
stage is evaluated with the template, the sequence length and the handling of long rows in its manifest, not those of
the config.
"""

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from eval import available, owner
from scripts import cells, files
from sfa import config as configs
from sfa.data import runs_generated_code
from sfa.data.packing import LongRows
from sfa.data.template import DATE, Template
from sfa.errors import UsageError
from sfa.records import FinalScore, Manifest, Results, Score
from sfa.runs import has_results, read_manifest, read_manifest_of, read_results, stage_folder, verify, verify_adapted
from sfa.terminal import command, quiet, start

if TYPE_CHECKING:
    from eval.kind import Settings
    from sfa.config.schema import Config

KEYS = {  # options that a config has, too
    "template": "model.template",
    "system": "model.system",
    "date": "model.date",
    "data_folder": "data_folder",
    "limit": "eval.limit",
    "batch_size": "eval.batch_size",
    "seq_len": "train.seq_len",
    "long_rows": "train.long_rows",
}
OF_MODEL = ("template", "system", "date", "seq_len", "long_rows")  # options that a stage's manifest records


class Scored(NamedTuple):
    """A model to be scored: its folder or hub name, the label of its stage or ``base``, the stage's manifest if it is
    of a trained stage, and the folder and results of the run if it was named by its run."""

    model: str
    after: str = "base"
    manifest: Manifest | None = None
    run: tuple[Path, Results] | None = None


@command("python -m scripts.evaluate")
def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 a damaged model, 2 wrong usage or a wrong config."""
    parser = _parser()
    args = parser.parse_args(arguments)
    scored = _scored(args.model, args.stage)
    if args.tasks is None and args.config is None and scored.run is None:
        parser.error(f"{args.model} is not the folder of a run: say --tasks or --config to score it as a model")
    source = _template_source(args, scored.manifest)
    _fill(args, scored.manifest)
    config = _config(args, scored)
    names = _names(args.tasks, config)
    for name in names:
        kind = owner(name, config.tasks if config else ())
        allows = args.run_generated_code or (config is not None and config.eval.run_generated_code)
        if runs_generated_code(name) and not allows:
            parser.error(f"{name} runs what the model writes, in a sandbox: add --run-generated-code")
        if kind is not None and args.backend not in kind.backends:
            parser.error(f"{name} is scored with --backend {' or '.join(kind.backends)} only")
    scores = evaluate(scored.model, names, config, args)
    print(f"template {config.model.template if config else args.template or 'plain'} ({source})", file=sys.stderr)
    print(table(scores))
    if args.out:
        rows: list[FinalScore] = [{"after": scored.after, **score} for score in scores]
        files.write(args.out, json.dumps(rows, indent=2) + "\n")
    return 0


def evaluate(model: str, names: Sequence[str], config: "Config | None", args: argparse.Namespace) -> list[Score]:
    """Scores a model.

    Args:
        model: its folder, or its name on the hub.
        names: the evaluations.
        config: the config whose tasks provide their rows; without one, they are scored with the options alone.
        args: the command line.

    Raises:
        UsageError: the model is of images and the evaluations are of text, or the other way round.
        ModelError: the model cannot be used.
    """
    quiet()
    import torch
    from transformers import PreTrainedTokenizerBase

    from eval.evaluator import Evaluations, settings_of
    from sfa.models import stored
    from sfa.models.pretrained import model_errors

    settings = settings_of(config) if config else _settings(args)
    stream = config.tasks if config else []
    with model_errors(model):
        processor = stored.read_processor(model)
    reads_text = isinstance(processor, PreTrainedTokenizerBase)
    for name in names:
        kind = owner(name, stream)
        if (kind is not None and kind.unit == "images") == reads_text:
            kinds = ("a language model", "images") if reads_text else ("an image classifier", "text")
            raise UsageError(f"{model} is {kinds[0]}, and {name} is an evaluation of {kinds[1]}")
    evaluations = Evaluations(names, stream, settings)
    if args.backend == "vllm":
        from lm_eval.models.vllm_causallms import VLLM

        bos = False if settings.template == "chat" else None  # a chat template adds it if there is one
        lm = VLLM(pretrained=model, batch_size="auto", add_bos_token=bos, load_format="safetensors")
        return evaluations.drive(lm, processor)
    with model_errors(model):
        network = stored.read_model(model).eval()
    return evaluations(network.cuda() if torch.cuda.is_available() else network, processor)


def table(scores: Sequence[Score]) -> str:
    """A line per evaluation, for the terminal."""
    lines = [["evaluation", "metric", "value", "stderr", "rows", ""]]
    for score in scores:
        others = {"majority class": score["majority"]} if "majority" in score else {}
        also = ", ".join(f"{name} {value:.4f}" for name, value in {**others, **score.get("also", {})}.items())
        stderr = "–" if score["stderr"] is None or score["n"] < 2 else f"{score['stderr']:.4f}"
        metric = score["metric"] + (" (lower is better)" if score.get("lower_is_better") else "")
        lines.append([score["evaluation"], metric, f"{score['value']:.4f}", stderr, str(score["n"]), also])
    return cells.plain(lines, cells.terminal_width())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = available()
    parser.add_argument("model", type=_model, help="folder of a run or of a model, or a hub name")
    parser.add_argument("--stage", metavar="TASK", help="of a run: the model after this task; default: the last one")
    help_text = "score its tasks, as overridden; default: those of the run"
    parser.add_argument("--config", nargs="+", metavar=("CONFIG.yaml", "KEY=VALUE"), help=help_text)
    help_text = f"tasks of the run or of the config, or evaluations, by name; default: all tasks. {', '.join(known)}"
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help=help_text)
    parser.add_argument("--template", choices=get_args(Template), help="default: the stage's own, the config's, plain")
    parser.add_argument("--system", help="system message, with --template chat")
    parser.add_argument("--date", type=date.fromisoformat, help=f"today's date for chat templates; default: {DATE}")
    parser.add_argument("--data-folder", type=files.path, help="local copies of hub data sets")
    parser.add_argument("--limit", type=int, help="rows per evaluation; default: the config's, all")
    parser.add_argument("--batch-size", type=int, help="default: the config's, 32")
    help_text = "of the longest row that is scored by loss; default: the stage's own, the config's, 1024"
    parser.add_argument("--seq-len", type=int, help=help_text)
    help_text = "what to do with longer rows; default: the stage's own, the config's, drop"
    parser.add_argument("--long-rows", choices=get_args(LongRows), help=help_text)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--backend", default="hf", choices=["hf", "vllm"], help="vllm: pip install vllm, CUDA only")
    allowing = f"allow {', '.join(filter(runs_generated_code, known))} to run code, in a sandbox"
    parser.add_argument("--run-generated-code", action="store_true", help=allowing)
    help_text = "also write the scores to this JSON file, like the evaluations in a results.json"
    parser.add_argument("--out", type=files.path, help=help_text)
    return parser


def _model(name: str) -> str:
    """A run's or a model's folder, or its name on the hub.

    Raises:
        argparse.ArgumentTypeError: it looks like a path, but the folder does not exist.
    """
    folder = files.path(name)
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise argparse.ArgumentTypeError(f"must be a folder or a hub name, and {name} is neither")
    return str(folder)


def _scored(name: str, stage: str | None) -> Scored:
    """The model that is named, after its files were compared with its manifest.

    Raises:
        UsageError: there is no such stage, or its model was deleted.
        DamagedStage: its files are not those that were written.
    """
    folder, run, after = Path(name), None, "base"
    if has_results(folder):
        run = (folder, read_results(folder))
        stages = {record["task"]: record["fingerprint"] for record in run[1]["stages"]}
        after = list(stages)[-1] if stage is None else stage
        if after not in stages:
            raise UsageError(f"{folder} has no stage {after}: it has {', '.join(stages)}")
        read_manifest_of(folder, stages[after])
        folder = stage_folder(folder.parent, stages[after]) / "model"
    elif stage is not None:
        raise UsageError(f"--stage is of a run, and {name} is not the folder of a finished run")
    manifest = stage_manifest(folder)
    if manifest is None:
        return Scored(name)
    verify(folder.parent)
    verify_adapted(folder.parent)
    return Scored(str(folder), manifest["task"], manifest, run)


def stage_manifest(model: Path) -> Manifest | None:
    """The manifest of a trained stage's model, with the template and the handling of long rows; ``None`` for any other
    model."""
    manifest = read_manifest(model.parent) if model.name == "model" else None
    return manifest if manifest is not None and "template" in manifest else None


def _template_source(args: argparse.Namespace, manifest: Manifest | None) -> str:
    """Where the template comes from."""
    if manifest is None and args.config is not None and args.template is None:
        return "from the config"
    if manifest is None:
        return "the model is not of a trained stage; use --template to change it"
    if args.template not in (None, manifest["template"]):
        return f"the model was trained with {manifest['template']}"
    return "from the stage's manifest"


def _fill(args: argparse.Namespace, manifest: Manifest | None) -> None:
    """Sets options that are not given to what the manifest says."""
    recorded: dict[str, Any] = dict(manifest or {})
    if "date" in recorded:
        recorded["date"] = date.fromisoformat(recorded["date"])
    for key in OF_MODEL:
        if getattr(args, key) is None:
            setattr(args, key, recorded.get(key))


def _config(args: argparse.Namespace, scored: Scored) -> "Config | None":
    """The config whose tasks are scored, with the options as overrides."""
    options = {key: getattr(args, option) for option, key in KEYS.items() if getattr(args, option) is not None}
    options |= {"train.precision": "amp_bf16"} if args.bf16 else {}
    options |= {"eval.run_generated_code": True} if args.run_generated_code else {}
    overrides = [f"{key}={json.dumps(value, default=str, ensure_ascii=False)}" for key, value in options.items()]
    if args.config is not None:
        return configs.load(args.config[0], [*args.config[1:], *overrides], available)
    if scored.run is not None:
        folder, results = scored.run
        return configs.recorded(results, folder, overrides, args.tasks or ())
    return None


def _names(wanted: Sequence[str] | None, config: "Config | None") -> list[str]:
    """The evaluations of the wanted tasks, and those that are named themselves.

    Raises:
        UsageError: a name is that of neither, or the tasks have no evaluations.
    """
    tasks = {task.name: task.evals for task in config.tasks} if config else {}
    known = [*available(config.tasks), *config.general_evaluations()] if config else available()
    names: list[str] = []
    for name in wanted if wanted is not None else tasks:
        if name not in tasks and name not in known:
            near = difflib.get_close_matches(name, [*tasks, *known], 1)
            of_config = f"a task, like {', '.join(tasks)}, or " if tasks else ""
            hint = f"; did you mean {near[0]}?" if near else f" ({', '.join(known)})"
            raise UsageError(f"--tasks: {name} is not {of_config}an evaluation{hint}")
        names += tasks.get(name, [name])
    if wanted is None and config is not None:
        names = config.evaluations()
    if not names:
        raise UsageError(f"no evaluations score {', '.join(wanted or tasks)}: name some with --tasks")
    return list(dict.fromkeys(names))


def _settings(args: argparse.Namespace) -> "Settings":
    """How evaluations are scored without a config."""
    from eval.kind import Settings

    options = {key: getattr(args, key) for key in KEYS if getattr(args, key) is not None}
    return Settings(bf16=args.bf16, **options)


if __name__ == "__main__":
    start(main)
