"""Scores of what a model writes, from 0 to 1."""

import difflib
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

SCORER = RougeScorer(["rougeL"], use_stemmer=True)
LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)

Doc = dict[str, Any]


def exact_match(doc: Doc, results: list[str]) -> dict[str, float]:
    return {"exact_match": float(results[0].strip() == doc["response"].strip())}


def label_match(doc: Doc, results: list[str]) -> dict[str, float]:
    """As O-LoRA compares labels: in lower case, without punctuation and repeated spaces."""
    return {"label_match": float(_label(results[0]) == _label(doc["response"]))}


def _label(text: str) -> str:
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


def first_letter(doc: Doc, results: list[str]) -> dict[str, float]:
    """As TRACE reads an answer before its reasons, such as ``B``."""
    return {"first_letter": float(results[0].strip()[:1] == doc["response"].strip()[:1])}


def rouge_l(doc: Doc, results: list[str]) -> dict[str, float]:
    references = doc.get("references") or [doc["response"]]
    return {"rougeL": max(SCORER.score(reference, results[0])["rougeL"].fmeasure for reference in references)}


def similarity(doc: Doc, results: list[str]) -> dict[str, float]:
    """As TRACE compares lines of Py150, whose literals are written ``<STR_LIT:text>``: the ratio of ``difflib``."""
    written, expected = _code(results[0]), _code(doc["response"])
    return {"similarity": difflib.SequenceMatcher(None, written, expected).ratio() if written and expected else 0.0}


def _code(text: str) -> str:
    bare = text.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return LITERAL.sub(r"\1", bare)


def sari_score(doc: Doc, results: list[str]) -> dict[str, float]:
    return {"sari": sari(doc["prompt"], results[0], doc.get("references") or [doc["response"]])}


def sari(source: str, written: str, references: Sequence[str]) -> float:
    """SARI (Xu et al., 2016): the mean over n-grams of up to four words of the F1 of those kept and of those added, and
    of the precision of those deleted, as in EASSE and tensor2tensor: in lower case, split as for BLEU."""
    tokenize = Tokenizer13a()
    texts = [tokenize(text.lower()).split() for text in (source, written, *references)]
    scores = [_sari_of([_grams(words, n) for words in texts]) for n in (1, 2, 3, 4)]
    return sum(scores) / len(scores)


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _sari_of(grams: Sequence[Counter[tuple[str, ...]]]) -> float:
    """The score of one length: of the source, what was written, and each reference."""
    source, written, *references = grams
    count = len(references)
    expected = sum(references, Counter[tuple[str, ...]]())
    # Each reference counts once: the source and what was written stand against all of them.
    source, written = (Counter({gram: count * n for gram, n in counter.items()}) for counter in (source, written))
    kept, deleted = source & written, source - written
    kept_well, deleted_well = kept & expected, deleted - expected
    keep = _f1(_mean_share(kept_well, kept), _share(kept_well.total(), (source & expected).total()))
    added, to_add = written.keys() - source.keys(), expected.keys() - source.keys()
    add = _f1(_share(len(added & to_add), len(added)), _share(len(added & to_add), len(to_add)))
    return (keep + _mean_share(deleted_well, deleted) + add) / 3


def _mean_share(good: Counter[tuple[str, ...]], of: Counter[tuple[str, ...]]) -> float:
    return sum(good[gram] / n for gram, n in of.items()) / len(of) if of else 1.0


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
