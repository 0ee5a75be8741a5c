"""Failures are reported in one message, by one rank where all know, and end in the exit code that they stand for."""

import errno

import pytest
from safetensors import SafetensorError

from eval.sandbox import NoSandbox
from sfa.config import ConfigError
from sfa.config.reading import Unreadable
from sfa.data.source import SourceError
from sfa.errors import Interrupted, MergeError, MissingExtra, ModelFilesError, NotFinite, SFAError, UsageError
from sfa.models.pretrained import ModelError
from sfa.stages.checkpoint_files import UntrustedCheckpoint
from sfa.store import DamagedStage
from sfa.terminal import UNAFFECTED, command

AGAIN = "\n  python -m it a 'b c'\n"
# What is raised, its exit code, what is printed, and whether any rank prints it, since it alone may know.
FAILURES = [
    (SFAError("it fails"), 1, "it fails\n", True),
    (SFAError("it fails", "Do that"), 1, "it fails. Do that.\n", True),
    (SFAError("it fails", code=2), 2, "it fails\n", False),
    (UsageError("no such run"), 2, "no such run\n", False),
    (Unreadable("a", "b"), 2, "a; b\n", False),
    (ConfigError("x.yaml", ["a: wrong", "b: wrong"]), 2, "x.yaml: 2 errors\n  a: wrong\n  b: wrong\n", False),
    (SourceError("no rows"), 1, "no rows\n", True),
    (ModelError("no model"), 1, "no model\n", True),
    (ModelFilesError("torn"), 1, "torn\n", True),
    (MergeError("unlike"), 1, "unlike\n", True),
    (MissingExtra("absent"), 1, "absent\n", True),
    (NoSandbox("none"), 1, "none\n", True),
    (DamagedStage("changed"), 1, "changed. Delete its folder to make it again.\n", True),
    (UntrustedCheckpoint("untrusted"), 1, "untrusted. Delete it to start its stage from the beginning.\n", True),
    (NotFinite("step 3"), 1, "step 3. It was not saved; the last checkpoint does not contain it.\n", True),
    (Interrupted("Interrupted (at step 3, saved)", "To resume, run this"), 130,
     f"\nInterrupted (at step 3, saved). To resume, run this:{AGAIN}", False),
    (KeyboardInterrupt(), 130, f"\nInterrupted. To resume:{AGAIN}", False),
    (OSError(errno.ENOSPC, "No space left on device"), 1, f"[Errno 28] No space left on device. {UNAFFECTED}.\n", True),
    (SafetensorError("torn"), 1, f"torn. {UNAFFECTED}.\n", True),
]  # fmt: skip


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("failure", "code", "printed", "on_any_rank"), FAILURES)
def test_a_failure_is_one_message_and_its_exit_code(
    failure: BaseException, code: int, printed: str, on_any_rank: bool, rank: int,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("RANK", str(rank))

    @command("python -m it")
    def main(arguments: list[str]) -> int:
        raise failure

    assert main(["a", "b c"]) == code
    said = capsys.readouterr()
    assert said.err == (printed if rank == 0 or on_any_rank else "") and not said.out


@pytest.mark.parametrize("failure", [BrokenPipeError(), ZeroDivisionError()])
def test_a_reader_that_left_and_a_bug_are_not_failures_of_this_kind(failure: Exception) -> None:
    @command("python -m it")
    def main(arguments: list[str]) -> int:
        raise failure

    with pytest.raises(type(failure)):
        main([])
