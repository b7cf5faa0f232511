"""A tokenizer that needs no files."""

import pytest
from tokenizers import pre_tokenizers

from qwen3.tokenizer import Tokenizer

# Among them tokens that end within a character (😀 is F0 9F 98 80), and the newlines that the format is made of.
MERGES = (("Ċ", "Ċ"), ("t", "h"), ("th", "e"), ("o", "n"), ("Ġ", "a"), ("ð", "Ł"), ("l", "l"), (">", "Ċ"), ("}", "Ċ"))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in MERGES)]
    return Tokenizer.from_vocab({token: id for id, token in enumerate(tokens)}, MERGES)
