"""Reads a pretrained model completely: no layer is left randomly initialized."""

import contextlib
import copy
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from sfa.errors import SFAError, one_line
from sfa.model_files import weight_files
from sfa.tensors import locations

WEIGHTS: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}  # other weight files are pickles

# Buffers that older versions of transformers saved with the weights, and that follow from the configuration.
_OLD_BUFFERS = re.compile(r"(^|\.)(inv_freq|position_ids|masked_bias|causal_mask)$|(^|\.)(attn|attention)\.bias$")
_ADAPTERS = "it contains adapters of another model: merge them (peft: merge_and_unload) and save the merged model"
_SHOWN = 3


class ModelError(SFAError):
    """A pretrained model that cannot be loaded or used."""


def read(kind: Any, name: str, report: Callable[[str], None] | None = None, **options: Any) -> Any:
    """The model in a folder or with a hub name, float32 on CPU.

    Args:
        kind: its class in ``transformers``.
        name: folder or hub name.
        report: called with a line if a classifier's head is new; if ``None``, new heads are errors.
        options: options of ``from_pretrained``.

    Raises:
        ModelError: tensors are missing, have a different shape or are unexpected; ``transformers`` ignores all of
            these and initializes missing ones randomly. Or files are damaged or misplaced.
        OSError: the model or one of its files does not exist.
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
    head, unused = _allowed(model, missing | mismatched.keys(), unexpected) if report else (set(), set())
    wrong = [
        *_named("lack", missing - head),
        *_named("contain, but the model lacks,", unexpected - unused),
        *_named(
            "have in a different shape", (f"{k} ({a}, not {b})" for k, (a, b) in mismatched.items() if k not in head)
        ),
        *map(str, [*info.get("error_msgs", ()), *dict(info.get("conversion_errors") or {}).values()]),
    ]
    if wrong:
        raise ModelError(
            f"the model {name} cannot be used: as a {type(model).__name__}, its files {'; they '.join(wrong)}. Missing "
            "tensors would be initialized randomly"
        )
    notes = [f"gets a new, randomly initialized head: {_some(head)}"] if head else []
    notes += [f"does not use all of its files: {_some(unused)}"] if unused else []
    if report and notes:
        report(f"the model {name} {'; it '.join(notes)}")
    return model


@contextlib.contextmanager
def model_errors(name: str) -> Iterator[None]:
    """Converts exceptions inside to a :class:`ModelError`: the hub and each architecture raise their own."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the model {name} cannot be used: {one_line(error)}") from error


def refuse_adapters(folder: Path) -> None:
    """Raises a ValueError if a folder contains adapters of another model."""
    if (folder / "adapter_config.json").is_file():
        raise ValueError(_ADAPTERS)


def _allowed(model: Any, new: set[str], unexpected: set[str]) -> tuple[set[str], set[str]]:
    """The new tensors of a classifier's head, and the files' tensors of another head, which are not used.

    The head consists of the tensors that depend on the number of labels and those outside the backbone. Of the former,
    either all are new or none.
    """
    labelled, prefix = _labelled(model), model.base_model_prefix + "."
    names = set(model.state_dict())
    backbone = {key for key in names if key.startswith(prefix)} or names - labelled
    head = names - backbone | labelled
    backbone_parts = {key.removeprefix(prefix).split(".")[0] for key in names - head}
    unused = {
        key
        for key in unexpected
        if key.removeprefix(prefix).split(".")[0] not in backbone_parts
        or key.endswith("mask_token")  # from pretraining
    }
    if new & labelled not in (set(), labelled):
        return set(), unused
    return new & head, unused


def _labelled(model: Any) -> set[str]:
    """The tensors whose shape depends on the number of labels."""
    config = copy.deepcopy(model.config)
    config.num_labels = model.config.num_labels + 1
    with torch.device("meta"):
        resized = type(model)(config).state_dict()
    return {key for key, tensor in model.state_dict().items() if resized[key].shape != tensor.shape}


def _named(what: str, names: Iterable[str]) -> list[str]:
    listed = sorted(names)
    return [f"{what} {_some(listed)}"] if listed else []


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
