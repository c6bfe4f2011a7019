"""Models seen twice, by the product and by the oracles."""

from tests.exactness import setting_of, settings

__all__ = ["setting_of", "settings"]
