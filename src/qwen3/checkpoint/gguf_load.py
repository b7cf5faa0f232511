"""GGUF files to models: block by block into panels of the same numbers, or into plain tensors.

By default a file of blocks or 16-bit floats keeps its own precision on the CPU: each matrix is laid out for the native
kernels in the format that holds its block type without loss, whatever the mix, and norms, routers and activations are
float32. With a dtype, the model is an ordinary one: every value is the float32 that the format defines, rounded once.
Either way the peak is the model and a few chunks: pages of the mapped file are given back as they are done with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qwen3.checkpoint.gguf import GGUFError, GGUFFile, GGUFTensor
from qwen3.checkpoint.gguf_model import model_config, stored_parameters
from qwen3.checkpoint.load import DTYPES, Progress, converted, dtype_name
from qwen3.checkpoint.names import FusedTensor, expected_tensors
from qwen3.model import Qwen3
from qwen3.model.transforms import replace_weights
from qwen3.ops.packed import FORMATS, PANEL_ROWS, REPACKED, PackedWeight, repack
from qwen3.quant.blocks import dequantize

# As many as keep both a disk and a core busy; what a thread holds besides the model is one chunk.
_NUM_THREADS = 2
_CHUNK_VALUES = 1 << 22


def keeps_precision(file: GGUFFile, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu") -> bool:
    """Whether `load_gguf` gives packed weights: on the CPU, unless a dtype is asked for or all tensors are F32."""
    is_float32 = all(tensor.type == "F32" for tensor in file.tensors.values())
    return dtype is None and torch.device(device).type == "cpu" and not is_float32


def loaded_bytes(file: GGUFFile, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu") -> int:
    """Memory that the weights take as `load_gguf` keeps them, without the last panels' filling."""
    if not keeps_precision(file, dtype, device):
        size = DTYPES[model_config(file).dtype if dtype is None else dtype_name(dtype)].itemsize
        return size * sum(tensor.num_values for tensor in file.tensors.values())
    bits = (
        tensor.num_values * (FORMATS[REPACKED[tensor.type]].bits_per_weight if _is_packed(name, tensor) else 32)
        for name, tensor in file.tensors.items()
    )
    return int(sum(bits)) // 8


def load_gguf(
    file: GGUFFile,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Qwen3:
    """The model in a GGUF file, ready for inference. Parameters need no gradient.

    Args:
        dtype: dequantizes into it. None keeps the file's own precision in packed weights (see `keeps_precision`), with
            float32 for all else; where that cannot be, it is float32 for a file all in F32 and otherwise bfloat16.
            The model's config names the dtype of its activations.
        progress: called with (bytes done, bytes in all).

    Raises GGUFError naming what is wrong with the file, CheckpointError for a dtype that cannot hold it, and OSError.
    """
    config = model_config(file)
    stored = stored_parameters(file, config)
    is_packed = keeps_precision(file, dtype, device)
    if is_packed:
        config = replace(config, dtype="float32")
    elif dtype is not None:
        config = replace(config, dtype=dtype_name(dtype))
    with torch.device("meta"):
        model = Qwen3(config)
    packed = _packed_weights(file, stored) if is_packed else {}
    parameters = {
        name: torch.empty(shape, dtype=DTYPES[config.dtype], device=device)
        for name, shape in expected_tensors(config).items()
        if name not in packed
    }
    _fill_all(file, stored, parameters | packed, progress)
    model.requires_grad_(False)
    if packed:
        replace_weights(model, (parameters | packed).items())
    else:
        model.load_state_dict(parameters, assign=True)
    return model.eval()


def _is_packed(name: str, tensor: GGUFTensor) -> bool:
    """Norms and routers stay float32."""
    return len(tensor.shape) > 1 and not name.endswith(".ffn_gate_inp.weight")


def _packed_weights(file: GGUFFile, stored: Mapping[str, FusedTensor]) -> dict[str, PackedWeight]:
    """Room for every matrix that is packed."""
    packed: dict[str, PackedWeight] = {}
    for name, tensor in file.tensors.items():
        if not _is_packed(name, tensor):
            continue
        parts = stored[name].parts
        try:
            packed |= {part: PackedWeight.empty(*tensor.shape[-2:], REPACKED[tensor.type]) for part in parts}
        except ValueError as error:
            raise GGUFError(f"{file.path}: tensor {name}: {error}; a dtype dequantizes it") from None
    return packed


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows of a parameter from `first_row` on, and their blocks, uint8 [rows, bytes of a row], of tensor `what`."""

    what: str
    parameter: str
    type: str
    blocks: np.ndarray
    target: Tensor | PackedWeight
    first_row: int

    def fill(self) -> None:
        if isinstance(self.target, PackedWeight):
            try:
                repack(self.type, self.blocks, self.target, self.first_row)
            except ValueError as error:
                raise GGUFError(f"{self.what}: {error}: the file is damaged") from None
        else:
            values = torch.from_numpy(dequantize(self.blocks, self.type))
            target = self.target[self.first_row : self.first_row + len(self.blocks)]
            target.copy_(converted(self.parameter, values, target.dtype))


def _fill_all(
    file: GGUFFile,
    stored: Mapping[str, FusedTensor],
    targets: Mapping[str, Tensor | PackedWeight],
    progress: Progress | None,
) -> None:
    total = sum(tensor.num_bytes for tensor in file.tensors.values())
    done = 0
    chunks = list(_chunks(file, stored, targets))
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        # A failing chunk ends the iteration, and the iterator then cancels those not yet begun.
        for chunk, _ in zip(chunks, threads.map(_Chunk.fill, chunks), strict=True):
            file.release(chunk.blocks)
            done += chunk.blocks.nbytes
            if progress is not None:
                progress(done, total)


def _chunks(
    file: GGUFFile, stored: Mapping[str, FusedTensor], targets: Mapping[str, Tensor | PackedWeight]
) -> Iterator[_Chunk]:
    """All of the file, in the order of its bytes, which is the order in which disks are fast."""
    for name, tensor in file.tensors.items():
        what, columns = f"{file.path}: tensor {name}", tensor.shape[-1]
        blocks = file.read(name).reshape(tensor.num_values // columns, -1)
        parts = stored[name].parts
        for part, part_blocks in zip(parts, np.split(blocks, len(parts)), strict=True):
            target = targets[part]
            if isinstance(target, Tensor):
                target = target.view(-1, columns)
            step = -(-_CHUNK_VALUES // columns // PANEL_ROWS) * PANEL_ROWS
            for first in range(0, len(part_blocks), step):
                yield _Chunk(what, part, tensor.type, part_blocks[first : first + step], target, first)
