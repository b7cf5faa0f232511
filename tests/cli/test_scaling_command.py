"""`qwen3 scaling`: from a plan over made-up losses to a prediction and a chart."""

import json
import math
import xml.etree.ElementTree as ElementTree

import pytest

from qwen3.train.scaling import step_law


@pytest.fixture
def sweep_file(qwen3, tmp_path):
    """A planned sweep whose best rate is twice Step Law's and whose best batch is Step Law's."""
    path = tmp_path / "sweep.jsonl"
    arguments = ("scaling", "plan", "--target", "0.6B", "--widths", "128,256,512", "--tokens", "10,20,40")
    result = qwen3(*arguments, "--sequence-length", "256", "--out", path)
    assert result.exit_code == 0
    assert "81 runs of 3 models" in result.stdout
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        rate, batch = step_law(line["parameters"], line["tokens"])
        worse = math.log(line["learning_rate"] / rate / 2) ** 2 + math.log(line["batch"] / batch) ** 2
        value = 1.7 + 400 / line["parameters"] ** 0.34 + 400 / line["tokens"] ** 0.28
        line["loss"] = value * (1 + 0.01 * worse)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_from_a_sweep_to_a_prediction_and_a_chart(qwen3, sweep_file, tmp_path):
    laws = tmp_path / "laws.json"
    result = qwen3("scaling", "fit", sweep_file, "--out", laws)
    assert result.exit_code == 0, result.stderr
    assert "dense, general: loss" in result.stdout
    text = qwen3("scaling", "predict", laws, "--target", "0.6B", "--tokens", "1e12").stdout
    assert "Step Law" in text
    assert "DeepSeek" in text
    arguments = ("scaling", "predict", laws, "--target", "0.6B", "--tokens", "1e12", "--chart", tmp_path / "c.svg")
    report = json.loads(qwen3(*arguments, "--json").stdout)
    found = report["stages"]["general"]["learning_rate"]["value"]
    assert found == pytest.approx(2 * report["public"]["Step Law"]["learning_rate"], rel=0.3)
    names = [each.text for each in ElementTree.parse(tmp_path / "c.svg").iter() if each.tag.endswith("text")]
    assert names.count("Step Law") == names.count("DeepSeek") == 2
    assert names.count("fit: general") == 3
    exponents = json.loads(qwen3("scaling", "fit", sweep_file, "--json").stdout)[0]["loss"]
    assert set(exponents) == {"E", "A", "B", "a", "b"}


def test_mistakes_are_one_line(qwen3, sweep_file, tmp_path):
    laws = tmp_path / "laws.json"
    qwen3("scaling", "fit", sweep_file, "--out", laws)
    for words, named in (
        (["scaling", "predict", laws, "--target", "30B-A3B"], "no law for moe"),
        (["scaling", "fit", laws], "no run with a loss"),
        (["scaling", "predict", sweep_file], "holds no laws"),
        (["scaling", "plan", "--out", tmp_path / "x", "--rates", "a,b"], "--rates"),
        (["scaling", "plan", "--out", tmp_path / "x", "--target", "9B"], "no preset"),
    ):
        result = qwen3(*words)
        assert result.exit_code == 1
        assert named in result.stderr
        assert result.stderr.count("\n") == 1
