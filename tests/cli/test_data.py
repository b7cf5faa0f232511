"""`qwen3 data`: from raw text to the documents of a step, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qwen3.train.data import hub

RECIPES = Path(__file__).parents[2] / "recipes"

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
    assert "has no function recipe()" in qwen3(*run, "mine").output
    assert "no recipe at" in qwen3("data", "trace", directory, "--step", "0", "--recipe", tmp_path / "no.py").output
    assert "no stage 'fourth'" in qwen3("data", "trace", directory, "--step", "0", "--stage", "fourth").output


@pytest.mark.parametrize("made", ["[]", "[1, 2]", "None", "Stage('mine', 64, 128)", "[Stage('mine', 64, 128), 1]"])
def test_trace_says_what_stages_must_return(qwen3, directory, tmp_path, made):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f"from qwen3.train.data.stage import Stage\ndef stages(): return {made}\n")
    shown = qwen3("data", "trace", directory, "--step", "0", "--recipe", recipe, "--stage", "mine").output
    assert "stages() must return a list of qwen3.train.data.stage.Stage objects" in shown


def test_trace_refuses_a_variant_that_nothing_takes(qwen3, directory, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("from qwen3.train.data.stage import Stage\ndef stages(): return [Stage('mine', 64, 128)]\n")
    run = ("data", "trace", directory, "--step", "0", "--variant", "4B")
    assert "--variant is for a function recipe()" in qwen3(*run, "--recipe", recipe, "--stage", "mine").output
    assert "name it by --recipe" in qwen3(*run).output


def test_trace_runs_a_recipe_once(qwen3, directory, tmp_path):
    recipe = tmp_path / "recipe.py"
    whole = f"import runpy\nrecipe = runpy.run_path({str(RECIPES / 'pretrain.py')!r})['recipe']\n"
    recipe.write_text(f"print('the file runs')\n{whole}")
    run = ("data", "trace", directory, "--step", "0", "--recipe", recipe, "--variant", "0.6B", "--stage", "fourth")
    assert qwen3(*run).output.count("the file runs") == 1


def test_a_mistyped_path_is_not_asked_of_the_hub(qwen3, directory, corpus, tmp_path):
    typo = tmp_path / "typo"
    for command in (
        ("data", "build", corpus, "--out", tmp_path / "other", "--tokenizer", typo),
        ("train", "experts", typo, directory),
    ):
        assert "so it is not looked for on the hub" in qwen3(*command).output


def test_trace_takes_a_recipe_for_training_with_its_seed(qwen3, directory, tmp_path):
    from qwen3.train.data.dataset import Dataset
    from qwen3.train.data.stage import Stage, StageData

    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import runpy\n"
        "from dataclasses import replace\n"
        "from qwen3.train.data.stage import Stage\n"
        f"pretrain = runpy.run_path({str(RECIPES / 'pretrain.py')!r})['recipe']\n"
        "def recipe(size):\n"
        "    made = pretrain(size)\n"
        "    first = made.stages[0]\n"
        "    first = replace(first, data=replace(first.data, stage=Stage('seen', 64, 128)))\n"
        "    return replace(made, stages=(first, *made.stages[1:]), seed=7)\n"
    )
    run = ("data", "trace", directory, "--step", "3", "--recipe", recipe, "--variant", "0.6B", "--json")
    traced = json.loads(qwen3(*run).stdout)
    assert traced["stage"] == "seen"
    assert traced["digest"] == StageData(Dataset(directory), Stage("seen", 64, 128), 7).digest(3)
    other = json.loads(qwen3(*run, "--seed", "0").stdout)
    assert other["digest"] == StageData(Dataset(directory), Stage("seen", 64, 128), 0).digest(3)
    assert "it has general, reasoning, long-context" in qwen3(*run, "--stage", "fourth").output
    alone = ("data", "trace", directory, "--step", "0", "--recipe", RECIPES / "builtin.py")
    assert "none of its stages reads a data set" in qwen3(*alone).output


def test_a_table_of_sources_may_list_the_hubs_for_a_tokenizer_as_for_a_build(qwen3, corpus, tmp_path, monkeypatch):
    table = tmp_path / "sources.toml"
    table.write_text('[[source]]\nlocation = "hf://some/texts"\n')
    monkeypatch.setattr(hub, "download", lambda source, directory, progress: replace(source, location=str(corpus)))
    for command in (("tokenizer", table, "--vocab-size", "320"), ("build", table, "--workers", "1")):
        result = qwen3("data", *command, "--out", tmp_path / command[0])
        assert result.exit_code == 0, result.output


def test_files_of_a_directory_that_are_not_read_are_named(qwen3, corpus, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(corpus, raw)
    (raw / ".hidden").touch()
    for name in ("b.jsonl.zst", "c.json", *(f"d{number}.csv" for number in range(5))):
        (raw / name).touch()
    said = f"{raw}: left out b.jsonl.zst, c.json, d0.csv, d1.csv, d2.csv and 2 more: not .jsonl, "
    build = ("data", "build", raw, "--workers", "1", "--out", tmp_path / "out")
    assert said in qwen3(*build).stderr
    assert said in qwen3("data", "tokenizer", raw, "--vocab-size", "320", "--out", tmp_path / "tokenizer").stderr


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
