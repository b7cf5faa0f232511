"""Packed weights on disk, so that a model that was packed once starts by mapping a file.

A file is named after what it was made from: a hash of the config, the packing, and the SHA-256 of every byte of the
checkpoint's files. Hashing them takes as long as reading them, so a hash is remembered with its file's path, size,
inode and times, as git's index does, and computed again when one of these has changed. The cached file is a
safetensors file whose tensors begin at multiples of 64 bytes, with a checksum; where that does not fit, the file is
made anew. It appears by a rename when it is complete. All of the cache can be deleted at any time; nothing else
deletes from it.

It does not know how weights are packed (`load`), nor when to use it: that is the caller's choice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from qwen3.checkpoint.load import Progress, checked_directory, load_model, map_file
from qwen3.checkpoint.names import expected_tensors
from qwen3.checkpoint.safetensors import CheckpointError, SafetensorsFile
from qwen3.config import ModelConfig
from qwen3.model import Qwen3
from qwen3.model.transforms import Packing, packed_forms, replace_weights
from qwen3.ops import PackedVector, PackedWeight, Weight
from qwen3.ops.packed import num_threads

# Part of the name: another number whenever packing gives other bits or lays them out in another way.
_VERSION = 2
_ALIGNMENT = 64
_CHUNK_BYTES = 16 << 20
_DTYPES = {"U8": torch.uint8, "F32": torch.float32}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# A file that changed this recently could change again without a difference in its times.
_RACY_SECONDS = 2

_Result = TypeVar("_Result")


def cache_directory() -> Path:
    """QWEN3_CACHE, else `qwen3` in the user's cache directory, beside the hub's downloads."""
    if directory := os.environ.get("QWEN3_CACHE"):
        return Path(directory).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "qwen3"


def load_cached(
    directory: str | Path, packing: Packing, *, cache: Path | None = None, progress: Progress | None = None
) -> Qwen3:
    """`load_model(directory, packing=packing)`, from the file of an earlier call or leaving one for the next.

    Weights from the file are its mapped pages, which processes share, in place of memory of their own. `cache` is the
    directory, None for `cache_directory()`.

    Raises what `load_model` raises, and OSError where the cache cannot be written.
    """
    cache = cache or cache_directory()
    config, stored = checked_directory(directory)
    config = replace(config, dtype="float32")
    files = sorted({tensor.path for tensor in stored.parameters.values()})
    made_from = {
        "version": _VERSION,
        "config": config.to_dict(),
        "packing": asdict(packing),
        "files": [_content_hash(file, cache / "hashes", progress) for file in files],
    }
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    file = cache / "packed" / f"{key}.safetensors"
    if file.is_file():
        try:
            return _read(file, key, config, packing, progress)
        except CheckpointError:
            file.unlink(missing_ok=True)
    model = load_model(directory, packing=packing, progress=progress)
    _write(file, key, model)
    return model


# ---- What a checkpoint is -------------------------------------------------------------------------------------


def _content_hash(file: Path, memory: Path, progress: Progress | None) -> str:
    """SHA-256 over the SHA-256s of the file's chunks, from the directory `memory` if the file has not changed."""
    before = _state(file)
    remembered = memory / hashlib.sha256(json.dumps(before).encode()).hexdigest()
    if remembered.is_file() and len(digest := remembered.read_text()) == 64:
        return digest
    mapped = memoryview(map_file(file))
    chunks = [mapped[begin : begin + _CHUNK_BYTES] for begin in range(0, len(mapped), _CHUNK_BYTES)]
    digests = _for_each(chunks, lambda chunk: hashlib.sha256(chunk).digest(), progress)
    digest = hashlib.sha256(b"".join(digests)).hexdigest()
    if _state(file) != before:
        raise CheckpointError(f"{file}: it changed while it was read")
    if time.time() - file.stat().st_mtime > _RACY_SECONDS:
        _write_whole(remembered, [digest.encode()])
    return digest


def _state(file: Path) -> list[str | int]:
    status = file.stat()
    return [str(file.resolve()), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _for_each(
    pieces: Iterable[memoryview], compute: Callable[[memoryview], _Result], progress: Progress | None = None
) -> list[_Result]:
    """compute(piece) for all, on as many threads as the kernels use: hashes and checksums release Python's lock."""
    pieces = list(pieces)
    total, done = sum(len(piece) for piece in pieces), 0
    results = []
    with ThreadPoolExecutor(num_threads()) as threads:
        for piece, result in zip(pieces, threads.map(compute, pieces), strict=True):
            results.append(result)
            done += len(piece)
            if progress is not None:
                progress(done, total)
    return results


# ---- The cached file ------------------------------------------------------------------------------------------


def _write(file: Path, key: str, model: Qwen3) -> None:
    tensors: dict[str, Tensor] = {}
    for name in expected_tensors(model.config):
        weight = model.get_submodule(name.rpartition(".")[0]).weight
        tensors |= {name + suffix: tensor for suffix, tensor in _parts(weight).items()}
    # Those whose size would move the next one off the alignment come last.
    tensors = dict(sorted(tensors.items(), key=lambda item: item[1].nbytes % _ALIGNMENT != 0))
    metadata = {"format": "qwen3-packed", "key": key, "crc32": _checksum(tensors, None)}
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        dtype = _DTYPE_NAMES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    _write_whole(file, (len(text).to_bytes(8, "little"), text, *map(_bytes_of, tensors.values())))


def _read(file: Path, key: str, config: ModelConfig, packing: Packing, progress: Progress | None) -> Qwen3:
    """The model of `config` with the file's weights. Raises CheckpointError for a file that is damaged."""
    stored = SafetensorsFile(file)
    mapped = map_file(file)
    tensors = {}
    for name, info in stored.tensors.items():
        dtype = _DTYPES.get(info.dtype)
        if dtype is None or 0 in info.shape or info.begin % dtype.itemsize:
            raise CheckpointError(f"{file}: {name} is not a tensor of packed weights")
        flat = torch.frombuffer(mapped, dtype=dtype, count=math.prod(info.shape), offset=info.begin)
        tensors[name] = flat.view(info.shape)
    if stored.metadata.get("key") != key or stored.metadata.get("crc32") != _checksum(tensors, progress):
        raise CheckpointError(f"{file}: it is damaged")
    with torch.device("meta"):
        model = Qwen3(config)
    shapes, forms = expected_tensors(config), packed_forms(model, packing)
    try:
        weights = {name: _weight(name, shapes[name], format, tensors) for name, format in forms.items()}
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{file}: it does not fit the model: {error}") from None
    model.requires_grad_(False)
    replace_weights(model, weights.items())
    return model.eval()


def _parts(weight: Weight | PackedVector) -> dict[str, Tensor]:
    """The tensors that make up a weight, by what is added to its name."""
    if isinstance(weight, PackedWeight):
        return {".quants": weight.quants, ".scales": weight.scales}
    return {"": weight.values if isinstance(weight, PackedVector) else weight.detach()}


def _weight(name: str, shape: tuple[int, ...], format: str | None, tensors: Mapping[str, Tensor]) -> Weight:
    """The inverse of `_parts`."""
    if format is not None:
        return PackedWeight(tensors[f"{name}.quants"], tensors[f"{name}.scales"], shape, format)
    return tensors[name].view(shape)


def _checksum(tensors: Mapping[str, Tensor], progress: Progress | None) -> str:
    """Of names, types, shapes and every byte."""
    checksums = _for_each(map(_bytes_of, tensors.values()), zlib.crc32, progress)
    table = [
        (name, str(tensor.dtype), list(tensor.shape), checksum)
        for (name, tensor), checksum in zip(tensors.items(), checksums, strict=True)
    ]
    return f"{zlib.crc32(json.dumps(table).encode()):08x}"


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())


def _write_whole(file: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file that appears only when it is complete; of several writers, one wins whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as opened:
            for part in parts:
                opened.write(part)
            opened.flush()
            os.fsync(opened.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
