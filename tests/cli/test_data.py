"""`qwen3 data`: from raw text to the documents of a step, and what it refuses."""

import json

import pytest

TEXT = (
    "The river runs under the old bridge, because the valley is low. Note that number {} of the birds sings of rain. "
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "birds.jsonl"
    lines = [json.dumps({"text": TEXT.format(number) * (number % 7 + 1)}) for number in range(60)]
    path.write_text("\n".join([*lines, lines[3]]), encoding="utf-8")
    return path


@pytest.fixture
def directory(qwen3, corpus, tmp_path):
    options = ("--near", "0", "--workers", "1", "--license", "CC0-1.0", "--url", "https://birds", "--commit", "abcdef")
    result = qwen3("data", "build", corpus, "--out", tmp_path / "out", "--keep", "characters>=120", *options)
    assert result.exit_code == 0, result.output
    assert "51 documents" in result.output
    return tmp_path / "out"


def test_inspect_shows_sources_shares_and_drops(qwen3, directory):
    result = qwen3("data", "inspect", directory, "--verify")
    assert result.exit_code == 0, result.output
    for part in ("51 documents", "CC0-1.0", "https://birds", "abcdef", "birds", "100.00%", "exact duplicate"):
        assert part in result.output
    assert "every byte is as the manifest says" in result.output
    assert json.loads(qwen3("data", "inspect", directory, "--json").stdout)["documents"] == 51
    assert "3  " in qwen3("data", "inspect", directory, "--by", "education").output


def test_trace_names_each_document_of_a_step(qwen3, directory, corpus):
    step = ("--step", "2", "--sequence-length", "64", "--tokens-per-step", "512")
    shown = qwen3("data", "trace", directory, *step)
    assert shown.exit_code == 0, shown.output
    assert "general, step 2" in shown.output
    traced = json.loads(qwen3("data", "trace", directory, *step, "--json").stdout)
    assert sum(piece["last_token"] + 1 - piece["first_token"] for piece in traced["pieces"]) == 512
    assert traced["tokens"] == {"birds": 512}
    assert traced["digest"] in shown.output.replace("\n", "")
    assert {piece["file"] for piece in traced["pieces"]} == {str(corpus)}


def test_trace_takes_the_stages_of_a_recipe(qwen3, directory, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("from qwen3.train.data.stage import Stage\ndef stages(): return [Stage('mine', 64, 128)]\n")
    run = ("data", "trace", directory, "--step", "0", "--recipe", recipe, "--stage")
    assert "mine, step 0" in qwen3(*run, "mine").output
    assert "has no stage 'other'; it has mine" in str(qwen3(*run, "other").output)
    recipe.write_text("stages = 3\n")
    assert "has no function stages()" in qwen3(*run, "mine").output
    assert "no stage 'fourth'" in qwen3("data", "trace", directory, "--step", "0", "--stage", "fourth").output


def test_a_tokenizer_is_learnt_from_the_same_sources(qwen3, corpus, tmp_path):
    from qwen3.tokenizer import Tokenizer

    result = qwen3("data", "tokenizer", corpus, "--out", tmp_path / "tokenizer", "--vocab-size", "320")
    assert result.exit_code == 0, result.output
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    assert tokenizer.vocab_size == 320
    assert len(tokenizer.encode(" river")) < 4


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("build", "nowhere.jsonl"), "no files at nowhere.jsonl"),
        (("build", "{corpus}", "--keep", "nonsense"), "is not a condition"),
        (("build", "{corpus}", "--keep", "education=9"), "of 61 documents none stays: education=9 drops 61"),
        (("build", "{corpus}", "--label", "mood"), "no labeller 'mood'"),
        (("build", "{corpus}", "--text-field", "body"), "'body' is missing"),
    ],
)
def test_what_cannot_be_is_one_line(qwen3, corpus, tmp_path, arguments, reason):
    given = [argument.format(corpus=corpus) for argument in arguments]
    result = qwen3("data", *given, "--out", tmp_path / "out", "--workers", "1")
    assert result.exit_code == 1
    assert reason in result.output


def test_a_directory_without_a_data_set_is_told(qwen3, tmp_path):
    result = qwen3("data", "inspect", tmp_path)
    assert result.exit_code == 1
    assert "holds no data set" in result.output
