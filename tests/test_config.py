"""config.json in every spelling, the family's counts, and what is refused. Damaged files: checkpoint/test_damaged."""

import json
import math
from dataclasses import FrozenInstanceError, replace

import pytest
from transformers import AutoConfig, Qwen3MoeConfig

from qwen3.config import ConfigError, ModelConfig, RopeParameters
from qwen3.presets import PRESETS, preset_name

# Total, non-embedding, active parameters; bytes of keys and values per token in bfloat16.
PUBLISHED = {
    "0.6B": (596_049_920, 440_467_456, 596_049_920, 114_688),
    "1.7B": (1_720_574_976, 1_409_410_048, 1_720_574_976, 114_688),
    "4B": (4_022_468_096, 3_633_511_936, 4_022_468_096, 147_456),
    "8B": (8_190_735_360, 6_946_075_648, 8_190_735_360, 147_456),
    "14B": (14_768_307_200, 13_212_482_560, 14_768_307_200, 163_840),
    "32B": (32_762_123_264, 31_206_298_624, 32_762_123_264, 262_144),
    "30B-A3B": (30_532_122_624, 29_909_792_768, 3_353_032_704, 98_304),
    "235B-A22B": (235_093_634_560, 233_848_974_848, 22_190_763_520, 192_512),
}

# The files on the hub as they are, less what is the same in all.
OFFICIAL_4B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "initializer_range": 0.02,
    "intermediate_size": 9728,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
OFFICIAL_30B_A3B = OFFICIAL_4B | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "decoder_sparse_step": 1,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "tie_word_embeddings": False,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


# ---- The family -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameter_and_cache_counts_are_the_published_ones(size):
    config = ModelConfig.preset(f"Qwen3-{size}")
    counts = (config.num_parameters, config.num_non_embedding_parameters, config.num_active_parameters)
    assert (*counts, 2 * config.num_kv_elements_per_token) == PUBLISHED[size]


@pytest.mark.parametrize(
    ("name", "theta", "context", "eos"),
    [
        ("Qwen3-4B", 1e6, 40_960, (151645,)),
        ("Qwen3-4B-Base", 1e6, 32_768, (151643,)),
        ("Qwen3-4B-Instruct-2507", 5e6, 262_144, (151645,)),
        ("Qwen3-4B-Thinking-2507", 5e6, 262_144, (151645,)),
        ("Qwen3-30B-A3B-Thinking-2507", 1e7, 262_144, (151645,)),
    ],
)
def test_versions_differ_in_theta_context_and_end(name, theta, context, eos):
    config = ModelConfig.preset(name)
    assert (config.rope_parameters.rope_theta, config.max_context, config.eos_token_ids) == (theta, context, eos)


def test_the_presets_are_the_official_files():
    assert ModelConfig.from_dict(OFFICIAL_4B) == ModelConfig.preset("Qwen3-4B")
    assert ModelConfig.from_dict(OFFICIAL_30B_A3B) == ModelConfig.preset("Qwen3-30B-A3B")


@pytest.mark.parametrize("name", ["4b", "Qwen3-4B", "qwen/qwen3-4b", "Qwen/Qwen3-4B"])
def test_a_preset_is_found_under_each_of_its_names(name):
    assert preset_name(name) == "Qwen3-4B"


def test_an_unknown_preset_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ConfigError, match=r"no preset '5B'; known are Qwen3-0.6B, .*Qwen3-235B-A22B"):
        ModelConfig.preset("5B")


# ---- Spellings ------------------------------------------------------------------------------------------------


def without(raw, *keys):
    return {key: value for key, value in raw.items() if key not in keys}


OLD = without(OFFICIAL_4B, "rope_theta", "rope_scaling")


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 1e6, "rope_scaling": YARN},
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn"} | without(YARN, "rope_type")},
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn"} | YARN},
        {"rope_parameters": {"rope_theta": 1e6} | YARN},
        {"rope_theta": 1e6, "rope_parameters": {"rope_theta": 1e6} | YARN},
        {"rope_theta": 1e6, "rope_scaling": YARN, "rope_parameters": YARN | {"rope_theta": 1e6}},
    ],
)
def test_both_spellings_of_rope_mean_the_same(spelling):
    config = ModelConfig.from_dict(OLD | spelling)
    assert config == ModelConfig.preset("Qwen3-4B").with_yarn(4.0)
    assert config.max_context == 131_072
    assert config.rope_parameters.cos_sin_scale == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize("spelling", [{"rope_theta": 5e6}, {"rope_parameters": {"rope_theta": 5e6}}])
def test_theta_is_read_in_both_spellings(spelling):
    assert ModelConfig.from_dict(OLD | spelling).rope_parameters == RopeParameters(5e6)


def test_newer_names_of_dtype_and_experts_are_read():
    renamed = without(OFFICIAL_30B_A3B, "torch_dtype", "num_experts") | {"dtype": "float16", "num_local_experts": 64}
    config = ModelConfig.from_dict(renamed)
    assert (config.dtype, config.num_experts) == ("float16", 64)


@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe"])
def test_defaults_of_left_out_keys_are_those_of_transformers(model_type):
    bare = {"model_type": model_type, "vocab_size": 64, "hidden_size": 48, "intermediate_size": 32}
    bare |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    if model_type == "qwen3_moe":
        bare |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    theirs = AutoConfig.for_model(**bare)
    ours = ModelConfig.from_dict(bare)
    for key in ("rms_norm_eps", "tie_word_embeddings", "initializer_range"):
        assert getattr(ours, key) == getattr(theirs, key), key
    assert ours.rope_parameters.rope_theta == theirs.rope_parameters["rope_theta"]
    if model_type == "qwen3_moe":
        assert ours.norm_topk_prob is theirs.norm_topk_prob is False
        assert ours.head_dim == 48 // 4
    else:
        assert ours.head_dim == theirs.head_dim == 128


# ---- Files ----------------------------------------------------------------------------------------------------

VARIANTS = {
    **PRESETS,
    "yarn": PRESETS["Qwen3-4B"].with_yarn(2.0),
    "yarn with all keys": replace(
        PRESETS["Qwen3-4B"],
        rope_parameters=RopeParameters(5e6, "yarn", 2.5, 4096, beta_fast=16.0, beta_slow=2.0, attention_factor=1.5),
    ),
    "two ends": replace(PRESETS["Qwen3-4B"], eos_token_id=(151645, 151643), pad_token_id=151643, dtype="float32"),
    "dense layers among sparse": replace(PRESETS["Qwen3-30B-A3B"], mlp_only_layers=(0, 5), decoder_sparse_step=2),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_saved_file_is_read_back_the_same_here_and_by_transformers(tmp_path, name):
    config = VARIANTS[name]
    config.save(tmp_path)
    assert ModelConfig.load(tmp_path) == ModelConfig.load(tmp_path / "config.json") == config
    theirs = AutoConfig.from_pretrained(tmp_path)
    keys = "model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads head_dim".split()
    keys += "num_key_value_heads max_position_embeddings rms_norm_eps tie_word_embeddings bos_token_id".split()
    if config.is_moe:
        keys += "num_experts num_experts_per_tok moe_intermediate_size norm_topk_prob decoder_sparse_step".split()
        assert theirs.mlp_only_layers == list(config.mlp_only_layers)
        assert isinstance(theirs, Qwen3MoeConfig)
    assert {key: getattr(theirs, key) for key in keys} == {key: getattr(config, key) for key in keys}
    assert str(theirs.dtype) == f"torch.{config.dtype}"
    rope = config.rope_parameters
    for key in ("rope_theta", "rope_type", *(("factor", "attention_factor") if name.startswith("yarn") else ())):
        assert theirs.rope_parameters.get(key) == getattr(rope, key), key
    # What transformers makes of it is what we make of transformers' own file.
    theirs.save_pretrained(tmp_path / "theirs")
    assert ModelConfig.load(tmp_path / "theirs") == config


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        ModelConfig.load(tmp_path)


def test_configs_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        PRESETS["Qwen3-4B"].vocab_size = 1


# ---- Refusals -------------------------------------------------------------------------------------------------

REFUSED = {
    "another model": ({"model_type": "llama"}, "model_type 'llama' is not a Qwen3 text model"),
    "an older generation": ({"model_type": "qwen2"}, "model_type 'qwen2'"),
    "another architecture": ({"architectures": ["Qwen3ForSequenceClassification"]}, "architectures"),
    "two architectures": ({"architectures": ["Qwen3ForCausalLM", "X"]}, "architectures"),
    "code": ({"auto_map": {"AutoConfig": "x.Y"}}, "auto_map"),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    "attention bias": ({"attention_bias": True}, "attention_bias True is not supported"),
    "a sliding window": ({"use_sliding_window": True}, "use_sliding_window True is not supported"),
    "layers with a window": ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    "linear rope": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear' is not supported"),
    "dynamic rope": ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
    "rope of llama 3": ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type 'llama3'"),
    "an unknown rope key": ({"rope_scaling": YARN | {"truncate": False}}, "unknown rope key 'truncate'"),
    "a factor without yarn": ({"rope_scaling": {"factor": 4.0}}, "'factor' has no effect"),
    "yarn without factor": ({"rope_scaling": without(YARN, "factor")}, "YaRN needs 'factor'"),
    "yarn without length": ({"rope_scaling": without(YARN, "original_max_position_embeddings")}, "YaRN needs"),
    "yarn that shrinks": ({"rope_scaling": YARN | {"factor": 0.5}}, "rope factor 0.5"),
    "yarn betas reversed": ({"rope_scaling": YARN | {"beta_fast": 1.0, "beta_slow": 32.0}}, "beta_fast"),
    "two thetas": ({"rope_parameters": {"rope_theta": 5e6}}, "rope_theta is given twice"),
    "two rope types": ({"rope_scaling": YARN, "rope_parameters": {"rope_type": "default"}}, "rope_type is given twice"),
    "a key nobody knows": ({"use_mrope": True, "foo": 1}, "unknown key.* foo, use_mrope"),
    "double precision": ({"torch_dtype": "float64"}, "dtype 'float64' is not supported"),
    "an odd head": ({"head_dim": 127}, "head_dim 127 is odd"),
    "keys missing": ({"hidden_size": None}, "hidden_size None"),
    "too many experts at once": (
        OFFICIAL_30B_A3B | {"num_experts_per_tok": 129},
        "num_experts_per_tok 129 is more than num_experts 128",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_faithfully_is_refused(tmp_path, case):
    change, message = REFUSED[case]
    raw = OFFICIAL_4B | change
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(raw)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=r"config\.json: "):
        ModelConfig.load(tmp_path)


def test_missing_keys_are_all_named():
    with pytest.raises(ConfigError, match=r"missing key\(s\) hidden_size, num_hidden_layers"):
        ModelConfig.from_dict(without(OFFICIAL_4B, "hidden_size", "num_hidden_layers"))
