"""Tokens a second from memory-mapped shards through order, packing and batches, on one core; and what a build costs.

    python benchmarks/data_loader.py [--documents 200000] [--weighted] [--build CORPUS.jsonl.gz]

The shards are made up: lengths are log-normal with a median of 400 tokens, as in web text, ids random. Batches are what
the trainer takes. As a yardstick, the same bytes are copied once from the mapped files, which no loader can beat.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from qwen3.checkpoint.hub import resolve
from qwen3.tokenizer import Tokenizer
from qwen3.train.data import duplicates, labels, manifest, saved
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.manifest import Drop, Manifest
from qwen3.train.data.shards import ShardWriter, row_dtype
from qwen3.train.data.sources import Source, sample_texts
from qwen3.train.data.stage import StageData, general, long_context
from qwen3.train.loader import batches

VOCABULARY, END = 151_669, 151_643


def write_dataset(directory: Path, num_documents: int, num_shards: int = 4) -> Dataset:
    """A data set of random tokens, without labels but its number of each document."""
    rng = np.random.default_rng(0)
    entries = []
    for number in range(num_shards):
        prefix = directory / f"shard-{number:06d}"
        lengths = np.clip(rng.lognormal(np.log(400), 1.2, num_documents // num_shards).astype(int), 8, 100_000)
        with ShardWriter(prefix, np.dtype("<i4")) as writer:
            for length in lengths:
                ids = rng.integers(0, 151_000, length, dtype=np.int32)
                ids[-1] = END
                writer.add(ids)
        table = np.zeros(len(lengths), row_dtype({"education": None}))
        table["hash"], table["education"] = rng.integers(0, 2**63, len(lengths)), rng.integers(0, 6, len(lengths))
        np.save(prefix.with_suffix(".npy"), table)
        entries.append(manifest.describe_shard(prefix, len(lengths), int(lengths.sum())))
    documents, tokens = (sum(getattr(entry, field) for entry in entries) for field in ("documents", "tokens"))
    made = Manifest(
        1, "", "", "", VOCABULARY, END, (), (), False, 0.0, (), (), Drop(documents), {}, documents, tokens,
        manifest.tokens_digest(entries), {"education": None}, {}, tuple(entries),
    )  # fmt: skip
    saved.write(directory / manifest.NAME, made)
    return Dataset(directory)


def tokens_per_second(data: StageData, rows_per_batch: int, seconds: float = 5.0) -> float:
    list(batches(data, 0, rows_per_batch=rows_per_batch))
    start, tokens, step = time.process_time(), 0, 1
    while time.process_time() - start < seconds:
        tokens += sum(len(batch.tokens_T) for batch in batches(data, step, rows_per_batch=rows_per_batch))
        step += 1
    return tokens / (time.process_time() - start)


def copy_speed(dataset: Dataset) -> float:
    """Tokens a second when each shard is only copied into int64."""
    start = time.process_time()
    tokens = sum(len(torch.from_numpy(shard.tokens.astype(np.int64))) for shard in dataset.shards)
    return tokens / (time.process_time() - start)


def build_costs(path: str) -> None:
    texts = list(sample_texts([Source(path)], 3_000_000))
    tokenizer = Tokenizer.load(resolve("builtin"))
    characters = sum(map(len, texts))

    def measure(name: str, call: Callable[[str], object]) -> list:
        start = time.process_time()
        results = [call(text) for text in texts]
        spent = time.process_time() - start
        print(
            f"  {name:14} {spent / len(texts) * 1e6:8.0f} us a document {characters / spent / 1e6:8.2f} M characters/s"
        )
        return results

    print(f"{len(texts):,} documents of {characters / len(texts):,.0f} characters on average")
    ids = measure("tokenize", lambda text: tokenizer.encode(text, control=False))
    measure("SHA-256", duplicates.text_hash)
    arrays = iter([np.array(each or [0]) for each in ids])
    measure("MinHash", lambda text: duplicates.minima(next(arrays)))
    for name, labeller in labels.LABELLERS.items():
        measure(name, labeller)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--build", metavar="CORPUS", help="also measure what each part of a build costs on this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder), arguments.documents)
        print(f"{len(dataset):,} documents, {dataset.manifest.tokens:,} tokens")
        copied = copy_speed(dataset)
        print(f"  copy to int64           {copied / 1e6:7.1f} M tokens/s")
        even = replace(general(4096, 1 << 20), weights=())
        for name, stage in (
            ("general, even weights", even),
            ("general, weighted", general(4096, 1 << 20)),
            ("long context", long_context(8192, 1 << 20)),
        ):
            start = time.process_time()
            data = StageData(dataset, stage)
            rows = data.rows(0)
            opened = time.process_time() - start
            speed = tokens_per_second(data, rows_per_batch=8)
            cut, share = rows.cut_tokens / stage.tokens_per_step, speed / copied
            print(
                f"  {name:23} {speed / 1e6:7.1f} M tokens/s ({share:.2f} of the copy), opened in {opened:.2f} s; "
                f"rows 100% full, for which {cut:.2%} of tokens were in a document that was cut"
            )
    if arguments.build:
        build_costs(arguments.build)


if __name__ == "__main__":
    main()
