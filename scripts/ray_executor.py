"""Makes the stages of a sweep on a Ray cluster: each a task with its GPUs, after the tasks that it needs.

All machines of the cluster must see the project's folder and the runs' ``save_folder`` under the same paths.
"""

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.executor import Job, Watcher, composer, run_stage
from sfa import extras

RETRIES = 3  # of a task whose worker died; a stage that fails by itself is not tried again
POLL = 1.0  # seconds between looks at which stages have begun
SKIPPED = -1  # in place of an exit code: a stage that it needs failed
LOOPBACK = "127.0.0.1"


def make_all(jobs: Sequence[Job], address: str, ranks: int, watcher: Watcher) -> dict[str, str]:
    """Makes all jobs. A failure stops only those that need the failed one; a worker that dies is replaced, and its
    stage goes on from its last checkpoint.

    Args:
        jobs: each after those that it needs.
        address: of a running cluster, or ``local``: one is started here, and ended. It listens on the loopback
            interface alone, and to none but those who know its token.
        ranks: processes of a stage; on a cluster with GPUs, each has one.
        watcher: is told how it goes.

    Returns:
        Of each job that failed, by fingerprint, why.

    Raises:
        MissingExtra: Ray is not installed.
        RuntimeError: the local cluster would be open to the network.
    """
    extras.require("ray")
    options: dict[str, Any] = {"address": address}
    if address == "local":
        _close_in()
        options["include_dashboard"] = False
    import ray  # reads the environment, once

    here = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])}
    ray.init(runtime_env={"env_vars": here}, log_to_driver=False, **options)
    try:
        if address == "local" and ray.util.get_node_ip_address() != LOOPBACK:
            raise RuntimeError(f"Ray would listen on {ray.util.get_node_ip_address()}: it was imported before")
        gpus = ranks if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(_make).options(num_cpus=1 if gpus else ranks, num_gpus=gpus, max_retries=RETRIES)
        references: dict[str, Any] = {}
        by_reference: dict[Any, Job] = {}
        for job in jobs:
            name = job.stage.fingerprint
            needed = [references[other] for other in sorted(job.needs)]
            references[name] = task.remote(job.arguments, ranks, str(job.log.absolute()), str(Path.cwd()), *needed)
            by_reference[references[name]] = job
        return _collect(by_reference, watcher)
    finally:
        ray.shutdown()


def _close_in() -> None:
    """Has a Ray that is started here listen on the loopback interface, as it does by itself on macOS and Windows, where
    this variable opens it, and ask for a token, which its processes find in their environment."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _collect(by_reference: dict[Any, Job], watcher: Watcher) -> dict[str, str]:
    import ray

    failed = {}
    begun: set[str] = set()
    start = time.time()
    waiting = list(by_reference)
    while waiting:
        found, waiting = ray.wait(waiting, num_returns=1, timeout=POLL)
        for reference in [*found, *waiting]:
            job = by_reference[reference]
            if job.stage.fingerprint not in begun and _since(job.log, start):
                begun.add(job.stage.fingerprint)
                watcher.started(job)
        if not found:
            continue
        (ready,), job = found, by_reference[found[0]]
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


def _since(log: Path, start: float) -> bool:
    """Whether a job writes its log already."""
    return log.is_file() and log.stat().st_mtime >= start


def _make(arguments: list[str], ranks: int, log: str, folder: str, *needed: int) -> int:
    """In a worker: exit code of the stage, with all it prints added to ``log``."""
    if any(needed):
        return SKIPPED
    os.chdir(folder)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(number) for number in (1, 2)]
    with open(log, "a") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
        try:
            return run_stage(arguments, composer(ranks))
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
