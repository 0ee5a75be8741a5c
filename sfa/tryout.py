"""Runs a new model once as it will be trained, so that what it cannot do is said before anything is trained."""

from typing import Any

import numpy as np
import torch

from sfa.data.pixels import Pixels, normalised
from sfa.isolation import LENGTH, why_padded
from sfa.kinds import channels_of, is_encoder_decoder, position_count


@torch.no_grad()
def try_image(model: Any, processor: Any, classes: int) -> None:
    """Runs a classifier on an image.

    Raises:
        ValueError: it cannot be used with its image processor.
    """
    channels = channels_of(model.config) or 3
    if channels not in (1, 3):
        raise ValueError(f"it takes images of {channels} channels, where 1 and 3 are known")
    image = np.arange(channels * 80 * 64, dtype=np.uint8).reshape(channels, 80, 64)
    training = model.training
    try:
        pixels = torch.from_numpy(Pixels(processor, channels)(image))[None]
        logits = model.eval()(pixel_values=normalised(pixels, processor)).logits
    except Exception as error:  # each architecture fails in its own way
        raise ValueError(f"it does not take what its image processor makes: {' '.join(str(error).split())}") from error
    finally:
        model.train(training)
    if logits.shape != (1, classes):
        raise ValueError(f"it makes {list(logits.shape)} of an image, where [1, {classes}] is needed")


@torch.no_grad()
def try_text(model: Any, tokenizer: Any) -> None:
    """Runs a language model on a few tokens.

    Raises:
        ValueError: it takes something else than text, or a decoder's token sees the one after it.
    """
    tokenizer("text")  # raises where one of its settings cannot be used
    if not is_encoder_decoder(model.config):
        why_padded(model, tokenizer, min(LENGTH, (position_count(model.config) or 2 * LENGTH) // 2))
        return
    pair, training = torch.tensor([[0, 1]]), model.training
    try:
        model.eval()(input_ids=pair, attention_mask=torch.ones_like(pair), decoder_input_ids=pair)
    finally:
        model.train(training)
