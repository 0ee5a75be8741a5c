"""Checks of ``peft`` adapters before averaging: equal scales, and aligned factors."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfa import extras
from sfa.errors import MergeError, one_line
from sfa.model_files import Settings, read_settings
from sfa.tensors import locations, read

_HARMLESS = re.compile(
    r"inference_mode|\w*dropout|auto_mapping|base_model_class|parent_library|peft_version|runtime_config"
)
_SETS = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "target_parameters")
# Randomly initialized factors of LoRA, LoHa and LoKr. The other factor of each pair starts from zero.
_FIRST_FACTOR = re.compile(r"\.(lora_(embedding_)?A|hada_w[12]_b|lokr_w1_b|lokr_w2(_[ab])?)(\.|$)")

# The least cosine between the first factors of two adapters with a common initialization. For two random
# initializations it is 0 ± 1/√n, for n entries; for one, trained on two tasks, it stays well above this.
ALIGNED = 0.25

PRODUCTS = (
    "These are adapters: their factors A and B are averaged, each for itself, as an average during training does. The "
    "product of averaged factors is not the average of the products B·A: it has terms of one model's B with another's "
    "A. To average what the adapters do, merge each into its base model first and then the models."
)


def adapter_settings(folder: Path, filled: bool) -> Settings:
    """The settings that, besides tensors, determine the function of the adapters in a folder, comparable with ``==``.

    Args:
        folder: folder with an ``adapter_config.json``.
        filled: add ``peft``'s defaults for omitted settings, if it is installed.

    Raises:
        MergeError: the file is damaged.
    """
    try:
        settings = read_settings(folder / "adapter_config.json")
        if filled and extras.installed("peft"):
            from peft import PeftConfig

            settings = dict(PeftConfig.from_pretrained(str(folder)).to_dict())
    except (ValueError, TypeError, KeyError) as error:
        raise MergeError(f"{folder / 'adapter_config.json'} cannot be read: {one_line(error)}") from error
    for key in _SETS:
        if isinstance(settings.get(key), list | set | tuple):
            settings[key] = sorted(settings[key], key=str)
    base = settings.get("base_model_name_or_path")
    if base and Path(base).is_dir():
        settings["base_model_name_or_path"] = str(Path(base).resolve())
    settings["revision"] = settings.get("revision") or "main"
    relevant = {key: value for key, value in settings.items() if not _HARMLESS.fullmatch(key)}
    plain: Settings = json.loads(json.dumps(relevant, default=str))
    return plain


def check_aligned(sources: Sequence[Path]) -> list[str]:
    """Compares the first factors of low-rank adapters, with one tensor of each model in memory at a time.

    Returns:
        Notes on a merge of adapters; empty for other models.

    Raises:
        MergeError: two adapters have different random initializations, so that their entries do not correspond.
    """
    places = [locations(source) for source in sources]
    names = [name for name in places[0] if _FIRST_FACTOR.search(name) and all(name in files for files in places)]
    if not names:
        return []
    for source, files in zip(sources[1:], places[1:], strict=True):
        cosine = _cosine(names, places[0], files)
        if cosine < ALIGNED:
            raise MergeError(
                f"{sources[0]} and {source} cannot be merged: the factors A of their adapters are of different random "
                f"draws (cosine {cosine:.3f}), and averages of such factors mean nothing; merge each into its base "
                "model (peft: merge_and_unload) and then the models"
            )
    return [PRODUCTS]


def _cosine(names: Sequence[str], files: Mapping[str, Path], other_files: Mapping[str, Path]) -> float:
    """The cosine between all these tensors as one vector; 1 if one is zero or not finite, which other checks report."""
    product = first = second = 0.0
    for name in names:
        a, b = read(files[name], name).double(), read(other_files[name], name).double()
        if a.shape != b.shape:
            return 1.0
        product, first, second = (
            product + float((a * b).sum()),
            first + float((a * a).sum()),
            second + float((b * b).sum()),
        )
    norm = math.sqrt(first * second)
    return product / norm if norm and math.isfinite(norm) else 1.0
