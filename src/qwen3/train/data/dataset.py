"""A finished data set, opened for reading: all documents of all shards under one number, and their labels by column.

Opening checks the manifest against itself and against every index and table, and maps the tokens without reading them;
`verify` reads everything. Document d of the data set is document d - (documents of the shards before) of its shard.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from qwen3.checkpoint.integrity import sha256
from qwen3.tokenizer import Tokenizer
from qwen3.train.data import manifest, saved
from qwen3.train.data.errors import DataError
from qwen3.train.data.manifest import Manifest, ShardEntry
from qwen3.train.data.rules import Rule
from qwen3.train.data.shards import Shard, read_rows, row_dtype, token_dtype


class Dataset:
    """`directory` holds what `build` made. DataError naming file and place for anything that does not fit."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = directory / manifest.NAME
        if not path.is_file():
            state = (
                "a build that is not finished: run it again" if (directory / "plan.json").exists() else "no data set"
            )
            raise DataError(f"{directory} holds {state}")
        self.manifest = saved.read(path, Manifest)
        self.manifest.check(path)
        self.shards = [self._open(entry) for entry in self.manifest.shards]
        self._tables = [
            self._table(entry, shard) for entry, shard in zip(self.manifest.shards, self.shards, strict=True)
        ]
        self.starts = np.cumsum([0, *map(len, self.shards)])
        """First document of each shard, and the number of all."""
        self.lengths = np.concatenate([np.zeros(0, "<i4"), *(shard.lengths for shard in self.shards)])
        """Tokens of each document, its end included."""

    def __len__(self) -> int:
        return len(self.lengths)

    def locate(self, document: int) -> tuple[Shard, int]:
        """The shard of a document, and its number there."""
        number = int(np.searchsorted(self.starts, document, "right")) - 1
        return self.shards[number], document - int(self.starts[number])

    def document(self, document: int) -> np.ndarray:
        """Token ids, the last of which is `<|endoftext|>`."""
        shard, index = self.locate(document)
        return shard.document(index)

    def column(self, label: str) -> np.ndarray:
        """[N] the values of a label: numbers, or indices into `manifest.labels[label]`; or "file", "record", "hash".

        "tokens" is the length and "bucket" the hash modulo 1,000, by which a share of texts is set apart for good.
        """
        if label == "tokens":
            return self.lengths
        if label == "bucket":
            return self.column("hash") % np.uint64(1000)
        if label not in row_dtype(self.manifest.labels).names:
            known = ", ".join(["tokens", "bucket", *self.manifest.labels])
            raise DataError(f"{self.directory}: no label {label!r}; there are {known}")
        return np.concatenate([table[label] for table in self._tables])

    def where(self, rules: tuple[str, ...]) -> np.ndarray:
        """[N] bool: which documents pass all rules."""
        passed = np.ones(len(self), bool)
        for text in rules:
            rule = Rule.parse(text)
            passed &= rule.mask(self.column(rule.label), self.manifest.labels.get(rule.label))
        return passed

    def word(self, label: str, document: int) -> str | float:
        """A document's label as a word or number."""
        number = int(np.searchsorted(self.starts, document, "right")) - 1
        value = self._tables[number][label][document - int(self.starts[number])]
        words = self.manifest.labels.get(label)
        return value.item() if words is None else words[value]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the tokens were made with; it travels with them."""
        path = self.directory / "tokenizer" / "tokenizer.json"
        if not path.is_file() or sha256(path) != self.manifest.tokenizer_sha256:
            raise DataError(f"{path} is not the tokenizer that the manifest names by its SHA-256")
        return Tokenizer.load(path)

    def verify(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Read every byte: digests, ids, document ends, and the counts of the manifest."""
        path = self.directory / manifest.NAME
        _ = self.tokenizer
        for number, (entry, shard) in enumerate(zip(self.manifest.shards, self.shards, strict=True)):
            progress(number, len(self.shards))
            shard.check_tokens(self.manifest.vocab_size, self.manifest.end_of_text)
            self._check_digests(entry)
        for label, counts in self.manifest.counts.items():
            codes, words = self.column(label), self.manifest.labels[label] or ()
            documents = np.bincount(codes, minlength=len(words))
            tokens = np.bincount(codes, self.lengths, len(words))
            for word, *found in zip(words, documents.tolist(), tokens.astype(int).tolist(), strict=True):
                if found != [counts[word].documents, counts[word].tokens]:
                    raise DataError(
                        f"{path}: counts.{label}.{word} says {counts[word].documents:,} documents and "
                        f"{counts[word].tokens:,} tokens; there are {found[0]:,} and {found[1]:,}"
                    )

    def _open(self, entry: ShardEntry) -> Shard:
        prefix = self.directory / entry.name
        if missing := [kind for kind in ("bin", "idx", "npy") if not prefix.with_suffix(f".{kind}").is_file()]:
            raise DataError(f"{prefix}.{missing[0]} is missing, which the manifest names")
        shard = Shard(prefix)
        expected = token_dtype(self.manifest.vocab_size)
        if shard.dtype != expected:
            raise DataError(
                f"{shard.idx}: ids are {shard.dtype} (byte 17), but a vocabulary of {self.manifest.vocab_size:,} "
                f"takes {expected}"
            )
        if (len(shard), int(shard.starts[-1])) != (entry.documents, entry.tokens):
            raise DataError(
                f"{shard.idx}: {len(shard):,} documents and {shard.starts[-1]:,} tokens (byte 18); the manifest says "
                f"{entry.documents:,} and {entry.tokens:,}"
            )
        return shard

    def _table(self, entry: ShardEntry, shard: Shard) -> np.ndarray:
        path = self.directory / f"{entry.name}.npy"
        table, expected = read_rows(path), row_dtype(self.manifest.labels)
        if table.dtype != expected:
            raise DataError(
                f"{path}: columns {table.dtype.names} (header, byte 10); the manifest says {expected.names}"
            )
        if table.shape != (len(shard),):
            raise DataError(f"{path}: {table.shape} rows (header, byte 10) for {len(shard):,} documents")
        for label, words in self.manifest.labels.items():
            if words is not None and (bad := np.flatnonzero(table[label] >= len(words))).size:
                at = table.offset + int(bad[0]) * table.itemsize + expected.fields[label][1]
                raise DataError(
                    f"{path}: document {bad[0]:,} has unknown {label} {table[label][bad[0]]} at byte {at:,}"
                )
        return table

    def _check_digests(self, entry: ShardEntry) -> None:
        for kind, expected in entry.sha256.items():
            path = self.directory / f"{entry.name}.{kind}"
            if sha256(path) == expected:
                continue
            place = "its SHA-256 is not the manifest's"
            if kind == "bin":
                blocks = zip(manifest.block_checksums(path), entry.blocks, strict=False)
                changed = next((number for number, (found, said) in enumerate(blocks) if found != said), None)
                if changed is not None:
                    start = changed * manifest.BLOCK_BYTES
                    place = f"changed between bytes {start:,} and {start + manifest.BLOCK_BYTES:,}"
            raise DataError(f"{path} is damaged: {place}")
