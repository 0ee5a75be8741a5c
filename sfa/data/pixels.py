"""What a model's image processor makes of images, kept small: its own output is the reference, to :data:`BOUND`."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BOUND = 1e-5  # of the largest magnitude of a normalised pixel, or of 1: float32's rounding is a tenth of it
PROBES = ((96, 64), (61, 97), (300, 410))  # heights and widths


class Pixels:
    """Resized images: levels, uint8, where :func:`normalised` makes of them what the processor makes of the images, and
    else the processor's own output, float32, at four times the size.

    Args:
        processor: of the model.
        channels: of the images that it is given, 1 or 3.

    Attributes:
        dtype: of the pixels.

    Raises:
        ValueError: the processor makes something other than one picture with these channels of an image.
    """

    def __init__(self, processor: Any, channels: int):
        self.processor, self.channels = processor, channels
        self.dtype: type[np.uint8 | np.float32] = np.uint8 if self._levels_do() else np.float32

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """``[channels, height, width]`` of an image of such a shape."""
        if self.dtype is np.float32:
            return self._processed(image).astype(np.float32)
        whole: NDArray[np.uint8] = np.clip(np.rint(self._levels(image)), 0, 255).astype(np.uint8)
        return whole

    def _levels_do(self) -> bool:
        rng = np.random.default_rng(0)
        for height, width in PROBES:
            image = rng.integers(0, 256, (self.channels, height, width), np.uint8)
            wanted = self._processed(image).astype(np.float32)
            try:
                levels = self._levels(image)
            except (TypeError, ValueError):  # such a processor does not know pixels that are not scaled
                return False
            whole = torch.from_numpy(np.clip(np.rint(levels), 0, 255).astype(np.uint8))[None]
            found = normalised(whole, self.processor)[0].numpy()
            if found.shape != wanted.shape or np.abs(found - wanted).max() > BOUND * max(1, np.abs(wanted).max()):
                return False
        return True

    def _levels(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        return self._processed(image, do_rescale=False, do_normalize=False)

    def _processed(self, image: NDArray[np.uint8], **options: Any) -> NDArray[Any]:
        made = self.processor([image], input_data_format="channels_first", return_tensors="np", **options)
        found = np.asarray(made["pixel_values"]) if "pixel_values" in made else np.zeros(0)
        if found.ndim != 4 or found.shape[:2] != (1, self.channels):
            raise ValueError(
                f"its image processor makes {list(found.shape)} of an image, where [1, {self.channels}, height, width] "
                "is needed"
            )
        one: NDArray[Any] = found[0]
        return one


def normalised(pixels: Tensor, processor: Any) -> Tensor:
    """Float pixels, on the device that they are on, as the model's image processor would make them; ``pixels``
    themselves if they are floats already."""
    if pixels.is_floating_point():
        return pixels
    found = pixels.float()
    if processor.do_rescale:
        found = found * float(processor.rescale_factor)
    if processor.do_normalize:
        mean, std = (
            torch.tensor(values, device=pixels.device) for values in (processor.image_mean, processor.image_std)
        )
        found = (found - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    return found
