"""The last phase of a build: duplicates over all units are dropped, and what stays of each unit becomes a shard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise, starmap
from pathlib import Path

import numpy as np

from qwen3.tokenizer import Tokenizer
from qwen3.train.data import duplicates, manifest, saved
from qwen3.train.data.errors import DataError
from qwen3.train.data.manifest import Count, Drop, Example, Manifest, ShardEntry
from qwen3.train.data.plan import Plan, Progress, part_of
from qwen3.train.data.shards import Shard, ShardWriter, read_rows, row_dtype
from qwen3.train.data.unit import Report

EXACT, NEAR = "exact duplicate", "near duplicate"


def assemble(
    plan: Plan, tokenizer: Tokenizer, tokenizer_sha256: str, directory: Path, software: str, progress: Progress
) -> Manifest:
    """Write the shards in `directory`; returns the manifest, which is still to be written."""
    parts = [part_of(directory, index) for index in range(len(plan.units))]
    reports = [saved.read(part / "report.json", Report) for part in parts]
    rows = [read_rows(part / "shard.npy") for part in parts]
    progress("duplicates", 0, 1)
    fingerprints = [read_rows(part / "fingerprints.npy") for part in parts]
    equal, similar = duplicates.find_duplicates(fingerprints, plan.job.exact, plan.job.near)
    bounds = np.cumsum([0, *map(len, rows)])
    slices = list(starmap(slice, pairwise(bounds)))
    kept = [~(equal | similar)[each] for each in slices]
    words = _words([(report.labels, table[keep]) for report, table, keep in zip(reports, rows, kept, strict=True)])
    counts = {label: np.zeros((2, len(each)), np.int64) for label, each in words.items() if each is not None}
    dropped: defaultdict[str, Drop] = defaultdict(Drop)
    shards: list[ShardEntry] = []
    for index, (part, report, table, keep) in enumerate(zip(parts, reports, rows, kept, strict=True)):
        progress("shards", index, len(parts))
        shard = Shard(part / "shard")
        for reason, drop in report.dropped.items():
            dropped[reason] += drop
        for reason, mask in ((EXACT, equal), (NEAR, similar)):
            for at in np.flatnonzero(mask[slices[index]]):
                text = tokenizer.decode(shard.document(at)[:-1].tolist())
                example = Example(int(table["file"][at]), int(table["record"][at]), text[:200])
                dropped[reason] += Drop(1, len(text), (example,))
        if not keep.any():
            continue
        table = _recoded(table[keep], report, words)
        for label, totals in counts.items():
            np.add.at(totals, (slice(None), table[label]), np.stack([np.ones(len(table), int), shard.lengths[keep]]))
        shards.append(_write_shard(directory / f"shard-{index:06d}", shard, keep, table))
    tokens = sum(shard.tokens for shard in shards)
    return Manifest(
        format=manifest.FORMAT,
        software=software,
        job_sha256=plan.job_sha256,
        tokenizer_sha256=tokenizer_sha256,
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text_id,
        labellers=plan.job.labellers,
        keep=plan.job.keep,
        exact=plan.job.exact,
        near=plan.job.near,
        sources=tuple(
            manifest.Origin(each.name, each.location, each.license, each.url, each.commit, each.text)
            for each in plan.job.sources
        ),
        files=tuple(manifest.File(file.name, file.source, file.bytes, file.sha256) for file in plan.files),
        incoming=sum((report.incoming for report in reports), Drop()),
        dropped=dict(dropped),
        documents=sum(shard.documents for shard in shards),
        tokens=tokens,
        tokens_sha256=manifest.tokens_digest(shards),
        labels=words,
        counts={
            label: {word: Count(*totals[:, code].tolist()) for code, word in enumerate(words[label] or ())}
            for label, totals in counts.items()
        },
        shards=tuple(shards),
    )


def _words(parts: Sequence[tuple[dict[str, tuple[str, ...] | None], np.ndarray]]) -> dict[str, tuple[str, ...] | None]:
    """Of each label the words that occur in any part's rows, sorted; None for numbers."""
    used: dict[str, set[str] | None] = {}
    for labels_of_part, table in parts:
        for label, words in labels_of_part.items():
            found = used.setdefault(label, None if words is None else set())
            if (words is None) != (found is None):
                raise DataError(f"the label {label} is a word in some documents and a number in others")
            if found is not None and words is not None:
                found |= {words[code] for code in np.unique(table[label])}
    return {label: None if words is None else tuple(sorted(words)) for label, words in used.items()}


def _recoded(table: np.ndarray, report: Report, words: dict[str, tuple[str, ...] | None]) -> np.ndarray:
    """A part's rows with codes into the words of all parts."""
    out = np.empty(len(table), row_dtype(words))
    for name in ("file", "record", "hash"):
        out[name] = table[name]
    for label, all_words in words.items():
        own = report.labels[label]
        if own is None or all_words is None:
            out[label] = table[label]
        else:
            code_of = {word: code for code, word in enumerate(all_words)}
            out[label] = np.array([code_of.get(word, 0) for word in own], np.int64)[table[label]]
    return out


def _write_shard(prefix: Path, shard: Shard, keep: np.ndarray, table: np.ndarray) -> ShardEntry:
    with ShardWriter(prefix, shard.dtype) as writer:
        for at in np.flatnonzero(keep):
            writer.add(shard.document(at))
    np.save(prefix.with_suffix(".npy"), table)
    for kind in (".bin", ".idx", ".npy"):
        saved.sync(prefix.with_suffix(kind))
    return manifest.describe_shard(prefix, len(table), sum(writer.lengths))
