"""Model cards: every gap closed or said to be unknown, figures that are the ledger's, pages that load nothing."""

import html.parser
import json
import re
import shutil

import pytest
from ledgers import Steady, begin, work

from qwen3.checkpoint.hub import resolve
from qwen3.train import card, card_text, ledger, shares
from qwen3.train.card import CardError, Table
from qwen3.train.data.errors import DataError
from qwen3.train.energy import Grid
from qwen3.train.ledger import Hardware
from qwen3.train.shares import DataShares, StageShares


@pytest.fixture
def run(tmp_path):
    """A run of five steps, one of them done twice, with shares, log and evaluation."""
    work(begin(tmp_path, 0), 0, 3)
    book = begin(tmp_path, 2)
    work(book, 2, 5)
    book.close()
    labels = {"source": {"tales | <b>": 400, "notes": 100}, "language": {"en": 450, "de": 50}}
    shares.saved.write(tmp_path / shares.NAME, DataShares((StageShares("general", 0, 5, 500, labels, "d" * 64),)))
    with (tmp_path / "log.jsonl").open("w") as log:
        for step in range(1, 6):
            log.write(json.dumps({"step": step, "loss": 5 / step, "held_out_loss": 1.5 if step == 4 else None}) + "\n")
    (tmp_path / "evaluation.json").write_text(json.dumps({"sums": {"thinking": 0.956}}))
    return tmp_path


def table(made, title, number=0):
    section = next(each for each in made.sections if each.title == title)
    return [block for block in section.blocks if isinstance(block, Table)][number]


def test_a_runs_card_holds_the_ledgers_figures(run):
    made = card.of(run, "tiny", Grid(100, "made up", 1.5))
    assert [each.title for each in made.sections] == [
        "Model",
        "Compute",
        "Training data",
        "Training curve",
        "Reproduce",
        "Lineage",
        "Evaluation",
        "Limits",
    ]
    compute = dict(table(made, "Compute").rows)
    totals = ledger.read(run)
    kwh = 1.5 * sum(totals.used.joules.values()) / 3.6e6
    assert compute["energy"] == f"{kwh:.4g} kWh, give or take {kwh / 10:.2g}"
    assert compute["carbon"].startswith(f"{100 * kwh:.4g} g CO2e")
    assert compute["carbon by"] == "100 g CO2e a kWh: made up; overhead x 1.5"
    assert compute["floating-point operations"].startswith("6000,")
    assert compute["of these done twice"].startswith("100 tokens")
    assert compute["energy by"] == f"cpu: made up, {kwh:.4g} kWh within 10%"
    assert compute["steps skipped"] == "none"
    text = card_text.markdown(made)
    for words in ("r" * 64, totals.attempts[0].code["sha256"], "0.956", "exactly 500 tokens", "stopped or killed"):
        assert words in text


def test_energy_by_several_meters_names_each_with_its_part_and_uncertainty(tmp_path):
    work(begin(tmp_path, 0, meters={"cpu": Steady(5e6, "estimated: made up", 0.5)}), 0, 1)
    work(begin(tmp_path, 1, meters={"cpu": Steady(2e6, "RAPL", 0.05)}), 1, 2)
    made = card.of(tmp_path, "tiny")
    compute = dict(table(made, "Compute").rows)
    assert compute["energy"] == "1.944 kWh, give or take 0.72"
    assert compute["energy by"] == ("cpu: RAPL, 0.5556 kWh within 5%; cpu: estimated: made up, 1.389 kWh within 50%")
    assert "71% of the energy was not measured but estimated" in card_text.markdown(made)


def test_what_was_not_measured_is_said_beside_the_sum_and_in_the_limits(tmp_path):
    work(begin(tmp_path, 0, hardware=Hardware("a processor", 4, 2**34, ("a GPU",))), 0, 1)
    made = card.of(tmp_path, "tiny")
    compute = dict(table(made, "Compute").rows)
    for row in ("energy", "carbon"):
        assert compute[row].endswith(", without the gpu where it was not measured")
    assert "gpu: not measured in " in compute["energy by"]
    assert "The energy of the gpu was not measured" in card_text.markdown(made)


def test_a_run_without_any_meter_has_no_figure_of_energy(tmp_path):
    work(begin(tmp_path, 0, meters={}), 0, 1)
    compute = dict(table(card.of(tmp_path, "tiny"), "Compute").rows)
    assert compute["energy"] == compute["carbon"] == card.UNKNOWN
    assert compute["energy by"].startswith("cpu: not measured in ")


def test_skipped_steps_are_in_the_card_and_unknown_where_the_ledger_does_not_say(tmp_path):
    work(begin(tmp_path, 0), 0, 2, skipped="loss is nan")
    compute = dict(table(card.of(tmp_path, "tiny"), "Compute").rows)
    assert compute["steps skipped"] == "2, which saw their tokens and trained on none"
    path = tmp_path / "ledger" / "rank_0.jsonl"
    path.write_text(path.read_text().replace(', "skipped": "loss is nan"', ""))
    assert dict(table(card.of(tmp_path, "tiny"), "Compute").rows)["steps skipped"] == card.UNKNOWN


def test_shares_add_up_to_the_exact_tokens_of_the_ledger(run):
    rows = table(card.of(run, "tiny"), "Training data").rows
    assert sum(int(row[1].replace(",", "")) for row in rows[:-1]) == ledger.read(run).kept.tokens == 500
    assert rows[-1] == ("total", "500", "100%")
    value = json.loads((run / shares.NAME).read_text())
    value["stages"][0]["labels"]["source"]["notes"] = 99
    (run / shares.NAME).write_text(json.dumps(value))
    with pytest.raises(DataError, match="by source"):
        card.of(run, "tiny")


def test_shares_counted_before_the_run_went_on_are_not_shown(run):
    work(begin(run, 5), 5, 6)
    text = card_text.markdown(card.of(run, "tiny"))
    assert "counted when the run had 500 tokens" in text
    assert "exactly" not in text


def test_a_model_carries_its_runs_record(run, tiny_checkpoint, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    (model / "training.json").write_text(json.dumps(card.record(run)))
    of_run, of_model = card.of(run, "tiny"), card.of(model, "tiny")
    assert set(table(of_run, "Compute").rows) < set(table(of_model, "Compute").rows)
    data = dict(table(of_model, "Training data").rows)
    assert data["languages and their shares"] == "en 450 (90.00%); de 50 (10.00%)"
    assert data["tokens"].startswith("500,")
    assert card.UNKNOWN not in card_text.markdown(of_model).partition("## Evaluation")[0]
    assert dict(table(of_model, "Reproduce").rows)["recipe"] == f"tiny, SHA-256 {'r' * 64}"


class Loads(html.parser.HTMLParser):
    """Collects what a page would fetch or run, and checks that its tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.found += [(tag, name, value) for name, value in attributes if name in ("src", "href", "onload", "data")]
        if tag in ("script", "link", "iframe", "object", "img"):
            self.found.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_loads_nothing_and_is_well_formed(run):
    page = card_text.html(card.of(run, "tiny <script>"))
    loads = Loads()
    loads.feed(page)
    assert loads.found == []
    assert loads.open == []
    assert "url(" not in page
    assert "tales | &lt;b&gt;" in page
    assert page.count("<svg") == 3


def test_markdown_escapes_cells_and_links_its_charts(run):
    made = card.of(run, "tiny")
    text = card_text.markdown(made, "card-")
    assert "| tales \\| <b> | 400 | 80.00% |" in text
    linked = re.findall(r"\]\((.*?)\)", text)
    assert linked == [f"card-{chart.name}.svg" for chart in card_text.pictures(made)]
    assert len(linked) == 3


def test_the_built_in_model_carries_the_record_of_its_three_stages():
    made = card.of(resolve("builtin"), "builtin")
    assert card.UNKNOWN not in card_text.markdown(made)
    compute, data = (dict(table(made, title).rows) for title in ("Compute", "Training data"))
    tokens = int(data["tokens"].partition(", counted")[0].replace(",", ""))
    stages = [re.search(r"tokens ([\d,]+); trained", value)[1] for key, value in compute.items() if "stage: " in key]
    assert len(stages) == 3
    assert sum(int(each.replace(",", "")) for each in stages) == tokens
    for label in ("sources", "languages", "licences"):
        counts = re.findall(r" ([\d,]+) \(\d+\.\d\d%\)", data[f"{label} and their shares"])
        assert sum(int(each.replace(",", "")) for each in counts) == tokens, label
    assert "92.6% right" in card_text.markdown(made)


def test_a_model_without_any_record_is_unknown_everywhere(tiny_checkpoint):
    made = card.of(tiny_checkpoint, "tiny")
    for title in ("Compute", "Training data", "Reproduce", "Lineage"):
        assert {value for _, value in table(made, title).rows} == {card.UNKNOWN}


def test_what_is_neither_a_run_nor_a_model_is_refused(tmp_path):
    with pytest.raises(CardError, match="neither a run"):
        card.of(tmp_path, "nothing")
