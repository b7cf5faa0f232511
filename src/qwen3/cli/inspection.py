"""What `qwen3 data inspect` shows of a data set, and how the data commands show a document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3.cli.report import readable_bytes, table

if TYPE_CHECKING:
    from qwen3.train.data.dataset import Dataset
    from qwen3.train.data.manifest import Manifest


def print_inspection(dataset: Dataset, by: list[str], top: int, examples: int) -> None:
    """Sources, the `top` values of each label `by`, what was dropped, and so many documents."""
    from rich.console import Console

    console, made = Console(), dataset.manifest
    raw = sum(file.bytes for file in made.files)
    print(f"{made.documents:,} documents, {made.tokens:,} tokens in {len(made.shards):,} shards")
    print(f"from {made.incoming.documents:,} documents in {len(made.files):,} files ({readable_bytes(raw)})")
    print(
        f"tokenizer of {made.vocab_size:,} ids, SHA-256 {made.tokenizer_sha256[:16]}; tokens {made.tokens_sha256[:16]}"
    )
    origins = [
        (each.name or "(by record)", each.license or "(by record)", each.url, each.commit[:12], each.location)
        for each in made.sources
    ]
    console.print(table("sources", ("name", "license", "URL", "commit", "location"), origins))
    for label in by or list(made.counts):
        console.print(_shares(dataset, label, top))
    if not by:
        console.print(_numbers(dataset))
    console.print(_drops(made))
    for document in _spread(len(dataset), examples):
        text = preview(dataset, document, 0, 64)
        print(f"document {document:,} ({dataset.word('source', document)}): {text}")


def _shares(dataset: Dataset, label: str, top: int) -> Any:
    import numpy as np

    words = dataset.manifest.labels.get(label)
    column = dataset.column(label)
    values, codes = np.unique(column if words is not None else np.floor(column), return_inverse=True)
    documents, tokens = np.bincount(codes), np.bincount(codes, dataset.lengths).astype(int)
    names = [words[value] if words is not None else f"{value:g}" for value in values.tolist()]
    order = np.argsort(-tokens, kind="stable")
    rows = [
        (names[at], f"{documents[at]:,}", f"{tokens[at]:,}", f"{tokens[at] / max(1, tokens.sum()):.2%}")
        for at in order[:top].tolist()
    ]
    if len(order) > top:
        rest = order[top:]
        share = tokens[rest].sum() / tokens.sum()
        rows.append((f"{len(rest):,} more", f"{documents[rest].sum():,}", f"{tokens[rest].sum():,}", f"{share:.2%}"))
    return table(label, ("value", "documents", "tokens", "share"), rows)


def _numbers(dataset: Dataset) -> Any:
    import numpy as np

    rows = []
    for label in ["tokens", *(label for label, words in dataset.manifest.labels.items() if words is None)]:
        if len(column := dataset.column(label)):
            low, middle, high = np.quantile(column, (0.1, 0.5, 0.9))
            rows.append((label, *(f"{value:,.4g}" for value in (column.min(), low, middle, high, column.max()))))
    return table("numbers", ("label", "least", "10%", "median", "90%", "most"), rows)


def _drops(made: Manifest) -> Any:
    rows = []
    for reason, drop in made.dropped.items():
        share = drop.documents / max(1, made.incoming.documents)
        first = drop.examples[0]
        place = f"{Path(made.files[first.file].path).name}, record {first.record:,}: {_one_line(first.text, 50)}"
        rows.append((reason, f"{drop.documents:,}", f"{share:.2%}", f"{drop.characters:,}", place))
    return table("dropped", ("reason", "documents", "share", "characters", "first"), rows)


def preview(dataset: Dataset, document: int, first: int, tokens: int = 16) -> str:
    """Some tokens of a document from its token `first` on as one line, escaped for rich."""
    ids = dataset.document(document)[first : first + tokens].tolist()
    return _one_line(dataset.tokenizer.decode(ids), 4 * tokens)


def _one_line(text: str, width: int) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split())[:width])


def _spread(count: int, wanted: int) -> list[int]:
    return sorted({count * (2 * number + 1) // (2 * wanted) for number in range(wanted)}) if count else []
