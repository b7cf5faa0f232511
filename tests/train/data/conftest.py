"""A small corpus of made-up documents, and the data set built from it."""

import json
import random
from pathlib import Path

import pytest

from qwen3.checkpoint.hub import resolve
from qwen3.tokenizer import Tokenizer
from qwen3.train.data.build import Job, build
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.sources import Source

WORDS = "the river runs under an old stone bridge while seven small birds sing of rain and bread for nobody".split()
LICENSES = {"tales": "CC0-1.0", "notes": "MIT"}


def make_documents(count: int, seed: int = 0) -> list[dict]:
    """Texts of 5 to 400 words of two sources; every 40th is the one before it again."""
    rng = random.Random(seed)
    documents = []
    for number in range(count):
        source = "tales" if rng.random() < 0.7 else "notes"
        length = int(5 * 80 ** rng.random())
        text = " ".join(rng.choice(WORDS) + rng.choice(("", "", ".", ",")) for _ in range(length))
        if number % 40 == 39:
            text = documents[-1]["text"]
        documents.append({"text": text, "source": source, "license": LICENSES[source], "lang": "en"})
    return documents


def write_jsonl(path: Path, documents: list[dict]) -> Path:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(resolve("builtin"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A JSONL file of 400 documents, 10 of which are doubles."""
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", make_documents(400))


@pytest.fixture(scope="session")
def directory(corpus, tokenizer, tmp_path_factory) -> Path:
    """The data set of the corpus, of several shards. Do not change it."""
    directory = tmp_path_factory.mktemp("dataset")
    build(Job((Source(str(corpus)),), near=0, unit_bytes=20_000), tokenizer, directory)
    return directory


@pytest.fixture(scope="session")
def dataset(directory) -> Dataset:
    return Dataset(directory)
