"""Hugging Face directories to models and back.

Loading checks every name, shape and dtype against the config before it allocates anything. Parameters that keep
their stored dtype on the CPU are the mapped file itself, brought into memory before loading returns: nothing is
copied, and a second process or start shares the pages. All others are converted, or packed for the native kernels,
chunk by chunk into memory of their own. Either way the peak is the model and a few chunks. A file in use may be deleted
or replaced, but not cut short. Saving goes to a directory beside the target and is renamed when complete.

It does not know where directories come from (`hub`), nor which parameter is packed how (`model.transforms`).
"""

from __future__ import annotations

import json
import math
import mmap
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from qwen3.checkpoint.directory import INDEX, SINGLE, ModelTensors, StoredTensor, model_tensors
from qwen3.checkpoint.generation_config import checked_generation_config
from qwen3.checkpoint.names import EMBEDDING, HEAD, expected_tensors
from qwen3.checkpoint.safetensors import CheckpointError
from qwen3.config import ModelConfig
from qwen3.model import Qwen3
from qwen3.model.transforms import Packing, packed_forms, replace_weights
from qwen3.ops import PackedWeight, Weight
from qwen3.ops.packed import PANEL_ROWS, pack_into

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) in the caller's thread."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# Two threads keep a disk's queue filled while one of them converts; more gain nothing.
_NUM_READERS = 2
_CHUNK_BYTES = 16 << 20


class Saveable(Protocol):
    """A tokenizer, as far as saving needs it."""

    def save(self, directory: Path) -> None: ...


# ---- Loading --------------------------------------------------------------------------------------------------


def load_model(
    directory: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    packing: Packing | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Qwen3:
    """The model in a Hugging Face directory (config.json and safetensors, single or sharded), ready for inference.

    Its parameters have `dtype` (bfloat16, float16 or float32; None takes config.json's), which its config then names,
    and need no gradient. With `packing` its matrices are packed for the native kernels instead, straight from the
    values in the files, with the bits that `transforms.quantize_weights` would give; the rest is float32, on the CPU.

    Raises CheckpointError or ConfigError naming what is wrong with the directory, and OSError.
    """
    if packing is not None and (dtype is not None or torch.device(device).type != "cpu"):
        raise CheckpointError("packed weights are for the CPU and compute in float32: give neither dtype nor device")
    config, stored = checked_directory(directory)
    if packing is not None:
        dtype = torch.float32
    if dtype is not None:
        config = replace(config, dtype=dtype_name(dtype))

    with torch.device("meta"):
        model = Qwen3(config)
    forms = {} if packing is None else packed_forms(model, packing)
    weights, reads = _plan(stored.parameters, forms, DTYPES[config.dtype], torch.device(device))
    if stored.tied_head is not None:
        reads += _tied_reads(stored.tied_head, stored.parameters[EMBEDDING])
    _read_all(reads, progress)
    model.requires_grad_(False)
    if packing is None:
        model.load_state_dict(weights, assign=True)
    else:
        replace_weights(model, weights.items())
    return model.eval()


def checked_directory(directory: str | Path) -> tuple[ModelConfig, ModelTensors]:
    """The config of a Hugging Face directory and the tensors in its files, which fit it. Reads headers alone."""
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory} has no config.json: name a directory with a model, or a hub name")
    config = ModelConfig.load(directory)
    if config.quantization_config is not None:
        method = config.quantization_config.get("quant_method")
        raise CheckpointError(
            f"{directory}: weights quantized by {method!r} cannot be loaded yet; take the bfloat16 release of the model"
        )
    return config, model_tensors(directory, config)


def dtype_name(dtype: str | torch.dtype) -> str:
    for name, known in DTYPES.items():
        if dtype in (name, known):
            return name
    raise CheckpointError(f"dtype {dtype!r} is not supported: use {', '.join(DTYPES)}")


# ---- Reading --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Read:
    """A piece of work on consecutive bytes of a file."""

    path: Path
    begin: int
    num_bytes: int
    run: Callable[[], object]


def _plan(
    parameters: Mapping[str, StoredTensor],
    forms: Mapping[str, str | None],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[dict[str, Weight], list[_Read]]:
    """The parameters, packed where `forms` has a format for them, and the reads after which they hold their values."""
    # A packed model keeps no map for the sake of its norms.
    is_mappable = device.type == "cpu" and not forms
    maps: dict[Path, mmap.mmap] = {}
    weights, reads = {}, []
    for name, stored in parameters.items():
        path, info, shape = stored.path, stored.info, stored.info.shape
        stored_dtype = _STORED_DTYPES[info.dtype]
        if (format := forms.get(name)) is not None:
            weights[name] = _empty(name, shape, format)
            pieces, run = _row_pieces(weights[name], stored_dtype), _pack
        elif stored_dtype == dtype and is_mappable and info.begin % dtype.itemsize == 0:
            if path not in maps:
                maps[path] = map_file(path)
            flat = torch.frombuffer(maps[path], dtype=dtype, count=math.prod(shape), offset=info.begin)
            weights[name] = flat.view(shape)
            pieces, run = _flat_pieces(flat, stored_dtype), _touch
        else:
            # Not zeroed: every byte is filled from the file, or loading fails and the memory is gone.
            weights[name] = torch.empty(shape, dtype=dtype, device=device)
            pieces, run = _flat_pieces(weights[name].view(-1), stored_dtype), _fill
        begin = info.begin
        for piece in pieces:
            num_bytes = math.prod(piece.shape) * stored_dtype.itemsize
            reads.append(_Read(path, begin, num_bytes, partial(run, piece, name, path, begin, stored_dtype)))
            begin += num_bytes
    return weights, reads


def _flat_pieces(flat: Tensor, stored_dtype: torch.dtype) -> Sequence[Tensor]:
    return flat.split(_CHUNK_BYTES // stored_dtype.itemsize)


def _row_pieces(weight: PackedWeight, stored_dtype: torch.dtype) -> Sequence[PackedWeight]:
    num_rows, num_columns = weight.shape
    panel_bytes = PANEL_ROWS * num_columns * stored_dtype.itemsize
    step = max(1, _CHUNK_BYTES // panel_bytes) * PANEL_ROWS
    return [weight.rows(begin, min(begin + step, num_rows)) for begin in range(0, num_rows, step)]


def _empty(name: str, shape: tuple[int, ...], format: str) -> PackedWeight:
    try:
        return PackedWeight.empty(*shape, format)
    except ValueError as error:
        raise CheckpointError(f"tensor {name}: {error}") from None


# What is done to a piece of a parameter: `begin` is where it begins in its file, `dtype` what it has there.


def _touch(piece: Tensor, name: str, path: Path, begin: int, dtype: torch.dtype) -> None:
    """Bring the mapped pages under `piece` into memory now, not at their first use."""
    _fault_in(piece)


def _fill(piece: Tensor, name: str, path: Path, begin: int, dtype: torch.dtype) -> None:
    """Set `piece` to the file's values."""
    values = torch.empty(piece.shape, dtype=dtype)
    _read_into(path, begin, values)
    piece.copy_(converted(name, values, piece.dtype))


def _pack(piece: PackedWeight, name: str, path: Path, begin: int, dtype: torch.dtype) -> None:
    """Pack the file's values into `piece`."""
    count = math.prod(piece.shape)
    if begin % dtype.itemsize == 0:
        # A map of this piece alone, gone with it, so that the file's pages never add up in this process.
        skipped = begin % mmap.ALLOCATIONGRANULARITY
        mapped = map_file(path, begin - skipped, skipped + count * dtype.itemsize)
        values = torch.frombuffer(mapped, dtype=dtype, count=count, offset=skipped)
        # Here and not in the kernel: one reader waits for the disk while all threads pack for the other.
        _fault_in(values)
    else:
        values = torch.empty(count, dtype=dtype)
        _read_into(path, begin, values)
    try:
        pack_into(piece, values.view(piece.shape))
    except ValueError as error:
        raise CheckpointError(f"{path}: tensor {name}: {error}") from None


def map_file(path: Path, begin: int = 0, num_bytes: int = 0) -> mmap.mmap:
    """Bytes of a file, all of them by default, that may be written to without changing the file."""
    # A private map: whoever trains the model writes to his own copy of a page, never to the file.
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), num_bytes, access=mmap.ACCESS_COPY, offset=begin)


def _fault_in(mapped: Tensor) -> None:
    mapped.view(torch.uint8)[:: mmap.PAGESIZE].max()


def _tied_reads(head: StoredTensor, embedding: StoredTensor) -> list[_Read]:
    """The comparison of a head that is stored although it is tied; some official files repeat the embedding so."""
    if (head.info.dtype, head.info.shape) != (embedding.info.dtype, embedding.info.shape):
        raise CheckpointError(
            f"{head.path}: {HEAD} is {head.info.dtype} {list(head.info.shape)}, but config.json ties it to "
            f"{EMBEDDING}, which is {embedding.info.dtype} {list(embedding.info.shape)}"
        )

    def compare(offset: int, num_bytes: int) -> None:
        pieces = torch.empty(2, num_bytes, dtype=torch.uint8)
        for piece, tensor in zip(pieces, (head, embedding), strict=True):
            _read_into(tensor.path, tensor.info.begin + offset, piece)
        if not torch.equal(*pieces):
            raise CheckpointError(
                f"{head.path}: {HEAD} differs from {EMBEDDING}, but config.json ties them; "
                "if the head was trained apart, set tie_word_embeddings to false"
            )

    size = head.info.end - head.info.begin
    spans = [(offset, min(_CHUNK_BYTES, size - offset)) for offset in range(0, size, _CHUNK_BYTES)]
    return [_Read(head.path, head.info.begin + span[0], span[1], partial(compare, *span)) for span in spans]


def _read_all(reads: list[_Read], progress: Progress | None) -> None:
    # In the order of the files, which is the order in which disks are fast.
    reads = sorted(reads, key=lambda read: (read.path, read.begin))
    total = sum(read.num_bytes for read in reads)
    done = 0
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        # A failing read ends the iteration, and the iterator then cancels the reads not yet begun.
        for read, _ in zip(reads, readers.map(lambda read: read.run(), reads), strict=True):
            done += read.num_bytes
            if progress is not None:
                progress(done, total)


def _read_into(path: Path, begin: int, target: Tensor) -> None:
    """Fill the contiguous flat CPU tensor `target` with the file's bytes from `begin` on."""
    rest = memoryview(target.view(torch.uint8).numpy())
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        while rest:
            count = file.readinto(rest)
            if not count:
                raise CheckpointError(f"{path}: it was cut short while it was read")
            rest = rest[count:]


def converted(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    """`values` in `dtype`. Raises CheckpointError where a finite value leaves float16's range."""
    out = values.to(dtype)
    if dtype == torch.float16 and (out.isinf() & values.isfinite()).any():
        raise CheckpointError(f"tensor {name} holds values beyond float16's 65,504; use bfloat16 or float32")
    return out


# ---- Saving ---------------------------------------------------------------------------------------------------


def save_model(
    model: Qwen3,
    directory: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_bytes: int = 5_000_000_000,
    tokenizer: Saveable | None = None,
    generation_config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a directory that `load_model` and transformers load: safetensors, config.json and what else is given.

    Parameters are written in `dtype` (None keeps the embedding's), in shards of at most `max_shard_bytes` unless one
    tensor is larger; a tied head is written once, as the embedding. The directory appears only when it is complete.
    A directory that is not empty is refused; with `overwrite`, a checkpoint is replaced as a whole.

    Raises CheckpointError, and OSError.
    """
    # The link's target, so that a link to a directory stays one.
    directory = Path(directory).resolve()
    _check_target(directory, overwrite)
    parameters = dict(model.named_parameters())
    if {name: tuple(tensor.shape) for name, tensor in parameters.items()} != expected_tensors(model.config):
        raise CheckpointError("the model's parameters are not its config's; save it before it is transformed")
    if max_shard_bytes < 1:
        raise CheckpointError(f"max_shard_bytes {max_shard_bytes} is not positive")
    config = replace(model.config, dtype=dtype_name(dtype or parameters[EMBEDDING].dtype))

    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
    unfinished.mkdir()
    try:
        config.save(unfinished)
        if generation_config is not None:
            _write_json(unfinished / "generation_config.json", checked_generation_config(generation_config))
        if tokenizer is not None:
            tokenizer.save(unfinished)
        _write_weights(parameters, unfinished, DTYPES[config.dtype], max_shard_bytes)
        # The safetensors library lets nobody else read its files; config.json has what the user's umask says.
        mode = (unfinished / "config.json").stat().st_mode
        for file in unfinished.iterdir():
            file.chmod(mode)
            _flush(file)
        if directory.exists() and any(directory.iterdir()):
            replaced = unfinished.with_name(unfinished.name + ".replaced")
            directory.rename(replaced)
            unfinished.rename(directory)
            shutil.rmtree(replaced)
        else:
            unfinished.replace(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_target(directory: Path, overwrite: bool) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is a file: name a directory")
    if not any(directory.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{directory} is not empty: name another directory, or ask to overwrite it")
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory} is not a checkpoint, so it is not overwritten: name another directory")


def _write_weights(parameters: Mapping[str, Tensor], directory: Path, dtype: torch.dtype, max_shard_bytes: int) -> None:
    """Write one shard after another; the peak is the model and one converted shard."""
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, parameter in parameters.items():
        size = parameter.numel() * dtype.itemsize
        if size > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size

    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: converted(name, parameters[name].detach().cpu(), dtype).contiguous() for name in names}
        # transformers takes the file for a PyTorch one by this entry.
        safetensors.torch.save_file(tensors, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(parameter.numel() for parameter in parameters.values()) * dtype.itemsize
        _write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(dict(values), indent=2) + "\n", encoding="utf-8")


def _flush(file: Path) -> None:
    # Without it, a power cut after the rename could leave a complete directory of empty files.
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
