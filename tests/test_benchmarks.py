"""The parts of the benchmark scripts that can be wrong without anyone seeing: files, ratios, the chart."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from qwen3.checkpoint import gguf_model
from qwen3.checkpoint.gguf import GGUFFile
from qwen3.checkpoint.gguf_load import load_gguf
from qwen3.memory import weight_bytes
from qwen3.model import CausalAttend
from qwen3.presets import PRESETS
from qwen3.quant.formats import find_format

SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "vocab_size": 640,
    "bos_token_id": 600,
    "eos_token_id": 602,
}
DENSE = replace(PRESETS["Qwen3-0.6B"], **SMALL)
SPARSE = replace(PRESETS["Qwen3-30B-A3B"], **SMALL, num_experts=8, moe_intermediate_size=256)


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")


@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize("mix", ["q4_0", "q4_0-pure", "q4_k_m", "q8_0", "gguf-bf16"])
def test_random_gguf_is_a_model_of_its_shape_with_weights_of_ordinary_size(config, mix, tmp_path):
    from random_gguf import MIXES, write_random_gguf

    path = tmp_path / "model.gguf"
    write_random_gguf(config, mix, path)
    file = GGUFFile(path)
    found = gguf_model.model_config(file)
    assert replace(found, dtype=config.dtype, bos_token_id=None, pad_token_id=None, eos_token_id=None) == replace(
        config, max_position_embeddings=config.max_context, bos_token_id=None, pad_token_id=None, eos_token_id=None
    )
    assert sum(tensor.num_bytes for tensor in file.tensors.values()) == weight_bytes(config, MIXES[mix])
    assert gguf_model.tokenizer(file).encode("x0 <|im_end|>")[-1] == 602

    model = load_gguf(file, dtype="float32")
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            assert parameter.std() == pytest.approx(0.02, rel=0.25), name
            assert abs(parameter.mean()) < 0.001, name
    with torch.inference_mode():
        hidden_TD = model(torch.arange(8), torch.arange(8), CausalAttend([8]))
    assert hidden_TD.isfinite().all()


def test_pure_q4_0_has_no_other_matrices():
    from random_gguf import MIXES

    assert find_format("q4_0").head != MIXES["q4_0-pure"].head == MIXES["q4_0-pure"].matrices


def test_ratios_are_of_as_many_bits():
    import peers

    test = peers.Test("decode", 128, 0)
    speeds = {
        "qwen3 int4": (4, 40),
        "qwen3 int8": (8, 24),
        "peer Q4_0": (4, 20),
        "peer Q8_0": (8, 12),
        "peer bf16": (16, 5),
    }
    row = [peers.Contender(name, bits, lambda tests: {}, {test: [speed]}) for name, (bits, speed) in speeds.items()]
    medians = {each.name: {str(test): each.speeds[test][0]} for each in row}
    report = {"machine": "here", "medians": {"4b": medians}, "skipped": {"other": "not installed"}, "failed": {}}
    lines = peers.markdown(report, {"4b": row}, [test]).splitlines()
    assert lines[4:9] == [
        "| 4B, qwen3 int4 | 40.0 |",
        "| 4B, qwen3 int8 | 24.0 |",
        "| 4B, peer Q4_0 | 20.0 (2.00) |",
        "| 4B, peer Q8_0 | 12.0 (2.00) |",
        "| 4B, peer bf16 | 5.0 (8.00) |",
    ]
    assert lines[-1] == "Skipped: other: not installed."


def test_chart_draws_a_bar_for_each_measurement_in_proportion():
    from peers_chart import OURS, PEERS, svg

    medians = {"4b": {"qwen3 int4": {"decode": 40.0}, "a <peer>": {"decode": 10.0}, "absent": {}}}
    root = ElementTree.fromstring(svg(medians, ["decode"], "a machine"))
    bars = [each for each in root.iter() if each.tag.endswith("rect")][1:]
    assert [bar.get("fill") for bar in bars] == [OURS, PEERS]
    ours, theirs = (float(bar.get("width")) for bar in bars)
    assert ours == pytest.approx(4 * theirs, rel=0.01)
    texts = [each.text for each in root.iter() if each.tag.endswith("text")]
    assert {"a <peer>", "absent", "40.0", "10.0", "4B: decode"} <= set(texts)


def test_packed_matmul_has_a_line_for_each_form(monkeypatch, capsys):
    import packed_matmul

    monkeypatch.setattr(packed_matmul, "QWEN3_4B", {"q": (32, 64, 2)})
    monkeypatch.setattr(packed_matmul, "MEGABYTES", 0)
    monkeypatch.setattr("qwen3.ops.packed.PlainMemory", lambda *size: SimpleNamespace(bandwidth=lambda: 10.0))
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    monkeypatch.setattr("sys.argv", ["packed_matmul", "--tokens", "1", "--rounds", "1"])
    packed_matmul.main()
    lines = [line.split()[4] for line in capsys.readouterr().out.splitlines() if line.startswith("q ")]
    assert lines == ["int4-g32", "int8-g32", "bf16"]
