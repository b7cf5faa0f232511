"""Where raw documents come from, cut into units of work, and read one at a time.

A location is a file, a glob, a directory, a table of sources in TOML, or `hf://owner/name?config=..&split=..&revision=..`:

    .jsonl, .jsonl.gz   an object a line; the text is its field `text`
    .parquet            a row a document; the text is the column `text` (needs pyarrow)
    any other file      one document: the file's text (.gz is unpacked)

Besides the text a record may hold `source`, `license`, `lang` or `language`, and the value of any label: what the
source says counts more than what a scorer guesses.

Invariants
- Units cover every byte once, in the order of the sources. They depend on the files alone, not on who reads them.
- No more than one document is in memory at a time (of Parquet: one row group).

This module does not know tokens, labels or filters.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import tomllib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

from qwen3.strict_json import parse_object
from qwen3.train.data.errors import DataError

MAX_LINE_BYTES = 256 << 20
_CHUNK_BYTES = 4 << 20
FORMATS = (".jsonl", ".jsonl.gz", ".parquet", ".txt", ".txt.gz", ".md")
"""What is read of a directory."""


@dataclass(frozen=True)
class Source:
    """Raw data of one origin, with what is known of it. `text` names the field or column that holds the text."""

    location: str
    name: str = ""
    """Default: what each record says, else the file's name."""
    license: str = ""
    """Default: what each record says, else "unknown"."""
    url: str = ""
    commit: str = ""
    text: str = "text"


@dataclass(frozen=True)
class RawFile:
    """A file of source number `source`, as it was when the build began; `name` is its path as the user wrote it."""

    name: str
    path: str
    source: int
    bytes: int
    modified_ns: int
    sha256: str


@dataclass(frozen=True)
class Span:
    """A part of file number `file`: bytes of JSONL, row groups of Parquet, else all of it."""

    file: int
    start: int
    stop: int
    first_record: int
    """Number of its first record in the file (a line, a row), from 1."""


Unit = tuple[Span, ...]
"""What one worker reads at a time."""


@dataclass(frozen=True)
class Record:
    """A document as its source gives it; `fields` are its other fields."""

    number: int
    text: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Malformed:
    """A record that cannot be read, and why."""

    number: int
    reason: str


def expand(source: Source) -> list[Source]:
    """The sources that a location stands for: those that a .toml file lists under [[source]], else itself."""
    if not source.location.endswith(".toml"):
        return [source]
    path = Path(source.location)
    known = {field.name for field in fields(Source)}
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("source", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a table of sources: {error}") from None
    if not entries:
        raise DataError(f"{path}: no [[source]] in it")
    listed = []
    for number, entry in enumerate(entries, 1):
        wrong = sorted(entry.keys() - known) + [key for key, value in entry.items() if not isinstance(value, str)]
        if wrong or "location" not in entry:
            reason = f"unknown or not a string: {', '.join(wrong)}" if wrong else "location is missing"
            raise DataError(f"{path}: source {number}: {reason}; a source has {', '.join(sorted(known))}")
        made = Source(**entry)
        if "://" not in made.location:
            made = replace(made, location=str(path.parent / made.location))
        listed.append(made)
    return listed


def find_files(source: Source) -> list[Path]:
    """The files at a local location, sorted; of a directory those of known formats. DataError if there are none."""
    path = Path(source.location).expanduser()
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.name.endswith(FORMATS) and file.is_file()]
    elif path.is_file():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name)]
    if not found:
        kinds = ", ".join(FORMATS)
        raise DataError(f"no files at {source.location}: name a file, a glob, or a directory with {kinds}")
    for file in found:
        if file.name.endswith((".json", ".zst", ".bz2", ".xz")):
            raise DataError(f"{file}: not a known format; make it .jsonl, .jsonl.gz, .parquet or text")
    return sorted(found)


def left_out(source: Source) -> list[Path]:
    """The files of a directory that `find_files` passes over, hidden ones apart, sorted, as paths within it."""
    path = Path(source.location).expanduser()
    others = [file for file in path.rglob("*") if not file.name.endswith(FORMATS) and file.is_file()]
    within = [file.relative_to(path) for file in others]
    return sorted(file for file in within if not any(part.startswith(".") for part in file.parts))


def unpacked_bytes(path: Path) -> int:
    """The size of a file; of a .gz, about what it holds."""
    size = path.stat().st_size
    return 4 * size if path.suffix == ".gz" else size


def scan(path: Path, source: int, number: int, unit_bytes: int) -> tuple[RawFile, list[Span]]:
    """Read file number `number` once: its SHA-256, and spans of about `unit_bytes` that end at records' ends.

    A .gz file cannot be entered in its middle, so it is one span: unpack or split what is very large.
    """
    status = path.stat()
    digest = hashlib.sha256()
    spans: list[Span] = []
    start = offset = 0
    first = line = 1
    is_jsonl = path.name.endswith(".jsonl")
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            at = 0
            while is_jsonl and (end := chunk.find(b"\n", max(at, start + unit_bytes - offset - 1))) >= 0:
                line += chunk.count(b"\n", at, end + 1)
                at = end + 1
                spans.append(Span(number, start, offset + at, first))
                start, first = offset + at, line
            line += chunk.count(b"\n", at) if is_jsonl else 0
            offset += len(chunk)
    if path.name.endswith(".parquet"):
        spans = list(_row_groups(path, number, unit_bytes))
    elif offset > start:
        spans.append(Span(number, start, offset, first))
    return RawFile(str(path), str(path.absolute()), source, offset, status.st_mtime_ns, digest.hexdigest()), spans


def read(path: Path, span: Span, text_field: str = "text") -> Iterator[Record | Malformed]:
    """The documents of a span in order. DataError for a file that cannot be read on."""
    if path.name.endswith(".parquet"):
        yield from _read_parquet(path, span, text_field)
        return
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            if path.name.endswith((".jsonl", ".jsonl.gz")):
                yield from _read_lines(file, path, span, text_field)
            else:
                yield _decode(file.read())
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: damaged gzip data after {file.tell():,} unpacked bytes: {error}") from None


def whole(path: Path) -> Span:
    """All of a file as one span."""
    stop = _parquet_file(path).metadata.num_row_groups if path.name.endswith(".parquet") else path.stat().st_size
    return Span(0, 0, stop, 1)


def sample_texts(
    given: Iterable[Source],
    characters: int,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> Iterator[str]:
    """Texts of all local sources, from each file as many characters as its share of all bytes allows; malformed ones
    are refused. For what is learnt from a sample, such as a tokenizer."""
    found = [(path, source) for source in given for path in find_files(source)]
    total = sum(path.stat().st_size for path, _ in found)
    for number, (path, source) in enumerate(found):
        progress("reading", number, len(found))
        left = characters * path.stat().st_size // total
        for record in read(path, whole(path), source.text):
            if isinstance(record, Malformed):
                raise DataError(f"{path}, record {record.number:,}: {record.reason}")
            yield record.text[:left]
            left -= len(record.text)
            if left <= 0:
                break


def _decode(data: bytes) -> Record | Malformed:
    try:
        return Record(1, data.decode("utf-8"), {})
    except UnicodeDecodeError as error:
        return Malformed(1, f"not UTF-8 at byte {error.start:,}")


def _read_lines(file: BinaryIO, path: Path, span: Span, text_field: str) -> Iterator[Record | Malformed]:
    is_whole = path.suffix == ".gz"
    file.seek(0 if is_whole else span.start)
    number, left = span.first_record, span.stop - span.start
    while (is_whole or left > 0) and (line := file.readline(MAX_LINE_BYTES)):
        if len(line) == MAX_LINE_BYTES:
            raise DataError(f"{path}, line {number:,}: longer than {MAX_LINE_BYTES:,} bytes")
        left -= len(line)
        if line.strip():
            yield _parse(line, number, text_field)
        number += 1


def _parse(line: bytes, number: int, text_field: str) -> Record | Malformed:
    try:
        fields = parse_object(line)
    except ValueError as error:
        return Malformed(number, str(error))
    return _record(fields, number, text_field)


def _record(fields: dict[str, Any], number: int, text_field: str) -> Record | Malformed:
    text = fields.pop(text_field, None)
    if not isinstance(text, str):
        return Malformed(number, f"{text_field!r} is {'missing' if text is None else 'not a string'}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return Malformed(number, f"{text_field!r} is not valid Unicode: lone surrogate at character {error.start:,}")
    return Record(number, text, fields)


def _parquet_file(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(f"{path} needs pyarrow: pip install 'qwen3[train]'") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from None


def _row_groups(path: Path, number: int, unit_bytes: int) -> Iterator[Span]:
    metadata = _parquet_file(path).metadata
    start, size, first, rows = 0, 0, 1, 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).total_byte_size
        rows += metadata.row_group(group).num_rows
        if size >= unit_bytes or group == metadata.num_row_groups - 1:
            yield Span(number, start, group + 1, first)
            start, size, first = group + 1, 0, rows + 1


def _read_parquet(path: Path, span: Span, text_field: str) -> Iterator[Record | Malformed]:
    file = _parquet_file(path)
    if text_field not in file.schema_arrow.names:
        raise DataError(f"{path}: no column {text_field!r}; there are {', '.join(file.schema_arrow.names)}")
    number = span.first_record
    for group in range(span.start, span.stop):
        try:
            batches = list(file.iter_batches(256, row_groups=[group]))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: row group {group} is damaged: {error}") from None
        for batch in batches:
            for row in batch.to_pylist():
                yield _record(row, number, text_field)
                number += 1
