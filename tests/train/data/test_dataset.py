"""A data set that was damaged, or whose manifest lies, is refused with the file and the place."""

import json
import shutil

import numpy as np
import pytest

from qwen3.train.data import manifest
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.errors import DataError


@pytest.fixture
def copy(directory, tmp_path):
    return shutil.copytree(directory, tmp_path / "copy")


def edit(copy, change):
    path = copy / "manifest.json"
    made = json.loads(path.read_text())
    change(made)
    path.write_text(json.dumps(made))


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


LIES = {
    "documents": (lambda m: m.update(documents=m["documents"] + 1), "documents: it says"),
    "tokens": (lambda m: m.update(tokens=5), "tokens: it says 5"),
    "shard tokens": (lambda m: [m["shards"][0].update(tokens=5), m.update(tokens=0)], "tokens: it says 0"),
    "incoming": (lambda m: m["incoming"].update(documents=1), "incoming.documents: it says 1"),
    "drops": (lambda m: m["dropped"].clear(), "incoming.documents"),
    "count": (lambda m: m["counts"]["source"]["tales"].update(tokens=1), "tokens of counts.source"),
    "value": (lambda m: m["labels"].update(source=["a", "b"]), "values of counts.source"),
    "digest": (lambda m: m["shards"][1]["sha256"].update(bin="0" * 64), "tokens_sha256"),
    "missing": (lambda m: m.pop("tokens"), "manifest.json: tokens is missing"),
    "unknown": (lambda m: m.update(extra=1), "manifest.json: extra is unknown"),
    "type": (lambda m: m["shards"][1].update(documents="many"), r"shards\[1\].documents is 'many', not int"),
    "negative": (lambda m: m["shards"][1].update(documents=-1), r"shards\[1\].documents is -1"),
    "format": (lambda m: m.update(format=9), "format 9; this version reads 1"),
    "outside": (lambda m: m["shards"][0].update(name="../shard"), "not a name within the directory"),
    "vocabulary": (lambda m: m.update(vocab_size=100_000), r"shard-000000\.idx: ids are uint16 \(byte 17\)"),
    "absent": (lambda m: m["shards"][0].update(name="shard-9"), r"shard-9\.bin is missing"),
    "columns": (lambda m: m["labels"].update(mood=None), r"shard-000000\.npy: columns"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused(copy, lie):
    change, reason = LIES[lie]
    edit(copy, change)
    with pytest.raises(DataError, match=reason):
        Dataset(copy)


def test_counts_that_agree_with_each_other_but_not_with_the_documents_are_found_by_verify(copy):
    def move(made):
        for kind in ("documents", "tokens"):
            made["counts"]["source"]["tales"][kind] += 1
            made["counts"]["source"]["notes"][kind] -= 1

    edit(copy, move)
    with pytest.raises(DataError, match=r"counts\.source\.notes says"):
        Dataset(copy).verify()


def test_a_flipped_byte_of_tokens_is_located(copy, monkeypatch):
    monkeypatch.setattr(manifest, "BLOCK_BYTES", 1000)
    path = copy / "shard-000001.bin"
    edit(copy, lambda m: m["shards"][1].update(blocks=manifest.block_checksums(path)))
    flip(path, 2500)
    with pytest.raises(DataError, match=r"shard-000001\.bin is damaged: changed between bytes 2,000 and 3,000"):
        Dataset(copy).verify()


def test_ids_outside_the_vocabulary_and_missing_ends_are_located(copy):
    path = copy / "shard-000000.bin"
    tokens = np.fromfile(path, "<u2")
    tokens[7] = 60_000
    tokens.tofile(path)
    with pytest.raises(DataError, match=r"shard-000000\.bin: id 60000 at byte 14 is not one of 2,048 tokens"):
        Dataset(copy).verify()
    tokens[7], tokens[-1] = 5, 5
    tokens.tofile(path)
    with pytest.raises(DataError, match=r"id 5 at byte [\d,]+ ends document \d+ without <\|endoftext\|>"):
        Dataset(copy).verify()


def test_other_files_are_checked_too(copy):
    flip(copy / "shard-000002.npy", -1)
    with pytest.raises(DataError, match=r"shard-000002\.npy"):
        Dataset(copy).verify()
    (copy / "shard-000002.npy").write_bytes(b"none")
    with pytest.raises(DataError, match=r"shard-000002\.npy: not a readable table"):
        Dataset(copy)


def test_a_label_code_without_a_word_is_located(copy):
    path = copy / "shard-000000.npy"
    table = np.load(path)
    table["source"][3] = 77
    np.save(path, table)
    with pytest.raises(DataError, match=r"shard-000000\.npy: document 3 has unknown source 77 at byte \d+"):
        Dataset(copy)


def test_shards_in_each_others_place_are_refused(copy):
    for kind in ("bin", "idx", "npy"):
        (copy / f"shard-000000.{kind}").rename(copy / "x")
        (copy / f"shard-000001.{kind}").rename(copy / f"shard-000000.{kind}")
        (copy / "x").rename(copy / f"shard-000001.{kind}")
    with pytest.raises(DataError, match="the manifest says"):
        Dataset(copy)


def test_another_tokenizer_is_refused(copy):
    with (copy / "tokenizer" / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(DataError, match="not the tokenizer that the manifest names"):
        Dataset(copy).verify()


def test_a_directory_without_a_data_set_is_told(tmp_path):
    with pytest.raises(DataError, match="holds no data set"):
        Dataset(tmp_path)


def test_unknown_labels_are_refused_with_those_there_are(dataset):
    with pytest.raises(DataError, match="no label 'mood'; there are tokens, bucket, source"):
        dataset.where(("mood>1",))
