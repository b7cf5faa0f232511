"""Where a text parts before BPE: into words, and into pieces that can be encoded apart. And how few tokens it may have,
without encoding it.
"""

import re
import unicodedata
from collections.abc import Iterator

import numpy as np

# Contractions | a word with at most one leading sign | one digit | signs | line ends | spaces.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Letters and digits that normalization (NFC) leaves alone and all versions of Unicode have: of Latin, Greek, Cyrillic,
# Hebrew, Arabic, Kana, Han and Hangul.
_ALNUM = (
    r"0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0391-\u03a1\u03a3-\u03c9\u0410-\u044f\u05d0-\u05ea\u0621-\u063a"
    r"\u0641-\u064a\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
)
# Signs and spaces that compose with nothing before them: of ASCII, and East Asia's comma, full stop, ! ? ; and :.
_NO_LETTER = r"\x00-@\[-`{-\x7f\u3001\u3002\uff0c\uff01\uff1f\uff1b\uff1a"
# Where two matches of SPLIT_PATTERN meet, and also would if the text ended or began there: behind a word or digit; and
# in any script, before a space and where a line begins. U+180E is a space to the BPE and none to Python.
_CUT = re.compile(rf"(?<=[{_ALNUM}])(?=[{_NO_LETTER}])|(?<=[^\s\u180e])(?= )|(?<=\n)(?=[^\s\u180e])")

PIECE_CHARS = 1 << 14
MAX_PIECE_CHARS = 1 << 20
"""Where the tokens are limited. BPE takes some 300 bytes for each character of what it encodes at once."""


class TokenLimitError(ValueError):
    """A text of more tokens than were asked for. `least` of them are certain; there may be more."""

    def __init__(self, least: int, limit: int) -> None:
        super().__init__(f"the text has at least {least:,} tokens, and {limit:,} are allowed")
        self.least = least


class PieceError(ValueError):
    """A stretch of text that is too long to be encoded at once: nothing parts it."""


def check_limit(least: int, limit: int | None) -> None:
    """Raises TokenLimitError."""
    if limit is not None and least > limit:
        raise TokenLimitError(least, limit)


def check_piece(piece: str) -> None:
    """Raises PieceError for one that is too long to be encoded at once."""
    if len(piece) > MAX_PIECE_CHARS:
        raise PieceError(
            f"the text has {len(piece):,} characters in a row without a place to part them, "
            f"and {MAX_PIECE_CHARS:,} are allowed"
        )


def pieces(text: str, least: int = PIECE_CHARS) -> Iterator[str]:
    """`text` in pieces of at least `least` characters, which have the ids together that it has as a whole. A stretch
    that nothing parts is in one piece, whatever its length."""
    start = 0
    while len(text) - start > least and (cut := _CUT.search(text, start + least)):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def fewest_tokens(text: str, longest_with: np.ndarray) -> int:
    """A bound from below: each byte is at least one part in L of its token, where L is the length in bytes of the
    longest token that has such a byte, `longest_with` for each of the 256."""
    data = np.frombuffer(unicodedata.normalize("NFC", text).encode(), np.uint8)
    counts = sum(np.bincount(data[i : i + PIECE_CHARS], minlength=256) for i in range(0, len(data), PIECE_CHARS))
    return int((counts / longest_with).sum())
