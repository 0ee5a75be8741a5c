"""Random augmentation of training images."""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2


class Augment:
    """A random resized crop and a horizontal flip of an item's ``pixel_values``. The draw depends only on the seed and
    the item's position in the training, so a resumed training draws the same."""

    def __init__(self, seed: int):
        self.seed = seed

    def __call__(self, item: dict[str, Tensor], position: int) -> dict[str, Tensor]:
        pixels = item["pixel_values"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0]))
            size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
            crop = v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True)
            return {**item, "pixel_values": v2.RandomHorizontalFlip()(crop(pixels))}
