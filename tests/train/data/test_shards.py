"""The files are Megatron's, byte for byte, and damage is named with file and byte."""

import struct

import numpy as np
import pytest

from qwen3.train.data.errors import DataError
from qwen3.train.data.shards import Shard, ShardWriter, token_dtype

DOCUMENTS = [np.array([5, 6, 0]), np.array([0]), np.arange(40) % 7]


def write(prefix, vocab_size):
    with ShardWriter(prefix, token_dtype(vocab_size)) as writer:
        for ids in DOCUMENTS:
            writer.add(ids)
    return prefix


@pytest.mark.parametrize(("vocab_size", "code", "format"), [(2048, 8, "H"), (151_669, 4, "i")])
def test_the_bytes_are_those_of_the_documented_layout(tmp_path, vocab_size, code, format):
    prefix = write(tmp_path / "shard", vocab_size)
    width = struct.calcsize(format)
    lengths = [3, 1, 40]
    assert prefix.with_suffix(".bin").read_bytes() == struct.pack(f"<44{format}", *np.concatenate(DOCUMENTS))
    assert prefix.with_suffix(".idx").read_bytes() == (
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, code, 3, 4)
        + struct.pack("<3i", *lengths)
        + struct.pack("<3q", 0, 3 * width, 4 * width)
        + struct.pack("<4q", 0, 1, 2, 3)
    )
    shard = Shard(prefix)
    assert [shard.document(index).tolist() for index in range(3)] == [ids.tolist() for ids in DOCUMENTS]


@pytest.mark.parametrize("vocab_size", [2048, 151_669])
def test_megatrons_own_reader_and_writer_agree(tmp_path, vocab_size):
    megatron = pytest.importorskip(
        "megatron.core.datasets.indexed_dataset", reason="compares with megatron-core, which is not installed"
    )
    prefix = write(tmp_path / "ours", vocab_size)
    theirs = megatron.IndexedDataset(str(prefix))
    assert [theirs[index].tolist() for index in range(len(theirs))] == [ids.tolist() for ids in DOCUMENTS]
    builder = megatron.IndexedDatasetBuilder(
        str(tmp_path / "theirs.bin"), dtype=megatron.DType.optimal_dtype(vocab_size)
    )
    import torch

    for ids in DOCUMENTS:
        builder.add_document(torch.from_numpy(ids), [len(ids)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for kind in (".bin", ".idx"):
        assert (tmp_path / f"theirs{kind}").read_bytes() == prefix.with_suffix(kind).read_bytes()


LENGTHS, OFFSETS, BOUNDS = 34, 34 + 3 * 4, 34 + 3 * 12
INDEX_FAULTS = {
    "magic": (0, b"X", "at byte 0"),
    "version": (9, b"\x02", "version 2 at byte 9"),
    "dtype": (17, b"\x07", "dtype code 7 at byte 17"),
    "count": (18, b"\x04", "at byte 26"),
    "length": (LENGTHS + 4, b"\x00", f"document 1 has length 0 at byte {LENGTHS + 4}"),
    "negative": (LENGTHS + 11, b"\xff", f"document 2 has length -.* at byte {LENGTHS + 8}"),
    "longer": (LENGTHS, b"\x04", "wrong offset of document 1"),
    "offset": (OFFSETS + 8, b"\x09", f"wrong offset of document 1 at byte {OFFSETS + 8}"),
    "bound": (BOUNDS + 8, b"\x05", f"wrong bound of document 1 at byte {BOUNDS + 8}"),
}


@pytest.mark.parametrize("fault", INDEX_FAULTS)
def test_a_damaged_index_is_refused_with_its_byte(tmp_path, fault):
    at, new, reason = INDEX_FAULTS[fault]
    path = write(tmp_path / "shard", 2048).with_suffix(".idx")
    data = bytearray(path.read_bytes())
    data[at : at + len(new)] = new
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"shard\.idx: .*{reason}"):
        Shard(tmp_path / "shard")


def test_files_of_the_wrong_length_are_refused(tmp_path):
    prefix = write(tmp_path / "shard", 2048)
    index, tokens = prefix.with_suffix(".idx").read_bytes(), prefix.with_suffix(".bin").read_bytes()
    for size, reason in ((10, "cut off at byte 10"), (len(index) - 1, "3 documents")):
        prefix.with_suffix(".idx").write_bytes(index[:size])
        with pytest.raises(DataError, match=rf"shard\.idx: .*{reason}"):
            Shard(prefix)
    prefix.with_suffix(".idx").write_bytes(index)
    prefix.with_suffix(".bin").write_bytes(tokens[:-2])
    with pytest.raises(DataError, match=r"shard\.bin: 86 bytes, but its index says 88: damaged from byte 86"):
        Shard(prefix)
