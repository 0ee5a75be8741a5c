"""A run's YAML: its schema, reading and validation."""

from sfa.config.load import ConfigError, Evaluations, flat, load

__all__ = ["ConfigError", "Evaluations", "flat", "load"]
