"""The C++ module: which instruction sets and features it finds, and what is said where it is missing."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3.ops import native


def test_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="'mmx' is not one of generic"):
        native.place_of("mmx")


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
