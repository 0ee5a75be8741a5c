"""Model folders of a few numbers, and what a folder holds."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*")) if folder.exists() else []


def bare(folder: Path, **tensors: Any) -> Path:
    folder.mkdir(parents=True)
    weights = {name: torch.tensor(value, dtype=torch.float32) for name, value in tensors.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
