"""`qwen3 info` by name, without files, and of a directory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3.presets import PRESETS


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: pytest.fail("it went to the network"))


def test_an_official_name_needs_no_download(qwen3, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    result = qwen3("info", "Qwen3-4B")
    assert result.exit_code == 0
    for part in ("4,022,468,096", "3,633,511,936", "nothing downloaded", "7.49 GiB", "40,960 tokens", "hybrid"):
        assert part in result.stdout
    assert qwen3("info", "Qwen3-4C").exit_code == 1


@pytest.mark.parametrize("name", PRESETS)
def test_every_official_model_is_described(qwen3, tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    facts = json.loads(qwen3("info", f"Qwen/{name}", "--json").stdout)
    assert facts["parameters"]["total"] == PRESETS[name].num_parameters
    assert facts["memory"][-1]["context"] == facts["max_context"] == PRESETS[name].max_context
    thinks, answers = "thinking" in facts["sampling"], "non_thinking" in facts["sampling"]
    assert (thinks, answers) == ("Instruct" not in name, "Thinking" not in name)


def test_a_directory_is_described_from_its_files(qwen3, checkpoint):
    facts = json.loads(qwen3("info", checkpoint, "--json").stdout)
    file = checkpoint / "model.safetensors"
    assert facts["stored"]["files"] == 1
    assert facts["stored"]["file_bytes"] == file.stat().st_size
    assert facts["stored"]["dtypes"]["F32"]["bytes"] == 4 * facts["parameters"]["total"]
    assert facts["text"]["control_tokens"] == 26
    assert facts["sampling"]["thinking"]["temperature"] == 0.5
    assert facts["sampling"]["non_thinking"]["temperature"] == 0.7
    text = qwen3("info", checkpoint).stdout
    assert str(checkpoint) in text
    assert "1 safetensors" in text


def test_info_says_how_this_machine_would_keep_the_weights(qwen3, checkpoint, monkeypatch):
    assert json.loads(qwen3("info", checkpoint, "--json").stdout)["weights"]["auto"] == "float32"
    for free, name in ((64 * 10**9, "int8"), (4 * 10**9, "int4"), (10**9, "none")):
        monkeypatch.setattr("qwen3.hardware.available_bytes", lambda free=free: free)
        facts = json.loads(qwen3("info", "Qwen3-4B", "--json").stdout)
        assert facts["weights"]["auto"] == name
        assert facts["weights"]["reason"].removeprefix("weights: ") in qwen3("info", "Qwen3-4B").stdout


def test_a_damaged_file_is_one_clear_line(qwen3, checkpoint, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in checkpoint.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: -10 if file.suffix == ".safetensors" else None])
    result = qwen3("info", broken)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"qwen3: {broken}/model.safetensors: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from Linux's /proc")
def test_weights_are_not_read(qwen3, checkpoint, tmp_path):
    """A checkpoint of 4B parameters, whose weights are a hole in the file."""
    from qwen3.checkpoint.names import expected_tensors

    sparse = tmp_path / "sparse"
    sparse.mkdir()
    for file in checkpoint.iterdir():
        if file.suffix != ".safetensors":
            (sparse / file.name).write_bytes(file.read_bytes())
    PRESETS["Qwen3-4B"].save(sparse)
    header, end = {}, 0
    for name, shape in expected_tensors(PRESETS["Qwen3-4B"]).items():
        begin = end
        end += 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    data = json.dumps(header).encode()
    with (sparse / "model.safetensors").open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + end)
    code = f"""
from pathlib import Path
from qwen3.cli.app import app
app(["info", {str(sparse)!r}], standalone_mode=False)
# Not ru_maxrss: a child inherits that of the process that started it.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30).stdout
    assert "BF16" in shown
    assert "7.49 GiB" in shown
    assert int(shown.split()[-1]) < 1000
