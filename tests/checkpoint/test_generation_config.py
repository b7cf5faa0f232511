"""What of generation_config.json arrives; its faults are in test_damaged."""

import json

from qwen3.checkpoint.generation_config import load_generation_config

OFFICIAL = {
    "bos_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "pad_token_id": 151643,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "transformers_version": "4.51.0",
}


def test_the_official_file_is_read_without_what_is_not_sampling(tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps(OFFICIAL))
    assert load_generation_config(tmp_path) == {k: v for k, v in OFFICIAL.items() if k != "transformers_version"}


def test_one_eos_is_a_list_of_one_and_nulls_are_left_out(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 151643, "temperature": null}')
    assert load_generation_config(tmp_path) == {"eos_token_id": [151643]}


def test_a_directory_without_the_file_recommends_nothing(tmp_path):
    assert load_generation_config(tmp_path) == {}
