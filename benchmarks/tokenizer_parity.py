"""Compare `qwen3.Tokenizer` with the official one, through Hugging Face `tokenizers`, over texts of many kinds.

    python benchmarks/tokenizer_parity.py TOKENIZER_DIR [--corpus DIR] [--tokens 1000000]

TOKENIZER_DIR holds an official `tokenizer.json`; DIR holds `*.jsonl.gz` files of objects with a `text`. Every
other text is generated: random Unicode, emoji, binary data, control strings. Prints one line; exits 1 on the first
difference.
"""

import argparse
import gzip
import json
import random
import sys
import unicodedata
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import tokenizers

from qwen3.tokenizer import CONTROL_TOKENS, Tokenizer

FILES = ("udhr", "tatoeba", "python_algorithms")
EMOJI = ("😀", "👩\u200d👩\u200d👧", "🏳️\u200d🌈", "👍🏽", "🇫🇷", "1️⃣", "☠")
COMPOSED = ("é", "e\u0301", "Å", "\u212b", "각", "\u1100\u1161\u11a8", "ﷺ", "\u0344")
PASSAGE = 4000  # characters: long enough for every construct, short enough for all languages
SPACES = (" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u200b", "\n\n   \n", "'s", "'LL", "123", "x")
# Unassigned code points are left out: what NFC makes of them depends on the Unicode version of each library.
ASSIGNED = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


def generated_text(rng: random.Random) -> str:
    """Up to some hundred characters that no corpus has."""
    kind = rng.randrange(4)
    if kind == 0:
        return "".join(rng.choices(ASSIGNED, k=rng.randrange(100)))
    if kind == 1:
        return "".join(rng.choices(EMOJI + COMPOSED + SPACES, k=rng.randrange(60)))
    if kind == 2:
        return rng.randbytes(rng.randrange(200)).decode(rng.choice(("latin-1", "utf-8", "utf-16")), "replace")
    pieces = (*CONTROL_TOKENS, *SPACES, *EMOJI, *COMPOSED, "<", "|", "im_end", "<|im_", "|>", "think>", "</", "\u0338")
    return "".join(rng.choices(pieces, k=rng.randrange(40)))


def corpus_texts(corpus: Path, rng: random.Random) -> Iterator[str]:
    """A passage of every document, the files by turns; one in ten has a control string put into it."""
    for documents in zip_longest(*(_documents(corpus / f"{name}.jsonl.gz") for name in FILES)):
        for text in filter(None, documents):
            start = rng.randrange(max(1, len(text) - PASSAGE))
            passage = text[start : start + PASSAGE]
            if rng.random() < 0.1:
                cut = rng.randrange(len(passage) + 1)
                passage = passage[:cut] + rng.choice(list(CONTROL_TOKENS)) + passage[cut:]
            yield passage


def _documents(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def texts(corpus: Path | None, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    documents = corpus_texts(corpus, rng) if corpus else iter(())
    while True:
        yield generated_text(rng)
        yield next(documents, None) or generated_text(rng)


def first_difference(
    directory: Path, corpus: Path | None, num_tokens: int, seed: int = 0
) -> tuple[int, int, str | None]:
    """Tokens and texts compared, and the first text that differs in ids or after decoding, if any."""
    ours = Tokenizer.load(directory)
    official = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    control_ids = set(ours.control_ids.values())
    compared = 0
    for i, text in enumerate(texts(corpus, seed)):
        if compared >= num_tokens:
            return compared, i, None
        ids = ours.encode(text)
        plain_ids = ours.encode(text, control=False)
        compared += len(ids)
        same = (
            ids == official.encode(text, add_special_tokens=False).ids
            and ours.decode(ids) == official.decode(ids, skip_special_tokens=False)
            and ours.decode(plain_ids) == unicodedata.normalize("NFC", text)
            and control_ids.isdisjoint(plain_ids)
        )
        if not same:
            return compared, i, text
    raise AssertionError("texts() has no end")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="directory of an official tokenizer.json")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    compared, num_texts, text = first_difference(options.directory, options.corpus, options.tokens, options.seed)
    found = "0 differences" if text is None else f"the last one differs: {text!r}"
    print(f"tokenizer: {compared:,} tokens in {num_texts:,} texts compared, {found}")
    return text is not None


if __name__ == "__main__":
    sys.exit(main())
