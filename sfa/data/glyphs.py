"""Glyphs of the fonts that matplotlib ships: a hundred classes of images without a download.

Every class is drawn in sixteen faces of four families. Four faces, one of each family, are held out entirely: no
training glyph is drawn in a test face. Each drawing is randomly shifted, rotated, sheared and scaled a little.
"""

import functools
import string
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from sfa.data.images import ImageRow, ImageTask
from sfa.data.task import Split, package_folder

SIZE = 32  # pixels, height and width
STYLES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
}
HELD_OUT = ("DejaVuSans-BoldOblique", "DejaVuSansMono-Oblique", "DejaVuSerif-Bold", "STIXGeneralItalic")
FACES = {
    "train": tuple(f + s for f, styles in STYLES.items() for s in styles if f + s not in HELD_OUT),
    "test": HELD_OUT,
}
LATIN_AND_GREEK = string.digits + string.ascii_letters + "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθικλμνξπρστυφχψω" + "&@%$?"
# Cyrillic letters that do not resemble Latin or Greek ones, Latin letters of other shapes, and signs.
OTHERS = "БДЁЖЗИЙЛУЦЧШЩЪЫЬЭЮЯбвджзийлнтцчшщъыьэюя" + "ЂЉЊЋЏђљњћџ" + "ÆÐØÞßæðøþŁłŊŋŒœ" + "!#()*+/<=>[]{}|~^_¡¢£¥§¶¿×÷±¬µ"


class Glyphs(ImageTask):
    """Digits, Latin and Greek letters, and signs: 100 classes of 32 × 32 grey images."""

    package: ClassVar[str] = "matplotlib"
    CHARACTERS: ClassVar[str] = LATIN_AND_GREEK

    name: str = "glyphs"
    evals: tuple[str, ...] = ("glyphs_accuracy",)
    classes: int = len(LATIN_AND_GREEK)
    drawings: int = Field(8, ge=1, description="of each class in each face")

    def rows(self, split: Split) -> Sequence[ImageRow]:
        return [
            {"image": draw(self.CHARACTERS[label], face, k), "label": label}
            for label in self.own_labels()
            for face in FACES[split]
            for k in range(self.drawings)
        ]


class OtherGlyphs(Glyphs):
    """Other characters in the same faces, to pretrain a model before a stream of :class:`Glyphs`."""

    CHARACTERS: ClassVar[str] = OTHERS

    name: str = "other_glyphs"
    evals: tuple[str, ...] = ("other_glyphs_accuracy",)
    classes: int = len(OTHERS)


def draw(character: str, face: str, variant: int) -> NDArray[np.uint8]:
    """``[32, 32]``, white on black; deterministic."""
    rng = np.random.default_rng([ord(character), sorted(FACES["train"] + FACES["test"]).index(face), variant])
    font = _font(face, int(rng.integers(19, 26)))
    left, top, right, bottom = font.getbbox(character)
    canvas = Image.new("L", (SIZE, SIZE))
    middle = ((SIZE - left - right) / 2, (SIZE - top - bottom) / 2)
    ImageDraw.Draw(canvas).text(middle, character, fill=255, font=font)
    turn, shear, (dx, dy) = rng.uniform(-0.17, 0.17), rng.uniform(-0.15, 0.15), rng.uniform(-2, 2, 2)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array([[1, shear], [0, 1]])
    centre = np.array([SIZE / 2, SIZE / 2])
    shift = centre - linear @ (centre + [dx, dy])
    moved = canvas.transform(
        (SIZE, SIZE), Image.Transform.AFFINE, (*linear[0], shift[0], *linear[1], shift[1]), Image.Resampling.BILINEAR
    )
    return np.asarray(moved)


@functools.cache
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(package_folder("matplotlib")) / "mpl-data" / "fonts" / "ttf" / f"{face}.ttf", size)
