"""A build counts everything, gives the same bytes whoever runs it, and survives being killed at any moment."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwen3.tokenizer import Tokenizer
from qwen3.train.data import hub, labels
from qwen3.train.data.build import Job, build
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.errors import DataError
from qwen3.train.data.sources import Source
from qwen3.train.data.unit import build_unit

from .conftest import make_documents, write_jsonl


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def stop(directory, indices):
    """Runs no unit: Ctrl-C came first."""
    raise KeyboardInterrupt


@pytest.fixture
def job(corpus) -> Job:
    return Job((Source(str(corpus)),), near=0, unit_bytes=20_000)


def test_the_data_set_holds_every_different_document_once_in_order(dataset, corpus, tokenizer):
    texts = list(dict.fromkeys(json.loads(line)["text"] for line in corpus.read_text().splitlines()))
    assert len(dataset.shards) > 2
    found = [dataset.document(number) for number in range(len(dataset))]
    assert [tokenizer.decode(ids[:-1].tolist()) for ids in found] == texts
    assert {int(ids[-1]) for ids in found} == {tokenizer.end_of_text_id}
    dataset.verify()


def test_everything_is_counted(dataset, corpus):
    records = [json.loads(line) for line in corpus.read_text().splitlines()]
    made = dataset.manifest
    assert (made.incoming.documents, made.incoming.characters) == (400, sum(len(each["text"]) for each in records))
    assert {reason: drop.documents for reason, drop in made.dropped.items()} == {"exact duplicate": 10}
    first = made.dropped["exact duplicate"].examples[0]
    assert (made.files[first.file].path, first.record) == (str(corpus), 40)
    assert records[39]["text"].startswith(first.text)
    seen = {}
    for each in records:
        seen.setdefault(each["text"], each)
    for label in ("source", "license"):
        there = {word: sum(each[label] == word for each in seen.values()) for word in made.labels[label]}
        assert {word: count.documents for word, count in made.counts[label].items()} == there
    assert sum(count.tokens for count in made.counts["source"].values()) == made.tokens == int(dataset.lengths.sum())


def test_filters_drop_what_they_say_and_give_examples(job, tokenizer, tmp_path):
    rules = ("characters>=100", "source=tales", "tokens<=500")
    made = build(replace(job, keep=rules), tokenizer, tmp_path)
    assert set(made.dropped) == {*rules, "exact duplicate"}
    assert sum(drop.documents for drop in made.dropped.values()) + made.documents == 400
    dataset = Dataset(tmp_path)
    assert dataset.where(rules).all()
    short = made.dropped["characters>=100"]
    assert all(len(example.text) < 100 for example in short.examples)
    assert len(short.examples) == 3


def test_a_number_equal_to_a_rules_is_kept(tokenizer, tmp_path):
    documents = [{**each, "education": number % 4} for number, each in enumerate(make_documents(20))]
    source = Source(str(write_jsonl(tmp_path / "a.jsonl", documents)))
    build(Job((source,), keep=("education=2,3",), near=0), tokenizer, tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    assert len(dataset) == 10
    assert dataset.where(("education=2,3",)).all()


def test_a_build_that_keeps_nothing_is_refused_and_leaves_nothing(job, tokenizer, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="of 400 documents none stays: education=9 drops 400"):
        build(replace(job, keep=("education=9",)), tokenizer, out)
    assert not list(out.iterdir())
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="the sources hold no document"):
        build(Job((Source(str(tmp_path / "empty.jsonl")),)), tokenizer, out)
    assert build(job, tokenizer, out).documents == 390


def test_a_build_that_keeps_nothing_leaves_a_tokenizer_that_was_there(job, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    with pytest.raises(DataError, match="of 400 documents none stays"):
        build(replace(job, keep=("education=9",)), Tokenizer.load(tmp_path / "tokenizer"), tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["tokenizer"]
    assert Tokenizer.load(tmp_path / "tokenizer").vocab_size == tokenizer.vocab_size


def test_after_a_mistake_that_the_first_unit_finds_the_same_place_can_be_built(job, tokenizer, tmp_path):
    with pytest.raises(DataError, match="education=high: the label education is a number"):
        build(replace(job, keep=("education=high",)), tokenizer, tmp_path)
    assert build(replace(job, keep=("source=tales",)), tokenizer, tmp_path).documents > 0


def test_a_build_with_other_options_leaves_a_running_one_as_it_is(job, tokenizer, tmp_path):
    first, second = replace(job, keep=("source=tales",)), replace(job, keep=("source=notes",))

    def begin_second(directory, indices):
        with pytest.raises(DataError, match="holds a build with another tokenizer, other sources or options"):
            build(second, tokenizer, directory)
        yield from (build_unit(directory, index) for index in indices)

    made = build(first, tokenizer, tmp_path / "out", begin_second)
    assert made == build(first, tokenizer, tmp_path / "alone")
    assert set(made.counts["source"]) == {"tales"}


def test_of_two_builds_that_begin_together_the_later_one_is_refused(job, tokenizer, tmp_path):
    first, second = replace(job, keep=("source=tales",)), replace(job, keep=("source=notes",))
    began = []

    def begin_first(phase, done, total):
        if phase == "reading" and not began:
            began.append(phase)
            with pytest.raises(KeyboardInterrupt):
                build(first, tokenizer, tmp_path, stop)

    with pytest.raises(DataError, match="holds a build with another tokenizer, other sources or options"):
        build(second, tokenizer, tmp_path, progress=begin_first)
    assert set(build(first, tokenizer, tmp_path).counts["source"]) == {"tales"}


def test_a_unit_that_another_job_left_is_refused(job, tokenizer, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"

    def stop_after_one(directory, indices):
        yield build_unit(directory, indices[0])
        raise KeyboardInterrupt

    for each, directory in ((job, out), (replace(job, keep=("source=notes",)), other)):
        with pytest.raises(KeyboardInterrupt):
            build(each, tokenizer, directory, stop_after_one)
    shutil.rmtree(out / "parts" / "000000")
    (other / "parts" / "000000").rename(out / "parts" / "000000")
    with pytest.raises(DataError, match="holds a build with another tokenizer, other sources or options"):
        build(job, tokenizer, out)


@pytest.mark.parametrize("value", [True, [1, 2], {}])
def test_a_label_that_is_no_word_and_no_number_is_refused_whatever_the_rules(tokenizer, tmp_path, value):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a b c", "education": value}])
    for number, keep in enumerate(((), ("education>=1",), ("education=1",))):
        with pytest.raises(DataError, match=r"a\.jsonl, record 1: label education is .*, no word and no number"):
            build(Job((Source(str(path)),), keep), tokenizer, tmp_path / f"out-{number}")


def test_near_duplicates_are_dropped_and_counted(tokenizer, tmp_path):
    documents = [each for each in make_documents(30, seed=3) if len(each["text"]) > 800]
    changed = {**documents[0], "text": documents[0]["text"] + " again"}
    path = write_jsonl(tmp_path / "a.jsonl", [*documents, changed])
    made = build(Job((Source(str(path)),)), tokenizer, tmp_path / "out")
    assert {reason: drop.documents for reason, drop in made.dropped.items()} == {"near duplicate": 1}
    assert made.dropped["near duplicate"].examples[0].record == len(documents) + 1


def test_a_records_own_labels_count_more_than_a_scorers(tokenizer, tmp_path):
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [{"text": "Das ist das Haus und nicht der Hof.", "lang": "nl", "education": 4, "source": "s"}, {"text": "Ja."}],
    )
    job = Job((Source(str(path), license="MIT"),), labellers=("language", "education", "length=builtins:len"))
    build(job, tokenizer, tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    rows = [
        [dataset.word(label, number) for label in ("language", "education", "length", "source", "license")]
        for number in range(2)
    ]
    assert rows == [["nl", 4.0, 35.0, "s", "MIT"], [labels.language("Ja."), 0.0, 3.0, "a", "MIT"]]


def test_malformed_records_stop_the_build_or_are_counted(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": \n{"text": "three"}\n', encoding="utf-8")
    job = Job((Source(str(path)),))
    with pytest.raises(DataError, match=r"a\.jsonl, record 2: it is not valid JSON"):
        build(job, tokenizer, tmp_path / "out")
    made = build(replace(job, skip_malformed=True), tokenizer, tmp_path / "skipping")
    assert (made.documents, made.incoming.documents, made.dropped["malformed"].examples[0].record) == (2, 3, 2)


def test_another_build_in_the_same_place_is_refused(job, directory, tokenizer, tmp_path):
    assert build(job, tokenizer, directory) == Dataset(directory).manifest
    with pytest.raises(DataError, match="holds a build with another tokenizer, other sources or options"):
        build(replace(job, keep=("tokens>3",)), tokenizer, directory)
    for keep, reason in (("mood>3", "no label 'mood'"), ("tokens>many", "compares numbers")):
        with pytest.raises(DataError, match=reason):
            build(replace(job, keep=(keep,)), tokenizer, tmp_path / "out")


def test_sources_that_change_during_a_build_are_refused(job, tokenizer, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", make_documents(50))
    job = replace(job, sources=(Source(str(path)),), unit_bytes=5_000)
    with pytest.raises(KeyboardInterrupt):
        build(job, tokenizer, tmp_path / "out", stop)
    with pytest.raises(DataError, match="a build that is not finished: run it again"):
        Dataset(tmp_path / "out")
    write_jsonl(path, make_documents(51))
    with pytest.raises(DataError, match=r"a\.jsonl has changed since the build began"):
        build(job, tokenizer, tmp_path / "out")


def test_units_do_not_change_the_documents(job, directory, tokenizer, tmp_path):
    build(replace(job, unit_bytes=1 << 30), tokenizer, tmp_path)
    one, several = Dataset(tmp_path), Dataset(directory)
    assert len(one.shards) == 1
    assert np.array_equal(one.shards[0].tokens, np.concatenate([shard.tokens for shard in several.shards]))
    for label in ("source", "education", "language", "hash", "record"):
        assert np.array_equal(one.column(label), several.column(label))


KILLED = """
import os, signal, sys
from pathlib import Path
from qwen3.checkpoint.hub import resolve
from qwen3.tokenizer import Tokenizer
from qwen3.train.data.build import Job, build
from qwen3.train.data.sources import Source

corpus, out, moment = sys.argv[1], sys.argv[2], int(sys.argv[3])
left = moment

def count(event, arguments):
    global left
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and str(arguments[0]).startswith(out):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

tokenizer = Tokenizer.load(resolve("builtin"))
sys.addaudithook(count)
build(Job((Source(corpus),), near=0, unit_bytes=20_000), tokenizer, Path(out))
"""


def test_a_build_killed_at_any_moment_goes_on_and_ends_in_the_same_bytes(corpus, directory, tmp_path):
    # Each life ends a few file operations later than the one before, until one lives to the end.
    moments = (3, 9, 17, 26, 38, 45, 57, 75, 77, 79, 81, 83)
    for lives, moment in enumerate((*moments, 10_000)):  # noqa: B007
        run = subprocess.run([sys.executable, "-c", KILLED, corpus, tmp_path / "out", str(moment)], check=False)
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL
    assert lives >= 6
    assert content(tmp_path / "out") == content(directory)


def test_a_full_disk_is_told_and_the_build_goes_on_later(tokenizer, tmp_path):
    corpus = write_jsonl(tmp_path / "a.jsonl", make_documents(900))
    # Files may be as large as the tokenizer, and not as large as the fingerprints of 900 documents.
    limit = "import resource, signal\nresource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    limit += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    program = limit + KILLED.replace("20_000", "1 << 30")
    out = tmp_path / "out"
    run = subprocess.run(
        [sys.executable, "-c", program, corpus, out, "-1"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "OSError" in run.stderr
    assert not (out / "manifest.json").exists()
    build(Job((Source(str(corpus)),), near=0, unit_bytes=1 << 30), tokenizer, out)
    Dataset(out).verify()


def test_a_hub_data_set_is_copied_once_with_its_commit(tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="hf:// needs datasets")
    write_jsonl(tmp_path / "raw.jsonl", make_documents(20))
    folder = tmp_path / "hub" / "stories"
    folder.mkdir(parents=True)
    write_jsonl(folder / "train.jsonl", make_documents(20))
    source = Source(f"hf://{folder}", license="MIT")
    made = build(Job((source,)), tokenizer, tmp_path / "out")
    assert (made.incoming.documents, made.sources[0].license) == (20, "MIT")
    Dataset(tmp_path / "out").verify()
    with pytest.raises(DataError, match="unknown subset"):
        hub.download(Source(f"hf://{folder}?subset=a"), tmp_path)
    monkeypatch.setattr(hub, "_commit", lambda name, revision: "c0ffee" * 6)
    monkeypatch.setattr(
        "datasets.load_dataset",
        lambda name, config, *, split, revision, streaming: iter([{"text": f"{name} {config} {split} {revision[:6]}"}]),
    )
    local = hub.download(Source("hf://some/texts?config=en&split=test&revision=main"), tmp_path / "raw")
    assert (local.url, local.commit[:6]) == ("https://huggingface.co/datasets/some/texts", "c0ffee")
    assert json.loads(Path(local.location).read_text())["text"] == "some/texts en test c0ffee"


def test_hf_without_datasets_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'qwen3\[train\]'"):
        hub.download(Source("hf://some/texts"), tmp_path)


def test_public_text_builds_and_every_byte_is_as_said(shared, tokenizer, tmp_path):
    """The corpora themselves, sampled: real languages, licences and code."""
    import gzip

    sample = []
    for path in sorted((shared / "data" / "corpus").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file):
                record = json.loads(line)
                if number % 7 == 0 and len(record["text"]) < 20_000:
                    sample.append(record)
                if number > 400:
                    break
    path = write_jsonl(tmp_path / "sample.jsonl", sample)
    made = build(Job((Source(str(path)),), keep=("repetition<=0.5",)), tokenizer, tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    dataset.verify()
    assert made.documents > 200
    assert len(made.counts["language"]) > 20
    assert {"code", "technology", "law"} <= set(made.counts["domain"])
    assert made.counts["license"]["CC-BY-4.0"].documents > 30
