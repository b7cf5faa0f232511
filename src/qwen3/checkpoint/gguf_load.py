"""GGUF files to models: block by block into plain tensors.

The model is an ordinary one in float32, bfloat16 or float16, with the memory and the speed of that dtype; nothing stays
quantized. Every value of a block is the float32 that the format defines, rounded once to the dtype: asking for float32
keeps the file's precision, bfloat16 rounds to 8 bits. The peak is the model and a few chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qwen3.checkpoint.gguf import GGUFFile
from qwen3.checkpoint.gguf_model import model_config, stored_parameters
from qwen3.checkpoint.load import DTYPES, Progress, converted, dtype_name
from qwen3.checkpoint.names import FusedTensor, expected_tensors
from qwen3.model import Qwen3
from qwen3.quant.blocks import dequantize

# As many as keep both a disk and a core busy; what a thread holds besides the model is one chunk.
_NUM_THREADS = 2
_CHUNK_VALUES = 1 << 22


def load_gguf(
    file: GGUFFile,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Qwen3:
    """The model in a GGUF file, ready for inference, dequantized into `dtype`, which its config then names.

    None takes float32 for a file all in F32, else bfloat16. Parameters need no gradient.
    Raises GGUFError naming what is wrong with the file, CheckpointError for a dtype that cannot hold it, and OSError.
    """
    config = model_config(file)
    if dtype is not None:
        config = replace(config, dtype=dtype_name(dtype))
    stored = stored_parameters(file, config)
    shapes = expected_tensors(config)
    parameters = {name: torch.empty(shape, dtype=DTYPES[config.dtype], device=device) for name, shape in shapes.items()}
    _fill_all(file, stored, parameters, progress)
    with torch.device("meta"):
        model = Qwen3(config)
    model.requires_grad_(False).load_state_dict(parameters, assign=True)
    return model.eval()


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some rows of a parameter [rows, columns] and their blocks, uint8 [rows, bytes of a row]."""

    name: str
    type: str
    blocks: np.ndarray
    target: Tensor

    def fill(self) -> None:
        values = torch.from_numpy(dequantize(self.blocks, self.type))
        self.target.copy_(converted(self.name, values, self.target.dtype))


def _fill_all(
    file: GGUFFile, stored: Mapping[str, FusedTensor], parameters: Mapping[str, Tensor], progress: Progress | None
) -> None:
    total = sum(tensor.num_bytes for tensor in file.tensors.values())
    done = 0
    chunks = list(_chunks(file, stored, parameters))
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        # A failing chunk ends the iteration, and the iterator then cancels those not yet begun.
        for chunk, _ in zip(chunks, threads.map(_Chunk.fill, chunks), strict=True):
            done += chunk.blocks.nbytes
            if progress is not None:
                progress(done, total)


def _chunks(file: GGUFFile, stored: Mapping[str, FusedTensor], parameters: Mapping[str, Tensor]) -> Iterator[_Chunk]:
    """All of the file, in the order of its bytes, which is the order in which disks are fast."""
    for name, tensor in file.tensors.items():
        columns = tensor.shape[-1]
        blocks = file.read(name).reshape(tensor.num_values // columns, -1)
        parts = stored[name].parts
        for part, part_blocks in zip(parts, np.split(blocks, len(parts)), strict=True):
            target = parameters[part].view(-1, columns)
            step = max(1, _CHUNK_VALUES // columns)
            for begin in range(0, len(target), step):
                rows = slice(begin, begin + step)
                yield _Chunk(part, tensor.type, part_blocks[rows], target[rows])
