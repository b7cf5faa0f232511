"""Readers: every document once, in order, however the files are cut; what is wrong is named."""

import gzip
import json
import sys

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3.train.data.errors import DataError
from qwen3.train.data.sources import Malformed, Record, Source, expand, find_files, read, sample_texts, scan, whole

LINES = [json.dumps({"text": f"text {number} " + "é" * (number % 9), "n": number}) for number in range(60)]


@pytest.fixture(scope="module")
def jsonl(tmp_path_factory):
    path = tmp_path_factory.mktemp("jsonl") / "lines.jsonl"
    path.write_text("\n".join(LINES), encoding="utf-8")  # The last line has no end.
    return path


@hypothesis.settings(max_examples=40)
@given(unit_bytes=st.integers(1, 4000), chunk=st.sampled_from([7, 64, 1 << 20]))
def test_spans_cover_every_line_once_with_its_number(jsonl, unit_bytes, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qwen3.train.data.sources._CHUNK_BYTES", chunk)
        raw, spans = scan(jsonl, 0, 0, unit_bytes)
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == raw.bytes == jsonl.stat().st_size
    records = [record for span in spans for record in read(jsonl, span)]
    assert [record.fields["n"] for record in records] == list(range(60))
    assert [record.number for record in records] == list(range(1, 61))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "not valid JSON"),
        (b'["text"]', "does not hold a JSON object"),
        (b'{"txt": "a"}', "'text' is missing"),
        (b'{"text": 5}', "'text' is not a string"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
        (b'{"text": "a", "text": "b"}', "duplicate key"),
        (b'{"text": "\xff"}', "not UTF-8"),
    ],
)
def test_a_malformed_line_is_told_with_its_number_and_the_next_is_read(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "first"}\n\n' + line + b'\n{"text": "last"}\n')
    first, bad, last = read(path, whole(path))
    assert (first.text, last.text, bad.number) == ("first", "last", 3)
    assert isinstance(bad, Malformed)
    assert reason in bad.reason


def test_gzip_is_one_span_and_a_cut_file_is_named(tmp_path, jsonl):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(jsonl.read_bytes()))
    _, spans = scan(path, 0, 0, 10)
    assert [record.number for span in spans for record in read(path, span)] == list(range(1, 61))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: damaged gzip"):
        list(read(path, whole(path)))


def test_any_other_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo", encoding="utf-8")
    assert list(read(tmp_path / "a.txt", whole(tmp_path / "a.txt"))) == [Record(1, "one\ntwo", {})]
    (tmp_path / "b.txt").write_bytes(b"ab\xff")
    assert list(read(tmp_path / "b.txt", whole(tmp_path / "b.txt"))) == [Malformed(1, "not UTF-8 at byte 2")]


def test_parquet_is_read_by_row_groups_and_its_faults_are_named(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    table = pyarrow.table({"body": [f"text {number}" for number in range(50)] + [None], "n": list(range(51))})
    pyarrow.parquet.write_table(table, path, row_group_size=10)
    _, spans = scan(path, 0, 0, 1)
    assert len(spans) == 6
    *records, last = [record for span in spans for record in read(path, span, "body")]
    assert [(record.number, record.text, record.fields["n"]) for record in records] == [
        (number + 1, f"text {number}", number) for number in range(50)
    ]
    assert last == Malformed(51, "'body' is missing")
    with pytest.raises(DataError, match="no column 'text'; there are body, n"):
        list(read(path, spans[0]))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet file"):
        scan(path, 0, 0, 1)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r"pip install 'qwen3\[train\]'"):
        scan(tmp_path / "a.parquet", 0, 0, 1)


def test_locations_are_files_globs_directories_and_tables_of_sources(tmp_path):
    for name in ("b.jsonl", "a.txt", "c.csv"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    assert [path.name for path in find_files(Source(str(tmp_path)))] == ["a.txt", "b.jsonl"]
    assert [path.name for path in find_files(Source(f"{tmp_path}/*"))] == ["a.txt", "b.jsonl", "c.csv"]
    with pytest.raises(DataError, match="no files at"):
        find_files(Source(f"{tmp_path}/*.jsonl.gz"))
    (tmp_path / "d.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"d\.json: not a known format"):
        find_files(Source(f"{tmp_path}/d.json"))
    table = tmp_path / "sources.toml"
    table.write_text(
        '[[source]]\nlocation = "b.jsonl"\nname = "b"\nlicense = "MIT"\nurl = "https://b"\ncommit = "1f"\n'
    )
    assert expand(Source(str(table))) == [Source(str(tmp_path / "b.jsonl"), "b", "MIT", "https://b", "1f")]
    table.write_text('[[source]]\nlocation = "b.jsonl"\nlicence = "MIT"\n')
    with pytest.raises(DataError, match="source 1: unknown or not a string: licence"):
        expand(Source(str(table)))


def test_a_sample_takes_from_every_file_by_its_size(tmp_path):
    for name, count in (("a.jsonl", 300), ("b.jsonl", 100)):
        (tmp_path / name).write_text(f'{{"text": "{name[0] * 20}"}}\n' * count, encoding="utf-8")
    text = "".join(sample_texts([Source(str(tmp_path))], 400))
    assert (text.count("a"), text.count("b")) == (300, 100)
