"""What a person sees of ``--ranks``: a line at once, none of the launcher's, and how to resume as it was typed."""

import signal
import subprocess
import sys

import pytest
from composer.cli import launcher

from scripts import cli, launch, run
from sfa import orphans
from sfa.errors import Interrupted
from sfa.terminal import TYPED, command


@pytest.fixture(autouse=True)
def handlers() -> object:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [
        (0, 0, False),
        (2, 2, False),
        (130, 130, False),
        (143, 130, False),
        (-15, 130, False),
        (1, 1, True),
        (-9, -9, True),
    ],
)
def test_the_launcher_speaks_if_a_rank_failed_without_a_report(
    ended: int, code: int, said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def noisy() -> int:
        print("Waiting up to 30 seconds")
        print("Traceback of rank 1", file=sys.stderr)
        return ended

    monkeypatch.setattr(launcher, "main", noisy)
    assert launch.main([]) == code
    out, err = capsys.readouterr()
    assert out == "" and ("Traceback of rank 1" in err) is said
    assert ("Interrupted. To resume:" in err) is (ended in (143, -15))


def test_a_second_signal_leaves_the_launcher_to_its_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> int:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # from the parent
        signal.raise_signal(signal.SIGINT)
        return 130

    monkeypatch.setattr(launcher, "main", stopped)
    assert launch.main([]) == 130


def test_an_interrupted_rank_says_what_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @command("composer train.py")
    def stopping(arguments: list[str]) -> int:
        raise Interrupted()

    monkeypatch.setattr(sys, "argv", ["sfa"])
    monkeypatch.setenv(TYPED, "")
    monkeypatch.setattr(orphans.subprocess, "Popen", lambda started, env: Ended(started))
    assert cli.main(["run", "mine.yaml", "--ranks", "2"]) == 130
    monkeypatch.setattr(sys, "argv", [run.__file__])  # as in a rank
    assert stopping(["mine.yaml"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "  sfa run mine.yaml --ranks 2"


class Ended(subprocess.Popen):  # type: ignore[type-arg]
    """An ended process, if it was the launcher's."""

    def __init__(self, started: list[str]):
        assert started[1:] == ["-m", "scripts.launch", "-n", "2", "-m", "scripts.run", "mine.yaml"]
        self.returncode = 130

    def wait(self, timeout: float | None = None) -> int:
        return self.returncode


@pytest.mark.parametrize("code", [128 + signal.SIGINT, 128 + signal.SIGTERM])
def test_a_signal_is_reported_as_composer_raises_it(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    @command("composer train.py")
    def stopped(arguments: list[str]) -> int:
        sys.exit(code)

    assert stopped(["mine.yaml"]) == 130
    assert "Interrupted. To resume:\n" in capsys.readouterr().err


def test_other_exits_are_left_alone() -> None:
    @command("composer train.py")
    def usage(arguments: list[str]) -> int:
        sys.exit(2)

    with pytest.raises(SystemExit):
        usage([])
