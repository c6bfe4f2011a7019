"""What is asked for: the sections of a config, how else they may be spelt, and the whole of it with its identity."""

from pipeline.config.run_config import RunConfig

__all__ = ["RunConfig"]
