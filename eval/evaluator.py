"""The evaluations that a config asks for."""

import torch

from sfa.callbacks import Evaluator
from sfa.schema import Config


def evaluator(config: Config) -> Evaluator:
    """Accuracy of images, or lm-eval and losses of text."""
    train = config.train
    bf16 = train.precision == "amp_bf16" or (train.precision == "auto" and torch.cuda.is_available())
    if config.family().rows == "images":
        from eval.accuracy import Accuracy

        cache = config.save_folder / "data"
        return Accuracy(config.evaluations(), config.tasks, cache, config.eval.limit, config.eval.batch_size, bf16)
    from eval.harness import Harness, Settings

    settings = Settings(
        template=config.model.template,
        seq_len=train.seq_len,
        long_rows=train.long_rows,
        limit=config.eval.limit,
        batch_size=config.eval.batch_size,
        bf16=bf16,
        unshard=config.eval.unshard,
        data_folder=config.data_folder,
        system=config.model.system,
        date=config.model.date,
    )
    return Harness(config.evaluations(), config.tasks, settings)
