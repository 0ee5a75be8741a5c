"""The machine that a stage ran on: what it is, and how much memory was used."""

import importlib.metadata
import platform
import resource
from pathlib import Path
from types import SimpleNamespace

import torch
from composer.utils import collect_env, dist


def hardware() -> str:
    """Like ``2 threads on x86_64`` or ``8 x NVIDIA H100``."""
    if torch.cuda.is_available():
        return f"{dist.get_world_size()} x {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads() * dist.get_world_size()} threads on {platform.machine()}"


VERSIONS = ("torch", "transformers", "tokenizers", "mosaicml", "datasets", "pillow", "mergekit")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that rounding, tokens and pixels depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in VERSIONS}


def name_processor() -> None:
    """Tells Composer the processor's name. It would ask py-cpuinfo, which starts a process that spins for ever if this
    one is killed meanwhile."""
    found = SimpleNamespace(get_cpu_info=lambda: {"brand_raw": _processor()})
    collect_env.cpuinfo = found  # type: ignore[attr-defined]


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def reset_peak() -> None:
    """Starts a new measurement of :func:`peak`."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak of resident memory


def peak() -> int:
    """Peak memory of this rank since the last reset, bytes: on the GPU, or resident where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
