"""Learn the merges of a small byte-level BPE tokenizer.

Everything but the merges is the official tokenizer's: normalizer, split (each digit alone), byte alphabet, and the
26 control tokens after the vocabulary. Training is deterministic: the same texts give the same tokenizer.
This module does not know which texts it is given, nor the chat format.
"""

import json
import re
from collections.abc import Iterable

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from qwen3.tokenizer import CONTROL_TOKENS, SPLIT_PATTERN, Tokenizer

NUM_BYTES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of `vocab_size` ids, control tokens included; fewer if the texts hold too few distinct words.

    Control strings inside the texts (rendered conversations) separate them and teach nothing.
    """
    num_bpe = vocab_size - len(CONTROL_TOKENS)
    if num_bpe < NUM_BYTES:
        raise ValueError(f"vocab_size must be at least {NUM_BYTES + len(CONTROL_TOKENS)}, got {vocab_size}")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated")
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=num_bpe,
        min_frequency=2,
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    control = re.compile("|".join(map(re.escape, CONTROL_TOKENS)))
    bpe.train_from_iterator((piece for text in texts for piece in control.split(text)), trainer)
    learnt = json.loads(bpe.to_str())["model"]
    return Tokenizer.from_vocab(learnt["vocab"], [tuple(pair) for pair in learnt["merges"]])
