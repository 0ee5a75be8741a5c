"""Whether model folders compute the same function of their weights, which tensor shapes do not show."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfa import extras
from sfa.adapters import adapter_settings, check_aligned
from sfa.errors import MergeError, one_line
from sfa.model_files import Settings, other_weights, read_settings

# Config keys that cannot change what a model computes; all others must be equal.
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
_LISTED = 3


def compare(sources: Sequence[Path]) -> list[str]:
    """Compares the configs, adapters, tokenizers and image processors of models before a merge.

    Args:
        sources: model folders; the files of the first are copied to the merged model.

    Returns:
        Notes for the user: what could not be compared, and which differing files are taken from the first model.

    Raises:
        MergeError: two models compute different functions; names every differing key with both values.
    """
    first = sources[0]
    notes: list[str] = []
    for other in sources[1:]:
        differences = _configs(first, other, notes)
        if not differences:  # for different models, differences in tokens and pixels are only noise
            differences = _tokenizers(first, other, notes) + _processors(first, other, notes)
        if differences:
            raise MergeError(f"{first} and {other} cannot be merged: {'; '.join(differences)}", _without_defaults())
        notes += _note_differing_files(first, other)
    notes += check_aligned(sources)
    return list(dict.fromkeys(notes))


def _without_defaults() -> str:
    """A note that omitted settings count as differences, if the packages that know their defaults are not installed."""
    absent = [module for module in ("transformers", "peft") if not extras.installed(module)]
    return f"Defaults that a file leaves out were not compared, without {' and '.join(absent)}" if absent else ""


def _configs(first: Path, other: Path, notes: list[str]) -> list[str]:
    adapted = [folder for folder in (first, other) if (folder / "adapter_config.json").is_file()]
    if len(adapted) == 1:
        return [f"{adapted[0]} holds adapters, and the other a whole model"]
    if adapted:
        differences = _differences(adapter_settings(first, False), adapter_settings(other, False))
        if differences:
            differences = _differences(adapter_settings(first, True), adapter_settings(other, True))
        return differences
    configs = _read_both(first, other, "config.json", notes, "names and shapes of tensors alone were compared with")
    if configs is None:
        return []
    for folder, settings in zip((first, other), configs, strict=True):
        if settings.get("quantization_config"):
            return [f"{folder} is quantized, and only plain weights can be averaged"]
    compared = [_of_function(settings) for settings in configs]
    if _differences(*compared):  # a default may be spelled out in only one of them
        folders = (first, other)
        compared = [
            _of_function(_with_defaults(folder, settings)) for folder, settings in zip(folders, configs, strict=True)
        ]
    classes = [_classes(settings) for settings in compared]
    if None in classes or classes[0] == classes[1]:  # a config may name no class
        compared = [{key: value for key, value in settings.items() if key != "architectures"} for settings in compared]
    flat = [_flat(settings) for settings in configs]
    training = [key for key in _keys_that_differ(*flat) if key in flat[0].keys() & flat[1].keys()]
    training = [key for key in training if _OF_TRAINING.fullmatch(_leaf(key))]
    if training:
        notes.append(f"Settings of training alone differ and are {first}'s: {', '.join(training)}.")
    return _differences(*compared)


def _of_function(settings: Settings) -> Settings:
    """The settings, flat, without those that cannot change the function."""
    relevant = {}
    for key, value in _flat(settings).items():
        if not _HARMLESS.fullmatch(_leaf(key)) and not _OF_TRAINING.fullmatch(_leaf(key)):
            relevant[key] = value
    return relevant


def _classes(settings: Settings) -> list[str] | None:
    """The names of the model's classes without FSDP's prefix."""
    named = settings.get("architectures")
    return [str(name).removeprefix("FSDP") for name in named] if named else None


def _with_defaults(folder: Path, settings: Settings) -> Settings:
    """The config with the defaults of ``transformers``; unchanged if that is not installed or does not know its model
    type."""
    if not extras.installed("transformers"):
        return settings
    import transformers

    import sfa.mlp  # noqa: F401  registers the architecture

    if settings.get("model_type") not in transformers.CONFIG_MAPPING:
        return settings
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return _plain(config.to_dict())


def _tokenizers(first: Path, other: Path, notes: list[str]) -> list[str]:
    """Differences in the tokens of the embedding's rows."""
    with_tokenizer = [
        folder for folder in (first, other) if any((folder / name).is_file() for name in _all_tokenizer_files())
    ]
    if len(with_tokenizer) == 1:
        notes.append(f"Only {with_tokenizer[0]} has a tokenizer: its vocabulary was not compared.")
    if len(with_tokenizer) < 2 or all(_same_bytes(first / name, other / name) for name in _all_tokenizer_files()):
        return []
    vocabularies = [_vocabulary(folder) for folder in (first, other)]
    if None in vocabularies:
        notes.append(f"The tokenizers of {first} and {other} were not compared: that needs transformers.")
        return []
    rows = _rows(first)
    ids, other_ids = ({token: i for token, i in (known or {}).items() if i < rows} for known in vocabularies)
    odd = sorted(
        _keys_that_differ(ids, other_ids), key=lambda token: (ids.get(token, rows), other_ids.get(token, rows))
    )
    if not odd:
        return []
    examples = ", ".join(
        f"{token!r} ({ids.get(token, 'none')} and {other_ids.get(token, 'none')})" for token in odd[:_LISTED]
    )
    return [f"their tokenizers give {len(odd)} tokens other ids: {examples}"]


def _all_tokenizer_files() -> tuple[str, ...]:
    return (*_VOCABULARIES, *_TOKENIZER)


def _rows(folder: Path) -> float:
    """The number of rows of the embedding according to the config: tokens beyond it have no weights."""
    config = read_settings(folder / "config.json") if (folder / "config.json").is_file() else {}
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    return float(size) if size else float("inf")


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """The id of each token; ``None`` if it cannot be read without ``transformers``."""
    if not extras.installed("transformers"):
        return _read_vocabulary(folder / "tokenizer.json")
    from transformers import AutoTokenizer

    try:
        vocabulary: dict[str, int] = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise MergeError(f"the tokenizer in {folder} cannot be read: {one_line(error)}") from error
    return vocabulary


def _read_vocabulary(file: Path) -> dict[str, int] | None:
    """The id of each token in a ``tokenizer.json``, which maps tokens to ids or lists tokens with scores."""
    if not file.is_file():
        return None
    content = read_settings(file)
    tokens = (content.get("model") or {}).get("vocab")
    if isinstance(tokens, list):
        tokens = {token: i for i, (token, _) in enumerate(tokens)}
    return {**(tokens or {}), **{added["content"]: added["id"] for added in content.get("added_tokens") or []}}


def _processors(first: Path, other: Path, notes: list[str]) -> list[str]:
    settings = _read_both(
        first, other, "preprocessor_config.json", notes, "how images are prepared was not compared with"
    )
    if settings is None:
        return []
    differences = _differences(*map(_of_pixels, settings))
    if differences and extras.installed("transformers"):
        from transformers import AutoImageProcessor

        def filled(folder: Path, settings: Settings) -> Settings:
            if "image_processor_type" not in settings:
                return settings
            return _plain(AutoImageProcessor.from_pretrained(folder, trust_remote_code=False).to_dict())

        differences = _differences(
            *(_of_pixels(filled(folder, plain)) for folder, plain in zip((first, other), settings, strict=True))
        )
    return differences


def _of_pixels(settings: Settings) -> Settings:
    """The settings, flat; fast and slow versions of a class count as equal."""
    relevant = {key: value for key, value in _flat(settings).items() if not _OF_PROCESSORS.fullmatch(_leaf(key))}
    if "image_processor_type" in relevant:
        relevant["image_processor_type"] = str(relevant["image_processor_type"]).removesuffix("Fast")
    return relevant


def _read_both(
    first: Path, other: Path, name: str, notes: list[str], consequence: str
) -> tuple[Settings, Settings] | None:
    """The settings in a file of both models; notes if it is missing where that matters."""
    files = [folder / name for folder in (first, other)]
    exist = [file.is_file() for file in files]
    if all(exist):
        return read_settings(files[0]), read_settings(files[1])
    if any(exist) or name == "config.json":
        lacking = files[exist.index(False)].parent
        notes.append(f"{lacking} has no {name}: {consequence} {first if lacking == other else other}.")
    return None


def _note_differing_files(first: Path, other: Path) -> list[str]:
    """A note on files that are copied from the first folder although the other folder's differ."""
    compared = ("config.json", "adapter_config.json", "preprocessor_config.json", "README.md")
    differ = [
        file.name
        for file in sorted(first.iterdir())
        if file.is_file() and file.name not in compared and not other_weights(file)
        if (other / file.name).is_file() and not _same_bytes(file, other / file.name)
    ]
    return [f"Of files that differ, {first}'s are kept: {', '.join(differ)}."] if differ else []


def _same_bytes(first: Path, other: Path) -> bool:
    if first.is_file() != other.is_file():
        return False
    return not first.is_file() or first.read_bytes() == other.read_bytes()


def _differences(first: Settings, other: Settings) -> list[str]:
    def text(settings: Settings, key: str) -> str:
        return json.dumps(settings[key], ensure_ascii=False) if key in settings else "not there"

    return [f"{key} is {text(first, key)} and {text(other, key)}" for key in _keys_that_differ(first, other)]


def _keys_that_differ(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    absent = object()
    return sorted(key for key in first.keys() | other.keys() if first.get(key, absent) != other.get(key, absent))


def _flat(settings: Settings, prefix: str = "") -> Settings:
    """Nested settings with dotted keys; lists are values."""
    flat: Settings = {}
    for key, value in settings.items():
        nested = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _plain(settings: Settings) -> Settings:
    """As JSON represents it: with lists for tuples, and strings as keys."""
    plain: Settings = json.loads(json.dumps(settings, default=str))
    return plain
