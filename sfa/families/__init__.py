"""Model families, one file each. Importing a family's module registers it."""

from sfa.families import decoder, encoder_decoder, image_classifier  # noqa: F401
from sfa.families.base import ArrayBuilder, Family, WrongFamily, family_of, family_of_tasks

__all__ = ["ArrayBuilder", "Family", "WrongFamily", "family_of", "family_of_tasks", "register_architectures"]


def register_architectures() -> None:
    """Registers this suite's own architectures with ``transformers``."""
    import sfa.mlp  # noqa: F401
