"""Slow and GPU tests are left out with their reason unless asked for."""

import gc
import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_rendezvous_of_another_test() -> Iterator[None]:
    """Accelerate writes a port to the environment, even for one process; launchers that later tests start would all
    take it."""
    for name in RENDEZVOUS:
        os.environ.pop(name, None)
    yield
    for name in RENDEZVOUS:
        os.environ.pop(name, None)


def pytest_collection_finish() -> None:
    """Stages collect garbage when they end, which takes a second if it visits all that the libraries have made."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties += [("cell", mark.args[0]) for mark in item.iter_markers("cell")]
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: run with --slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
