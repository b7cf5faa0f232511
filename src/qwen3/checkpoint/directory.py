"""A Hugging Face directory's weights as they lie in its files, checked against its config.

Single files and shards; experts one by one or stacked; a tied head that is stored all the same. What comes out is
exactly the model's parameters, each with its file and its bytes. Nothing is read but headers, and torch is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen3.checkpoint.names import HEAD, expected_tensors, fused_experts
from qwen3.checkpoint.safetensors import CheckpointError, SafetensorsFile, TensorInfo
from qwen3.config import ModelConfig
from qwen3.strict_json import read_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOAT_DTYPES = ("F32", "F16", "BF16")

# A plain file name: an index must not lead out of its directory.
_SHARD_NAME = re.compile(r"[\w.-]{1,200}\.safetensors")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor, or a part of one, in a file."""

    path: Path
    info: TensorInfo


@dataclass(frozen=True, slots=True)
class ModelTensors:
    """Every parameter by name in the model's order; and the head, if it is tied but stored all the same."""

    parameters: Mapping[str, StoredTensor]
    tied_head: StoredTensor | None


def model_tensors(directory: Path, config: ModelConfig) -> ModelTensors:
    """The directory's tensors, which are the config's: all of them, no others, in their shapes, as floats.

    Raises one CheckpointError that names whatever does not fit, and OSError.
    """
    stored = _unfused(stored_tensors(directory), config)
    tied_head = stored.pop(HEAD, None) if config.tie_word_embeddings else None
    expected = expected_tensors(config)
    check_fit(
        f"{directory}: tensors do not fit config.json",
        expected,
        {name: (tensor.info.dtype, tensor.info.shape) for name, tensor in stored.items()},
        FLOAT_DTYPES,
    )
    return ModelTensors({name: stored[name] for name in expected}, tied_head)


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of a directory's safetensors files, whatever its name. Raises CheckpointError, and OSError."""
    # Where there are both, transformers, too, takes the single file.
    if (directory / SINGLE).is_file():
        file = SafetensorsFile(directory / SINGLE)
        return {name: StoredTensor(file.path, info) for name, info in file.tensors.items()}
    if (directory / INDEX).is_file():
        return _sharded_tensors(directory / INDEX)
    found = sorted(file.name for file in directory.iterdir() if not file.name.endswith(".json"))
    if any(name.endswith(".safetensors") for name in found):
        advice = f"it holds safetensors files under other names, without {INDEX}: download the whole repository"
    elif any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in found):
        advice = (
            "its weights are pickles (.bin, .pt), which can run code when they are loaded and are never opened here; "
            "take a release with safetensors, or convert them where you trust them: load the directory with "
            "transformers and call save_pretrained"
        )
    elif any(name.endswith(".gguf") for name in found):
        advice = "name one of its GGUF files instead of the directory"
    else:
        advice = f"it holds neither {SINGLE} nor {INDEX}"
    raise CheckpointError(f"{directory} has no weights to load: {advice}")


def _sharded_tensors(index: Path) -> dict[str, StoredTensor]:
    """The tensors of all shards, each in the one shard that the index names.

    The index's `metadata.total_size` is not compared: tools disagree on what it counts, and nothing depends on it.
    """
    try:
        weight_map = read_object(index).get("weight_map")
    except ValueError as error:
        raise CheckpointError(f"{index}: {error}") from None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map is not an object from tensor names to file names")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not _SHARD_NAME.fullmatch(shard):
            raise CheckpointError(f"{index}: {shard[:200]!r} is not the name of a safetensors file beside it")
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise CheckpointError(f"{index}: {_some(missing)} of {len(shards)} shards missing: download them again")

    tensors = {}
    for shard in shards:
        file = SafetensorsFile(index.parent / shard)
        for name, info in file.tensors.items():
            if weight_map.get(name) != shard:
                place = f"places in {weight_map[name]!r}" if name in weight_map else "does not mention"
                raise CheckpointError(f"{file.path} holds tensor {name[:200]!r}, which {index.name} {place}")
            tensors[name] = StoredTensor(file.path, info)
    for name, shard in weight_map.items():
        if name not in tensors:
            raise CheckpointError(f"{index} places tensor {name[:200]!r} in {shard!r}, which does not hold it")
    return tensors


def _unfused(stored: Mapping[str, StoredTensor], config: ModelConfig) -> dict[str, StoredTensor]:
    """`stored` with each stack of experts taken apart; the parts are consecutive bytes of the stack."""
    fused = fused_experts(config)
    out = {}
    for name, tensor in stored.items():
        if name not in fused or tensor.info.shape != fused[name].shape:
            out[name] = tensor
            continue
        _, rows, columns = tensor.info.shape
        parts = fused[name].parts
        shape = (rows * config.num_experts // len(parts), columns)
        size = (tensor.info.end - tensor.info.begin) // len(parts)
        for number, part in enumerate(parts):
            if part in stored:
                raise CheckpointError(f"{tensor.path}: {part!r} is stored twice, alone and within {name!r}")
            begin = tensor.info.begin + number * size
            out[part] = StoredTensor(tensor.path, TensorInfo(tensor.info.dtype, shape, begin, begin + size))
    return out


def check_fit(
    complaint: str,
    expected: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, tuple[str, tuple[int, ...]]],
    dtypes: Collection[str],
) -> None:
    """Raise one CheckpointError, `complaint` first, that names what `stored` (dtype and shape of each name) lacks,
    has too much, or holds in another form."""
    shared = [name for name in expected if name in stored]
    faults = {
        "missing": [name for name in expected if name not in stored],
        "unexpected": [name for name in stored if name not in expected],
        "of another shape": [
            f"{name} is {list(stored[name][1])}, not {list(expected[name])}"
            for name in shared
            if stored[name][1] != expected[name]
        ],
        "of a dtype that is not supported": [
            f"{name} is {stored[name][0]}" for name in shared if stored[name][0] not in dtypes
        ],
    }
    texts = [f"{len(names)} {fault} ({_some(names)})" for fault, names in faults.items() if names]
    if texts:
        raise CheckpointError(f"{complaint}: {'; '.join(texts)}")


def _some(names: list[str]) -> str:
    text = ", ".join(name[:200] if name.isprintable() else ascii(name[:200]) for name in names[:4])
    return text if len(names) <= 4 else f"{text} and {len(names) - 4} more"
