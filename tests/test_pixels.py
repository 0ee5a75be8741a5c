"""Images as a person sees them, and as the model's image processor makes them: its own output is the reference."""

import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from PIL import Image
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from eval.evaluator import Evaluations
from eval.kind import Settings
from sfa.data.augment import Augment
from sfa.data.image_arrays import ImageArrays
from sfa.data.images import Images, decode
from sfa.data.pixels import BOUND, Pixels, normalised
from sfa.data.source import SourceError
from sfa.families.image_classifier import ImageClassifier
from sfa.models.building import build, configuration_errors
from sfa.models.pretrained import ModelError
from sfa.models.settings import Model
from sfa.stages.composer_model import StageModel

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
NOISE = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photograph_is_upright(kind: str) -> None:
    """Orientation 6: the camera lay on its side, and viewers turn the file by a quarter to the right."""
    lossless = {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(np.vstack([np.zeros((16, 32), np.uint8), np.full((16, 32), 255, np.uint8)]))
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(encoded(image.convert("RGB"), kind, exif=exif, **lossless), 1)[0]
    assert decoded.shape == (32, 32) and decoded[:, :16].min() == 255 and decoded[:, 16:].max() == 0


SIXTEEN = np.array([[0, 255, 256, 257 * 128, 65535]], np.uint16)
LEVELS = [0, 1, 1, 128, 255]
CLEAR = Image.fromarray(np.zeros((1, 2, 4), np.uint8))  # black, and seen through
CLEAR.putpixel((1, 0), (0, 0, 0, 255))
PALETTE = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
PALETTE.putpalette([0, 0, 0, 10, 20, 30])
GIF = [Image.new("L", (2, 1), level) for level in (40, 200)]
READ: dict[str, tuple[Any, int, Any]] = {
    "16 bits": (encoded(Image.fromarray(SIXTEEN)), 1, [[LEVELS]]),
    "16 bits in colour": (encoded(Image.fromarray(SIXTEEN)), 3, [[LEVELS]] * 3),
    "16 bits, one value clear": (encoded(Image.fromarray(SIXTEEN), transparency=0), 1, [[[255, *LEVELS[1:]]]]),
    "16 bits in an array": (SIXTEEN, 1, [[LEVELS]]),
    "16 bits in 32": (Image.fromarray(SIXTEEN.astype(np.int32)), 1, [[LEVELS]]),
    "floats": (Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), 1, [[[0, 128, 255]]]),
    "a clear drawing": (encoded(CLEAR), 3, [[[255, 0]]] * 3),
    "a clear drawing in grey": (encoded(CLEAR.convert("LA")), 1, [[[255, 0]]]),
    "a clear palette": (encoded(PALETTE, transparency=0), 3, [[[255, 10]], [[255, 20]], [[255, 30]]]),
    "clear bytes of a palette": (encoded(PALETTE, transparency=b"\0\xff"), 1, [[[255, 18]]]),
    "a clear GIF": (encoded(PALETTE, "GIF", transparency=1), 1, [[[0, 255]]]),
    "a clear colour": (encoded(CLEAR.convert("RGB"), transparency=(0, 0, 0)), 1, [[[255, 255]]]),
    "half clear": (Image.new("RGBA", (1, 1), (0, 0, 0, 51)), 1, [[[204]]]),
    "one bit": (encoded(Image.fromarray(np.array([[False, True]]))), 1, [[[0, 255]]]),
    "an animation": (encoded(GIF[0], "GIF", save_all=True, append_images=GIF[1:]), 1, [[[40, 40]]]),
    "CMYK": (encoded(Image.new("CMYK", (1, 1), (0, 0, 0, 255)), "JPEG"), 3, [[[0]], [[0]], [[0]]]),
    "lists": ([[0, 128], [255, 3]], 1, [[[0, 128], [255, 3]]]),
    "lists in colour": ([[[1, 2, 3]], [[4, 5, 6]]], 3, [[[1], [4]], [[2], [5]], [[3], [6]]]),
    "channels first": (np.arange(12).reshape(3, 2, 2), 3, np.arange(12).reshape(3, 2, 2)),
    "channels last": (np.arange(12).reshape(2, 2, 3), 3, np.arange(12).reshape(2, 2, 3).transpose(2, 0, 1)),
    "one channel": (RAMP[None], 1, RAMP[None]),
    "four channels": (np.array([[[9, 9, 9, 0]], [[9, 9, 9, 255]]]), 1, [[[255], [9]]]),
    "floats in lists": ([[0.0, 0.5, 1.0]], 1, [[[0, 128, 255]]]),
    "booleans": ([[True, False]], 1, [[[255, 0]]]),
    "a path": ({"bytes": None, "path": "{folder}/a.png"}, 1, RAMP[None]),
}


@pytest.mark.parametrize("case", READ)
def test_an_image_in_any_form_has_the_levels_that_it_shows(case: str, tmp_path: Path) -> None:
    image, channels, expected = READ[case]
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    if isinstance(image, dict):
        image = {**image, "path": image["path"].format(folder=tmp_path)}
    decoded = decode(image, channels)
    assert decoded.dtype == np.uint8 and decoded.tolist() == np.asarray(expected).tolist()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "PA"])
def test_an_opaque_image_keeps_its_levels(mode: str) -> None:
    image = Image.fromarray(RAMP).convert(mode)
    assert np.array_equal(decode(image, 1)[0], RAMP) and np.array_equal(decode(image, 3), [RAMP] * 3)


def bomb(width: int, height: int) -> bytes:
    """A PNG that says to be of this size."""
    content = bytearray(encoded(Image.new("1", (8, 8))))
    content[16:24] = width.to_bytes(4) + height.to_bytes(4)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    return bytes(content)


UNREADABLE: dict[str, Any] = {
    "nothing": None,
    "no bytes": {"bytes": None, "path": None},
    "text for bytes": {"bytes": "x", "path": None},
    "a number": 7,
    "empty": b"",
    "truncated": encoded(Image.fromarray(NOISE), "JPEG")[:-200],
    "another format": encoded(Image.new("L", (2, 2)), "TIFF"),
    "90 million pixels": bomb(10_000, 9_000),
    "200 million pixels": bomb(20_000, 10_000),
    "32 bits": Image.fromarray(np.array([[0, 70_000]], np.int32)),
    "8 bits or 16": Image.fromarray(np.array([[0, 200]], np.int32)),
    "floats to 255": [[0.0, 200.0]],
    "not a number": [[float("nan"), 0.0]],
    "levels over 255": [[0, 256]],
    "negative levels": [[-1, 0]],
    "words": [["a", "b"]],
    "rows of two lengths": [[1, 2], [3]],
    "no rows": [],
    "one row": [1, 2, 3],
    "two channels": np.zeros((2, 5, 5), np.uint8),
    "channels on either side": np.zeros((3, 5, 3), np.uint8),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_image_that_would_have_to_be_guessed_is_reported_in_one_line_or_left_out(case: str) -> None:
    rows = [{"image": RAMP, "label": 0}, {"image": UNREADABLE[case], "label": 1}]
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])

    class Pair(Images):
        def rows(self, split: Any) -> Any:
            return rows

    task = Pair(name="m", source="x", classes=2)
    with pytest.raises(SourceError, match=r"row 1(\)|) is not a readable image: .+; tasks.….skip_unreadable") as caught:
        ImageArrays(processor).examples(task, 2, 0)
    assert "\n" not in str(caught.value)
    kept = ImageArrays(processor).examples(task.model_copy(update={"skip_unreadable": True}), 2, 0)
    assert [int(example["labels"]) for example in kept] == [0]


GREY: dict[str, Any] = {"size": {"height": 12, "width": 12}, "image_mean": [0.3], "image_std": [0.2]}
SMALL: dict[str, Any] = {"size": {"height": 24, "width": 20}}
CROP: dict[str, Any] = {"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 24}}
PROCESSORS: dict[str, tuple[str, dict[str, Any], type]] = {
    "vit": ("ViT", SMALL, np.uint8),
    "not normalised": ("ViT", {**SMALL, "do_normalize": False}, np.uint8),
    "not rescaled": ("ViT", {**SMALL, "do_rescale": False}, np.uint8),
    "neither": ("ViT", {**SMALL, "do_rescale": False, "do_normalize": False}, np.uint8),
    "another scale": ("ViT", {**SMALL, "rescale_factor": 1 / 127.5}, np.uint8),
    "nearest": ("ViT", {**SMALL, "resample": 0}, np.uint8),
    "bicubic": ("ViT", {**SMALL, "resample": 3}, np.uint8),
    "grey": ("ViT", GREY, np.uint8),
    "cropped": ("Bit", {**CROP, "do_convert_rgb": True}, np.uint8),
    "cropped and padded": ("CLIP", {**CROP, "crop_size": {"height": 40, "width": 40}}, np.uint8),
    "mobilevit": ("MobileViT", {**CROP}, np.uint8),
    "mobilevit, not flipped": ("MobileViT", {**CROP, "do_flip_channel_order": False}, np.uint8),
    "mobilenet": ("MobileNetV2", CROP, np.uint8),
    "efficientnet": ("EfficientNet", SMALL, np.float32),
    "efficientnet, not centred": ("EfficientNet", {**SMALL, "rescale_offset": False, "include_top": False}, np.uint8),
    "convnext": ("ConvNext", {"size": {"shortest_edge": 30}, "crop_pct": 0.9}, np.uint8),
    "beit": ("Beit", {**SMALL, "do_center_crop": True, "crop_size": {"height": 18, "width": 18}}, np.uint8),
    "deit": ("DeiT", CROP, np.uint8),
    "levit": ("Levit", CROP, np.uint8),
    "siglip": ("Siglip", SMALL, np.uint8),
    "segformer": ("Segformer", SMALL, np.uint8),
    "poolformer": ("PoolFormer", {"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 24}}, np.uint8),
}


@pytest.mark.parametrize("backend", ["", "Pil"])
@pytest.mark.parametrize("case", PROCESSORS)
def test_the_model_sees_what_its_processor_makes_of_the_image(case: str, backend: str) -> None:
    kind, options, dtype = PROCESSORS[case]
    processor = getattr(transformers, f"{kind}ImageProcessor{backend}")(**options)
    pixels = Pixels(processor, 1 if case == "grey" else 3)
    assert pixels.dtype == dtype
    for size in ((40, 50), (64, 33), (200, 130)):
        image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8))
        image = image.convert("L") if case == "grey" else image
        wanted = np.asarray(processor(image, return_tensors="np")["pixel_values"], np.float32)
        normal = normalised(torch.from_numpy(pixels(decode(image, pixels.channels)))[None], processor).numpy()
        assert normal.shape == wanted.shape and normal.dtype == np.float32
        assert np.abs(normal - wanted).max() <= BOUND * max(1, np.abs(wanted).max())


def test_a_processor_that_makes_patches_instead_of_a_picture_is_reported() -> None:
    with pytest.raises(ValueError, match=r"its image processor turns an image into \[1, 256, 768\]"):
        Pixels(transformers.Siglip2ImageProcessor(), 3)


class Seen(nn.Module):
    """A model that keeps what it is given."""

    def __init__(self, config: Any):
        super().__init__()
        self.config, self.weight = config, nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values: torch.Tensor) -> Any:
        self.pixels = pixel_values
        return transformers.modeling_outputs.ImageClassifierOutput(logits=pixel_values.flatten(1)[:, :4])


@pytest.mark.parametrize("kind", ["EfficientNet", "MobileViT"])
def test_training_and_evaluation_see_the_processor_s_own_output(kind: str, tmp_path: Path) -> None:
    options = SMALL if kind == "EfficientNet" else CROP
    processor = getattr(transformers, f"{kind}ImageProcessor")(**options)
    (tmp_path / "d").mkdir()
    image = Image.fromarray(NOISE)
    table = pa.table({"image": [{"bytes": encoded(image), "path": None}] * 2, "label": [0, 1]})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / "d" / f"{split}.parquet")
    task = Images(name="m", source=str(tmp_path / "d"), classes=4)
    (packed,), _ = ImageArrays(processor).training([task], 0, tmp_path / "cache")
    model = Seen(transformers.EfficientNetConfig())
    wanted = torch.from_numpy(np.asarray(processor([image], return_tensors="np")["pixel_values"], np.float32))
    StageModel(model, processor)({"pixel_values": torch.from_numpy(np.array(packed["pixel_values"]))})
    torch.testing.assert_close(model.pixels, wanted.expand_as(model.pixels), rtol=0, atol=BOUND)
    Evaluations(["m_accuracy"], [task], Settings(cache=tmp_path / "cache", batch_size=2))(model, processor)
    torch.testing.assert_close(model.pixels, wanted.expand_as(model.pixels), rtol=0, atol=BOUND)
    item = {"pixel_values": torch.from_numpy(np.array(packed["pixel_values"][0]))}
    changed = Augment(3)(item, 0)["pixel_values"]
    assert changed.shape == item["pixel_values"].shape and changed.dtype == item["pixel_values"].dtype


def test_pixels_in_lists_and_labels_in_digits_are_read(tmp_path: Path) -> None:
    rows = [{"image": (RAMP * (i == 1)).tolist(), "label": str(i % 2)} for i in range(3)]
    (tmp_path / "d").mkdir()
    for split in ("train", "test"):
        (tmp_path / "d" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    processor = ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5], image_std=[0.5])
    task = Images(name="m", source=str(tmp_path / "d"), classes=2)
    packed, _ = ImageArrays(processor).split(task, "train", tmp_path / "cache")
    assert packed["labels"].tolist() == [0, 1, 0] and np.array_equal(packed["pixel_values"][1, 0], RAMP)
    (tmp_path / "d" / "test.jsonl").write_text('{"image": [[0]], "label": true}')
    with pytest.raises(SourceError, match="label must hold whole numbers from 0 to 1, not True"):
        task.rows("test")


def test_images_that_the_processor_leaves_in_several_sizes_are_reported(tmp_path: Path) -> None:
    processor = ViTImageProcessor(do_resize=False, image_mean=[0.5], image_std=[0.5])
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.jsonl").write_text('{"image": [[0, 1]], "label": 0}\n{"image": [[0, 1, 2]], "label": 1}\n')
    task = Images(name="m", source=str(tmp_path / "d"), classes=2)
    (tmp_path / "d" / "test.jsonl").write_text('{"image": [[0, 1]], "label": 0}\n')
    assert ImageArrays(processor).split(task, "test", tmp_path / "cache")[0]["pixel_values"].shape == (1, 1, 1, 2)
    with pytest.raises(SourceError, match="row 1: the model's image processor makes images of 1 × 2 and 1 × 3 pixels"):
        ImageArrays(processor).split(task, "train", tmp_path / "cache")


TINY: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
TINY |= {"image_size": 16, "patch_size": 8}


@pytest.mark.parametrize(
    ("channels", "processor", "message"),
    [
        (3, {"size": {"height": 16, "width": 16}}, ""),
        (1, {"size": {"height": 16, "width": 16}, "do_normalize": False}, ""),
        (1, {"size": {"height": 16, "width": 16}}, "it does not accept the output of its image processor: "),
        (
            3,
            {"size": {"height": 24, "width": 24}},
            "it does not accept the output of its image processor: Input image size",
        ),
        (4, {"size": {"height": 16, "width": 16}}, "it takes images of 4 channels, but only 1 and 3 are supported"),
    ],
)
def test_a_model_and_its_processor_are_tried_together(
    channels: int, processor: dict[str, Any], message: str, tmp_path: Path
) -> None:
    ViTForImageClassification(ViTConfig(**TINY, num_channels=channels)).save_pretrained(tmp_path)
    ViTImageProcessor(**processor).save_pretrained(tmp_path)
    if not message:
        model, _ = build(Model(name=str(tmp_path)), 0, ImageClassifier(5))
        assert model.classifier.out_features == 5
        return
    with pytest.raises(ModelError, match="cannot be used: ") as caught:
        build(Model(name=str(tmp_path)), 0, ImageClassifier(5))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_classifier_whose_images_are_not_known_is_a_fault_of_the_config() -> None:
    messages = configuration_errors(Model(architecture="resnet"), ImageClassifier(5), 0)
    assert messages == ["model.config: no model can be built: image_size is required: resnet takes images of any size"]
    assert configuration_errors(
        Model(architecture="vit", config={**TINY, "num_channels": 2}), ImageClassifier(5), 0
    ) == ["model.config.num_channels: must be 1 or 3, not 2"]
