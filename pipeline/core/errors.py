"""The errors a person can mend. Knows their kinds; does not know who raises or prints them.

Every message says what is wrong, in which file, key or prompt, and what to type or change next, on one line.
Whatever is not a `CircuitsError` is a bug and keeps its traceback.
"""


class CircuitsError(Exception):
    """Something the user can mend; the command line prints the message alone and exits with 1."""


class ConfigError(CircuitsError):
    """The config, or a combination in it, means nothing; known before anything runs (exit 2)."""


class PromptError(CircuitsError):
    """A prompt pair cannot be used; the message names the file and line, or the prompt's index."""


class ModelError(CircuitsError):
    """The model cannot be loaded, is not supported, or fails the self-check."""


class RunDirectoryError(CircuitsError):
    """A run directory is missing, owned by another run, or does not hold what its manifest says."""


class StorageError(CircuitsError, OSError):
    """A store does not answer, or refuses, also after several tries; like a full disk it ends a run."""


class ClusterError(CircuitsError):
    """Ray has ended beneath a run; what has landed stays."""


class ScoreError(CircuitsError):
    """A method produced numbers that are no scores (NaN, infinite)."""
