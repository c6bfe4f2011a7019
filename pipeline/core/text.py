"""Text that others wrote, where it stands in a line: names of files and models, and what a terminal is shown.

Knows characters. Does not know what the text says, nor HTML (the report's templates escape that).
"""

import re
from typing import Annotated

from pydantic import AfterValidator

# What moves the cursor, colours, reverses or breaks a line: control characters, marks that turn the direction of
# writing, and halves of characters, which no encoding can write.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""`text` on one line that a terminal shows as it is: an escape sequence becomes the words `\x1b[31m`."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def first_line(error: BaseException) -> str:
    """What an error says, in one line of at most 200 letters."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _one_line(value: str) -> str:
    if _UNSEEN.search(value):
        raise ValueError("holds a line break or another character that is not seen; leave it out")
    return value


OneLine = Annotated[str, AfterValidator(_one_line)]
