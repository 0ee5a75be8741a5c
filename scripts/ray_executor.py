"""Trains the stages of a sweep on a Ray cluster: each is a task with its GPUs and depends on the tasks it needs.

All machines of the cluster must have the project's folder and the runs' ``save_folder`` at the same paths.
"""

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.executor import Job, Watcher, composer, run_stage
from sfa import extras

RETRIES = 3  # of a task whose worker died; a stage that fails is not retried
POLL = 1.0  # seconds between checks of which stages have started
SKIPPED = -1  # instead of an exit code: a dependency failed
LOOPBACK = "127.0.0.1"


def make_all(jobs: Sequence[Job], address: str, ranks: int, watcher: Watcher) -> dict[str, str]:
    """Runs all jobs. If one fails, only those that depend on it are skipped. A worker that dies is replaced, and its
    stage continues from its last checkpoint.

    Args:
        jobs: each after those that it needs.
        address: of a running cluster, or ``local`` to start and stop one here, which listens only on the loopback
            interface and requires a token.
        ranks: processes per stage; on a cluster with GPUs, each has one GPU.
        watcher: is notified of progress.

    Returns:
        The reason of each failure, by fingerprint.

    Raises:
        MissingExtra: Ray is not installed.
        RuntimeError: the local cluster would be reachable from the network.
    """
    extras.require("ray")
    if address == "local":
        _restrict_to_loopback()
    import ray  # reads the environment on import

    variables = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])}
    dashboard = False if address == "local" else None
    ray.init(address, runtime_env={"env_vars": variables}, log_to_driver=False, include_dashboard=dashboard)
    try:
        if address == "local" and ray.util.get_node_ip_address() != LOOPBACK:
            raise RuntimeError(f"Ray would listen on {ray.util.get_node_ip_address()}: it was imported before")
        gpus = ranks if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(_make).options(num_cpus=1 if gpus else ranks, num_gpus=gpus, max_retries=RETRIES)
        references: dict[str, Any] = {}
        by_reference: dict[Any, Job] = {}
        for job in jobs:
            name = job.stage.fingerprint
            needed = [references[dependency] for dependency in sorted(job.needs)]
            references[name] = task.remote(job.arguments, ranks, str(job.log.absolute()), str(Path.cwd()), *needed)
            by_reference[references[name]] = job
        return _collect(by_reference, watcher)
    finally:
        ray.shutdown()


def _restrict_to_loopback() -> None:
    """Makes a local Ray cluster listen on the loopback interface only, as it does by default on macOS and Windows, and
    require a token, which its processes read from their environment."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _collect(by_reference: dict[Any, Job], watcher: Watcher) -> dict[str, str]:
    import ray

    failed = {}
    started: set[str] = set()
    start = time.time()
    waiting = list(by_reference)
    while waiting:
        finished, waiting = ray.wait(waiting, num_returns=1, timeout=POLL)
        for reference in [*finished, *waiting]:
            job = by_reference[reference]
            if job.stage.fingerprint not in started and _was_written_since(job.log, start):
                started.add(job.stage.fingerprint)
                watcher.started(job)
        if not finished:
            continue
        (ready,), job = finished, by_reference[finished[0]]
        try:
            code = ray.get(ready)
            failure = {0: None, SKIPPED: "a stage that it needs failed"}.get(code, f"exit code {code}, log {job.log}")
        except ray.exceptions.RayTaskError as error:
            failure = f"{str(error).strip().splitlines()[-1]}, log {job.log}"
        except ray.exceptions.RayError as error:
            failure = f"its worker died {RETRIES + 1} times: {type(error).__name__}, log {job.log}"
        if failure is not None:
            failed[job.stage.fingerprint] = f"{job.title}: {failure}"
        watcher.ended(job, failure)
    return failed


def _was_written_since(log: Path, start: float) -> bool:
    """Whether a job has started to write its log."""
    return log.is_file() and log.stat().st_mtime >= start


def _make(arguments: list[str], ranks: int, log: str, folder: str, *needed: int) -> int:
    """Runs in a worker: trains the stage, appends its output to ``log``, and returns the exit code."""
    if any(needed):
        return SKIPPED
    os.chdir(folder)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    saved = [os.dup(number) for number in (1, 2)]
    with open(log, "a") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
        try:
            return run_stage(arguments, composer(ranks))
        finally:
            for number, duplicate in zip((1, 2), saved, strict=True):
                os.dup2(duplicate, number)
                os.close(duplicate)
