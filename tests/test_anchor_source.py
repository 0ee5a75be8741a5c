"""θ_o from folders and the hub, by the names that a model has in memory, whatever wraps it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from sfa import Averager
from sfa.anchor_source import content_hash
from tests.tiny import SIZES, assert_close, model, weights


class Wrapped(nn.Module):
    """Like a LightningModule around a model."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network


def neox(seed: int) -> Any:
    """Its file calls ``embed_out.weight`` what transformers 5 calls ``lm_head.weight`` in memory."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=30, tie_word_embeddings=False, **sizes))


def tied(seed: int) -> Any:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, "tie_word_embeddings": True}))


BUILT = {"llama": model, "tied": tied, "gpt_neox": neox, "adapters": lambda seed: model(seed, lora=True)}


@pytest.mark.parametrize("wrapper", [lambda network: network, Wrapped, lambda network: Wrapped(Wrapped(network))])
@pytest.mark.parametrize("kind", BUILT)
def test_the_last_merge_at_beta_1_is_the_model_in_the_folder(kind: str, wrapper: Any, tmp_path: Path) -> None:
    saved, network = BUILT[kind](3), BUILT[kind](0)
    saved.save_pretrained(tmp_path)
    averager = Averager(wrapper(network), 1, p=1, beta=1, anchor=str(tmp_path))
    averager.step()
    assert_close(weights(network), weights(saved), 0)


def test_the_folder_of_neox_has_other_names(tmp_path: Path) -> None:
    """Otherwise the test above would not read it as transformers does."""
    neox(0).save_pretrained(tmp_path)
    assert not set(load_file(tmp_path / "model.safetensors")) >= set(weights(neox(0)))


def test_16_bits_on_disk_are_read_as_they_are(tmp_path: Path) -> None:
    model(3, torch.bfloat16).save_pretrained(tmp_path)
    network = model()
    Averager(network, 1, p=1, beta=1, anchor=str(tmp_path)).step()
    assert_close(weights(network), weights(model(3, torch.bfloat16)), 0)


def test_a_name_on_the_hub_is_looked_up_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--owner--name"
    model(3).save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    network = model()
    Averager(network, 1, p=1, beta=1, anchor="owner/name").step()
    assert_close(weights(network), weights(model(3)), 0)


def test_a_model_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    tensors = weights(model(3))
    lacking = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    wrong = {**tensors, "lm_head.weight": torch.zeros(31, 12)}
    for name, content in (("lacking", lacking), ("wrong", wrong)):
        (tmp_path / name).mkdir()
        save_file(content, tmp_path / name / "model.safetensors")
    model().config.save_pretrained(tmp_path / "lacking")
    with pytest.raises(ValueError, match=r"it lacks \['lm_head\.weight'\] \(1 tensors\)"):
        Averager(model(), 1, p=1, anchor=str(tmp_path / "lacking"))
    with pytest.raises(ValueError, match=r"does not fit the model at lm_head\.weight: \(31, 12\) against \(30, 12\)"):
        Averager(model(), 1, p=1, anchor=str(tmp_path / "wrong"))
    model(3).save_pretrained(tmp_path / "base")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="it lacks"):  # a base has no adapters
        Averager(model(lora=True), 1, p=1, anchor=str(tmp_path / "base"))
    with pytest.raises(FileNotFoundError, match="holds no safetensors files"):
        Averager(model(), 1, p=1, anchor=str(tmp_path / "empty"))


def test_a_state_is_continued_with_its_own_anchor_alone(tmp_path: Path) -> None:
    """Known by its files' content or, at the start of a training, by its norm in float64."""
    network = model()
    network.save_pretrained(tmp_path / "one")
    network.save_pretrained(tmp_path / "copy")
    model(3).save_pretrained(tmp_path / "other")
    assert content_hash(tmp_path / "one") == content_hash(tmp_path / "copy") != content_hash(tmp_path / "other")
    sources = [None, str(tmp_path / "one")]
    states = [Averager(model(), 4, p=1, anchor=source).state_dict() for source in sources]
    for state in states:
        for source in (None, str(tmp_path / "one"), str(tmp_path / "copy")):
            Averager(model(), 4, p=1, anchor=source).load_state_dict(state)
        with pytest.raises(ValueError, match=r"Pass anchor=<folder"):
            Averager(model(), 4, p=1, anchor=str(tmp_path / "other")).load_state_dict(state)
        changed = model()
        with torch.no_grad():
            changed.lm_head.weight[0, 0] += 1e-4
        with pytest.raises(ValueError, match="is not the one"):
            Averager(changed, 4, p=1).load_state_dict(state)
