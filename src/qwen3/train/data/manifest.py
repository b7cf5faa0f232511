"""What a data set says of itself: `manifest.json`, written last, so that a directory that has one is complete.

All figures in it are counted. Nothing in it depends on time, machine or number of workers: the same sources, tokenizer
and options give the same bytes.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qwen3.checkpoint.integrity import sha256
from qwen3.train.data.errors import DataError

NAME = "manifest.json"
FORMAT = 1
BLOCK_BYTES = 4 << 20
"""A shard's .bin has a CRC-32 for every block of this size, by which damage is located."""


@dataclass(frozen=True)
class Count:
    documents: int
    tokens: int


@dataclass(frozen=True)
class Example:
    """A dropped document: its file's number, its record number there, and how its text begins (or why it is none)."""

    file: int
    record: int
    text: str


@dataclass(frozen=True)
class Drop:
    """What one filter removed; `characters` of the texts, bytes of what is no text."""

    documents: int = 0
    characters: int = 0
    examples: tuple[Example, ...] = ()

    def __add__(self, other: Drop) -> Drop:
        examples = (self.examples + other.examples)[:3]
        return Drop(self.documents + other.documents, self.characters + other.characters, examples)


@dataclass(frozen=True)
class Origin:
    """A source as declared. Empty where unknown."""

    name: str
    location: str
    license: str
    url: str
    commit: str
    text: str


@dataclass(frozen=True)
class File:
    """A raw file of source number `source`, and its SHA-256."""

    path: str
    source: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardEntry:
    """Files NAME.bin, NAME.idx and NAME.npy with their digests."""

    name: str
    documents: int
    tokens: int
    sha256: dict[str, str]
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """`labels` gives each label's words, or None for a label that is a number; `counts` holds those of words."""

    format: int
    software: str
    job_sha256: str
    tokenizer_sha256: str
    vocab_size: int
    end_of_text: int
    labellers: tuple[str, ...]
    keep: tuple[str, ...]
    exact: bool
    near: float
    sources: tuple[Origin, ...]
    files: tuple[File, ...]
    incoming: Drop
    dropped: dict[str, Drop]
    documents: int
    tokens: int
    tokens_sha256: str
    labels: dict[str, tuple[str, ...] | None]
    counts: dict[str, dict[str, Count]]
    shards: tuple[ShardEntry, ...]

    def check(self, path: Path) -> None:
        """DataError if its own figures contradict each other."""

        def same(found: object, expected: object, what: str) -> None:
            if found != expected:
                raise DataError(f"{path}: {what}: it says {expected!r:.80}, but its parts give {found!r:.80}")

        if self.format != FORMAT:
            raise DataError(f"{path}: format {self.format}; this version reads {FORMAT}")
        same(sum(shard.documents for shard in self.shards), self.documents, "documents")
        same(sum(shard.tokens for shard in self.shards), self.tokens, "tokens")
        same(tokens_digest(self.shards), self.tokens_sha256, "tokens_sha256")
        lost = sum(drop.documents for drop in self.dropped.values())
        same(lost + self.documents, self.incoming.documents, "incoming.documents")
        for label, counts in self.counts.items():
            same(sum(count.documents for count in counts.values()), self.documents, f"documents of counts.{label}")
            same(sum(count.tokens for count in counts.values()), self.tokens, f"tokens of counts.{label}")
            same(sorted(counts), sorted(self.labels.get(label) or ()), f"values of counts.{label}")
        if wrong := [shard.name for shard in self.shards if Path(shard.name).name != shard.name]:
            raise DataError(f"{path}: the shard {wrong[0]!r} is not a name within the directory")
        if wrong := [file.path for file in self.files if file.source >= len(self.sources)]:
            raise DataError(f"{path}: the file {wrong[0]!r} belongs to no source")


def tokens_digest(shards: Iterable[ShardEntry]) -> str:
    """SHA-256 over the SHA-256 of all .bin files in order: one value for all tokens."""
    return hashlib.sha256("".join(shard.sha256.get("bin", "") for shard in shards).encode()).hexdigest()


def describe_shard(prefix: Path, documents: int, tokens: int) -> ShardEntry:
    """The entry of the files at `prefix`."""
    digests = {kind: sha256(prefix.with_suffix(f".{kind}")) for kind in ("bin", "idx", "npy")}
    return ShardEntry(prefix.name, documents, tokens, digests, block_checksums(prefix.with_suffix(".bin")))


def block_checksums(path: Path) -> tuple[int, ...]:
    """CRC-32 of each BLOCK_BYTES of a file."""
    with path.open("rb") as file:
        return tuple(zlib.crc32(block) for block in iter(lambda: file.read(BLOCK_BYTES), b""))
