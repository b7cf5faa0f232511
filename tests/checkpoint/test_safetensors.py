"""The reader against files that the format's own library wrote."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from qwen3.checkpoint.safetensors import STORAGE_DTYPES, SafetensorsFile, TensorInfo

TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
}


def test_every_dtype_of_the_table_is_read_bit_for_bit(tmp_path):
    assert TORCH_DTYPES.keys() == STORAGE_DTYPES.keys()
    tensors = {}
    for name, dtype in TORCH_DTYPES.items():
        values = torch.randint(0, 2, (3 * 5 * dtype.itemsize,), dtype=torch.uint8)
        tensors[name] = values.view(dtype).view(3, 5)
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})

    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.metadata == {"format": "pt"}
    assert file.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        read = file.read(name)
        assert (file.tensors[name].dtype, read.shape) == (name, (3, 5))
        assert read.tobytes() == tensor.view(torch.uint8).numpy().tobytes()


@given(st.dictionaries(st.text(), st.lists(st.integers(0, 4), max_size=4), max_size=6))
def test_any_names_and_shapes_are_read(tmp_path_factory, shapes):
    shapes.pop("__metadata__", None)
    tensors = {name: torch.rand(shape) for name, shape in shapes.items()}
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(save(tensors))
    file = SafetensorsFile(path)
    assert file.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert np.array_equal(file.read(name), tensor.numpy())


def test_tensors_come_in_the_order_of_their_bytes_and_views_cannot_be_written(tmp_path):
    save_file({"b": torch.ones(2), "a": torch.zeros(2, dtype=torch.float64)}, tmp_path / "x.safetensors")
    file = SafetensorsFile(tmp_path / "x.safetensors")
    begins = [info.begin for info in file.tensors.values()]
    assert begins == sorted(begins)
    end = (tmp_path / "x.safetensors").stat().st_size
    assert list(file.tensors.values())[-1] == TensorInfo("F32", (2,), end - 8, end)
    with pytest.raises(ValueError, match="read-only"):
        file.read("b")[0] = 1


def test_the_reader_loads_no_torch():
    program = "import qwen3.checkpoint.safetensors, qwen3.checkpoint.names, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
