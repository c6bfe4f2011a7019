"""The tokenizers that tasks meet."""

from tests.tasks.conftest import byte_level, sentence_piece, word_level

__all__ = ["byte_level", "sentence_piece", "word_level"]
