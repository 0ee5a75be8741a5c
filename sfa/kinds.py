"""Which class of ``transformers`` a configuration is trained as, and what its configuration says of that."""

from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
)

import sfa.mlp  # noqa: F401  registers the architecture

SENSES = ("vision", "image", "video", "audio", "speech")  # in the name of a part that is no text
BOTH_DIRECTIONS = ("bert-generation", "xlnet")  # besides those that are trained on masked text


def kind_of(config: Any) -> Any:
    """The class of a configuration's model: decoder, encoder-decoder or image classifier.

    Raises:
        ValueError: it is none of them, quantized, takes images or sound beside text, or reads text in both directions.
    """
    kind, name = type(config), str(config.model_type)
    text = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if is_encoder_decoder(config) else MODEL_FOR_CAUSAL_LM_MAPPING
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError("it is quantized, and only plain weights can be trained and averaged")
    if _is_multimodal(config):
        raise ValueError(f"{name} takes images or sound beside text, and a text-only checkpoint is needed")
    if kind in text:
        if not is_encoder_decoder(config) and _reads_both_directions(config):
            raise ValueError(f"{name} is an encoder: it reads text in both directions, and a decoder is needed")
        return _one(text[kind], config)
    if kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return _one(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[kind], config)
    raise ValueError(f"{name} is no language model and no image classifier that transformers knows")


def _one(found: Any, config: Any) -> Any:
    """Of a type with several classes the one that the checkpoint was saved from, or else the first, as transformers."""
    several = found if isinstance(found, list | tuple) else (found,)
    return next((kind for kind in several if kind.__name__ in (config.architectures or [])), several[0])


def is_encoder_decoder(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def is_image_classifier(config: Any) -> bool:
    return type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING


def _is_multimodal(config: Any) -> bool:
    kind = type(config)
    if kind in MODEL_FOR_MULTIMODAL_LM_MAPPING or kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return True
    if kind in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING:
        return kind not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    parts = getattr(kind, "sub_configs", None) or {}
    return not is_image_classifier(config) and any(sense in part for part in parts for sense in SENSES)


def _reads_both_directions(config: Any) -> bool:
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING or config.model_type in BOTH_DIRECTIONS
    return masked and not getattr(config, "is_decoder", False)


def image_size(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model of random weights takes.

    Raises:
        ValueError: its configuration does not say, since it takes any.
    """
    of_images = getattr(config, "vision_config", config)
    size = getattr(of_images, "image_size", None)
    if size is None:
        raise ValueError(f"image_size is required: {config.model_type} takes images of any size")
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return channels_of(config) or 3, int(height), int(width)


def channels_of(config: Any) -> int | None:
    """Channels of the images that a model takes, if its configuration says so."""
    found = getattr(getattr(config, "vision_config", config), "num_channels", None)
    return None if found is None else int(found)


def position_count(config: Any) -> int | None:
    """How many positions a model has; ``None`` if it has no table of them."""
    names = ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len")
    found = (getattr(config.get_text_config(decoder=True), name, None) for name in names)
    return next((int(count) for count in found if isinstance(count, int) and count > 0), None)
