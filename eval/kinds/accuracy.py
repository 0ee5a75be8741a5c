"""``<task>_accuracy``: how often the likeliest of *all* labels is correct, on a task's held-out images."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eval.kind import Kind, RankResult, Settings, in_row_order, mean_score
from sfa.data import ImageTask, Task
from sfa.records import Score
from sfa.store import fingerprint


class Accuracy(Kind):
    """One head has an output for every label of the stream's data set."""

    name: ClassVar[str] = "accuracy"
    unit: ClassVar[str] = "images"
    modules: ClassVar[tuple[str, ...]] = ("sfa.stages.composer_model", "sfa.data.image_arrays")

    def __init__(self, names: Sequence[str], stream: Sequence[Task], settings: Settings):
        super().__init__(names, stream, settings)
        by_name = {name: task for task in stream if isinstance(task, ImageTask) for name in task.declared()}
        self.tasks = {name: by_name[name] for name in self.names}
        self.images: dict[str, dict[str, NDArray[Any]]] = {}

    @classmethod
    def owned(cls, stream: Sequence[Task]) -> list[str]:
        return [name for task in stream for name, kind in task.declared().items() if kind == cls.name]

    def key(self, name: str) -> str:
        """Hash of the images and their limit."""
        return fingerprint(["accuracy", self.tasks[name].data_spec(), self.settings.limit, self.settings.bf16])

    def load(self, name: str, model: Any, processor: Any) -> None:
        from sfa.data.image_arrays import ImageArrays, channels_of

        limit = self.settings.limit
        builder = ImageArrays(processor, channels_of(model.config))
        arrays, _ = builder.split(self.tasks[name], "test", self.settings.cache)
        if limit is not None and limit < len(arrays["labels"]):
            drawn = np.sort(np.random.default_rng(0).permutation(len(arrays["labels"]))[:limit])
            arrays = {key: array[drawn] for key, array in arrays.items()}
        self.images[name] = arrays

    def count(self, name: str) -> int:
        return len(self.images[name]["labels"])

    def measure(self, model: Any, processor: Any, rows: dict[str, list[int]]) -> dict[str, RankResult]:
        """Whether each image's label was the likeliest."""
        import torch

        from sfa.stages.composer_model import StageModel

        device, bf16, size = next(model.parameters()).device, self.settings.bf16, self.settings.batch_size
        stage_model = StageModel(model, processor, cpu_bf16=bf16)
        results = {}
        for name, wanted in rows.items():
            pixels, labels = self.images[name]["pixel_values"], self.images[name]["labels"]
            correct = []
            for batch in (wanted[i : i + size] for i in range(0, len(wanted), size)):
                inputs = {"pixel_values": torch.from_numpy(np.array(pixels[batch])).to(device)}
                with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=bf16 and device.type == "cuda"):
                    likeliest = stage_model(inputs).argmax(1).cpu().numpy()
                correct.append(likeliest == labels[batch])
            results[name] = RankResult(np.concatenate(correct).astype(np.float64)[:, None])
        return results

    def score(self, name: str, results: Sequence[RankResult]) -> Score:
        return mean_score(name, "acc", in_row_order(results)[:, 0])
