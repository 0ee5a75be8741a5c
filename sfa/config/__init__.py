"""A run's YAML: its schema, reading and validation."""

from sfa.config.load import ConfigError, Evaluations, load
from sfa.config.recorded import recorded

__all__ = ["ConfigError", "Evaluations", "load", "recorded"]
