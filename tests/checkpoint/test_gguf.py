"""The GGUF reader: files that the gguf package wrote, and files that nobody should have written."""

import os
import struct
import time
from dataclasses import dataclass, field

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3.checkpoint import gguf as reader
from qwen3.checkpoint.gguf import GGUFError, GGUFFile
from qwen3.quant.blocks import BLOCK_TYPES

# ---- Against the gguf package ---------------------------------------------------------------------------------

VALUES = gguf.GGUFValueType
SCALARS = {
    VALUES.UINT8: 200,
    VALUES.INT8: -100,
    VALUES.UINT16: 60_000,
    VALUES.INT16: -30_000,
    VALUES.UINT32: 4_000_000_000,
    VALUES.INT32: -2_000_000_000,
    VALUES.UINT64: 2**64 - 1,
    VALUES.INT64: -(2**63),
    VALUES.FLOAT32: 0.5,
    VALUES.FLOAT64: 1e300,
    VALUES.BOOL: True,
    VALUES.STRING: "Grüße 🙂",
}


def written(path, metadata=(), tensors=(), alignment=None):
    """A file by the gguf package; `metadata` (key, value, type, element type), `tensors` (name, bytes, type)."""
    writer = gguf.GGUFWriter(path, "qwen3")
    if alignment:
        writer.add_custom_alignment(alignment)
    for key, value, value_type, element_type in metadata:
        writer.add_key_value(key, value, value_type, element_type)
    for name, data, block_type in tensors:
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[block_type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(shape, block_type, seed=0):
    """Random bytes of a tensor of `shape`, with the bytes of a row last, as the package wants them."""
    block = BLOCK_TYPES[block_type]
    row_bytes = shape[-1] // block.num_values * block.num_bytes
    return np.random.default_rng(seed).integers(0, 256, (*shape[:-1], row_bytes), np.uint8)


def test_every_type_of_metadata_is_read(tmp_path):
    scalars = [(f"scalar.{kind.name}", value, kind, None) for kind, value in SCALARS.items()]
    arrays = [(f"array.{kind.name}", [value] * 3, VALUES.ARRAY, kind) for kind, value in SCALARS.items()]
    file = GGUFFile(written(tmp_path / "x.gguf", scalars + arrays))
    assert file.version == 3
    assert file.metadata["general.architecture"] == "qwen3"
    for kind, value in SCALARS.items():
        scalar, array = file.metadata[f"scalar.{kind.name}"], file.metadata[f"array.{kind.name}"]
        assert (scalar, type(scalar)) == (value, type(value))
        assert list(array) == [value] * 3
        if isinstance(array, np.ndarray):
            assert array.dtype.name == kind.name.lower()
            assert not array.flags.writeable


def test_empty_texts_and_arrays_are_read(tmp_path):
    metadata = [("text", "", VALUES.STRING, None), ("many", ["", "a", ""], VALUES.ARRAY, VALUES.STRING)]
    file = GGUFFile(written(tmp_path / "x.gguf", metadata))
    assert file.metadata["text"] == ""
    assert file.metadata["many"] == ("", "a", "")
    for kind, element in ((8, "strings"), (5, "numbers")):
        empty = Header(keys=[key("empty", 9, struct.pack("<IQ", kind, 0))]).save(tmp_path / f"{element}.gguf")
        assert len(GGUFFile(empty).metadata["empty"]) == 0


@pytest.mark.parametrize("block_type", [name for name in BLOCK_TYPES if name != "Q2_0"])
def test_every_block_type_is_read_as_the_package_reads_it(tmp_path, block_type):
    row = 2 * BLOCK_TYPES[block_type].num_values
    shapes = [(row,), (3, row), (2, 3, row), (2, 1, 3, row)]
    tensors = [(f"t{len(s)}", random_blocks(s, block_type, len(s)), block_type) for s in shapes]
    path = written(tmp_path / "x.gguf", tensors=tensors)
    file, oracle = GGUFFile(path), gguf.GGUFReader(path)
    assert [t.shape for t in file.tensors.values()] == shapes
    for theirs in oracle.tensors:
        ours = file.tensors[theirs.name]
        assert ours.type == theirs.tensor_type.name
        assert ours.shape == tuple(theirs.shape.tolist()[::-1])
        assert (ours.offset, ours.num_bytes) == (theirs.data_offset, theirs.n_bytes)
        assert file.read(theirs.name).tobytes() == theirs.data.tobytes()
        assert not file.read(theirs.name).flags.writeable


@given(
    st.lists(
        st.tuples(st.sampled_from(list(BLOCK_TYPES)[:11]), st.lists(st.integers(1, 4), min_size=1, max_size=4)),
        max_size=6,
    ),
    st.dictionaries(st.text(min_size=1, max_size=20), st.text() | st.lists(st.text(), min_size=1), max_size=5),
    st.sampled_from([None, 8, 64, 4096]),
)
@settings(max_examples=30)
def test_any_names_texts_shapes_and_alignments_are_read(tmp_path_factory, shapes, texts, alignment):
    texts = {key: text for key, text in texts.items() if not key.startswith("general.")}
    metadata = [
        (key, text, VALUES.STRING if isinstance(text, str) else VALUES.ARRAY, VALUES.STRING)
        for key, text in texts.items()
    ]
    tensors = []
    for number, (block_type, shape) in enumerate(shapes):
        shape = (*shape[:-1], shape[-1] * BLOCK_TYPES[block_type].num_values)
        tensors.append((f"tensor {number}", random_blocks(shape, block_type, number), block_type))
    path = written(tmp_path_factory.getbasetemp() / "any.gguf", metadata, tensors, alignment)
    file, oracle = GGUFFile(path), gguf.GGUFReader(path)
    for key, text in texts.items():
        assert file.metadata[key] == (text if isinstance(text, str) else tuple(text))
    assert list(file.tensors) == [tensor.name for tensor in oracle.tensors]
    for theirs in oracle.tensors:
        ours = file.tensors[theirs.name]
        assert (ours.offset, ours.shape) == (theirs.data_offset, tuple(theirs.shape.tolist()[::-1]))
        assert file.read(theirs.name).tobytes() == theirs.data.tobytes()


# ---- Files by hand --------------------------------------------------------------------------------------------


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value % 2**64)


def text(value: str | bytes, length: int | None = None) -> bytes:
    value = value if isinstance(value, bytes) else value.encode()
    return u64(len(value) if length is None else length) + value


def key(name: str | bytes, type_id: int = 4, value: bytes = u32(7)) -> bytes:
    return text(name) + u32(type_id) + value


def alignment(value: int) -> bytes:
    return key("general.alignment", 4, u32(value))


def tensor(name="t", shape=(32,), type_id=0, offset=0, num_dimensions=None) -> bytes:
    """An entry; `shape` in the file's order, fastest first."""
    dimensions = len(shape) if num_dimensions is None else num_dimensions
    return text(name) + u32(dimensions) + b"".join(map(u64, shape)) + u32(type_id) + u64(offset)


@dataclass
class Header:
    """The parts of a file; counts are those of the parts unless given."""

    magic: bytes = b"GGUF"
    version: bytes = u32(3)
    num_tensors: int | None = None
    num_keys: int | None = None
    keys: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)
    alignment: int = 32
    data: bytes = b""

    def __bytes__(self) -> bytes:
        counts = [
            len(parts) if given is None else given
            for given, parts in ((self.num_tensors, self.tensors), (self.num_keys, self.keys))
        ]
        head = self.magic + self.version + b"".join(map(u64, counts)) + b"".join(self.keys + self.tensors)
        return head + bytes(-len(head) % self.alignment) + self.data

    def save(self, path):
        path.write_bytes(bytes(self))
        return path


F32_32 = bytes(128)
TWO = [tensor("a"), tensor("b", offset=128)]

MALFORMED = {
    # Header
    "nothing": (b"", "has 0 bytes"),
    "magic alone": (b"GGUF", "has 4 bytes"),
    "cut within the counts": (bytes(Header())[:23], "has 23 bytes"),
    "other magic": (Header(magic=b"FUGG"), "begins with b'FUGG'"),
    "lower-case magic": (Header(magic=b"gguf"), "begins with"),
    "a zip file": (b"PK\x03\x04" + bytes(60), "not a GGUF file"),
    "version 0": (Header(version=u32(0)), "version 0"),
    "version 1": (Header(version=u32(1)), "version 1"),
    "version of the future": (Header(version=u32(4)), "version 4; versions 2 and 3"),
    "absurd version": (Header(version=u32(2**32 - 1)), "version 4294967295"),
    "big-endian": (Header(version=struct.pack(">I", 3)), "big-endian"),
    "negative number of tensors": (Header(num_tensors=-1), "number of tensors is 18,446,744,073,709,551,615"),
    "negative number of keys": (Header(num_keys=-1), "number of metadata keys is 18,446,744,073,709,551,615"),
    "bomb of tensors": (Header(num_tensors=131_073), "number of tensors is 131,073"),
    "bomb of keys": (Header(num_keys=65_537), "number of metadata keys is 65,537"),
    "fewer keys than claimed": (Header(num_keys=2, keys=[key("a")]), "metadata key 1 is empty"),
    "fewer keys than claimed, no padding": (
        Header(num_keys=2, keys=[key("a")], alignment=1),
        "length of metadata key 1 needs 8 bytes",
    ),
    "fewer tensors than claimed": (
        Header(num_tensors=2, tensors=[tensor()], alignment=1),
        "length of name of a tensor",
    ),
    # Keys
    "key of negative size": (Header(keys=[text("k", -1) + u32(4) + u32(7)]), "metadata key 0 needs 18,446,744,073"),
    "key beyond the end": (Header(keys=[text("k", 1000) + u32(4) + u32(7)]), "metadata key 0 needs 1,000 bytes"),
    "key cut in its length": (bytes(Header(num_keys=1, alignment=1)) + b"\1\0\0", "length of metadata key 0 needs 8"),
    "key of 64 KiB": (Header(keys=[key("k" * 65_536)]), "metadata key 0 has 65,536 bytes"),
    "empty key": (Header(keys=[key("")]), "metadata key 0 is empty"),
    "key not UTF-8": (Header(keys=[key(b"\xff\xfe")]), "metadata key 0 is not UTF-8"),
    "key with a surrogate": (Header(keys=[key(b"\xed\xa0\x80")]), "metadata key 0 is not UTF-8"),
    "key twice": (Header(keys=[key("a"), key("b"), key("a")]), "metadata 'a' is given twice"),
    "key without a type": (Header(num_keys=1, keys=[text("a")], alignment=1), "type of metadata 'a' needs 4 bytes"),
    "type 13": (Header(keys=[key("a", 13)]), "metadata 'a' has the unknown type 13"),
    "type -1": (Header(keys=[key("a", 2**32 - 1)]), "metadata 'a' has the unknown type 4294967295"),
    # Values
    "number cut off": (Header(keys=[key("a", 10, b"\0" * 7)], alignment=1), "metadata 'a' needs 8 bytes"),
    "no value": (Header(keys=[key("a", 0, b"")], alignment=1), "metadata 'a' needs 1 bytes"),
    "bool of 2": (Header(keys=[key("a", 7, b"\2")]), "a bool that is neither 0 nor 1"),
    "bool of 255 in an array": (
        Header(keys=[key("a", 9, u32(7) + u64(3) + b"\0\1\xff")]),
        "a bool that is neither 0 nor 1",
    ),
    "text of negative size": (Header(keys=[key("a", 8, text("x", -1))]), "metadata 'a' needs 18,446,744,073"),
    "text of 2^63 bytes": (Header(keys=[key("a", 8, text("x", 2**63))]), "metadata 'a' needs 9,223,372,036"),
    "text cut off": (Header(keys=[key("a", 8, text("x", 2))], alignment=1), "metadata 'a' needs 2 bytes"),
    "text not UTF-8": (Header(keys=[key("a", 8, text(b"a\x80"))]), "metadata 'a' is not UTF-8"),
    "overlong UTF-8": (Header(keys=[key("a", 8, text(b"\xc0\x80"))]), "metadata 'a' is not UTF-8"),
    "array of unknown type": (Header(keys=[key("a", 9, u32(99) + u64(1))]), "'a' has the unknown type 99"),
    "array of arrays": (Header(keys=[key("a", 9, u32(9) + u64(1) + u32(4) + u64(0))]), "'a' is an array of arrays"),
    "array of negative length": (Header(keys=[key("a", 9, u32(4) + u64(-1))]), "'a' needs 73,786,976,294"),
    "array whose size wraps at 64 bits": (Header(keys=[key("a", 9, u32(10) + u64(2**61))]), "'a' needs 18,446,744,073"),
    "array of one too many": (
        Header(keys=[key("a", 9, u32(4) + u64(3) + u32(1) + u32(2))], alignment=1),
        "'a' needs 12 bytes",
    ),
    "array without a length": (Header(keys=[key("a", 9, u32(4))], alignment=1), "length of metadata 'a' needs 8 bytes"),
    "bomb of strings": (Header(keys=[key("a", 9, u32(8) + u64(2**40))]), "strings, more than the 1,000,000 allowed"),
    "more strings than bytes": (Header(keys=[key("a", 9, u32(8) + u64(1000))]), "'a' needs 8,000 bytes"),
    "strings whose bytes end": (
        Header(keys=[key("a", 9, u32(8) + u64(2) + text("x" * 8) + b"\0" * 4)], alignment=1),
        "string 1 of metadata 'a'",
    ),
    "string of negative size in an array": (
        Header(keys=[key("a", 9, u32(8) + u64(2) + text("x") + text("y", -1))]),
        "string 1 of metadata 'a' needs 18,446,744,073",
    ),
    "string not UTF-8 in an array": (
        Header(keys=[key("a", 9, u32(8) + u64(2) + text("x") + text(b"\xff"))]),
        "string 1 of metadata 'a' is not UTF-8",
    ),
    "alignment 0": (Header(keys=[alignment(0)]), "'general.alignment' is 0, not a power of two"),
    "alignment 13": (Header(keys=[alignment(13)]), "'general.alignment' is 13, not a power of two"),
    "alignment 2^32 - 1": (Header(keys=[alignment(2**32 - 1)]), "not a power of two"),
    "signed alignment": (Header(keys=[key("general.alignment", 5)]), "not an unsigned 32-bit number"),
    "alignment as text": (Header(keys=[key("general.alignment", 8, text("32"))]), "not an unsigned 32-bit number"),
    "alignment as an array": (Header(keys=[key("general.alignment", 9, u32(4) + u64(0))]), "not an unsigned 32-bit"),
    # Tensors
    "name of 65 bytes": (Header(tensors=[tensor("n" * 65)], data=F32_32), "name of a tensor has 65 bytes"),
    "name beyond the end": (Header(tensors=[text("t", 2**40)]), "name of a tensor needs 1,099,511,627,776 bytes"),
    "empty name": (Header(tensors=[tensor("")], data=F32_32), "empty name"),
    "name not UTF-8": (Header(tensors=[tensor(b"\xff")], data=F32_32), "name of a tensor is not UTF-8"),
    "name twice": (
        Header(tensors=[tensor("a"), tensor("a", offset=128)], data=2 * F32_32),
        "tensor 'a' is there twice",
    ),
    "no dimensions": (Header(tensors=[tensor(shape=())], data=F32_32), "'t' has 0 dimensions"),
    "five dimensions": (Header(tensors=[tensor(shape=(32, 1, 1, 1, 1))], data=F32_32), "'t' has 5 dimensions"),
    "4 billion dimensions": (Header(tensors=[tensor(num_dimensions=2**32 - 1)]), "'t' has 4,294,967,295 dimensions"),
    "negative dimension": (Header(tensors=[tensor(shape=(-1,))], data=F32_32), "negative or an absurd dimension"),
    "empty dimension": (Header(tensors=[tensor(shape=(32, 0))], data=F32_32), "'t' has no elements"),
    "empty row": (Header(tensors=[tensor(shape=(0,))], data=F32_32), "'t' has no elements"),
    "elements wrap at 64 bits": (Header(tensors=[tensor(shape=(2**33, 2**33))], data=F32_32), "'t' needs 295,147"),
    "elements wrap to few": (Header(tensors=[tensor(shape=(2**62, 4, 1, 32))], data=F32_32), "'t' needs"),
    "bytes wrap at 64 bits": (
        Header(tensors=[tensor(shape=(2**31, 2**31), type_id=27)], data=F32_32),
        "'t' needs 36,893,488",
    ),
    "padding wraps at 64 bits": (
        Header(tensors=[tensor(shape=(4, 2**30 - 1, 2**30 + 1))], data=F32_32),
        "'t' needs 18,446,744,073,709,551,600 bytes",
    ),
    "sum of sizes wraps at 64 bits": (
        Header(
            tensors=[tensor("a", (2**63 - 64,), 24), tensor("b", (2**63 - 64,), 24, offset=2**63 - 64)],
            data=bytes(32),
        ),
        "'a' needs 9,223,372,036",
    ),
    "row of half a block": (Header(tensors=[tensor(shape=(48,), type_id=8)], data=F32_32), "multiple of Q8_0's blocks"),
    "block size divides all but the row": (
        Header(tensors=[tensor(shape=(16, 2), type_id=8)], data=F32_32),
        "rows of 16 values, not a multiple of Q8_0",
    ),
    "row of one value in 256": (
        Header(tensors=[tensor(shape=(257,), type_id=12)], data=F32_32),
        "Q4_K's blocks of 256",
    ),
    "block type of the future": (Header(tensors=[tensor(type_id=43)], data=F32_32), "unknown block type 43"),
    "block type -1": (Header(tensors=[tensor(type_id=2**32 - 1)], data=F32_32), "unknown block type 4294967295"),
    "block type that was removed": (Header(tensors=[tensor(type_id=4)], data=F32_32), "unknown block type 4"),
    "entry without an offset": (Header(tensors=[tensor()[:-8]], alignment=1), "offset of tensor 't' needs 8 bytes"),
    "entry without a type": (Header(tensors=[tensor()[:-12]], alignment=1), "type of tensor 't' needs 4 bytes"),
    "entry without a shape": (Header(tensors=[tensor()[:-20]], alignment=1), "shape of tensor 't' needs 8 bytes"),
    # Layout
    "offset -1": (Header(tensors=[tensor(offset=-1)], data=F32_32), "not a multiple of the alignment 32"),
    "offset far away": (Header(tensors=[tensor(offset=2**63)], data=F32_32), "before tensor 't' belong to no tensor"),
    "offset that wraps to its place": (Header(tensors=[tensor(offset=2**64 - 32)], data=F32_32), "belong to no tensor"),
    "offset beside the alignment": (Header(tensors=[tensor(offset=4)], data=F32_32 + bytes(32)), "'t' is at 4, not a"),
    "tensors that share bytes": (
        Header(tensors=[tensor("a"), tensor("b", offset=96)], data=2 * F32_32),
        "'b' overlaps",
    ),
    "tensors in one place": (Header(tensors=[tensor("a"), tensor("b")], data=F32_32), "'b' overlaps"),
    "tensors apart": (
        Header(tensors=[tensor("a"), tensor("b", offset=160)], data=bytes(288)),
        "32 bytes before tensor 'b' belong to no tensor",
    ),
    "offsets for another alignment": (
        Header(
            keys=[alignment(64)],
            tensors=[tensor("a", (8,)), tensor("b", (8,), offset=32)],
            alignment=64,
            data=bytes(128),
        ),
        "'b' is at 32, not a multiple of the alignment 64",
    ),
    "no data": (Header(tensors=[tensor()]), "'t' needs 128 bytes"),
    "a byte too few": (Header(tensors=TWO, data=bytes(255)), "'b' needs 128 bytes"),
    "a byte too many": (Header(tensors=TWO, data=bytes(257)), "1 bytes at its end belong to no tensor"),
    "data without tensors": (Header(data=bytes(64)), "64 bytes at its end belong to no tensor"),
    "no room for the padding": (Header(tensors=[tensor()], alignment=1), "'t' needs 128 bytes"),
    "control characters in a name": (
        Header(tensors=[tensor("a\n\x1b[2J", shape=(0,))]),
        r"tensor 'a\\n\\x1b\[2J' has no elements",
    ),
}


def test_there_are_as_many_malformed_cases_as_promised():
    assert len(MALFORMED) >= 60


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_by_name_and_at_once(tmp_path, case):
    content, message = MALFORMED[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(bytes(content))
    begin = time.perf_counter()
    with pytest.raises(GGUFError, match=message) as caught:
        GGUFFile(path)
    assert time.perf_counter() - begin < 1
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "header",
    [
        Header(),
        Header(version=u32(2)),
        Header(keys=[key("a"), key("b", 9, u32(8) + u64(2) + text("x") + text(""))]),
        Header(
            keys=[alignment(1)],
            tensors=[tensor("a", (3,), 24), tensor("b", (5,), 24, 3)],
            alignment=1,
            data=b"12345678",
        ),
        Header(tensors=TWO[::-1], data=2 * F32_32),
        Header(tensors=[tensor("a", (1,), 24)], data=b"x"),
        Header(tensors=[tensor("a", (1,), 24)], data=b"x" + bytes(31)),
    ],
    ids=["empty", "version 2", "keys", "alignment 1", "any order", "no final padding", "final padding"],
)
def test_unusual_files_that_are_sound_are_read(tmp_path, header):
    file = GGUFFile(header.save(tmp_path / "x.gguf"))
    assert len(file.tensors) == len(header.tensors)
    assert len(file.metadata) == len(header.keys)


def test_the_data_is_where_the_offsets_say(tmp_path):
    header = Header(tensors=TWO[::-1], data=b"a" * 128 + b"b" * 128)
    file = GGUFFile(header.save(tmp_path / "x.gguf"))
    assert list(file.tensors) == ["a", "b"]
    assert {name: file.read(name).tobytes() for name in file.tensors} == {"a": b"a" * 128, "b": b"b" * 128}


def test_a_header_may_not_be_larger_than_any_model_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_HEADER_BYTES", 100)
    path = Header(keys=[key("a", 8, text("x" * 200))]).save(tmp_path / "x.gguf")
    with pytest.raises(GGUFError, match="metadata 'a' ends beyond the 100 bytes"):
        GGUFFile(path)


def test_strings_are_counted_over_all_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_STRINGS", 3)
    two = u32(8) + u64(2) + text("x") + text("y")
    GGUFFile(Header(keys=[key("a", 9, two)]).save(tmp_path / "two.gguf"))
    with pytest.raises(GGUFError, match="'b' is the last of 4 strings"):
        GGUFFile(Header(keys=[key("a", 9, two), key("b", 9, two)]).save(tmp_path / "four.gguf"))


def test_the_largest_header_is_read_within_seconds(tmp_path):
    """A million empty strings, 8 MB: what a bomb within the limits can cost."""
    path = Header(keys=[key("a", 9, u32(8) + u64(1_000_000) + bytes(8_000_000))]).save(tmp_path / "x.gguf")
    begin = time.process_time()
    assert len(GGUFFile(path).metadata["a"]) == 1_000_000
    assert time.process_time() - begin < 2


def test_a_directory_or_a_missing_file_is_an_os_error(tmp_path):
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises((IsADirectoryError, FileNotFoundError)):
            GGUFFile(path)


# ---- Damage at random -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    metadata = [(f"scalar.{kind.name}", value, kind, None) for kind, value in SCALARS.items()]
    metadata += [(f"array.{kind.name}", [value] * 3, VALUES.ARRAY, kind) for kind, value in SCALARS.items()]
    tensors = [(name, random_blocks((2, 512), name), name) for name in ("F32", "Q8_0", "Q4_K", "Q6_K")]
    return written(tmp_path_factory.mktemp("sound") / "x.gguf", metadata, tensors).read_bytes()


def read_or_refuse(path, content: bytes) -> bool:
    """Whether the file is read; anything but reading all of it or a GGUFError fails the test."""
    path.write_bytes(content)
    try:
        file = GGUFFile(path)
    except GGUFError:
        return False
    data_begin = min((t.offset for t in file.tensors.values()), default=len(content))
    position = data_begin
    for name, tensor in file.tensors.items():
        assert len(file.read(name)) == tensor.num_bytes > 0
        assert position <= tensor.offset
        position = tensor.offset + tensor.num_bytes
    assert position <= len(content)
    return True


def test_a_file_cut_short_anywhere_is_refused(tmp_path, sound):
    (tmp_path / "whole.gguf").write_bytes(sound)
    file = GGUFFile(tmp_path / "whole.gguf")
    last = list(file.tensors.values())[-1]
    end = last.offset + last.num_bytes
    header_end = file.tensors["F32"].offset
    for length in [*range(0, header_end + 40, 7), *range(header_end, end, 997), end - 1]:
        assert not read_or_refuse(tmp_path / "cut.gguf", sound[:length])


INTERESTING = [u64(value) for value in (0, 1, -1, 2**31, 2**32 - 1, 2**62, 2**63, 2**63 - 1, 12, 13, 255)]


def test_random_damage_is_read_or_refused(tmp_path, sound):
    rng = np.random.default_rng(2)
    header_end = sound.index(b"Q6_K") + 60
    num_read = 0
    for _ in range(400):
        content = bytearray(sound)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, header_end))
            kind = rng.integers(0, 4)
            if kind == 0:
                content[at] = rng.integers(0, 256)
            elif kind == 1:
                content[at] ^= 1 << int(rng.integers(0, 8))
            elif kind == 2:
                value = INTERESTING[rng.integers(0, len(INTERESTING))][: int(rng.choice([4, 8]))]
                content[at : at + len(value)] = value
            else:
                length = int(rng.integers(1, 30))
                source = int(rng.integers(0, header_end))
                content[at : at + int(rng.choice([0, length]))] = content[source : source + length]
        num_read += read_or_refuse(tmp_path / "damaged.gguf", bytes(content))
    # Damage within texts and numbers does not show, so some are read, and by far not all.
    assert 10 < num_read < 350


@given(st.binary(max_size=400))
def test_random_bytes_behind_a_header_are_read_or_refused(tmp_path_factory, tail):
    header = b"GGUF" + u32(3) + u64(len(tail) % 3) + u64(len(tail) % 5)
    read_or_refuse(tmp_path_factory.getbasetemp() / "random.gguf", header + tail)


def test_reading_leaves_no_file_open(tmp_path):
    path = Header(magic=b"FUGG").save(tmp_path / "x.gguf")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        with pytest.raises(GGUFError):
            GGUFFile(path)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after <= before + 1
