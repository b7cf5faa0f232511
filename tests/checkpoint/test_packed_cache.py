"""Packed weights on disk: hits, misses, damage, writers at the same time; never other weights than packing gives."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from packed_models import KINDS, assert_equal, stored
from safetensors import safe_open
from transformers_models import reference_pair

from qwen3.checkpoint import packed_cache
from qwen3.checkpoint.load import load_model, save_model
from qwen3.checkpoint.packed_cache import cache_directory, load_cached
from qwen3.model.transforms import Packing
from qwen3.ops import PackedWeight

INT4, INT8 = Packing(4), Packing(8)


@pytest.fixture(scope="module")
def models():
    return {kind: reference_pair(**keys)[1] for kind, keys in KINDS.items()}


@pytest.fixture
def directory(tmp_path, models):
    save_model(models["tied"], tmp_path / "model", max_shard_bytes=200_000)
    age(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def packings(monkeypatch):
    """A list that grows by one each time weights are really packed."""
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return load_model(*arguments, **options)

    monkeypatch.setattr(packed_cache, "load_model", counted)
    return calls


def age(directory, seconds=100):
    """Hashes are remembered only of files that have not changed just now."""
    for file in directory.iterdir():
        os.utime(file, (time.time() - seconds,) * 2)


def packed_files(cache):
    return sorted((cache / "packed").iterdir())


@pytest.mark.parametrize("packing", [INT4, INT8, Packing(4, 32)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_from_the_cache_is_what_packing_gives(tmp_path, models, cache, packings, kind, packing):
    save_model(models[kind], tmp_path / "model")
    expected = load_model(tmp_path / "model", packing=packing)
    assert_equal(load_cached(tmp_path / "model", packing, cache=cache), expected)
    assert_equal(load_cached(tmp_path / "model", packing, cache=cache), expected)
    assert len(packings) == 1
    tokens = torch.arange(5)
    cached = load_cached(tmp_path / "model", packing, cache=cache)
    assert torch.equal(cached.model.embed_tokens(tokens), expected.model.embed_tokens(tokens))


def test_weights_are_views_of_the_map_at_multiples_of_64_bytes(directory, cache):
    load_cached(directory, INT4, cache=cache)
    weights = stored(load_cached(directory, INT4, cache=cache)).values()
    packed = [weight for weight in weights if isinstance(weight, PackedWeight)]
    assert packed
    for weight in packed:
        assert weight.quants.data_ptr() % 64 == 0
    (file,) = packed_files(cache)
    if sys.platform == "linux":
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if file.name in line]
        ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in maps]
        assert all(any(low <= weight.quants.data_ptr() < high for low, high in ranges) for weight in packed)


def test_the_file_is_one_that_the_safetensors_library_reads(directory, cache):
    model = load_cached(directory, INT8, cache=cache)
    (file,) = packed_files(cache)
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["format"] == "qwen3-packed"
        assert torch.equal(
            opened.get_tensor("model.embed_tokens.weight.scales"), stored(model)["model.embed_tokens.weight"].scales
        )
        assert torch.equal(opened.get_tensor("model.norm.weight"), stored(model)["model.norm.weight"])


def test_each_packing_has_a_file_of_its_own(directory, cache, packings):
    for packing in (INT4, INT8, INT4, INT8):
        load_cached(directory, packing, cache=cache)
    assert len(packings) == len(packed_files(cache)) == 2


def test_the_same_content_elsewhere_is_the_same_file(tmp_path, models, directory, cache, packings):
    load_cached(directory, INT4, cache=cache)
    save_model(models["tied"], tmp_path / "copy", max_shard_bytes=200_000)
    load_cached(tmp_path / "copy", INT4, cache=cache)
    assert len(packings) == 1


@pytest.mark.parametrize("keeps_times", [False, True])
def test_one_changed_bit_in_a_checkpoint_is_another_model(directory, cache, packings, keeps_times):
    load_cached(directory, INT4, cache=cache)
    file = sorted(directory.glob("*.safetensors"))[0]
    before = file.stat()
    raw = bytearray(file.read_bytes())
    raw[-2] ^= 1
    file.write_bytes(raw)
    if keeps_times:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_equal(load_cached(directory, INT4, cache=cache), load_model(directory, packing=INT4))
    assert len(packings) == 2


def test_a_hash_is_computed_once_and_never_remembered_of_a_file_that_just_changed(directory, cache, monkeypatch):
    hashed = []
    compute = packed_cache._for_each

    def counted(pieces, function, progress=None):
        hashed.append(function)
        return compute(pieces, function, progress)

    monkeypatch.setattr(packed_cache, "_for_each", counted)
    num_shards = len(list(directory.glob("*.safetensors")))
    load_cached(directory, INT4, cache=cache)
    assert len(hashed) == num_shards + 1  # and the checksums
    load_cached(directory, INT4, cache=cache)
    assert len(hashed) == num_shards + 2
    age(directory, seconds=0)
    for _ in range(2):
        hashed.clear()
        load_cached(directory, INT4, cache=cache)
        assert len(hashed) == num_shards + 1


def damages(raw):
    header = 8 + int.from_bytes(raw[:8], "little")
    yield "a bit of the first tensor", raw[:header] + bytes([raw[header] ^ 1]) + raw[header + 1 :]
    yield "a bit of the last", raw[:-1] + bytes([raw[-1] ^ 128])
    yield "cut short", raw[: len(raw) // 2]
    yield "only a header", raw[:header]
    yield "empty", b""
    yield "longer", raw + b"\0" * 64
    yield "a checksum", raw.replace(b"crc32", b"crc33", 1)
    yield "a name", raw.replace(b"model.norm.weight", b"model.form.weight")
    yield "names swapped", raw.replace(b"k_proj", b"x_proj").replace(b"v_proj", b"k_proj").replace(b"x_proj", b"v_proj")
    yield "a dtype", raw.replace(b'"U8"', b'"I8"', 1)
    yield "zeros", bytes(len(raw))


@pytest.mark.parametrize("number", range(11))
def test_a_damaged_file_is_made_anew(directory, cache, packings, number):
    expected = load_cached(directory, INT4, cache=cache)
    (file,) = packed_files(cache)
    raw = file.read_bytes()
    _, damaged = list(damages(raw))[number]
    assert damaged != raw
    file.unlink()
    file.write_bytes(damaged)
    assert_equal(load_cached(directory, INT4, cache=cache), expected)
    assert len(packings) == 2
    assert file.read_bytes() == raw


def test_the_file_of_another_model_under_this_name_is_made_anew(directory, cache, packings):
    expected = load_cached(directory, INT4, cache=cache)
    (file,) = packed_files(cache)
    load_cached(directory, INT8, cache=cache)
    (other,) = set(packed_files(cache)) - {file}
    other.replace(file)
    assert_equal(load_cached(directory, INT4, cache=cache), expected)
    assert len(packings) == 3


def test_a_directory_that_cannot_be_loaded_leaves_nothing(tmp_path, cache):
    _, model = reference_pair(intermediate_size=80)
    save_model(model, tmp_path / "model")
    with pytest.raises(ValueError, match="blocks of 32"):
        load_cached(tmp_path / "model", INT4, cache=cache)
    assert not (cache / "packed").exists()


def test_a_write_that_fails_leaves_nothing_half_written(directory, cache, monkeypatch):
    def fails(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_cache.os, "fsync", fails)
    with pytest.raises(OSError, match="No space left"):
        load_cached(directory, INT4, cache=cache)
    assert [file for file in cache.rglob("*") if file.is_file()] == []


def test_writers_at_the_same_time_leave_one_whole_file(directory, cache):
    program = (
        "import sys\n"
        "from qwen3.checkpoint.packed_cache import load_cached\n"
        "from qwen3.model.transforms import Packing\n"
        "from pathlib import Path\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        "load_cached(sys.argv[1], Packing(4), cache=Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, str(directory), str(cache)]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for writer in writers:
        writer.stdout.readline()
    for writer in writers:
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(packed_files(cache)) == 1
    assert_equal(load_cached(directory, INT4, cache=cache), load_model(directory, packing=INT4))


def test_the_cache_is_beside_the_hubs_unless_the_environment_says_where(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("QWEN3_CACHE", raising=False)
    assert cache_directory() == tmp_path / ".cache" / "qwen3"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_directory() == tmp_path / "x" / "qwen3"
    monkeypatch.setenv("QWEN3_CACHE", "~/elsewhere")
    assert cache_directory() == tmp_path / "elsewhere"
