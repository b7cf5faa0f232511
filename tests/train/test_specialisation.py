"""What the report on experts counts and says, and how a sparse run's loads are kept and drawn."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from training import short, three_stages
from typer.testing import CliRunner

from qwen3.cli.app import app
from qwen3.model import CausalAttend, Qwen3
from qwen3.train import charts, curves
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.errors import DataError
from qwen3.train.specialisation import Choices, choices
from qwen3.train.trainer import Trainer


def made(*rows):
    return Choices(tuple("abc"[: len(rows)]), np.array(rows, dtype=np.int64)[:, None])


def test_an_expert_that_tells_the_domain_is_one_and_indifferent_ones_are_zero():
    apart, alike = made([40, 0, 0], [0, 2, 0], [0, 0, 7]), made([30, 10, 20], [3, 1, 2])
    assert apart.specialisation == pytest.approx([1.0])
    assert alike.specialisation == pytest.approx([0.0])
    assert apart.balance == pytest.approx([1.0])
    assert made([5, 0, 0], [9, 0, 0]).balance == pytest.approx([3.0])
    assert apart.preference[0, 0] == pytest.approx([3, 0, 0])
    assert alike.preference == pytest.approx(np.ones((2, 1, 3)))


@pytest.fixture(scope="module")
def sparse_run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparse")
    recipe = short(three_stages(data, "30B-A3B"))
    trainer = Trainer(recipe, folder)
    for report in trainer.run():
        if report.step == 4:  # One past a save: its start keeps the lines up to it.
            break
    trainer = Trainer(recipe, folder)
    list(trainer.run())
    trainer.export(folder / "model")
    return folder, trainer


def test_the_report_counts_every_choice_of_the_routers(sparse_run, data):
    _, trainer = sparse_run
    dataset = Dataset(data)
    label = next(name for name, words in dataset.manifest.labels.items() if words and len(words) > 1)
    found = choices(trainer.model, dataset, label, tokens=300)
    config = trainer.model.config
    assert found.counts_YLE.shape == (len(found.values), config.num_sparse_layers, config.num_experts)
    per_value = found.counts_YLE.sum(-1) / config.num_experts_per_tok
    assert (per_value == per_value[:, :1]).all()
    assert (per_value <= 300).all()
    # The first document of the first value, by hand.
    code = dataset.manifest.labels[label].index(found.values[0])
    document = int(np.flatnonzero(dataset.column(label) == code)[0])
    ids = torch.from_numpy(dataset.document(document).astype(np.int64))[:300]
    logits = []
    with torch.no_grad():
        trainer.model(ids, torch.arange(len(ids)), CausalAttend([len(ids)]), router_logits=logits)
    chosen = logits[0].topk(config.num_experts_per_tok).indices.flatten()
    one = choices(trainer.model, dataset, label, tokens=len(ids))
    assert one.counts_YLE[0, 0].tolist() == torch.bincount(chosen, minlength=config.num_experts).tolist()


def test_labels_and_models_that_say_nothing_are_refused(sparse_run, data):
    _, trainer = sparse_run
    with pytest.raises(DataError, match="'tokens' is not a label with words"):
        choices(trainer.model, Dataset(data), "tokens")
    with pytest.raises(DataError, match="fewer than two values of source"):
        choices(trainer.model, Dataset(data), "source")
    with pytest.raises(ValueError, match="dense"):
        choices(Qwen3(three_stages(data).model), Dataset(data), "source")


def test_a_sparse_run_keeps_its_loads_once_a_save_and_plot_draws_them(sparse_run):
    folder, trainer = sparse_run
    records = curves.read_experts(folder)
    assert [record["step"] for record in records] == [3, 6, 9]
    stage, config = trainer.recipe.stages[-1], trainer.model.config
    for layer in records[-1]["counts"]:
        assert sum(layer) == stage.shards.stage.tokens_per_step * config.num_experts_per_tok
    result = CliRunner().invoke(app, ["train", "plot", str(folder)])
    assert result.exit_code == 0, result.output
    root = ElementTree.fromstring((folder / "curves-experts.svg").read_text())
    titles = [each.text for each in root.iter() if each.tag.endswith("title")]
    assert sum(title.startswith("layer 1, ") for title in titles) == config.num_experts


def test_cells_are_empty_at_one_and_full_at_four_and_a_quarter():
    root = ElementTree.fromstring(charts.grid("loads", ["a"], [[1.0, 4.0, 0.25, 2.0]]))
    cells = [each for each in root.iter() if each.tag.endswith("rect")]
    assert [float(cell.get("fill-opacity")) for cell in cells] == [0, 1, 1, 0.5]
    assert cells[1].get("fill") != cells[2].get("fill")


def test_the_command_reports_a_model(sparse_run, data, tmp_path):
    folder, _ = sparse_run
    dataset = Dataset(data)
    label = next(name for name, words in dataset.manifest.labels.items() if words and len(words) > 1)
    words = ["train", "experts", str(folder / "model"), str(data), "--label", label, "--tokens", "200"]
    result = CliRunner().invoke(app, [*words, "--chart", str(tmp_path / "chart.svg")])
    assert result.exit_code == 0, result.output
    assert "specialisation by sparse layer" in result.stdout
    ElementTree.fromstring((tmp_path / "chart.svg").read_text())
    report = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert len(report["specialisation"]) == 2
