"""The output of a model's image processor in compact form, equal to the processor's own within :data:`BOUND`."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BOUND = 1e-5  # relative to the largest normalised magnitude, or 1: float32 rounding is a tenth of it
PROBES = ((96, 64), (61, 97), (300, 410))  # heights and widths


class Pixels:
    """Resized images: uint8 levels if :func:`normalised` turns them into the processor's output, otherwise that output
    itself, float32, at four times the size.

    Args:
        processor: the model's image processor.
        channels: channels of the input images, 1 or 3.

    Attributes:
        dtype: of the pixels.

    Raises:
        ValueError: the processor does not turn an image into a single one with these channels.
    """

    def __init__(self, processor: Any, channels: int):
        self.processor, self.channels = processor, channels
        self.dtype: type[np.uint8 | np.float32] = np.uint8 if self._levels_suffice() else np.float32

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """``[channels, height, width]`` from an image of that shape."""
        if self.dtype is np.float32:
            return self._processed(image).astype(np.float32)
        levels: NDArray[np.uint8] = np.clip(np.rint(self._levels(image)), 0, 255).astype(np.uint8)
        return levels

    def _levels_suffice(self) -> bool:
        rng = np.random.default_rng(0)
        for height, width in PROBES:
            image = rng.integers(0, 256, (self.channels, height, width), np.uint8)
            expected = self._processed(image).astype(np.float32)
            try:
                levels = self._levels(image)
            except (TypeError, ValueError):  # this processor does not support unscaled pixels
                return False
            whole = torch.from_numpy(np.clip(np.rint(levels), 0, 255).astype(np.uint8))[None]
            reproduced = normalised(whole, self.processor)[0].numpy()
            if reproduced.shape != expected.shape or np.abs(reproduced - expected).max() > BOUND * max(
                1, np.abs(expected).max()
            ):
                return False
        return True

    def _levels(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        return self._processed(image, do_rescale=False, do_normalize=False)

    def _processed(self, image: NDArray[np.uint8], **options: Any) -> NDArray[Any]:
        output = self.processor([image], input_data_format="channels_first", return_tensors="np", **options)
        pixels = np.asarray(output["pixel_values"]) if "pixel_values" in output else np.zeros(0)
        if pixels.ndim != 4 or pixels.shape[:2] != (1, self.channels):
            raise ValueError(
                f"its image processor turns an image into {list(pixels.shape)}, not [1, {self.channels}, height, width]"
            )
        image_pixels: NDArray[Any] = pixels[0]
        return image_pixels


def normalised(pixels: Tensor, processor: Any) -> Tensor:
    """Float pixels, on the same device, as the model's image processor would output them; ``pixels`` themselves if they
    are floats already."""
    if pixels.is_floating_point():
        return pixels
    scaled = pixels.float()
    if processor.do_rescale:
        scaled = scaled * float(processor.rescale_factor)
    if processor.do_normalize:
        mean, std = (
            torch.tensor(values, device=pixels.device) for values in (processor.image_mean, processor.image_std)
        )
        scaled = (scaled - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    return scaled
