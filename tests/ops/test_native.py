"""The C++ kernels: equal bits on every instruction set, right values, and no wrong tensor let through."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwen3.ops import native


def random_case(num_rows: int, num_columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight_NK = torch.randn(num_rows, num_columns, generator=generator).to(torch.bfloat16)
    return weight_NK, torch.randn(num_columns, generator=generator)


def bits(y_N: torch.Tensor) -> list[int]:
    return y_N.view(torch.int32).tolist()


@given(num_rows=st.integers(0, 11), num_columns=st.integers(0, 100), seed=st.integers(0, 2**32))
def test_every_instruction_set_gives_the_same_bits(num_rows, num_columns, seed):
    weight_NK, x_K = random_case(num_rows, num_columns, seed)
    expected = bits(native.matvec_bf16(weight_NK, x_K, instruction_set="generic"))
    for instruction_set in native.available_instruction_sets():
        assert bits(native.matvec_bf16(weight_NK, x_K, instruction_set=instruction_set)) == expected


@pytest.mark.parametrize("special", [float("inf"), -0.0, 1e-40, -1e-40, 3e38])
@pytest.mark.parametrize("num_columns", [1, 15, 16, 17, 33])
def test_same_bits_at_the_edges_of_float32(special, num_columns):
    weight_NK, x_K = random_case(5, num_columns, seed=num_columns)
    x_K[num_columns // 2 :] = special
    weight_NK[2] = 1e-20
    expected = bits(native.matvec_bf16(weight_NK, x_K, instruction_set="generic"))
    for instruction_set in native.available_instruction_sets():
        assert bits(native.matvec_bf16(weight_NK, x_K, instruction_set=instruction_set)) == expected


@pytest.mark.parametrize("instruction_set", native.available_instruction_sets())
def test_lanes_beyond_the_last_column_are_left_alone(instruction_set):
    """Every lane underflows to -0 in the first 16 columns; adding a padding's +0 to one would turn the sum to +0."""
    weight_NK = torch.full((9, 17), -1e-40).to(torch.bfloat16)
    y_N = native.matvec_bf16(weight_NK, torch.full((17,), 1e-40), instruction_set=instruction_set)
    assert bits(y_N) == [-(2**31)] * 9


@pytest.mark.parametrize("instruction_set", native.available_instruction_sets())
def test_order_of_arithmetic_is_the_specified_one(instruction_set):
    """16 lanes filled by fused multiply-adds, then halves added; written again in numpy.

    A bfloat16 times a float32 is exact in float64, and with these integers the sum there is exact as well
    until the one rounding to float32: so float64 stands in for the fused operation.
    """
    rng = np.random.default_rng(0)
    weight = rng.integers(-(2**7), 2**7, (3, 77)).astype(np.float32)
    x = rng.integers(-(2**24), 2**24, 77).astype(np.float32)
    expected = []
    for row in weight:
        lanes = np.zeros(16, np.float32)
        for k, (w, v) in enumerate(zip(row, x, strict=True)):
            lanes[k % 16] = np.float32(np.float64(w) * np.float64(v) + np.float64(lanes[k % 16]))
        for half in (8, 4, 2, 1):
            lanes = lanes[:half] + lanes[half:]
        expected.append(lanes[0])
    y_N = native.matvec_bf16(
        torch.from_numpy(weight).to(torch.bfloat16), torch.from_numpy(x), instruction_set=instruction_set
    )
    assert y_N.tolist() == [float(value) for value in expected]


@pytest.mark.parametrize("instruction_set", native.available_instruction_sets())
@pytest.mark.parametrize(("num_rows", "num_columns"), [(256, 1024), (100, 2560), (7, 9728), (1, 1), (3, 0)])
def test_equals_float64_within_rounding(num_rows, num_columns, instruction_set):
    weight_NK, x_K = random_case(num_rows, num_columns, seed=1)
    exact_N = weight_NK.double() @ x_K.double()
    scale_N = weight_NK.double().abs() @ x_K.double().abs()
    y_N = native.matvec_bf16(weight_NK, x_K, instruction_set=instruction_set)
    assert y_N.dtype == torch.float32
    # A lane adds num_columns / 16 terms and four more additions follow, each off by at most half a last bit.
    assert ((y_N.double() - exact_N).abs() <= (num_columns / 16 + 5) * 2.0**-24 * scale_N).all()


def test_a_row_does_not_depend_on_the_rows_beside_it():
    weight_NK, x_K = random_case(9, 50, seed=2)
    together = bits(native.matvec_bf16(weight_NK, x_K))
    alone = [bits(native.matvec_bf16(weight_NK[n : n + 1], x_K))[0] for n in range(9)]
    assert together == alone


@pytest.mark.parametrize(
    ("weight_NK", "x_K"),
    [
        (torch.zeros(4, 8), torch.zeros(8)),
        (torch.zeros(4, 8, dtype=torch.float16), torch.zeros(8)),
        (torch.zeros(4, 8, dtype=torch.bfloat16), torch.zeros(8, dtype=torch.float64)),
        (torch.zeros(4, 8, dtype=torch.bfloat16), torch.zeros(7)),
        (torch.zeros(4, 8, dtype=torch.bfloat16), torch.zeros(8, 1)),
        (torch.zeros(8, dtype=torch.bfloat16), torch.zeros(8)),
        (torch.zeros(8, 4, dtype=torch.bfloat16).T, torch.zeros(8)),
        (torch.zeros(4, 8, dtype=torch.bfloat16), torch.zeros(16)[::2]),
        (torch.zeros(4, 8, dtype=torch.bfloat16, device="meta"), torch.zeros(8)),
    ],
)
def test_wrong_tensors_are_refused(weight_NK, x_K):
    with pytest.raises(ValueError, match=r"need a weight|must be a contiguous"):
        native.matvec_bf16(weight_NK, x_K)


def test_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="'mmx' is not one of generic"):
        native.matvec_bf16(*random_case(1, 1, seed=0), instruction_set="mmx")


def test_the_fastest_available_instruction_set_is_the_default():
    assert native.available_instruction_sets()[0] == "generic"
    assert native.instruction_set() == native.available_instruction_sets()[-1]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="compares with Linux's own list of features")
def test_cpu_features_are_those_that_linux_reports():
    words = {"x86_64": "flags", "aarch64": "Features"}
    line = next(
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(words[platform.machine()])
    )
    reported = set(line.split(":")[1].split())
    linux_names = {"neon": "asimd", "dotprod": "asimddp", "fp16": "asimdhp"}
    assert native.cpu_features()
    assert {linux_names.get(name, name) for name in native.cpu_features()} <= reported
    if platform.machine() == "x86_64":
        ours = {
            "avx2",
            "fma",
            "f16c",
            "avx512f",
            "avx512bw",
            "avx512_vnni",
            "avx_vnni",
            "amx_int8",
            "amx_bf16",
        }
        assert set(native.cpu_features()) & ours == reported & ours


def test_a_missing_extension_says_how_to_build_it():
    program = "import sys; sys.modules['qwen3._native'] = None; import qwen3.ops.native"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "pip install -e ." in result.stderr
