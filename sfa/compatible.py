"""Whether model folders compute the same function of their weights, which the shapes of tensors cannot tell."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfa import extras
from sfa.adapters import adapter_settings, check_aligned
from sfa.errors import MergeError
from sfa.model_files import other_weights, read_settings

Settings = dict[str, Any]

# Keys of a config that cannot change what a model computes of its inputs; all others must be equal.
_HARMLESS = re.compile(
    r"_?name_or_path|transformers_version|unsloth_\w+|_commit_hash|(torch_)?dtype|use_cache|return_dict|output_\w+"
    r"|problem_type|finetuning_task|task_specific_params|_?attn_implementation\w*|chunk_size_feed_forward|torchscript"
)
_OF_TRAINING = re.compile(
    r"\w*dropout\w*|\w+_pdrop|drop_path_rate|\w*layerdrop|initializer_\w+|gradient_checkpointing|router_\w+_loss_coef"
)
_OF_PROCESSORS = re.compile(r"_?processor_class|_valid_processor_keys|_?name_or_path|transformers_version")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_VOCABULARIES = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json")
_SHOWN = 3


def compare(sources: Sequence[Path]) -> list[str]:
    """Compares the configs, adapters, tokenizers and image processors of models that are to be merged.

    Args:
        sources: folders; the first is the one whose files go with the merged weights.

    Returns:
        Sentences for who reads of the merge: what could not be compared, and what is the first model's of several.

    Raises:
        MergeError: two of them differ in what changes the function; names every key with both values.
    """
    first = sources[0]
    notes: list[str] = []
    for other in sources[1:]:
        differences = _configs(first, other, notes)
        if not differences:  # tokens and pixels of models that are others anyway would only hide that
            differences = _tokenizers(first, other, notes) + _processors(first, other, notes)
        if differences:
            raise MergeError(f"{first} and {other} cannot be merged: {'; '.join(differences)}", _without_defaults())
        notes += _files_of_the_first(first, other)
    notes += check_aligned(sources)
    return list(dict.fromkeys(notes))


def _without_defaults() -> str:
    """Where what a file leaves out counts as a difference, because what knows its default is not installed."""
    absent = [module for module in ("transformers", "peft") if not extras.installed(module)]
    return f"Defaults that a file leaves out were not compared, without {' and '.join(absent)}" if absent else ""


def _configs(first: Path, other: Path, notes: list[str]) -> list[str]:
    adapted = [folder for folder in (first, other) if (folder / "adapter_config.json").is_file()]
    if len(adapted) == 1:
        return [f"{adapted[0]} holds adapters, and the other a whole model"]
    if adapted:
        found = _differences(adapter_settings(first, False), adapter_settings(other, False))
        if found:
            found = _differences(adapter_settings(first, True), adapter_settings(other, True))
        return found
    pair = _pair(first, other, "config.json", notes, "names and shapes of tensors alone were compared with")
    if pair is None:
        return []
    for folder, settings in zip((first, other), pair, strict=True):
        if settings.get("quantization_config"):
            return [f"{folder} is quantized, and only plain weights can be averaged"]
    one, two = (_of_function(settings) for settings in pair)
    if _differences(one, two):  # defaults that only one of them spells out are equal
        one, two = (_of_function(_with_defaults(*given)) for given in zip((first, other), pair, strict=True))
    classes = [_classes(settings) for settings in (one, two)]
    if None in classes or classes[0] == classes[1]:  # one that names none says nothing
        one, two = ({key: value for key, value in own.items() if key != "architectures"} for own in (one, two))
    flat = [_flat(settings) for settings in pair]
    training = [key for key in _keys_that_differ(*flat) if key in flat[0].keys() & flat[1].keys()]
    training = [key for key in training if _OF_TRAINING.fullmatch(_leaf(key))]
    if training:
        notes.append(f"Settings of training alone differ and are {first}'s: {', '.join(training)}.")
    return _differences(one, two)


def _of_function(settings: Settings) -> Settings:
    """The settings, flat, without those that cannot change the function."""
    found = {}
    for key, value in _flat(settings).items():
        if not _HARMLESS.fullmatch(_leaf(key)) and not _OF_TRAINING.fullmatch(_leaf(key)):
            found[key] = value
    return found


def _classes(settings: Settings) -> list[str] | None:
    """Of the model, as they are called unsharded."""
    named = settings.get("architectures")
    return [str(name).removeprefix("FSDP") for name in named] if named else None


def _with_defaults(folder: Path, settings: Settings) -> Settings:
    """The config as ``transformers`` fills it in; as it is, if its model type is none that it knows, or without it."""
    if not extras.installed("transformers"):
        return settings
    import transformers

    import sfa.mlp  # noqa: F401  registers the architecture

    if settings.get("model_type") not in transformers.CONFIG_MAPPING:
        return settings
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return _plain(config.to_dict())


def _tokenizers(first: Path, other: Path, notes: list[str]) -> list[str]:
    """The tokens whose rows of the embedding mean something else in the other model."""
    having = [folder for folder in (first, other) if any((folder / name).is_file() for name in _all_tokenizer_files())]
    if len(having) == 1:
        notes.append(f"Only {having[0]} has a tokenizer: its vocabulary was not compared.")
    if len(having) < 2 or all(_same_bytes(first / name, other / name) for name in _all_tokenizer_files()):
        return []
    vocabularies = [_vocabulary(folder) for folder in (first, other)]
    if None in vocabularies:
        notes.append(f"The tokenizers of {first} and {other} were not compared: that needs transformers.")
        return []
    rows = _rows(first)
    one, two = ({token: i for token, i in (known or {}).items() if i < rows} for known in vocabularies)
    odd = sorted(_keys_that_differ(one, two), key=lambda token: (one.get(token, rows), two.get(token, rows)))
    if not odd:
        return []
    some = ", ".join(f"{token!r} ({one.get(token, 'none')} and {two.get(token, 'none')})" for token in odd[:_SHOWN])
    return [f"their tokenizers give {len(odd)} tokens other ids: {some}"]


def _all_tokenizer_files() -> tuple[str, ...]:
    return (*_VOCABULARIES, *_TOKENIZER)


def _rows(folder: Path) -> float:
    """Of the embedding, as far as the config tells: tokens beyond it have no weights."""
    config = read_settings(folder / "config.json") if (folder / "config.json").is_file() else {}
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    return float(size) if size else float("inf")


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """The id of each token; ``None`` where it cannot be read, without ``transformers``."""
    if not extras.installed("transformers"):
        return _of_the_file(folder / "tokenizer.json")
    from transformers import AutoTokenizer

    try:
        found: dict[str, int] = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise MergeError(f"the tokenizer in {folder} cannot be read: {' '.join(str(error).split())}") from error
    return found


def _of_the_file(file: Path) -> dict[str, int] | None:
    """The id of each token in a ``tokenizer.json``, whose vocabulary holds ids by token or pairs of token and score."""
    if not file.is_file():
        return None
    content = read_settings(file)
    tokens = (content.get("model") or {}).get("vocab")
    if isinstance(tokens, list):
        tokens = {token: i for i, (token, _) in enumerate(tokens)}
    return {**(tokens or {}), **{added["content"]: added["id"] for added in content.get("added_tokens") or []}}


def _processors(first: Path, other: Path, notes: list[str]) -> list[str]:
    pair = _pair(first, other, "preprocessor_config.json", notes, "how images are prepared was not compared with")
    if pair is None:
        return []
    found = _differences(*map(_of_pixels, pair))
    if found and extras.installed("transformers"):
        from transformers import AutoImageProcessor

        def filled(folder: Path, settings: Settings) -> Settings:
            if "image_processor_type" not in settings:
                return settings
            return _plain(AutoImageProcessor.from_pretrained(folder, trust_remote_code=False).to_dict())

        found = _differences(*(_of_pixels(filled(*one)) for one in zip((first, other), pair, strict=True)))
    return found


def _of_pixels(settings: Settings) -> Settings:
    """The settings, flat; that one class is written in C++ and the other in Python does not count."""
    found = {key: value for key, value in _flat(settings).items() if not _OF_PROCESSORS.fullmatch(_leaf(key))}
    if "image_processor_type" in found:
        found["image_processor_type"] = str(found["image_processor_type"]).removesuffix("Fast")
    return found


def _pair(first: Path, other: Path, name: str, notes: list[str], lacking: str) -> tuple[Settings, Settings] | None:
    """A file of both; if one has none, or both, that is noted where it matters."""
    files = [folder / name for folder in (first, other)]
    there = [file.is_file() for file in files]
    if all(there):
        return read_settings(files[0]), read_settings(files[1])
    if any(there) or name == "config.json":
        bare = files[there.index(False)].parent
        notes.append(f"{bare} has no {name}: {lacking} {first if bare == other else other}.")
    return None


def _files_of_the_first(first: Path, other: Path) -> list[str]:
    """Tells of files that go with the merged weights as they are in the first folder, though the other has others."""
    compared = ("config.json", "adapter_config.json", "preprocessor_config.json", "README.md")
    differ = [
        file.name
        for file in sorted(first.iterdir())
        if file.is_file() and file.name not in compared and not other_weights(file)
        if (other / file.name).is_file() and not _same_bytes(file, other / file.name)
    ]
    return [f"Of files that differ, {first}'s are kept: {', '.join(differ)}."] if differ else []


def _same_bytes(one: Path, two: Path) -> bool:
    if one.is_file() != two.is_file():
        return False
    return not one.is_file() or one.read_bytes() == two.read_bytes()


def _differences(one: Settings, two: Settings) -> list[str]:
    def shown(settings: Settings, key: str) -> str:
        return json.dumps(settings[key], ensure_ascii=False) if key in settings else "not there"

    return [f"{key} is {shown(one, key)} and {shown(two, key)}" for key in _keys_that_differ(one, two)]


def _keys_that_differ(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    absent = object()
    return sorted(key for key in one.keys() | two.keys() if one.get(key, absent) != two.get(key, absent))


def _flat(settings: Settings, prefix: str = "") -> Settings:
    """Nested settings with dotted keys; lists are values."""
    found: Settings = {}
    for key, value in settings.items():
        nested = isinstance(value, dict) and value
        found |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _plain(settings: Settings) -> Settings:
    """As JSON holds it: tuples are lists, and keys text."""
    found: Settings = json.loads(json.dumps(settings, default=str))
    return found
