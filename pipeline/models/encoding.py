"""From text to token ids: what the model is given, and nothing after it.

Knows tokenizers. Does not know prompt pairs, answers or files.
"""

from typing import Any


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of a prompt, with the special tokens that the model expects before it, and none after it."""
    ids = list(tokenizer(text, add_special_tokens=True)["input_ids"])
    end = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None, tokenizer.bos_token_id}
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    while len(ids) > len(plain) and ids and ids[-1] in end and ids[-len(plain) :] != plain:
        ids.pop()
    return tuple(ids)
