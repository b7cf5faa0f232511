"""`qwen3 doctor`: what it finds, and what it says where something is broken."""

import json

import pytest

from qwen3.ops import IMPLEMENTATIONS, native, packed


@pytest.fixture
def builtin(monkeypatch, checkpoint):
    monkeypatch.setattr("qwen3.checkpoint.hub._BUILTIN_DIRECTORY", checkpoint)


def _findings(result):
    return {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}


@pytest.mark.usefixtures("builtin")
def test_a_healthy_machine_gets_a_clean_bill(qwen3, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror")
    result = qwen3("doctor")
    assert result.exit_code == 0
    assert result.stdout.endswith("Everything needed works.\n")
    for part in (native.instruction_set(), *native.cpu_features(), "available", "http://mirror", *IMPLEMENTATIONS):
        assert part in result.stdout
    report = json.loads(qwen3("doctor", "--json").stdout)
    assert report["healthy"] is True


@pytest.mark.usefixtures("builtin")
def test_a_kernel_that_computes_wrongly_is_found(qwen3, monkeypatch):
    right = packed.packed_linear
    monkeypatch.setattr(packed, "packed_linear", lambda *arguments, **named: right(*arguments, **named) + 1)
    result = qwen3("doctor", "--json")
    assert result.exit_code == 1
    assert "wrong products" in _findings(result)["C++ kernels"]["fix"]


@pytest.mark.usefixtures("builtin")
def test_an_old_torch_is_found(qwen3, monkeypatch):
    monkeypatch.setattr("torch.__version__", "2.6.0+cpu")
    result = qwen3("doctor")
    assert result.exit_code == 1
    assert "BROKEN: 2.6.0+cpu" in result.stdout
    assert "pip install --upgrade 'torch>=2.11'" in result.stdout
    assert result.stdout.endswith("1 broken.\n")


def test_a_missing_builtin_model_is_found(qwen3, monkeypatch, tmp_path):
    monkeypatch.setattr("qwen3.checkpoint.hub._BUILTIN_DIRECTORY", tmp_path / "nothing")
    result = qwen3("doctor", "--json")
    assert result.exit_code == 1
    assert _findings(result)["builtin"]["fix"]
