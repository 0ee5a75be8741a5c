"""Reads a pretrained model whole: no layer of it is left as it was drawn at random."""

import contextlib
import copy
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from sfa.errors import SFAError
from sfa.model_files import weight_files
from sfa.tensors import locations

WEIGHTS: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}  # other files of weights are pickles

# Buffers that older versions of transformers kept with the weights, and that follow from the configuration.
_OLD_BUFFERS = re.compile(r"(^|\.)(inv_freq|position_ids|masked_bias|causal_mask)$|(^|\.)(attn|attention)\.bias$")
_ADAPTERS = "it holds adapters of another model: merge them into that (peft: merge_and_unload) and save the whole"
_SHOWN = 3


class ModelError(SFAError):
    """A pretrained model that cannot be had or used."""


def read(kind: Any, name: str, tell: Callable[[str], None] | None = None, **options: Any) -> Any:
    """The model in a folder or of a hub name, float32 on CPU.

    Args:
        kind: its class in ``transformers``.
        name: of the folder or on the hub.
        tell: is given a line where a classifier's head is new; without it, a head may not be.
        options: of ``from_pretrained``.

    Raises:
        ModelError: tensors of the model are not in its files, or in another shape, or the files hold others; all of
            these are ignored by ``transformers``, and what is missing drawn at random. Or the files are damaged, or
            not where they must be.
        OSError: there is no such model, or no file of it.
    """
    if Path(name).is_dir():
        try:
            refuse_adapters(Path(name))
            weight_files(Path(name))
            locations(Path(name))
        except ValueError as error:
            raise ModelError(f"the model {name} cannot be used: {error}") from error
    model, info = kind.from_pretrained(
        name, output_loading_info=True, ignore_mismatched_sizes=True, **options, **WEIGHTS
    )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(f"the model {name} cannot be used: {_ADAPTERS}")
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    mismatched = {key: (list(stored), list(wanted)) for key, stored, wanted in info["mismatched_keys"]}
    unexpected = {key for key in unexpected if not _OLD_BUFFERS.search(key)}
    head, foreign = _allowed(model, missing | mismatched.keys(), unexpected) if tell else (set(), set())
    wrong = [
        *_named("lack", missing - head),
        *_named("hold, and the model does not know,", unexpected - foreign),
        *_named("have in another shape", (f"{k} ({a}, not {b})" for k, (a, b) in mismatched.items() if k not in head)),
        *map(str, [*info.get("error_msgs", ()), *dict(info.get("conversion_errors") or {}).values()]),
    ]
    if wrong:
        raise ModelError(
            f"the model {name} cannot be used: as a {type(model).__name__}, its files {'; they '.join(wrong)}. What is "
            "missing would be drawn at random"
        )
    told = [f"gets a new head, drawn at random: {_some(head)}"] if head else []
    told += [f"does not use all of its files: {_some(foreign)}"] if foreign else []
    if tell and told:
        tell(f"the model {name} {'; it '.join(told)}")
    return model


@contextlib.contextmanager
def model_errors(name: str) -> Iterator[None]:
    """Raises what fails inside as a :class:`ModelError`: the hub and each architecture raise in their own way."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the model {name} cannot be used: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def refuse_adapters(folder: Path) -> None:
    """Raises a ValueError if a folder holds adapters of another model."""
    if (folder / "adapter_config.json").is_file():
        raise ValueError(_ADAPTERS)


def _allowed(model: Any, new: set[str], unexpected: set[str]) -> tuple[set[str], set[str]]:
    """Those tensors of a classifier's head that are new, and those of another head that are left out.

    The head is what depends on the number of labels, and what lies outside the backbone. Of it, all that depends on the
    labels is new, or none.
    """
    labelled, prefix = _labelled(model), model.base_model_prefix + "."
    own = set(model.state_dict())
    backbone = {key for key in own if key.startswith(prefix)} or own - labelled
    head = own - backbone | labelled
    parts = {key.removeprefix(prefix).split(".")[0] for key in own - head}
    foreign = {
        key
        for key in unexpected
        if key.removeprefix(prefix).split(".")[0] not in parts or key.endswith("mask_token")  # of a pretraining
    }
    if new & labelled not in (set(), labelled):
        return set(), foreign
    return new & head, foreign


def _labelled(model: Any) -> set[str]:
    """The tensors whose shape depends on the number of labels."""
    config = copy.deepcopy(model.config)
    config.num_labels = model.config.num_labels + 1
    with torch.device("meta"):
        other = type(model)(config).state_dict()
    return {key for key, tensor in model.state_dict().items() if other[key].shape != tensor.shape}


def _named(what: str, names: Iterable[str]) -> list[str]:
    found = sorted(names)
    return [f"{what} {_some(found)}"] if found else []


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
