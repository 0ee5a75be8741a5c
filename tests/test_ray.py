"""Who can reach a Ray cluster started for a sweep."""

import os
from dataclasses import replace
from pathlib import Path

import grpc
import psutil

import train
from scripts import ray_executor
from scripts.executor import Job
from sfa.sweeps import expand, stages

MNIST = Path(train.__file__).parent / "yamls" / "mnist.yaml"


def test_a_local_ray_listens_on_the_loopback_interface_to_those_who_know_its_token(tmp_path: Path) -> None:
    """While a job runs on it. gRPC methods are called as any process could."""
    (stage, run), *_ = stages(expand(MNIST, [{"method": "sequential"}], [17]))
    job = Job(stage, replace(run, arguments=("--help",)), frozenset(), tmp_path / "log")
    before = listening()
    open_to: set[tuple[str, int]] = set()
    answers: list[str] = []

    def ask(token: str | None) -> str:
        import ray  # only after its environment is set

        with grpc.insecure_channel(ray.get_runtime_context().gcs_address) as channel:
            call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
            try:
                call(b"", timeout=10, metadata=(("authorization", f"Bearer {token}"),) if token else ())
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"

    class Looker:
        def started(self, job: Job) -> None: ...

        def ended(self, job: Job, failure: str | None) -> None:
            assert failure is None
            open_to.update(listening() - before)
            answers.extend(ask(token) for token in (None, "0" * 64, os.environ["RAY_AUTH_TOKEN"]))

    assert ray_executor.make_all([job], "local", 1, Looker()) == {}
    assert len(open_to) >= 4 and {address for address, _ in open_to} == {"127.0.0.1"}
    assert answers == ["UNAUTHENTICATED", "UNAUTHENTICATED", "OK"]


def listening() -> set[tuple[str, int]]:
    """Addresses and ports that this process and those it started listen on."""
    ours = psutil.Process()
    sockets = [c for p in (ours, *ours.children(recursive=True)) for c in p.net_connections("inet")]
    return {(c.laddr.ip.removeprefix("::ffff:"), c.laddr.port) for c in sockets if c.status == psutil.CONN_LISTEN}
