"""A run's YAML: its schema, how it is read, and every error that it can have."""

from sfa.config.load import ConfigError, Evaluations, flat, load

__all__ = ["ConfigError", "Evaluations", "flat", "load"]
