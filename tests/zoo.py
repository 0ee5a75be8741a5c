"""Small tokenizers of every kind that changes the start of a text or adds tokens to it, and chat templates."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoTokenizer, ByT5Tokenizer, LlamaTokenizer, PreTrainedTokenizerFast

TEXTS = [
    "Is it so? Yes Was it so? No Is 12 more than 3? Yes, 45 of 67.",
    "### Instruction:\nSay yes or no.\n\n### Response: Yes",
    "[INST] Is it so? [/INST] user system assistant model Today Date: 26 Jul 2024",
] * 4
SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|eot_id|>",
]
NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
WORDS = Regex(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+")  # no token crosses a word


def _wrapped(tokenizer: Tokenizer, **more: Any) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES, extra_special_tokens=SPECIAL[4:], **more)


def byte_level(prefix: bool = False, **more: Any) -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _wrapped(tokenizer, **more)


def metaspace(scheme: Any, crossing: bool = False) -> Any:
    """``crossing``: tokens may span words, so that one may hold the end of a prompt and its answer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    marks = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    words = [] if crossing else [pre_tokenizers.Split(WORDS, "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*words, marks]) if scheme == "never" else marks
    if scheme != "never" and not crossing:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _wrapped(tokenizer)


def llama(kind: str, legacy: bool = False) -> Any:
    """A tokenizer of Llama's class, saved beside a configuration of model type ``kind`` and loaded again. ``legacy``:
    a normalizer puts the first space, as in the files of older checkpoints, and puts it before one that is there."""
    base = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    base.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    pieces = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256))]
    base.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=600, special_tokens=pieces, show_progress=False))
    folder = Path(tempfile.mkdtemp())
    if legacy:
        base.pre_tokenizer = None
        base.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        base.decoder = decoders.Sequence(parts)
        single = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        base.post_processor = single
        _wrapped(base).save_pretrained(folder)
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "LlamaTokenizer"}))
    else:
        model = json.loads(base.to_str())["model"]
        merges = [tuple(merge) for merge in model["merges"]]
        made = LlamaTokenizer(vocab=model["vocab"], merges=merges, add_bos_token=True, extra_special_tokens=SPECIAL[4:])
        made.save_pretrained(folder)
    CONFIG_MAPPING[kind]().save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    loaded.pad_token = "<pad>"
    return loaded


def unigram(dummy: bool) -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    scheme: Any = "always" if dummy else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return _wrapped(tokenizer)


def word_piece() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    around = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[SEP]", **names)


ZOO = {
    "byte-level": byte_level,
    "byte-level, a space first": lambda: byte_level(prefix=True),
    "byte-level, eos appended": lambda: byte_level(add_bos_token=True, add_eos_token=True),
    "metaspace always": lambda: metaspace("always"),
    "metaspace first": lambda: metaspace("first"),
    "metaspace never": lambda: metaspace("never"),
    "metaspace, across words": lambda: metaspace("always", crossing=True),
    "llama": lambda: llama("llama"),
    "mistral": lambda: llama("mistral"),
    "mistral, legacy": lambda: llama("mistral", legacy=True),
    "unigram, a space first": lambda: unigram(True),
    "unigram": lambda: unigram(False),
    "word pieces": word_piece,
    "bytes": ByT5Tokenizer,
}


@functools.cache
def tokenizer(name: str) -> Any:
    return ZOO[name]()


CHATS = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "no generation prompt": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    "gemma": "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "llama 2": "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}",
    "mistral": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    "llama 3.2": "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% endif %}Today Date: {{ date_string }}\nToday: {{ strftime_now('%B %d, %Y') }}\n{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}",
    "needs a system message": "{% if messages[0].role != 'system' %}{{ raise_exception('A system message first') }}"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "thoughts": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}[THINK]\n\n[/THINK]\n\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "no control token": "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}",
}
ENDS = {
    "chatml": "<|im_end|>",
    "no generation prompt": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "llama 2": " </s>",
    "mistral": "</s>",
    "llama 3.2": "<|eot_id|>",
    "needs a system message": "<|im_end|>",
    "thoughts": "<|im_end|>",
    "no control token": "</s>",
}


def chat_tokenizer(name: str, kind: str = "llama") -> Any:
    """A tokenizer with one of the chat templates, of its own."""
    tok = ZOO[kind]()
    tok.chat_template = CHATS[name]
    return tok
