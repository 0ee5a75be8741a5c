"""The optional extras of this package, and whether they are installed. The core needs only torch and safetensors."""

from importlib.util import find_spec

from sfa.errors import MissingExtra

# Modules of each extra; for the suite, those that its commands import at startup.
MODULES = {
    "composer": ("composer", "torchvision"),
    "merge": ("mergekit",),
    "ray": ("ray",),
    "suite": (
        "PIL", "composer", "datasets", "filelock", "lm_eval", "matplotlib", "mergekit", "omegaconf", "peft", "psutil",
        "pyarrow", "pydantic", "rich", "scipy", "tabulate", "torchvision", "transformers",
    ),
}  # fmt: skip


def require(extra: str) -> None:
    """Raises a MissingExtra that says which extra to install, if one of its modules is missing."""
    reason = missing(extra)
    if reason is not None:
        raise MissingExtra(reason)


def missing(extra: str) -> str | None:
    """Which modules of an extra are missing and how to install them, on one line; ``None`` if none is."""
    absent = [module for module in MODULES[extra] if not installed(module)]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    return f"{', '.join(absent)} {verb} not installed: pip install 'sfa-soup[{extra}]', or in a clone '.[{extra}]'"


def installed(module: str) -> bool:
    """Whether a top-level module can be imported, without importing it."""
    return find_spec(module) is not None
