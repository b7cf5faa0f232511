"""The tokenizer that the curriculum's text gives is small, deterministic, and of the official form."""

import json

import pytest
from tokenizers import Tokenizer as Reference
from transformers import AutoTokenizer

from qwen3 import Tokenizer
from qwen3.chat import render
from qwen3.train import curriculum
from qwen3.train.bbpe import train_tokenizer

VOCABULARY = 1536
DIGITS = set("0123456789")


def texts(count: int) -> list[str]:
    """What training sees between control tokens."""
    rendered = [render(curriculum.sample(0, index).messages, add_generation_prompt=False) for index in range(count)]
    return [span.text for each in rendered for span in each.spans if not span.control]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(texts(6000), VOCABULARY).save(directory)
    return directory


def test_training_twice_gives_the_same_files(directory, tmp_path):
    train_tokenizer(iter(texts(6000)), VOCABULARY).save(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


def test_the_curriculum_fills_the_vocabulary_with_merges(directory):
    assert Tokenizer.load(directory).vocab_size == VOCABULARY


def test_each_digit_is_one_token_and_part_of_no_other(directory):
    tokenizer = Tokenizer.load(directory)
    assert len(tokenizer.encode("0123456789")) == 10
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    assert [token for token in vocabulary if DIGITS & set(token) and len(token) > 1] == []


def test_only_the_merges_differ_from_the_official_tokenizer(directory, shared):
    ours = json.loads((directory / "tokenizer.json").read_text())
    official = json.loads((shared / "tokenizer" / "tokenizer.json").read_text())
    for part in ("normalizer", "pre_tokenizer"):
        assert ours[part] == official[part]
    offset = official["added_tokens"][0]["id"] - ours["added_tokens"][0]["id"]
    assert [{**token, "id": token["id"] + offset} for token in ours["added_tokens"]] == official["added_tokens"]
    ours, official = (sorted(each["model"]["vocab"].items(), key=lambda item: item[1]) for each in (ours, official))
    assert ours[:256] == official[:256]


def test_transformers_and_tokenizers_read_the_same_tokens_from_the_files(directory):
    ours = Tokenizer.load(directory)
    theirs = AutoTokenizer.from_pretrained(directory)
    library = Reference.from_file(str(directory / "tokenizer.json"))
    assert (theirs.eos_token, theirs.pad_token, theirs.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    for index in range(300):
        text = render(curriculum.sample(1, index).messages, add_generation_prompt=False).text
        assert ours.encode(text) == theirs(text).input_ids == library.encode(text).ids
        assert ours.decode(ours.encode(text)) == text


def test_an_example_fits_in_256_tokens_nearly_always_and_in_384_always(directory):
    tokenizer = Tokenizer.load(directory)
    rendered = [render(curriculum.sample(2, index).messages, add_generation_prompt=False) for index in range(3000)]
    lengths = sorted(len(tokenizer.encode(each.text)) for each in rendered)
    assert lengths[int(0.999 * len(lengths))] <= 256
    assert lengths[-1] <= 384
    assert sum(lengths) / len(lengths) < 80


def test_control_strings_in_the_texts_teach_no_merges(tmp_path):
    train_tokenizer(["<|im_start|>user\nhello<|im_end|>\n"] * 50, 400).save(tmp_path)
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert {"hello", "user"} <= set(vocabulary)
    assert not any("im" in token or "<" in token for token in vocabulary if len(token) > 1)


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 282"):
        train_tokenizer(["text"], 281)
