"""Evaluations against independent scores on the same rows: log-likelihoods by hand, GSM8K by its own answer rule."""

import contextlib
import json
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import pytest
import torch
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate as evaluate_lm
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)

from eval.evaluator import Evaluations
from eval.kind import Settings
from eval.lm import LiveLM
from eval.shared_prompts import alike
from scripts import evaluate
from sfa.data import registered
from sfa.models.tokenizer_training import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(600, [registered("arithmetic"), registered("returns")])


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> Any:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
    )
    return GPTNeoXForCausalLM(config).eval()


def by_hand(model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> float:
    """log P(response | prompt), one forward pass of the whole."""
    context, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + response)["input_ids"]
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return float(sum(logs[i - 1, whole[i]] for i in range(len(context), len(whole))))


@pytest.mark.parametrize("template", ["plain", "instruction"])
def test_accuracy_is_that_of_log_likelihoods_by_hand(
    template: Any, model: Any, tokenizer: PreTrainedTokenizerBase
) -> None:
    evaluations = Evaluations(["returns"], [], Settings(template=template, limit=40, batch_size=8))
    (score,) = evaluations(model, tokenizer)
    rows = evaluations.kinds["returns"].rows["returns"]
    right = []
    for row in rows:
        prompt = row["prompt"] if template == "plain" else f"### Instruction:\n{row['prompt']}\n\n### Response:"
        values = [by_hand(model, tokenizer, prompt, f" {choice}") for choice in row["choices"]]
        right.append(row["choices"][int(np.argmax(values))] == row["response"])
    assert score["value"] == pytest.approx(np.mean(right)) and score["n"] == 40
    assert score["stderr"] == pytest.approx(np.std(right, ddof=1) / 40**0.5)
    answers = [row["response"] for row in rows]
    assert score["majority"] == pytest.approx(max(answers.count(kind) for kind in set(answers)) / 40)


KINDS = ["own keys", "shared keys", "a window", "a window in the code", "distances in place of positions", "recurrent",
         "encoder-decoder"]  # fmt: skip


@pytest.fixture(params=KINDS)
def any_model(request: pytest.FixtureRequest, model: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    torch.manual_seed(0)
    vocab = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 0}
    if request.param == "encoder-decoder":
        sizes = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}
        return T5ForConditionalGeneration(T5Config(**vocab, decoder_start_token_id=0, **sizes)).eval()
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "initializer_range": 0.2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    if request.param == "shared keys":
        return LlamaForCausalLM(LlamaConfig(**vocab, **heads, **sizes)).eval()
    if request.param == "a window":
        return MistralForCausalLM(MistralConfig(**vocab, **heads, **sizes, sliding_window=20)).eval()
    if request.param == "distances in place of positions":
        few = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
        return FalconForCausalLM(FalconConfig(**vocab, **few, alibi=True)).eval()
    if request.param == "a window in the code":
        few = {"hidden_size": 48, "num_layers": 2, "num_heads": 4, "initializer_range": 0.2, "window_size": 20}
        return GPTNeoForCausalLM(GPTNeoConfig(**vocab, **few, attention_types=[[["global", "local"], 1]])).eval()
    if request.param == "recurrent":
        return MambaForCausalLM(MambaConfig(**vocab, **sizes)).eval()
    return model


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, argument, i) for i, argument in enumerate(arguments)]  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_log_likelihoods_are_those_of_lm_eval(
    batch_size: int, any_model: Any, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Choices of one token and of several, contexts of all lengths."""
    rows = registered("returns").rows("test")[:30]
    contexts = [row["prompt"][-n * 3 :] for n, row in enumerate(rows, 1)]
    choices = (" int", " a", " b", " int list", " list of int", " dict of str or int")
    requests = instances("loglikelihood", [(c, choice) for c in contexts for choice in choices])
    ours, theirs = (
        kind(pretrained=any_model, tokenizer=tokenizer, batch_size=batch_size, max_length=300).loglikelihood(requests)
        for kind in (LiveLM, HFLM)
    )
    assert [likeliest for _, likeliest in ours] == [likeliest for _, likeliest in theirs]
    np.testing.assert_allclose([value for value, _ in ours], [value for value, _ in theirs], rtol=1e-5)


def test_choices_share_their_prompt(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Fourteen choices of several tokens: the tokens that the model computes, and the same scores as one by one."""
    prompts = [row["prompt"] for row in registered("returns").rows("test")[:3]]
    choices = [f" {a} {b}" for a in ("int", "list", "dict", "float", "str", "set", "bool") for b in ("of", "or")]
    computed = []
    with contextlib.ExitStack() as stack:
        hook = model.register_forward_pre_hook(
            lambda _, args, options: computed.append(options["input_ids"].numel()), with_kwargs=True
        )
        stack.callback(hook.remove)
        lm = LiveLM(pretrained=model, tokenizer=tokenizer, batch_size=28)
        together = lm.loglikelihood(instances("loglikelihood", [(p, c) for p in prompts for c in choices]))
        shared, computed[:] = sum(computed), []
        alone = [
            lm.loglikelihood(instances("loglikelihood", [(prompt, choice)]))[0]
            for prompt in prompts
            for choice in choices
        ]
    assert [likeliest for _, likeliest in together] == [likeliest for _, likeliest in alone]
    np.testing.assert_allclose([value for value, _ in together], [value for value, _ in alone], rtol=1e-5)
    assert shared < sum(computed) / 8


@pytest.mark.parametrize("beginning", ["", "Jane has 3 apples and 12 pears. "])
def test_what_is_written_is_what_lm_eval_writes(
    beginning: str, any_model: Any, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows end at different lengths: by stop strings, by one of two ends of text, and by the most that is allowed."""
    rows = registered("arithmetic").rows("test")[:20]
    contexts = [beginning + row["prompt"][-n * 5 :] for n, row in enumerate(rows, 1)]
    lms = [kind(pretrained=any_model, tokenizer=tokenizer, batch_size=7) for kind in (LiveLM, HFLM)]

    def written(until: list[str]) -> list[list[str]]:
        options = {"until": until, "max_gen_toks": 40, "do_sample": False}
        return [lm.generate_until(instances("generate_until", [(c, dict(options)) for c in contexts])) for lm in lms]

    ours, theirs = written([])
    assert ours == theirs
    end = tokenizer(theirs[2])["input_ids"][15]
    monkeypatch.setattr(any_model.generation_config, "eos_token_id", [0, end])
    ours, theirs = written([theirs[5][20:23], theirs[8][9:11]])
    assert ours == theirs
    if not any_model.config.is_encoder_decoder:
        assert len({len(tokenizer(text)["input_ids"]) for text in theirs}) >= 4


def test_what_all_prompts_begin_with_is_computed_once(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    examples = "".join(f"{n} and {n + 1} are {2 * n + 1}. " for n in range(20))
    contexts = [f"{examples}{n} and 1 are" for n in range(8)]
    computed: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, options: computed.append(options["input_ids"].numel()), with_kwargs=True
    )
    lm = LiveLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    options = {"until": [], "max_gen_toks": 1, "do_sample": False}
    with contextlib.ExitStack() as stack:
        stack.callback(hook.remove)
        lm.generate_until(instances("generate_until", [(context, dict(options)) for context in contexts]))
    encoded = [tokenizer(context)["input_ids"] for context in contexts]
    same = len(list(takewhile(lambda tokens: len({*tokens}) == 1, zip(*encoded, strict=False))))
    assert same > 100
    assert sum(computed) == same + len(contexts) * (max(map(len, encoded)) - same)


def test_rows_of_a_batch_are_about_as_long() -> None:
    rows = [tuple(range(n)) for n in (10, 100, 95, 91, 89, 9, 90, 30)]
    assert [[len(row) for row in batch] for batch in alike(rows, 3)] == [[100, 95, 91], [90, 89], [30], [10, 9]]


class Parrot(LM):
    """Stands for a model: says what it was told to, prompt by prompt."""

    def __init__(self, said: dict[str, str]):
        super().__init__()
        self.said = said

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        return [self.said[request.args[0]] for request in requests]

    def loglikelihood(self, requests: list[Any], **_: Any) -> Any:
        raise AssertionError("nobody asks for that here")

    loglikelihood_rolling = loglikelihood


def scored_gsm8k(folder: Path, gold: list[str], said: list[str]) -> Any:
    """The score of a model that says these things to problems whose solutions end in these."""
    rows = [{"question": f"q{i}", "answer": f"steps {i * 7}\n#### {answer}"} for i, answer in enumerate(gold)]
    (folder / "gsm8k").mkdir()
    (folder / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluations = Evaluations(["gsm8k"], [], Settings(data_folder=folder))
    parrot = Parrot({row["question"]: text for row, text in zip(rows, said, strict=True)})
    (score,) = evaluations.drive(parrot, None)  # type: ignore[arg-type]
    assert score["metric"] == "exact_match" and score["n"] == len(gold)
    return score


def test_gsm8k_agrees_with_its_own_answer_rule(tmp_path: Path) -> None:
    """The rule of the GSM8K authors: the number after ####, without commas."""
    gold = ["72", "10", "1,000", "-3", "0.5", "18"]
    said = ["a #### 72", "so it is 7\n#### 10", "#### 1,000", "#### 3", "#### 0.5", "no number"]

    def rule(text: str) -> str | None:
        match = re.search(r"#### (\-?[0-9\.\,]+)", text)
        return match[1].replace(",", "") if match else None

    expected = [rule(text) == rule(f"#### {answer}") for text, answer in zip(said, gold, strict=True)]
    assert expected == [True, True, True, False, True, False]
    score = scored_gsm8k(tmp_path, gold, said)
    assert score["value"] == score["also"]["strict_match"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("gold", "said", "right", "strict", "flexible"),
    [
        ("72", "It costs $72.00", 1, 0, 0),
        ("72", "that makes 72.0", 1, 0, 0),
        ("72", "so 72 dollars", 1, 0, 1),
        ("-5", "#### −5", 1, 0, 0),
        ("72", "#### 72\nThis took 3 steps.", 1, 1, 0),
        ("1,200", "5 and 6\nThe answer is: 1,200.", 1, 0, 1),
        ("7", "The answer is: 3 + 4 = 7 in 2 bags", 1, 0, 0),
        ("72", "The answer is: 72. I am 100% sure", 1, 0, 0),
        ("5", "10-5", 1, 0, 0),
        ("72", "#### Step 1: add\nThe answer is 72", 1, 0, 1),
        ("72", "- 72", 1, 0, 1),
        ("72", "#### 27", 0, 0, 0),
        ("72", "#### 7.2", 0, 0, 0),
        ("5", "it is −5", 0, 0, 1),
        ("72", "", 0, 0, 0),
    ],
)
def test_an_answer_is_a_number_however_it_is_written(
    gold: str, said: str, right: int, strict: int, flexible: int, tmp_path: Path
) -> None:
    score = scored_gsm8k(tmp_path, [gold], [said])
    assert (score["value"], score["also"]) == (right, {"strict_match": strict, "flexible_extract": flexible})


def test_strict_and_flexible_are_those_of_lm_eval(tmp_path: Path) -> None:
    """Its own task, on its own rows and prompts, with the same answers."""
    gold = ["72", "1,200", "-3", "72", "5", "18"]
    said = ["#### 72", "The answer is: $1,200", "#### -3.", "72 and 3", "10-5", "nothing"]
    score = scored_gsm8k(tmp_path, gold, said)
    shipped = load_yaml(Path(lm_eval.tasks.__file__).parent / "gsm8k" / "gsm8k.yaml")
    rows = [{"question": f"q{i}", "answer": f"so\n#### {answer}"} for i, answer in enumerate(gold)]
    own = {"custom_dataset": lambda **_: {"test": Dataset.from_list(rows)}, "num_fewshot": 0, "fewshot_split": None}
    task = ConfigurableTask(config={**shipped, **own, "training_split": None, "doc_to_text": "{{question}}"})
    results = evaluate_lm(Parrot({f"q{i}": text for i, text in enumerate(said)}), {"tasks": {"gsm8k": task}})["results"]
    expected = {
        key.replace("-", "_"): results["gsm8k"][f"exact_match,{key}"] for key in ("strict-match", "flexible-extract")
    }
    assert score["also"] == pytest.approx(expected)


def test_humaneval_runs_the_completion_in_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eval import sandbox

    if not sandbox.works():
        pytest.skip("bubblewrap does not work here")
    problems = [
        {
            "prompt": f"def f{i}(x):\n",
            "canonical_solution": f"    return x + {i}\n",
            "test": f"def check(c):\n    assert c(1) == {i + 1}\n",
            "entry_point": f"f{i}",
        }
        for i in range(8)
    ]
    (tmp_path / "openai_humaneval").mkdir()
    (tmp_path / "openai_humaneval" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    settings = Settings(template="chat", data_folder=tmp_path)  # a template it must not use
    evaluations = Evaluations(["humaneval"], [], settings)
    rows = registered("magicoder", data_folder=tmp_path).eval_rows("humaneval")
    said = {row["prompt"]: row["response"] if i % 4 else "    return 0\n" for i, row in enumerate(rows)}
    (score,) = evaluations.drive(Parrot(said), None)  # type: ignore[arg-type]
    assert score["metric"] == "pass@1" and score["value"] == pytest.approx(6 / 8)


def test_rouge_is_the_overlap_of_words(tmp_path: Path) -> None:
    rows = [{"source": f"a long text {i}", "target": "the cat sat on a mat"} for i in range(2)]
    (tmp_path / "wiki_auto_asset_turk").mkdir()
    for split in ("train", "test"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "wiki_auto_asset_turk" / f"{split}.jsonl").write_text(lines)
    evaluations = Evaluations(["simpl_rouge"], [], Settings(data_folder=tmp_path))
    said = {"Simplify this text: a long text 0": "the cat sat", "Simplify this text: a long text 1": "dogs"}
    (score,) = evaluations.drive(Parrot(said), None)  # type: ignore[arg-type]
    precision, recall = 3 / 3, 3 / 6
    assert score["metric"] == "rouge1"
    assert score["value"] == pytest.approx((2 * precision * recall / (precision + recall) + 0) / 2)


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_the_held_out_loss_is_that_of_the_rows_alone(kind: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    if kind == "encoder-decoder":
        torch.manual_seed(0)
        sizes = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}
        config = T5Config(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=0, decoder_start_token_id=0, **sizes)
        model = T5ForConditionalGeneration(config).eval()
    evaluations = Evaluations(["arithmetic_loss"], [], Settings(limit=30, batch_size=7))
    (score,) = evaluations(model, tokenizer)
    sums, counts = [], []
    for row in evaluations.kinds["arithmetic_loss"].rows["arithmetic_loss"]:
        prompt, learned = tokenizer(row["prompt"])["input_ids"], tokenizer(" " + row["response"])["input_ids"] + [0]
        if kind == "decoder":
            ids, labels = torch.tensor([prompt + learned]), torch.tensor([[-100] * len(prompt) + learned])
            loss = float(model(input_ids=ids, labels=labels).loss)
        else:
            loss = float(model(input_ids=torch.tensor([prompt]), labels=torch.tensor([learned])).loss)
        sums.append(loss * len(learned))
        counts.append(len(learned))
    assert score["metric"] == "loss" and score["value"] == pytest.approx(sum(sums) / sum(counts), rel=1e-4)


def test_an_evaluation_leaves_no_trace(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    model.train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Evaluations(["returns", "arithmetic_loss"], [], Settings(limit=4))(model, tokenizer)
    assert model.training and torch.equal(torch.rand(3), expected)
    model.eval()


def test_the_key_of_a_score_changes_with_what_determines_it() -> None:
    def key(**settings: Any) -> str:
        return Evaluations(["returns"], [], Settings(**settings)).key("returns")

    assert key() == key(batch_size=3) == key(unshard=False)
    assert len({key(), key(limit=5), key(template="instruction"), key(bf16=True)}) == 4


def test_scripts_evaluate_gives_the_same_scores(
    model: Any, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    arguments = [str(tmp_path / "model"), "--tasks", "returns", "arithmetic_loss", "--limit", "20"]
    assert evaluate.main([*arguments, "--out", str(tmp_path / "scores.json")]) == 0
    expected = Evaluations(["returns", "arithmetic_loss"], [], Settings(limit=20))(model, tokenizer)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [row["value"] for row in scores] == pytest.approx([row["value"] for row in expected])
    assert "majority class" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([str(tmp_path / "model"), "--tasks", "humaneval"])
    assert "--run-generated-code" in capsys.readouterr().err
