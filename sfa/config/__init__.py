"""A run's YAML: its schema, reading and validation."""

from sfa.config.load import ConfigError, Evaluations, load

__all__ = ["ConfigError", "Evaluations", "load"]
