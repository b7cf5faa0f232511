"""Data shares of a run: counted from the documents of its steps, and equal to its tokens or refused."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from ledgers import begin

from qwen3.checkpoint.hub import resolve
from qwen3.tokenizer import Tokenizer
from qwen3.train import ledger, shares
from qwen3.train.data.build import Job, build
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.errors import DataError
from qwen3.train.data.sources import Source
from qwen3.train.data.stage import StageData, general, reasoning

TOKENS = 512


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two stages over a data set of two sources."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    with (folder / "texts.jsonl").open("w") as file:
        for number in range(150):
            text = " ".join(rng.choice(["stone", "river", "seven", "bread", "equation", "proof"], 40))
            source = "tales" if number % 3 else "notes"
            file.write(json.dumps({"text": text, "source": source, "license": "MIT", "lang": "en"}) + "\n")
    job = Job((Source(str(folder / "texts.jsonl")),), near=0)
    build(job, Tokenizer.load(resolve("builtin")), folder / "set")
    dataset = Dataset(folder / "set")
    made = [replace(make(128, TOKENS), row_tokens=256) for make in (general, reasoning)]
    return {stage.name: shares.Seen(StageData(dataset, stage, seed=3)) for stage in made}


def run_of(path, general_steps, reasoning_steps, tokens=TOKENS):
    book = begin(path, 0)
    for step in range(1, general_steps + reasoning_steps + 1):
        stage = "general" if step <= general_steps else "reasoning"
        book.record(step, stage=stage, tokens=tokens, trained_tokens=tokens, flops=1)
    book.close()
    return ledger.read(path)


def test_the_shares_are_those_of_the_documents_and_add_up_to_every_token(tmp_path, data):
    totals = run_of(tmp_path, 9, 4)
    made = shares.write(tmp_path, totals.stages, data)
    assert made == shares.read(tmp_path)
    assert made.tokens == totals.kept.tokens == 13 * TOKENS
    for label in made.labels:
        assert sum(made.total(label).values()) == made.tokens
    seen = Counter()
    for name, steps in (("general", 9), ("reasoning", 4)):
        for step in range(steps):
            rows = data[name].data.rows(step)
            for document, length in zip(rows.documents, rows.last - rows.first, strict=True):
                seen[data[name].data.dataset.word("source", document)] += int(length)
    assert made.total("source") == dict(seen.most_common())
    assert set(seen) == {"tales", "notes"}
    assert made.labels[:2] == ["source", "language"]


def test_shares_that_do_not_add_up_to_the_ledger_are_refused(tmp_path, data):
    totals = run_of(tmp_path, 2, 1, tokens=TOKENS - 1)
    with pytest.raises(DataError, match=f"add up to {2 * TOKENS:,}, but the steps saw {2 * (TOKENS - 1):,}"):
        shares.write(tmp_path, totals.stages, data)
    assert shares.read(tmp_path) is None


def test_a_changed_file_is_refused(tmp_path, data):
    shares.write(tmp_path, run_of(tmp_path, 2, 1).stages, data)
    path = tmp_path / shares.NAME
    text = json.loads(path.read_text())
    text["stages"][0]["labels"]["source"]["tales"] += 1
    path.write_text(json.dumps(text))
    with pytest.raises(DataError, match="by source"):
        shares.read(tmp_path)
