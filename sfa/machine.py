"""The machine that a stage runs on: its hardware, package versions and peak memory."""

import importlib.metadata
import platform
import resource
from pathlib import Path
from types import SimpleNamespace

import torch
from composer.utils import collect_env, dist


def hardware() -> str:
    """The hardware, like ``2 threads on x86_64`` or ``8 x NVIDIA H100``."""
    if torch.cuda.is_available():
        return f"{dist.get_world_size()} x {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads() * dist.get_world_size()} threads on {platform.machine()}"


VERSIONS = ("torch", "transformers", "tokenizers", "mosaicml", "datasets", "pillow", "mergekit")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that rounding, tokens and pixels depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in VERSIONS}


def name_processor() -> None:
    """Sets the processor's name for Composer. It would use py-cpuinfo, which starts a process that spins for ever if
    this one is killed meanwhile."""
    cpuinfo = SimpleNamespace(get_cpu_info=lambda: {"brand_raw": _processor()})
    collect_env.cpuinfo = cpuinfo  # type: ignore[attr-defined]


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def reset_peak() -> None:
    """Starts a new measurement of :func:`peak`."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak of resident memory


def peak() -> int:
    """Peak memory of this rank since the last reset, in bytes: on the GPU, or resident memory without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
