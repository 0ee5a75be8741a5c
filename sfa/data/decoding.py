"""Images as displayed, in 8 bits: photographs upright, transparency over white."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # decoders of rarer formats are less hardened
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


class UnreadableImage(OSError):
    """A value that is not an image, or whose interpretation would be a guess."""


def decode(image: Any, channels: int) -> NDArray[np.uint8]:
    """``[channels, height, width]`` of an image, grey or RGB.

    A photograph is rotated according to its EXIF data, transparency is composed over white, an animation is its first
    frame, and 16 bits are scaled to 8. Arrays and lists are ``[height, width]`` with or without 1, 3 or 4 channels,
    first or last: whole numbers from 0 to 255, unsigned integers of 16 bits, floats from 0 to 1, or booleans.

    Args:
        image: a PIL image, an array, lists of numbers, an encoded file's bytes, its path, or ``{bytes, path}``.
        channels: 1 or 3.

    Raises:
        UnreadableImage: it is none of these, truncated, or too large.
    """
    picture = _flat(_opened(image)).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(picture)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def content(image: Any) -> bytes:
    """What identifies an image: its file's bytes, or its values; the path if the file does not exist."""
    if isinstance(image, Mapping):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if isinstance(image, bytes):
        return image
    if isinstance(image, str):
        return Path(image).read_bytes() if Path(image).is_file() else image.encode()
    return repr(image.tolist() if isinstance(image, np.ndarray) else image).encode()


def _opened(image: Any) -> Image.Image:
    if isinstance(image, Mapping):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if image is None:
        raise UnreadableImage("there is no image")
    if isinstance(image, np.ndarray | list | tuple):
        return Image.fromarray(_levels(image))
    if not isinstance(image, Image.Image | bytes | str | Path):
        raise UnreadableImage(f"{type(image).__name__} is neither an image nor the bytes or the path of one")
    if isinstance(image, str | Path) and not Path(image).is_file():
        raise UnreadableImage(f"{image} is not a file")  # reading a pipe or a device might never end
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if not isinstance(image, Image.Image):
                image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS)
            return ImageOps.exif_transpose(image)
    except Exception as error:  # each of Pillow's decoders raises its own errors
        raise UnreadableImage(str(error) or type(error).__name__) from error


def _flat(image: Image.Image) -> Image.Image:
    """The image in 8 bits and without transparency."""
    try:
        if image.mode.startswith("I;16"):
            values = np.asarray(image).astype(np.uint16)
            clear = image.info.get("transparency")  # the one value that is transparent
            return Image.fromarray(np.where(values == clear, 255, _levels(values)).astype(np.uint8))
        if image.mode == "I":
            values = np.asarray(image)
            if not 255 < values.max() <= 65535 or values.min() < 0:
                raise UnreadableImage("its 32-bit values do not fit 16 bits, and their range is unknown")
            return Image.fromarray(_levels(values.astype(np.uint16)))
        if image.mode == "F":
            return Image.fromarray(_levels(np.asarray(image)))
        if image.has_transparency_data:
            above = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), above).convert("RGB")
        return image.convert("RGB" if image.mode not in ("1", "L") else "L")
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(str(error) or type(error).__name__) from error


def _levels(image: Any) -> NDArray[np.uint8]:
    """Levels from 0 to 255, ``[height, width]`` or ``[height, width, 3 or 4]``, of numbers in an array or lists."""
    try:
        values = np.asarray(image)
    except ValueError as error:
        raise UnreadableImage(f"its rows of pixels differ in length: {error}") from error
    values = _channels_last(values)
    if not values.size:
        raise UnreadableImage("it has no pixels")
    if values.dtype == np.bool_:
        return np.where(values, 255, 0).astype(np.uint8)
    if values.dtype == np.uint16:
        return np.rint(values / 257).astype(np.uint8)
    most = 1 if values.dtype.kind == "f" else 255
    if values.dtype.kind not in "iuf" or not (values.min() >= 0 and values.max() <= most):
        raise UnreadableImage(
            "pixels must be whole numbers from 0 to 255, unsigned 16-bit integers, or floats from 0 to 1; "
            f"these are {values.dtype}"
            + (f" from {values.min()} to {values.max()}" if values.dtype.kind in "iuf" else "")
        )
    return np.rint(values.astype(np.float64) * (255 / most)).astype(np.uint8)


def _channels_last(values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim == 2:
        return values
    first, last = (values.ndim == 3 and values.shape[axis] in CHANNELS for axis in (0, -1))
    if first == last:
        raise UnreadableImage(f"the axes of pixels of shape {list(values.shape)} are not height, width and channels")
    values = np.moveaxis(values, 0, -1) if first else values
    return np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values)
