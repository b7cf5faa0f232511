"""`qwen3 memory`: tables for people, JSON for programs, one line for mistakes."""

import json

import pytest

from qwen3.memory import FORMATS, MAX_CONTEXT, estimate, estimate_training, longest_context
from qwen3.presets import PRESETS

QWEN3_4B = PRESETS["Qwen3-4B"]


def test_without_arguments_it_describes_the_4b(qwen3):
    result = qwen3("memory")
    assert result.exit_code == 0
    assert "Qwen3-4B: 4,022,468,096 parameters" in result.stdout
    assert "147,456 bytes a token" in result.stdout
    for word in ("bf16", "q4_k_m", "131,072*", "RTX 4090 24 GB", "laptop 8 GB", "no"):
        assert word in result.stdout
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert all(line == line.rstrip() for line in result.stdout.splitlines())


def test_json_holds_the_librarys_figures(qwen3):
    report = json.loads(
        qwen3("memory", "4b", "--weights", "q8_0,int4", "--kv", "int8", "--context", "32k,100", "--json").stdout
    )
    assert report["model"] == "Qwen3-4B"
    found = {(entry["format"], entry["context"]): entry["bytes"]["total"] for entry in report["estimates"]}
    assert found == {
        (name, context): estimate(QWEN3_4B, weights=name, kv="int8", context=context).total
        for name in ("q8_0", "int4")
        for context in (32_768, 100)
    }


def test_all_formats(qwen3):
    arguments = ("memory", "--weights", "all", "--context", "4k", "--json")
    assert [entry["format"] for entry in json.loads(qwen3(*arguments).stdout)["estimates"]] == list(FORMATS)


def test_one_format_shows_its_parts(qwen3):
    text = qwen3("memory", "4b", "--weights", "bf16", "--context", "131072").stdout
    rows = {line.rsplit(maxsplit=1)[0]: line.rsplit(maxsplit=1)[-1] for line in text.splitlines() if line}
    assert rows["weights"] == "7.49"
    assert rows["kv cache"] == "18.00"
    assert "RTX" not in text


def test_what_fits_in_a_budget(qwen3):
    arguments = ("memory", "Qwen3-8B", "--fits", "24", "--weights", "bf16,q4_k_m", "--batch", "2")
    longest = longest_context(PRESETS["Qwen3-8B"], 24 * 2**30, weights="q4_k_m", batch=2)
    assert json.loads(qwen3(*arguments, "--json").stdout)["budget"]["longest_context"]["q4_k_m"] == longest
    text = qwen3(*arguments).stdout
    assert f"{longest:,}" in text
    assert "in 24 GiB" in text
    assert "RTX" not in text


def test_cards_alone(qwen3):
    report = json.loads(qwen3("memory", "32b", "--cards", "--tp", "2", "--json").stdout)
    assert "estimates" not in report
    fitting = {entry["machine"]: entry["longest_context"] for entry in report["machines"]}
    assert fitting["RTX 4090 24 GB"]["bf16"] == 0
    assert 0 < fitting["RTX 4090 24 GB"]["q4_k_m"] < fitting["H100 80 GB"]["q4_k_m"] == MAX_CONTEXT
    assert "on 2 of each" in qwen3("memory", "32b", "--cards", "--tp", "2").stdout


def test_training(qwen3):
    arguments = ("memory", "0.6b", "--train", "--optimizer", "muon", "--no-checkpointing", "--context", "2k", "--json")
    (entry,) = json.loads(qwen3(*arguments).stdout)["estimates"]
    config = PRESETS["Qwen3-0.6B"]
    expected = estimate_training(config, optimizer="muon", checkpointing=False, context=2048, device="cpu")
    assert entry["bytes"]["total"] == expected.total
    text = qwen3(*arguments[:-1]).stdout
    assert "gradients" in text
    assert "without checkpointing" in text


def test_a_directory_is_read(qwen3, tmp_path):
    PRESETS["Qwen3-1.7B"].save(tmp_path)
    report = json.loads(qwen3("memory", tmp_path, "--fits", "8", "--json").stdout)
    assert report["parameters"] == PRESETS["Qwen3-1.7B"].num_parameters


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--weights", "q9"], "q4_k_m"),
        (["--kv", "q9"], "int8"),
        (["--tp", "3"], "1, 2, 4, 8"),
        (["--context", "long"], "32768,128k"),
        (["--context", "0"], "context"),
        (["--device", "tpu"], "cuda"),
        (["--train", "--weights", "q8_0"], "bf16"),
        (["no-such-model"], "no-such-model"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_choices(qwen3, arguments, named):
    result = qwen3("memory", *arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert named in result.stderr


def test_training_and_fitting_do_not_mix(qwen3):
    assert qwen3("memory", "--train", "--fits", "24").exit_code == 2
