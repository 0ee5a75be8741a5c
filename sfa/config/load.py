"""A run's YAML, read and validated against the schema, with all errors reported at once."""

import dataclasses
import difflib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sfa.config import loggers
from sfa.config.concealed import Concealed
from sfa.config.continued import continue_run
from sfa.config.messages import depends, unknown, valid_part, validated
from sfa.config.reading import Unreadable, merged, read_file, reason, update
from sfa.config.schema import Config, config_class
from sfa.config.stream import Stream, read_tasks
from sfa.data import TASKS, Conversations, Task, runs_generated_code
from sfa.data.source import SourceError
from sfa.data.task import GoneTask
from sfa.errors import WRONG, SFAError
from sfa.models.settings import TUNED
from sfa.runs import has_results
from sfa.schedule import Duration
from sfa.values import Overrides, at_home

RENAMED = {"trial": "trial_duration"}  # former names of keys, and those of a task's
RENAMED_OF_TASKS = {"held_back": "evaluate_only"}
# What stands for a required key that is missing or invalid, while the other keys are checked.
UNNAMED: Overrides = {"name": "unnamed", "model": {"name": "unnamed"}}


class Evaluations(Protocol):
    """The evaluations that a run's config may name."""

    def __call__(self, stream: Sequence[Task]) -> Sequence[str]:
        """The valid names in ``eval.tasks`` of a run of these tasks."""

    def general_errors(self, names: Sequence[str], folder: Path | None, stream: Sequence[Task]) -> list[str]:
        """Why tasks of the prior suite cannot be scored in a run of these tasks, a line each."""


class ConfigError(SFAError):
    """An invalid config. ``errors`` holds one line per error."""

    code = WRONG

    def __init__(self, source: str, errors: Sequence[str]):
        self.errors = list(errors)
        noun = "error" if len(self.errors) == 1 else "errors"
        super().__init__("\n".join([f"{source}: {len(self.errors)} {noun}", *(f"  {e}" for e in self.errors)]))


def load(path: str | Path, overrides: Sequence[str] = (), evaluations: Evaluations | None = None) -> Config:
    """Reads a run's YAML with ``key=value`` overrides.

    Args:
        path: the YAML file; OmegaConf interpolations are resolved.
        overrides: like ``["method=sfa", "sfa.p=0.5"]``, values parsed as YAML, or further files, like
            ``"yamls/small.yaml"``; later ones take precedence.
        evaluations: the evaluations that exist; ``None`` skips that check.

    Raises:
        ConfigError: with all errors, each with its key, the allowed values and the nearest known key.
    """
    errors: list[str] = []
    raw, concealed = _read(path, overrides, errors)
    deprecations = _rename_keys(raw, errors)
    kept = continue_run(raw, errors)
    entries = raw.pop("tasks", None)
    stream = Stream() if kept and not entries else read_tasks(entries, raw.get("data_folder"), errors)
    stream.tasks, stream.keys = [*kept, *stream.tasks], [*(f"tasks.{task.name}" for task in kept), *stream.keys]
    config, invalid = valid_part(config_class(), {**raw, "tasks": stream.tasks}, "", errors, instead=UNNAMED)
    if config is not None:
        config._kept = [task.name for task in kept if not task.evaluate_only]
        if config.order is not None and not depends("tasks", map(_key, errors)):
            config, stream = _ordered(config, stream, errors)
        invalid |= stream.invalid
        found = _check_together(config, stream, evaluations, invalid)
        wrong = [*invalid, *map(_key, errors)]
        if not found and not any(depends(key, wrong) for key in ("tasks", "from_run", "model")):
            method = config.method_settings
            idle = method.idle_reason(config.trained() if method.needs_past_data else config.learned())
            found += [] if idle is None else [f"method: {idle}"]
        errors += [line for line in found if not depends(_key(line), invalid)]
    if errors or config is None:
        errors += _continuation(raw, errors)
        raise ConfigError(str(path), [concealed.text(error) for error in errors])
    config._concealed = concealed
    config._renamed = deprecations
    config._arguments = [concealed.text(argument) for argument in (str(path), *overrides)]
    return config


def _continuation(raw: Overrides, errors: Sequence[str]) -> list[str]:
    """How to train only new tasks, if data are gone of a run that has results."""
    run = Path(str(raw.get("save_folder", "runs"))) / str(raw.get("name"))
    gone = any(re.match(r"tasks\.\d+: .*(does not exist|is no folder of)", error) for error in errors)
    if not gone or raw.get("from_run") is not None or not has_results(run):
        return []
    return [f"from_run: {run} is finished; from_run={run} keeps its stages and trains only tasks that it lacks"]


def _rename_keys(raw: Overrides, errors: list[str]) -> list[str]:
    """Gives keys that are written under their former names, which work for one release, their new ones in place."""
    lines = []
    tasks = raw["tasks"] if isinstance(raw.get("tasks"), list) else []
    sections = [("", raw, RENAMED), *((f"tasks.{i}.", task, RENAMED_OF_TASKS) for i, task in enumerate(tasks))]
    for prefix, section, names in sections:
        for old, new in names.items():
            if isinstance(section, dict) and old in section:
                if new in section:
                    errors.append(f"{prefix}{old}: is the former name of {prefix}{new}, which is set too")
                section[new] = section.pop(old)
                lines.append(f"{prefix}{old} is now called {prefix}{new}; the former name works for one release")
    return lines


def _key(line: str) -> str:
    """The key that an error is about."""
    return line.partition(":")[0]


def _ordered(config: Config, stream: Stream, errors: list[str]) -> tuple[Config, Stream]:
    """The config and the stream with their tasks reordered by ``order``, and without ``order``."""
    indices = list(range(len(config.tasks)))
    if config.order is None or sorted(config.order) != indices:
        errors.append(f"order: must contain each of {indices} once, one per task, not {config.order}")
        return config, stream
    tasks, keys = [stream.tasks[i] for i in config.order], [stream.keys[i] for i in config.order]
    ordered = config.model_copy(update={"tasks": tasks, "order": None})
    return ordered, dataclasses.replace(stream, tasks=tasks, keys=keys)


def _check_together(
    config: Config, stream: Stream, evaluations: Evaluations | None, invalid: Collection[str]
) -> list[str]:
    """Errors that depend on several keys, of which the ``invalid`` ones are at their defaults."""
    tasks = stream.tasks
    errors = []
    for task_name in (config.model.tokenizer.train_on or []) if config.model.tokenizer else []:
        if task_name not in TASKS:
            errors.append(unknown("model.tokenizer.train_on", task_name, TASKS, "a registered task"))
    family = None
    try:
        family = config.family() if tasks else None  # without tasks, for which there are errors, of no kind
    except ValueError as error:
        errors.append(f"tasks: {error}")
    if family is not None:
        errors += family.config_errors(config)
        if family.rows not in config.method_settings.rows:
            kinds = " and ".join(config.method_settings.rows)
            errors.append(f"method: {config.method} is only for {kinds}, and the tasks are {family.rows}")
    keys = {id(task): key for task, key in zip(tasks, stream.keys, strict=True)}
    tasks = [task for task in tasks if not isinstance(task, GoneTask)]
    if evaluations is not None and family is not None:
        known = evaluations(tasks)
        named = [(name, f"{keys[id(task)]}.evals") for task in tasks for name in task.evals]
        named += [(name, "eval.tasks") for name in config.eval.tasks or []]
        for name, key in named:
            if name not in known and name not in stream.lost:
                errors.append(unknown(key, name, known, "an evaluation"))
        if config.eval.task_folder is None or config.eval.task_folder.is_dir():
            general = evaluations.general_errors(config.eval.general, config.eval.task_folder, tasks)
            errors += [f"eval.general: {error}" for error in general]
    if not config.eval.run_generated_code and not depends("eval.tasks", invalid):
        errors += [
            f"eval.run_generated_code: must be true for {name}, which runs what the model writes, in a sandbox; "
            f"or leave {name} out of eval.tasks"
            for name in config.evaluations()
            if runs_generated_code(name)
        ]
    for logger, options in config.loggers.items():
        if (missing := loggers.missing(logger)) is not None:
            errors.append(f"loggers.{logger}: {missing}")
        elif options:
            validated(loggers.options(logger), options, f"loggers.{logger}.", errors)
    errors += _save_folder(config)
    for key, folder in {"data_folder": config.data_folder, "eval.task_folder": config.eval.task_folder}.items():
        if folder is not None and not folder.is_dir():
            errors.append(f"{key}: must be a folder, and {folder} is not one")
    name = config.model.name or ""
    for key, model_name in (("name", name), ("base", config.model.base or "")):
        advice = f"; make {model_name}" if model_name.startswith("models/") else ""
        is_path = model_name.startswith((".", "/", "runs/", "models/"))
        is_needed = config.from_run is None and not (advice and config.dry_run)
        if is_path and is_needed and not Path(model_name).is_dir():
            errors.append(f"model.{key}: must be a folder or a hub name, and {model_name} is neither{advice}")
    errors += _of_tuned(config)
    errors += _of_continued(config)
    for task in tasks:
        try:
            task.data_spec()
        except SourceError as error:
            errors.append(f"{keys[id(task)]}: {error}")
    lengths = ("train.seq_len", *(f"{key}.train.seq_len" for key in stream.keys))
    is_length_known = not any(depends(length, invalid) for length in lengths)
    if (
        family is not None
        and tasks
        and is_length_known
        and (config.model.architecture is not None or Path(name).is_dir())
    ):
        from sfa.models.building import configuration_errors  # seconds to import

        longest = max(config.train_of(task).seq_len for task in tasks)
        errors += configuration_errors(config.model, family, longest)
        before = config.model.tuned_from
        if before is not None and Path(str(before.name)).is_dir():
            wrong = configuration_errors(before, family, longest)
            errors += [error.replace("model.name", "model.base", 1) for error in wrong]
    if config.model.tokenizer is not None and config.model.template == "chat":
        errors.append(
            "model.template: chat requires a tokenizer with a chat template, and a tokenizer trained here has none"
        )
    for task in tasks:
        if isinstance(task, Conversations) and config.model.template != "chat":
            errors.append(f"model.template: must be chat for {task.name}, whose rows are conversations")
    if config.model.system is not None and config.model.template != "chat":
        errors.append(f"model.system: is used only with model.template: chat, not with {config.model.template}")
    trained = [task for task in tasks if task.name in config.trained()]
    steps = [_known_steps(config.train_of(task).max_duration) for task in trained]
    given = [None] * (len(config.learned()) - len(trained))
    errors += config.method_settings.errors(config.learned(), [*given, *steps])
    sizes = ("train.global_batch_size", *(f"{key}.train.global_batch_size" for key in stream.keys))
    if not any(depends(size, invalid) for size in sizes):
        batches = [config.train_of(task).global_batch_size for task in trained]
        after_first = list(zip(steps, batches, strict=True))[0 if config.from_run is not None else 1 :]
        counts = [count * batch for count, batch in after_first if count is not None]
        errors += filter(None, map(config.method_settings.sequence_error, counts))
    errors += config.method_settings.model_errors(config.model.lora is not None, config.parallelism == "fsdp2")
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1 and config.parallelism == "none":
        errors.append(f"parallelism: {ranks} processes were started, so it must be ddp or fsdp2, not none")
    for task in tasks:
        batch = task.train.get("global_batch_size", config.train.global_batch_size)
        if isinstance(batch, int) and batch % ranks:
            errors.append(f"train.global_batch_size: must be a multiple of the {ranks} ranks, not {batch}")
    return list(dict.fromkeys(errors))


def _of_tuned(config: Config) -> list[str]:
    """Errors of a stream that starts from a tuned model, or of a method that cannot start from one."""
    if config.model.base is None:
        return []
    method, errors = config.method_settings, []
    if any(task.name == TUNED for task in config.tasks):
        errors.append(f"tasks: {TUNED} is reserved for the tuned model in results; give the task another name")
    merges_singles = method.merge_name and (method.ignores_order or method.merges_from)
    if merges_singles and method.needs_past_data:
        errors.append(
            f"model.base: {method.name} needs examples of what each model was tuned on, and has none of name's"
        )
    elif merges_singles and config.model.lora is not None:
        errors.append(
            f"model.base: {method.name} merges the tuned model with others, which are adapters: leave out lora"
        )
    return errors


def _of_continued(config: Config) -> list[str]:
    """Errors of a stream that continues a finished run, with a method that cannot."""
    method = config.method_settings
    if config.from_run is None:
        return []
    if method.ignores_order or method.merges_from:
        return [f"from_run: {method.name} trains on all tasks anew: list them all, without from_run"]
    if method.needs_past_data:
        return [f"from_run: {method.name} needs data of past tasks: list them all, without from_run"]
    return ["from_run: a run is continued in its order: leave order out"] if config.order is not None else []


def _save_folder(config: Config) -> list[str]:
    """Errors in the folder that a run writes to, as far as they can be detected without writing."""
    folder, requirement = config.save_folder.absolute(), "save_folder: must be a folder"
    if set("{}") & set(str(config.save_folder)):
        return [
            f"save_folder: must not contain braces, which Composer treats as placeholders, not {config.save_folder}"
        ]
    try:
        paths = (folder / "stages", folder / config.name, folder, *folder.parents)
        wrong = next((path for path in paths if not path.is_dir() and (path.exists() or path.is_symlink())), None)
    except OSError as error:  # the name is too long, or a folder is not accessible
        return [f"{requirement}: {reason(error)}"]
    if wrong is not None:
        return [f"{requirement}, and {wrong} is {'not a folder' if wrong.exists() else 'a broken link'}"]
    return []


def _known_steps(max_duration: str) -> int | None:
    """Steps of a training; ``None`` if they depend on its data."""
    duration = Duration.parse(max_duration)
    return int(duration.value) if duration.unit == "ba" else None


def _read(path: str | Path, overrides: Sequence[str], errors: list[str]) -> tuple[Overrides, Concealed]:
    """A config's mapping with interpolations resolved, and the interpolations of environment variables. Overrides that
    cannot be read are left out, with a line each in ``errors``.

    Raises:
        ConfigError: the file itself cannot be read, or an interpolation cannot be resolved.
    """
    loaded = _read_file(str(path), errors)
    for override in overrides:
        if re.search("[\\ud800-\\udfff]", override):
            errors.append(f"{override!r}: is not UTF-8 text")
        elif _is_file(override):
            further = _read_file(override, errors)
            loaded = loaded if loaded is None or further is None else merged(loaded, further, override, errors)
        elif "=" not in override.lstrip("="):
            errors.append(f"{override}: an override is written key=value")
        elif loaded is not None:
            _name_task(loaded, override.partition("=")[0])
            update(loaded, override, errors)
    if loaded is None:
        raise ConfigError(str(path), errors)
    try:
        raw = OmegaConf.to_container(loaded, resolve=True)
        concealed = Concealed(OmegaConf.to_container(loaded, resolve=False), raw)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(str(path), [*errors, f"cannot be read: {reason(error)}"]) from error
    return dict(_named(raw)), concealed


def _read_file(name: str, errors: list[str]) -> Any:
    """A file's content; ``None`` after an error."""
    try:
        file = Path(at_home(name))
        if file.exists():
            return read_file(name)
    except Unreadable as error:
        errors += error.reasons
        return None
    except ValueError as error:
        errors.append(str(error))
        return None
    near = difflib.get_close_matches(file.name, [f.name for f in file.parent.glob("*.yaml")], 1)
    errors.append(f"{file}: no such file" + (f"; did you mean {file.parent / near[0]}?" if near else ""))
    return None


def _named(content: Any) -> Any:
    """Nested mappings with strings as keys: YAML also allows numbers and dates."""
    if isinstance(content, dict):
        return {str(key): _named(value) for key, value in content.items()}
    return [_named(value) for value in content] if isinstance(content, list) else content


def _name_task(loaded: Any, key: str) -> None:
    """Replaces a task given only by name with a mapping, if ``key`` is one of its settings."""
    match = re.match(r"(tasks\.\d+)\.", key)
    if match and isinstance(name := OmegaConf.select(loaded, match[1], throw_on_resolution_failure=False), str):
        OmegaConf.update(loaded, match[1], {"name": name})


def _is_file(override: str) -> bool:
    return "=" not in override and override.endswith((".yaml", ".yml"))
