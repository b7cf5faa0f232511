"""`qwen3 bench`: a table for people, JSON for programs, one line for mistakes, and what Ctrl-C leaves."""

import json

import pytest

from qwen3.engine.bench import Bench
from qwen3.memory import weight_bytes
from qwen3.presets import PRESETS

SHORT = ("--prompt", "8", "--generate", "4", "--repeat", "2")


@pytest.fixture(autouse=True)
def _small_probe(monkeypatch):
    monkeypatch.setattr("qwen3.ops.packed.PlainMemory.bandwidth", lambda self: 10.0)


def test_json_has_the_documented_keys(qwen3, checkpoint):
    result = qwen3("bench", checkpoint, *SHORT, "--depth", "0,20", "--batch", "1,2", "--profile", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    described = " ".join(qwen3("bench", "--help").stdout.split())
    for key in (*report, *report["measurements"][1], *report["profiles"][0]):
        assert key in described
    assert report["complete"] is True
    assert report["weights"].keys() == {"fp32", "float32"}  # matrices as stored, laid out for the kernels, and norms
    assert 1 <= sum(report["weights"].values()) / (4 * report["parameters"]) < 1.01  # rows are padded to panels of 16
    assert 0 < report["baseline_bytes"] <= report["peak_bytes"]
    assert 0 < report["load_seconds"] < 60
    assert report["machine"]["threads"] >= 1
    found = [tuple(each[key] for key in ("phase", "tokens", "depth", "batch")) for each in report["measurements"]]
    phases = (("prefill", 8), ("decode", 4))
    assert found == [(*phase, depth, batch) for depth in (0, 20) for batch in (1, 2) for phase in phases]
    for each in report["measurements"]:
        speed = each["tokens_per_second"]
        assert len(each["seconds"]) == 2
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
        if each["phase"] == "decode":
            assert each["bandwidth_gb_per_second"] == [10.0, 10.0]
            assert each["bandwidth_share"]["max"] == pytest.approx(each["gb_per_second"]["max"] / 10)
        else:
            assert "gb_per_second" not in each
    for each in report["profiles"]:
        assert sum(each["shares"].values()) == pytest.approx(1)


def test_table(qwen3, checkpoint):
    text = qwen3("bench", checkpoint, *SHORT, "--depth", "0,20", "--profile").stdout
    lines = [line.split() for line in text.splitlines()]
    assert [line[:4] for line in lines if line[:1] == ["decode"] and line[1].isdigit()] == [
        ["decode", "4", "0", "1"],
        ["decode", "4", "20", "1"],
    ]
    for words in ("float32", "peak memory", "random keys and values", "memory gives", "outside native code"):
        assert words in text
    assert "\x1b" not in text


def test_random_shape_needs_no_checkpoint(qwen3):
    arguments = ("--random", "0.6b", "--prompt", "4", "--generate", "2", "--repeat", "1", "--json")
    report = json.loads(qwen3("bench", *arguments).stdout)
    config = PRESETS["Qwen3-0.6B"]
    assert report["model"] == "Qwen3-0.6B"
    assert report["random"] is True
    assert report["parameters"] == config.num_parameters
    assert sum(report["weights"].values()) == weight_bytes(config, "int4")
    assert report["peak_bytes"] - report["baseline_bytes"] < 2 * sum(report["weights"].values())


def test_ctrl_c_prints_what_is_measured(qwen3, checkpoint, monkeypatch):
    calls = []
    run = Bench._run

    def interrupted(self, memory=None):
        calls.append(memory)
        if len(calls) == 4:  # two warm-ups and one measurement later
            raise KeyboardInterrupt
        return run(self, memory)

    monkeypatch.setattr(Bench, "_run", interrupted)
    result = qwen3("bench", checkpoint, *SHORT, "--json")
    assert result.exit_code == 130
    report = json.loads(result.stdout)
    assert report["complete"] is False
    assert [each["phase"] for each in report["measurements"]] == ["prefill"]
    calls.clear()
    assert "Interrupted" in qwen3("bench", checkpoint, *SHORT).stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--depth", "0,x"], "--depth '0,x'"),
        (["--batch", "-1"], "--batch '-1'"),
        (["--batch", "64"], "1 to 32"),
        (["--prompt", "0", "--generate", "0"], "nothing to measure"),
        (["--depth", "1900", "--prompt", "200"], "context of 2,048"),
        (["--random", "0.7b"], "Qwen3-0.6B, Qwen3-1.7B"),
        (["--random", "0.6b", "--weights", "q4"], "int8, int4, bf16"),
        (["no-such-model"], "no-such-model"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_choices(qwen3, arguments, named):
    result = qwen3("bench", *arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert named in result.stderr


def test_a_shape_beyond_the_memory_is_refused_before_it_is_made(qwen3, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 1000)
    result = qwen3("bench", "--random", "0.6b")
    assert result.exit_code == 1
    assert "319.84 MiB of weights, and this machine 976.56 KiB of memory" in result.stderr


def test_a_model_and_a_random_shape_exclude_each_other(qwen3):
    assert qwen3("bench", "some-model", "--random", "0.6b").exit_code == 2
