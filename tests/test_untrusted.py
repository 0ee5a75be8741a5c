"""No byte of a checkpoint is run: forged ones are refused, named, and would not run if they were not."""

import collections
import contextlib
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import train
from sfa.stages import callbacks, checkpoint_files, checkpoints
from sfa.stages.checkpoints import newest_checkpoint
from sfa.stages.pickles import UntrustedPickle, read_metadata

MNIST = str(Path(train.__file__).parent / "yamls" / "mnist.yaml")
SMALL = ["train.max_duration=4ba", "eval.limit=20", "name=run", "method=sfa"]
SHARDED = ["parallelism=fsdp2", "checkpoint=sharded"]
REFUSED = r"Weights only load failed|posix system|mmap can only be used"


class Hostile:
    """Unpickled, it makes the file ``proof``."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


class Call:
    """Unpickled, it is what ``function`` returns."""

    def __init__(self, function: Any, *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def run(folder: Path, *more: str) -> int:
    return train.main([MNIST, *SMALL, *more, f"save_folder={folder}"])


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were interrupted in their first task, with one checkpoint: a file, and a folder of shards."""
    stop = callbacks.Stopper.batch_end

    def soon(self: Any, state: Any, logger: Any) -> None:
        self.requested = state.timestamp.batch.value == 2
        stop(self, state, logger)

    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("file", "shards")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.Stopper, "batch_end", soon)
        assert run(folders["file"]) == 130 and run(folders["shards"], *SHARDED) == 130
    return folders


def copied(interrupted: dict[str, Path], kind: str, to: Path) -> tuple[Path, Path]:
    """A copy of a run and the checkpoint in it."""
    shutil.copytree(interrupted[kind], to / "runs", symlinks=True)
    (checkpoint,) = (to / "runs").glob("stages/*/checkpoints/ep0-ba2*")
    return to / "runs", checkpoint


def records(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(*contents: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    twice = len(dict(contents)) < len(contents)
    with zipfile.ZipFile(stream, "w") as archive, pytest.warns() if twice else contextlib.nullcontext():
        for name, content in contents:
            archive.writestr(name, content)
    return stream.getvalue()


def archive(pickled: bytes, **storages: bytes) -> bytes:
    """As torch.save would write it."""
    named = [(f"archive/data/{key.strip('_')}", content) for key, content in storages.items()]
    return zipped(("archive/data.pkl", pickled), ("archive/byteorder", b"little"), *named, ("archive/version", b"3\n"))


def tarred(hostile: bytes) -> bytes:
    """The format of torch 0.1."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(hostile)
            archive.addfile(entry, io.BytesIO(hostile))
    return stream.getvalue()


def renamed_inside(file: Path, hostile: bytes) -> bytes:
    """The directory at the end names another record than the header before it."""
    content = zipped(*records(file).items(), ("archive/data/77", hostile))
    return content.replace(b"archive/data/77", b"archive/data/78", 1)


def tensor(numel: int, size: tuple[int, ...], stride: tuple[int, ...], key: str = "0") -> bytes:
    """A pickle of a tensor, of whatever shape, over a storage declared with ``numel`` numbers."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", torch.FloatStorage, key, "cpu", numel) if thing == "the storage" else None

    stream = io.BytesIO()
    hooks: Any = collections.OrderedDict()
    rebuilt = Call(torch._utils._rebuild_tensor_v2, "the storage", 0, size, stride, False, hooks)
    Pickler(stream, 2).dump({"state": rebuilt})
    return stream.getvalue()


FORGED: dict[str, Callable[[Path, bytes], bytes]] = {
    "a pickle": lambda file, hostile: hostile,
    "a pickle before an archive": lambda file, hostile: hostile + file.read_bytes(),
    "bytes before an archive": lambda file, hostile: b"#!/bin/sh\n" + file.read_bytes(),
    "an archive before an archive": lambda file, hostile: archive(hostile) + file.read_bytes(),
    "an archive after an archive": lambda file, hostile: file.read_bytes() + archive(hostile),
    "a tar archive before an archive": lambda file, hostile: tarred(hostile) + file.read_bytes(),
    "a hostile pickle": lambda file, hostile: archive(hostile),
    "a second pickle": lambda file, hostile: zipped(*records(file).items(), ("archive/data.pkl", hostile)),
    "a second pickle before": lambda file, hostile: zipped(("archive/data.pkl", hostile), *records(file).items()),
    "many pickles before": lambda file, hostile: zipped(*[("archive/data.pkl", hostile)] * 9, *records(file).items()),
    "capitals": lambda file, hostile: zipped(("archive/DATA.PKL", hostile), ("archive/version", b"3\n")),
    "capitals beside": lambda file, hostile: zipped(("archive/DATA.PKL", hostile), *records(file).items()),
    "another folder": lambda file, hostile: zipped(
        ("b/data.pkl", hostile), ("b/version", b"3\n"), *records(file).items()
    ),
    "TorchScript": lambda file, hostile: zipped(*records(file).items(), ("archive/constants.pkl", hostile)),
    "a contradicting header": renamed_inside,
    "a pickle in a pickle": lambda file, hostile: archive(
        pickle.dumps(Call(torch.storage._load_from_bytes, hostile), 2)
    ),
    "a rebuilt subclass": lambda file, hostile: archive(
        pickle.dumps(Call(torch._utils._rebuild_wrapper_subclass, torch.Tensor, torch.float32, (1,)), 2)
    ),
    "an array of objects": lambda file, hostile: archive(pickle.dumps(np.array([None, 1], dtype=object), 2)),
    "an array of records": lambda file, hostile: archive(pickle.dumps(np.zeros(2, dtype=[("a", "i4")]), 2)),
    "a storage longer than its bytes": lambda file, hostile: archive(tensor(1 << 20, (4,), (1,)), _0=b"\0" * 16),
    "a tensor longer than its storage": lambda file, hostile: archive(tensor(4, (1 << 20,), (1,)), _0=b"\0" * 16),
    "a negative stride": lambda file, hostile: archive(tensor(4, (4,), (-1,)), _0=b"\0" * 16),
    "a storage that is none": lambda file, hostile: archive(tensor(4, (4,), (1,), "../version"), _0=b"\0" * 16),
    "an item set in what has none": lambda file, hostile: archive(b"\x80\x02cdatetime\ntimedelta\n)RK\x00K\x01s."),
    "a changed class": lambda file, hostile: archive(b"\x80\x02cnumpy\ndtype\nN}X\x01\0\0\0aK\x01s\x86b."),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_checkpoint_is_named_and_not_run(
    how: str, interrupted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, checkpoint = copied(interrupted, "file", tmp_path)
    hostile = pickle.dumps({"state": Hostile(tmp_path / "proof")}, protocol=2)
    checkpoint.write_bytes(FORGED[how](checkpoint, hostile))
    assert run(folder) == 1
    printed = capsys.readouterr().err
    assert f"{checkpoint} was not written here: " in printed
    assert "Delete it to start its stage from the beginning" in printed
    assert not (tmp_path / "proof").exists()
    assert not list(folder.glob("run/results.json"))


def shard_of(folder: Path, name: str) -> tuple[Path, Any]:
    with (folder / ".metadata").open("rb") as stream:
        shard = next(info for index, info in read_metadata(stream).storage_data.items() if index.fqn == name)
    return folder / shard.relative_path, shard


def overwritten(name: str) -> Callable[[Path, bytes], None]:
    def forge(folder: Path, hostile: bytes) -> None:
        file, info = shard_of(folder, name)
        assert len(hostile) < info.length
        content = bytearray(file.read_bytes())
        content[info.offset : info.offset + len(hostile)] = hostile
        file.write_bytes(content)

    return forge


def described(change: Callable[[Any], None]) -> Callable[[Path, bytes], None]:
    """Changes the metadata of one shard."""

    def forge(folder: Path, hostile: bytes) -> None:
        metadata = pickle.loads((folder / ".metadata").read_bytes())
        change(metadata)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return forge


def led_out(metadata: Any) -> None:
    index = next(index for index in metadata.storage_data if index.fqn == "state.run_name")
    metadata.storage_data[index].relative_path = "../../../../outside.distcp"


def described_by(metadata: Any) -> None:
    index = next(index for index in metadata.storage_data if index.fqn == "state.run_name")
    metadata.storage_data[index].transform_descriptors = ["zstd"]


def elsewhere(folder: Path, hostile: bytes) -> None:
    (shard,) = folder.glob("*.distcp")
    shutil.move(shard, folder.parent / "elsewhere")
    shard.symlink_to(folder.parent / "elsewhere")


SHARD_FORGED: dict[str, Callable[[Path, bytes], None]] = {
    "a pickle in a shard": overwritten("state.run_name"),
    "a pickle in a tensor's place": overwritten("state.model.model.hidden.0.weight"),
    "metadata": lambda folder, hostile: (folder / ".metadata").write_bytes(hostile) and None,
    "metadata that name a class of torch": lambda folder, hostile: (
        (folder / ".metadata").write_bytes(b"ctorch.distributed.checkpoint.filesystem\nFileSystemReader\n(S'/'\ntR.")
        and None
    ),
    "metadata of nothing": lambda folder, hostile: (folder / ".metadata").write_bytes(pickle.dumps({})) and None,
    "a shard elsewhere": described(led_out),
    "a shard that is transformed": described(described_by),
    "a link": elsewhere,
}


@pytest.mark.parametrize("how", SHARD_FORGED)
def test_a_forged_sharded_checkpoint_is_named_and_not_run(
    how: str, interrupted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, checkpoint = copied(interrupted, "shards", tmp_path)
    SHARD_FORGED[how](checkpoint, pickle.dumps(Hostile(tmp_path / "proof"), protocol=2))
    assert run(folder, *SHARDED) == 1
    printed = capsys.readouterr().err
    assert f"{checkpoint} was not written here: " in printed
    assert "Delete it to start its stage from the beginning" in printed
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("kind", ["file", "shards"])
def test_a_checkpoint_of_this_suite_is_resumed_whatever_files_are_next_to_it(
    kind: str, interrupted: dict[str, Path], tmp_path: Path
) -> None:
    folder, checkpoint = copied(interrupted, kind, tmp_path)
    hostile = pickle.dumps(Hostile(tmp_path / "proof"), protocol=2)
    for name in ("ep0-ba9.tar", "ep0-ba9.pt.gz", "ep0-ba9-rank0.pt", "epoch-ba9.pt"):
        (checkpoint.parent / name).write_bytes(hostile)
    if kind == "shards":
        (checkpoint / "__7_0.distcp").write_bytes(hostile)
    assert newest_checkpoint(checkpoint.parent, Console(quiet=True)) == checkpoint
    assert run(folder, *(SHARDED if kind == "shards" else [])) == 0
    stages = json.loads((folder / "run" / "results.json").read_text())["stages"]
    assert [stage["steps"] for stage in stages] == [4, 4] and not (tmp_path / "proof").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize(
    ("kind", "forge"),
    [
        ("file", lambda file, hostile: file.write_bytes(hostile)),
        ("file", lambda file, hostile: file.write_bytes(archive(hostile))),
        ("shards", SHARD_FORGED["a pickle in a shard"]),
        ("shards", SHARD_FORGED["metadata"]),
    ],
)
def test_the_loaders_themselves_run_nothing(
    kind: str,
    forge: Callable[[Path, bytes], Any],
    interrupted: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even if a checkpoint is changed after it was checked."""
    folder, checkpoint = copied(interrupted, kind, tmp_path)
    forge(checkpoint, pickle.dumps(Hostile(tmp_path / "proof"), protocol=2))
    monkeypatch.setattr(checkpoints, "is_whole", lambda checkpoint: True)
    with pytest.raises(
        BaseException, match=r"Weights only load failed|posix system|mmap can only be used"
    ):  # torch's is no Exception
        run(folder, *(SHARDED if kind == "shards" else []))
    assert not (tmp_path / "proof").exists()


def test_no_text_of_a_checkpoint_is_evaluated(interrupted: dict[str, Path], tmp_path: Path) -> None:
    """Composer makes algorithms that a checkpoint lists, and that are missing, by evaluating their text."""
    folder, checkpoint = copied(interrupted, "file", tmp_path)
    content = torch.load(checkpoint, weights_only=False)
    text = f"BlurPool() if __import__('os').system('touch {tmp_path / 'proof'}') else BlurPool()"
    content["state"]["algorithms"].append(("BlurPool", {"repr": text}))
    torch.save(content, checkpoint)
    assert run(folder) == 0
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_a_checkpoint_is_a_plain_file(kind: str, tmp_path: Path) -> None:
    torch.save({"state": {}}, tmp_path / "elsewhere")
    checkpoint = tmp_path / "ep0-ba2.pt"
    makers = {"link": lambda: checkpoint.symlink_to("elsewhere"), "fifo": lambda: os.mkfifo(checkpoint)}
    makers.get(kind, checkpoint.mkdir)()
    with pytest.raises(
        checkpoint_files.UntrustedCheckpoint, match=r"ep0-ba2\.pt is a link, or not the expected kind of file"
    ):
        newest_checkpoint(tmp_path, Console(quiet=True))


@pytest.mark.parametrize("damage", ["cut", "flip", "zeros", "empty"])
def test_a_torn_shard_or_file_is_reported_and_skipped(
    damage: str, interrupted: dict[str, Path], tmp_path: Path
) -> None:
    lines = io.StringIO()
    for kind in ("file", "shards"):
        _, checkpoint = copied(interrupted, kind, tmp_path / kind)
        file = next(checkpoint.glob("*.distcp")) if kind == "shards" else checkpoint
        content = bytearray(file.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 1
        elif damage == "zeros":
            content = bytearray(len(content))
        else:
            content = content[: len(content) // 2 if damage == "cut" else 0]
        file.write_bytes(content)
        assert newest_checkpoint(checkpoint.parent, Console(file=lines, soft_wrap=True)) is None
    assert lines.getvalue().count("is torn or damaged and is not used") == 2


def test_torn_metadata_are_reported_and_skipped(interrupted: dict[str, Path], tmp_path: Path) -> None:
    _, checkpoint = copied(interrupted, "shards", tmp_path)
    whole = (checkpoint / ".metadata").read_bytes()
    for end in (0, 100, len(whole) // 2, len(whole) - 1):
        (checkpoint / ".metadata").write_bytes(whole[:end])
        assert newest_checkpoint(checkpoint.parent, Console(quiet=True)) is None


def test_what_torch_saves_is_harmless(tmp_path: Path) -> None:
    content = {
        "w": torch.ones(2, 3).t(),
        "b": torch.ones(2, dtype=torch.bfloat16),
        "none": torch.ones(0, 3),
        "one": torch.ones(()),
        "view": torch.arange(10)[2:9:3],
        "n": np.float64(1),
        "a": np.arange(3),
        "bytes": b"\xff\0",
        "time": timedelta(1),
        "version": torch.__version__,
        "size": torch.Size([1]),
        "type": torch.float16,
        "o": collections.OrderedDict(a=1),
        "p": torch.nn.Parameter(torch.ones(1)),
    }
    torch.save(content, tmp_path / "ep0-ba1.pt")
    assert checkpoint_files.is_whole(tmp_path / "ep0-ba1.pt")
    with checkpoint_files.weights_only():
        loaded = torch.load(tmp_path / "ep0-ba1.pt", weights_only=False)
    assert loaded.keys() == content.keys() and loaded["time"] == timedelta(1) and loaded["n"] == 1
    torch.save({"f": shutil.rmtree}, tmp_path / "ep0-ba1.pt")
    with pytest.raises(checkpoint_files.UntrustedCheckpoint, match="loading it would run shutil rmtree"):
        checkpoint_files.is_whole(tmp_path / "ep0-ba1.pt")
    with checkpoint_files.weights_only(), pytest.raises(pickle.UnpicklingError, match=r"shutil\.rmtree"):
        torch.load(tmp_path / "ep0-ba1.pt", weights_only=False)


@pytest.mark.parametrize(
    ("of", "name", "fine"),
    [
        ("torch.distributed.checkpoint.metadata _MEM_FORMAT_ENCODING", "TORCH_CONTIGUOUS_FORMAT", True),
        ("torch.distributed.checkpoint.metadata _MEM_FORMAT_ENCODING", "__class__", False),
        ("torch Size", "__class__", False),
    ],
)
def test_an_attribute_is_taken_of_the_one_enum_alone(of: str, name: str, fine: bool) -> None:
    """As Python before 3.11.4 pickles it, whichever runs this."""
    lines = ["cbuiltins", "getattr", f"(c{of.split()[0]}", of.split()[1], f"V{name}", "tR."]
    with pytest.raises(UntrustedPickle, match="are not torch's" if fine else "would run builtins getattr"):
        read_metadata(io.BytesIO("\n".join(lines).encode()))
