"""SFA in TRL's SFTTrainer with LoRA, in a minute on a CPU. Needs: pip install . transformers accelerate trl peft

A model learns to add, and then to count letters, with averaging. Replace `tiny_model()` and `tiny_tokenizer()` by
`from_pretrained`, and the texts by your own. The second task goes on from the adapters of the first, which are θ_o.
"""

import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from sfa.huggingface import SFACallback

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789+= :"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    characters = Tokenizer(models.WordLevel({token: i for i, token in enumerate(["<pad>", "<eos>", *LETTERS])}))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>")


def tiny_model() -> PreTrainedModel:
    torch.manual_seed(17)  # the same base for both tasks
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    random = {"initializer_range": 0.2, "eos_token_id": 1, "pad_token_id": 0}  # adapters need features to build on
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(LETTERS) + 2, **sizes, **random))


def sums(count: int) -> list[str]:
    return [f"{a}+{b}={a + b}" for a, b in torch.randint(0, 50, (count, 2)).tolist()]


def counts(count: int) -> list[str]:
    return [f"{chr(97 + a)}: {chr(97 + a) * b} {b}" for a, b in torch.randint(1, 9, (count, 2)).tolist()]


def train(model: PeftModel, texts: list[str], callbacks: list[SFACallback]) -> SFTTrainer:
    arguments = SFTConfig(
        tempfile.mkdtemp(), max_steps=100, per_device_train_batch_size=16, learning_rate=5e-3, report_to="none",
        save_strategy="no", logging_steps=50, disable_tqdm=True, bf16=torch.cuda.is_available(),
    )  # fmt: skip
    data = Dataset.from_dict({"text": texts})
    trainer = SFTTrainer(model, arguments, train_dataset=data, processing_class=tiny_tokenizer(), callbacks=callbacks)
    trainer.train()
    return trainer


def loss(trainer: SFTTrainer, texts: list[str]) -> float:
    tokens = tiny_tokenizer()(texts, padding=True, return_tensors="pt").to(trainer.model.device)
    labels = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)
    with torch.no_grad():
        return float(trainer.model(**tokens, labels=labels).loss)


adapters = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
trainer = train(get_peft_model(tiny_model(), adapters), sums(2000), [])
trainer.save_model(first := tempfile.mkdtemp())
print(f"after the first task: loss {loss(trainer, sums(200)):.2f}")
for name, callbacks in (("without", []), ("with SFA", [SFACallback(p=0.25, beta=0.5)])):
    trainer = train(PeftModel.from_pretrained(tiny_model(), first, is_trainable=True), counts(2000), callbacks)
    old, new = loss(trainer, sums(200)), loss(trainer, counts(200))
    print(f"after the second task, {name}: loss {old:.2f} of the first, {new:.2f} of it")
