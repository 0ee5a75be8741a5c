"""The extras of this package, and whether what they bring is installed. The core needs torch and safetensors alone."""

from importlib.util import find_spec

from sfa.errors import MissingExtra

# Modules that each extra brings; of the suite, those that its commands import when they start.
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
    """Raises a MissingExtra that says which extra to install, if a module that it brings is not there."""
    reason = missing(extra)
    if reason is not None:
        raise MissingExtra(reason)


def missing(extra: str) -> str | None:
    """Why what needs an extra cannot be used, on one line; ``None`` if it can."""
    absent = [module for module in MODULES[extra] if not installed(module)]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    return f"{', '.join(absent)} {verb} not installed: pip install 'sfa-soup[{extra}]', or in a clone '.[{extra}]'"


def installed(module: str) -> bool:
    """Whether a top-level module can be imported; it is not."""
    return find_spec(module) is not None
