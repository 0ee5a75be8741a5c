"""Runs hostile code as whoever runs the tests, and as an ordinary user."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from eval import sandbox

needs_sandbox = pytest.mark.skipif(not sandbox.works(), reason="bubblewrap does not work here")
USERS = ["this", "ordinary"]


def as_user(user: str, work: Callable[[], Any]) -> Any:
    """What ``work`` returns (as JSON has it), in this process, or in one of a user without any rights."""
    if user == "this":
        return work()
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(1000)
            os.setuid(1000)
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as stream:
        output = stream.read()
    os.waitpid(child, 0)
    assert output, "it failed before it could tell"
    return json.loads(output)


def true_for(cases: dict[str, Any], user: str, verdict: Callable[[Any], bool]) -> list[str]:
    """The names of the cases of which the verdict is true, two at a time."""

    def work() -> list[str]:
        with ThreadPoolExecutor(2) as pool:
            return [name for name, true in zip(cases, pool.map(verdict, cases.values()), strict=True) if true]

    output: list[str] = as_user(user, work)
    return output
