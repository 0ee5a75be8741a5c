"""Models with batch norms: merges average weights alone, and p=1 after training is p=1 in training, bit for bit."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from composer import Trainer
from composer.models import ComposerModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import ResNetConfig, ResNetForImageClassification

from scripts.bench.measure import peak
from sfa import SFA, merging, weights
from sfa.tensors import write
from tests.exports import content

BETA = 0.3


class Images(ComposerModel):
    """A tiny ResNet; a layer of it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
        self.model = ResNetForImageClassification(ResNetConfig(num_labels=3, **sizes))
        self.model.resnet.embedder.embedder.convolution.weight.requires_grad_(False)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits: Tensor = self.model(pixel_values=batch[0]).logits
        return logits

    def loss(self, outputs: Tensor, batch: tuple[Tensor, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch[1])


def trained(algorithms: list[SFA], seed: int = 1) -> Images:
    model = Images()
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(20, 3, 16, 16, generator=generator), torch.randint(3, (20,), generator=generator)
    fit = Trainer(
        model=model,
        train_dataloader=DataLoader(TensorDataset(*images), batch_size=4),
        max_duration="5ba",
        optimizers=torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9),
        algorithms=algorithms,  # type: ignore[arg-type]
        device="cpu",
        progress_bar=False,
    )
    fit.fit()
    fit.close()
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model as it was built, and as two trainings left it."""
    root = tmp_path_factory.mktemp("norms")
    for name, model in {"0": Images(), "1": trained([]), "2": trained([], seed=2)}.items():
        weights.save_model(model.model, root / name)
    return [root / "0", root / "1", root / "2"]


def read(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def test_p_1_after_training_is_bitwise_p_1_in_training(folders: list[Path], tmp_path: Path) -> None:
    sfa = SFA(p=1, beta=BETA)
    weights.save_model(trained([sfa]).model, tmp_path / "during")
    merging.average(folders[0], folders[1], BETA, tmp_path / "after")
    assert content(tmp_path / "during") == content(tmp_path / "after")
    merged, theta = read(tmp_path / "after"), read(folders[1])
    counts = [name for name in merged if name.endswith("num_batches_tracked")]
    assert counts and all(merged[name].dtype == torch.int64 and merged[name] == 5 for name in counts)
    still = [name for name in merged if ".running_" in name]
    assert still and all(torch.equal(merged[name], theta[name]) for name in still)
    assert not torch.equal(theta[still[0]], read(folders[0])[still[0]])  # they moved
    (merge,) = sfa.merges
    assert weights.distance(tmp_path / "after", folders[0]) == pytest.approx(merge["l2_after"], rel=1e-6)


MERGES: dict[str, Callable[[list[Path], Path], None]] = {
    "soup": lambda f, out: merging.soup(f[1:], out),
    "task_arithmetic": lambda f, out: merging.task_arithmetic(f[0], f[1:], [0.9, 0.8], out),
    "ties": lambda f, out: merging.ties(f[0], f[1:], [0.5, 0.5], out, 0.3),
    "fisher": lambda f, out: merging.fisher(f[1:], [squared(x, out) for x in f[1:]], [0.5, 0.5], out),
}


def squared(model: Path, out: Path) -> Path:
    """A folder of the squares of a model's numbers, as Fisher information has them."""
    folder = out.with_name(f"squared-{model.name}")
    folder.mkdir()
    save_file({name: tensor**2 for name, tensor in read(model).items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("method", MERGES)
def test_every_merge_takes_the_mean_of_statistics_and_the_last_models_counts(
    method: str, folders: list[Path], tmp_path: Path
) -> None:
    changed = tmp_path / "counted"
    tensors = read(folders[2])
    for name in tensors:
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(2**60 + 1)  # no float32, nor float64, holds it
    changed.mkdir()
    save_file(tensors, changed / "model.safetensors")
    MERGES[method]([*folders[:2], changed], tmp_path / "out")
    merged, first, second = read(tmp_path / "out"), read(folders[1]), tensors
    for name, tensor in merged.items():
        if name.endswith("num_batches_tracked"):
            assert tensor.dtype == torch.int64 and torch.equal(tensor, second[name])
        elif ".running_" in name:
            torch.testing.assert_close(tensor, (first[name] + second[name]) / 2, rtol=1e-6, atol=0)


def test_statistics_do_not_count_among_the_entries_that_ties_keeps(folders: list[Path], tmp_path: Path) -> None:
    without = [tmp_path / str(i) for i in range(3)]
    for folder, source in zip(without, folders, strict=True):
        folder.mkdir()
        kept = {n: t for n, t in read(source).items() if ".running_" not in n and "tracked" not in n}
        save_file(kept, folder / "model.safetensors")
    merging.ties(folders[0], folders[1:], [0.5, 0.5], tmp_path / "all", 0.3)
    merging.ties(without[0], without[1:], [0.5, 0.5], tmp_path / "weights", 0.3)
    merged = read(tmp_path / "all")
    assert all(torch.equal(merged[name], tensor) for name, tensor in read(tmp_path / "weights").items())


def test_the_distance_is_that_of_the_weights(folders: list[Path]) -> None:
    before, after = read(folders[0]), read(folders[1])
    names = [name for name, _ in Images().model.named_parameters()]
    expected = sum(((after[name] - before[name]).double() ** 2).sum() for name in names) ** 0.5
    assert weights.distance(folders[1], folders[0]) == pytest.approx(float(expected), rel=1e-6)


def test_the_distance_is_that_of_the_weights_part_by_part(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weights.distance(folders[1], folders[0])
    monkeypatch.setattr(weights, "PART", 7)
    assert weights.distance(folders[1], folders[0]) == pytest.approx(whole, rel=1e-12)


def test_a_distance_takes_the_memory_of_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the files, which are mapped; in float64, three times a tensor of 16 MiB would be 96 MiB."""
    entries = 2**22
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file({"embedding": torch.randn(entries)}, tmp_path / name / "model.safetensors")
    monkeypatch.setattr(weights, "PART", 2**16)
    weights.distance(tmp_path / "a", tmp_path / "b")  # the first call also allocates memory for kernels
    assert peak(lambda: weights.distance(tmp_path / "a", tmp_path / "b")) < 2 * 4 * entries + 2**23


def test_whole_numbers_are_written_byte_for_byte_as_safetensors_does(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {
        "b": torch.randn(3, 2),
        "count": torch.tensor(2**53 + 1),
        "a.mask": torch.tensor([True, False, True]),
        "z": torch.arange(-3, 3, dtype=torch.int32),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "short": torch.arange(5, dtype=torch.int16),
        "small": torch.arange(-2, 3, dtype=torch.int8),
        "a": torch.randn(()),
        "empty": torch.zeros(0, 4, dtype=torch.int64),
    }
    kinds = {"count": "I64", "a.mask": "BOOL", "z": "I32", "bytes": "U8", "short": "I16", "small": "I8", "empty": "I64"}
    save_file(tensors, tmp_path / "expected", {"format": "pt"})
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write(tmp_path / "found", shapes, lambda name: [tensors[name].reshape(-1)], kinds)
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()


def test_a_tensor_under_two_names_is_written_once(tmp_path: Path) -> None:
    """Of a module that is no model of transformers."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

    module = Tied()
    weights.save_model(module, tmp_path)
    assert sorted(read(tmp_path)) == ["one.bias", "one.weight", "two.bias"]
    moved = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.zero_()
    shards = weights.read_shards(moved, tmp_path)
    assert all(torch.equal(shards[name], parameter) for name, parameter in module.named_parameters())
