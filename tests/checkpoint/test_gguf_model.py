"""Qwen3 models in GGUF files: written by the gguf package, read into the same objects as a Hugging Face directory."""

import contextlib
import dataclasses
import json
import tracemalloc

import gguf
import numpy as np
import pytest
import torch
from gguf_files import gguf_tensors, logits, metadata_of, saved, write
from transformers_models import YARN, reference_pair

from qwen3 import LLM
from qwen3.chat import ChatFormat, ForeignTemplate, load_format, render
from qwen3.checkpoint import gguf_model
from qwen3.checkpoint.gguf import GGUFError, GGUFFile
from qwen3.checkpoint.gguf_load import load_gguf
from qwen3.checkpoint.load import load_model
from qwen3.checkpoint.names import expected_tensors
from qwen3.checkpoint.safetensors import CheckpointError
from qwen3.engine.request import SamplingParams
from qwen3.model import Qwen3
from qwen3.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint) -> Tokenizer:
    return Tokenizer.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint) -> Qwen3:
    return load_model(tiny_checkpoint)


# ---- Config ---------------------------------------------------------------------------------------------------

MODELS = {
    "dense tied": {},
    "dense untied": {"tie_word_embeddings": False},
    "experts": {"moe": True, "tie_word_embeddings": False, "moe_intermediate_size": 64},
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_config_is_that_of_the_original(tmp_path, tokenizer, kind):
    _, model = reference_pair(**MODELS[kind])
    read = gguf_model.model_config(saved(tmp_path / "x.gguf", model, tokenizer))
    expected = dataclasses.replace(
        model.config,
        dtype="float32",
        eos_token_id=(tokenizer.eos_id, tokenizer.end_of_text_id),
        pad_token_id=tokenizer.end_of_text_id,
        bos_token_id=None,
    )
    assert read == expected


def test_yarn_is_read(tmp_path, tokenizer, tiny):
    scaling = {
        "qwen3.rope.scaling.type": "yarn",
        "qwen3.rope.scaling.factor": YARN["factor"],
        "qwen3.rope.scaling.original_context_length": (
            YARN["original_max_position_embeddings"],
            gguf.GGUFValueType.UINT32,
        ),
        "qwen3.rope.scaling.yarn_beta_fast": 24.0,
    }
    rope = gguf_model.model_config(saved(tmp_path / "x.gguf", tiny, tokenizer, **scaling)).rope_parameters
    assert (rope.rope_type, rope.factor, rope.original_max_position_embeddings, rope.beta_fast) == ("yarn", 4.0, 32, 24)
    scaling["qwen3.rope.scaling.type"] = "none"
    assert (
        gguf_model.model_config(saved(tmp_path / "x.gguf", tiny, tokenizer, **scaling)).rope_parameters.factor is None
    )


def test_heads_share_the_width_where_the_file_gives_no_head_size(tmp_path, tokenizer, tiny):
    keys = {"qwen3.attention.key_length": None, "qwen3.attention.value_length": None}
    assert gguf_model.model_config(saved(tmp_path / "x.gguf", tiny, tokenizer, **keys)).head_dim == 32 // 4


def test_a_dtype_dequantizes(tmp_path, tokenizer, tiny):
    file = saved(tmp_path / "x.gguf", tiny, tokenizer, "Q8_0")
    assert gguf_model.model_config(file).dtype == "bfloat16"
    model = load_gguf(file, dtype="float16")
    assert (model.config.dtype, model.head_weight.dtype) == ("float16", torch.float16)


REFUSED_KEYS = {
    "llama": ({"general.architecture": "llama"}, "general.architecture 'llama' is not a Qwen3 text model"),
    "adapter": ({"general.type": "adapter"}, "by general.type, 'adapter'"),
    "part": ({"split.count": 3}, "one of 3 parts: join them"),
    "unknown key": ({"qwen3.attention.sliding_window": 512}, "'qwen3.attention.sliding_window' is not known here"),
    "linear scaling": ({"qwen3.rope.scaling.type": "linear"}, "rope_type 'linear' is not supported"),
    "yarn without factor": ({"qwen3.rope.scaling.type": "yarn"}, "YaRN needs 'factor'"),
    "attention factor": ({"qwen3.rope.scaling.attn_factor": 2.0}, "attn_factor' is 2.0; only 1.0 is supported"),
    "value size": ({"qwen3.attention.value_length": 8}, "value_length' is 8; only 16 is supported"),
    "half a rotation": ({"qwen3.rope.dimension_count": 8}, "dimension_count' is 8; only 16 is supported"),
    "other vocabulary": ({"qwen3.vocab_size": 7}, "vocab_size' is 7; only 320 is supported"),
    "no layers": ({"qwen3.block_count": None}, "metadata is missing: qwen3.block_count"),
    "layers as text": ({"qwen3.block_count": "2"}, "num_hidden_layers '2' is not a positive whole number"),
    "layers as a list": ({"qwen3.block_count": [2, 2]}, "'qwen3.block_count' is a list"),
    "a billion layers": ({"qwen3.block_count": 10**9}, "num_hidden_layers 1000000000"),
    "more layers than tensors": ({"qwen3.block_count": 131_072}, "tensors for 131,072 layers"),
    "negative width": ({"qwen3.embedding_length": -32}, "hidden_size -32 is not"),
    "no heads": ({"qwen3.attention.head_count": 0}, "num_attention_heads 0 is not"),
    "norm of nothing": ({"qwen3.attention.layer_norm_rms_epsilon": float("nan")}, "rms_norm_eps nan"),
    "end beyond the vocabulary": ({"tokenizer.ggml.eos_token_id": 10**6}, "eos_token_id 1000000 is not a token id"),
    "ends as a list": ({"tokenizer.ggml.eos_token_id": [1, 2]}, "'tokenizer.ggml.eos_token_id' is a list"),
    "no tokens": ({"tokenizer.ggml.tokens": None}, "'tokenizer.ggml.tokens' is missing"),
    "fewer tokens than rows": ({"tokenizer.ggml.tokens": ["a"]}, "1 tokens, but 320 rows"),
}


@pytest.mark.parametrize("case", REFUSED_KEYS)
def test_metadata_that_cannot_be_followed_is_refused_by_name(tmp_path, tokenizer, tiny, case):
    keys, message = REFUSED_KEYS[case]
    architecture = keys.get("general.architecture", "qwen3")
    keys = metadata_of(tiny.config, tokenizer) | {k: v for k, v in keys.items() if k != "general.architecture"}
    file = GGUFFile(write(tmp_path / "x.gguf", keys, gguf_tensors(tiny), architecture=architecture))
    with pytest.raises(GGUFError, match=message):
        gguf_model.model_config(file)


def test_experts_that_the_tensors_do_not_have_are_refused_before_they_are_named(tmp_path, tokenizer):
    _, model = reference_pair(**MODELS["experts"])
    file = saved(tmp_path / "x.gguf", model, tokenizer, **{"qwen3moe.expert_count": 40_000})
    with pytest.raises(GGUFError, match=f"has {model.config.num_experts} experts in its first layer, not 40,000"):
        gguf_model.model_config(file)


# ---- Tensors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_a_file_in_f32_is_the_model_bit_for_bit(tmp_path, tokenizer, kind):
    _, model = reference_pair(**MODELS[kind])
    calls = []
    loaded = load_gguf(saved(tmp_path / "x.gguf", model, tokenizer), progress=lambda *call: calls.append(call))
    assert {n: tuple(p.shape) for n, p in loaded.named_parameters()} == expected_tensors(loaded.config)
    for (name, ours), (_, theirs) in zip(loaded.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        assert not ours.requires_grad
    assert torch.equal(logits(loaded), logits(model))
    assert calls[-1][0] == calls[-1][1] == sum(p.numel() * 4 for p in model.parameters())


@pytest.mark.parametrize("kind", MODELS)
def test_a_file_in_q8_0_is_the_model_within_its_noise(tmp_path, tokenizer, kind):
    _, model = reference_pair(**MODELS[kind])
    loaded = load_gguf(saved(tmp_path / "x.gguf", model, tokenizer, "Q8_0"), dtype="float32")
    exact, rounded = logits(model), logits(loaded)
    noise = (rounded - exact).norm(dim=1) / exact.norm(dim=1)
    # The median, because at some positions a router chooses another expert.
    assert 0 < noise.median() < 0.03


@pytest.mark.parametrize("block_type", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_loaded_values_are_those_of_the_gguf_package(tmp_path, tokenizer, block_type):
    _, model = reference_pair(**MODELS["experts"])
    file = saved(tmp_path / "x.gguf", model, tokenizer, block_type)
    state = dict(load_gguf(file, dtype="float32").named_parameters())
    oracle = {tensor.name: tensor for tensor in gguf.GGUFReader(file.path).tensors}
    for name, part in (("token_embd", "model.embed_tokens"), ("blk.1.attn_k", "model.layers.1.self_attn.k_proj")):
        theirs = oracle[f"{name}.weight"]
        np.testing.assert_array_equal(
            state[f"{part}.weight"].numpy(), gguf.quants.dequantize(theirs.data, theirs.tensor_type)
        )
    theirs = oracle["blk.2.ffn_down_exps.weight"]
    experts = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
    for expert, values in enumerate(experts.reshape(8, 64, 64)):
        np.testing.assert_array_equal(state[f"model.layers.2.mlp.experts.{expert}.down_proj.weight"].numpy(), values)


def test_tensors_that_do_not_fit_are_named_all_at_once(tmp_path, tokenizer, tiny):
    tensors = gguf_tensors(tiny)
    del tensors["blk.1.ffn_up.weight"]
    tensors["blk.0.attn_q.bias"] = np.zeros(64, np.float32)
    tensors["output_norm.weight"] = np.ones(64, np.float32)
    file = GGUFFile(write(tmp_path / "x.gguf", metadata_of(tiny.config, tokenizer), tensors))
    with pytest.raises(
        GGUFError, match=r"1 missing.*blk.1.ffn_up.*1 unexpected.*attn_q.bias.*output_norm.*64.*not.*32"
    ):
        load_gguf(file)


def test_a_block_type_that_cannot_be_read_is_named(tmp_path, tokenizer, tiny):
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    for key, value in metadata_of(tiny.config, tokenizer).items():
        value, kind = value if isinstance(value, tuple) else (value, gguf.GGUFValueType.get_type(value))
        writer.add_key_value(key, value, kind, gguf.GGUFValueType.get_type(value[0]) if kind == 9 else None)
    for name, values in gguf_tensors(tiny).items():
        if name == "blk.0.attn_q.weight":
            data = np.zeros((64, 18), np.uint8)
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.IQ4_NL)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(GGUFError, match=r"not supported \(blk.0.attn_q.weight is IQ4_NL"):
        load_gguf(GGUFFile(path))


def test_weights_beyond_float16_are_refused_for_it(tmp_path, tokenizer, tiny):
    tensors = gguf_tensors(tiny)
    tensors["output_norm.weight"] = np.full(32, 1e6, np.float32)
    file = GGUFFile(write(tmp_path / "x.gguf", metadata_of(tiny.config, tokenizer), tensors))
    with pytest.raises(CheckpointError, match=r"model.norm.weight holds values beyond float16"):
        load_gguf(file, dtype="float16")


# ---- Text -----------------------------------------------------------------------------------------------------


def test_the_tokenizer_is_the_one_of_tokenizer_json(tmp_path, tokenizer, tiny):
    read = gguf_model.tokenizer(saved(tmp_path / "x.gguf", tiny, tokenizer))
    text = "The quick  brown fox's\n\n 12 jumps<|im_end|> 中文 🙂 <think>lazy</think> <|fim_prefix|>"
    for control in (True, False):
        assert read.encode(text, control=control) == tokenizer.encode(text, control=control)
    assert read.control_ids == tokenizer.control_ids
    assert read.special_ids == tokenizer.special_ids
    assert [read.token_bytes(id) for id in range(320)] == [tokenizer.token_bytes(id) for id in range(320)]


def test_the_official_tokenizer_and_template_come_back(tmp_path, shared, tiny):
    official = Tokenizer.load(shared / "tokenizer")
    template = json.loads((shared / "tokenizer" / "tokenizer_config.json").read_text("utf-8"))["chat_template"]
    config = dataclasses.replace(tiny.config, vocab_size=151_936, eos_token_id=None)
    keys = metadata_of(config, official) | {"tokenizer.chat_template": template}
    file = GGUFFile(write(tmp_path / "x.gguf", keys, {}))
    read = gguf_model.tokenizer(file)
    text = (shared / "tokenizer" / "tokenizer_config.json").read_text("utf-8")[:20_000] + " Grüße 中文 नमस्ते 🙂"
    assert read.encode(text) == official.encode(text)
    assert (read.vocab_size, read.special_ids) == (official.vocab_size, official.special_ids)
    assert gguf_model.chat_format(file, read) == load_format(shared / "tokenizer") == ChatFormat.HYBRID


def test_added_tokens_of_a_fine_tune_are_control_tokens(tmp_path, tokenizer, tiny):
    keys = metadata_of(tiny.config, tokenizer)
    first = tokenizer.vocab_size
    keys["tokenizer.ggml.tokens"][first : first + 2] = ["<|mine|>", "<extra>"]
    keys["tokenizer.ggml.token_type"][first : first + 2] = [3, 4]
    read = gguf_model.tokenizer(GGUFFile(write(tmp_path / "x.gguf", keys, {})))
    assert read.encode("<|mine|><extra>") == [first, first + 1]
    assert first in read.special_ids
    assert first + 1 not in read.special_ids


def test_a_file_without_a_template_has_the_hybrid_format(tmp_path, tokenizer, tiny):
    assert gguf_model.chat_format(saved(tmp_path / "x.gguf", tiny, tokenizer), tokenizer) is ChatFormat.HYBRID


def test_a_foreign_template_is_kept(tmp_path, tokenizer, tiny):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    file = saved(tmp_path / "x.gguf", tiny, tokenizer, **{"tokenizer.chat_template": template})
    format = gguf_model.chat_format(file, tokenizer)
    assert isinstance(format, ForeignTemplate)
    rendered = render([{"role": "user", "content": "Hi"}], format=format)
    assert rendered.text == "user: Hi<|im_end|>"


def put(old, new):
    """A change of one token's name."""

    def change(keys):
        tokens = keys["tokenizer.ggml.tokens"]
        tokens[tokens.index(old)] = new

    return change


REFUSED_TEXT = {
    "sentencepiece": (lambda k: k.update({"tokenizer.ggml.model": "llama"}), "tokenizer is 'llama'"),
    "other split": (lambda k: k.update({"tokenizer.ggml.pre": "llama-bpe"}), "pre-tokenizer 'llama-bpe'"),
    "no types": (lambda k: k.update({"tokenizer.ggml.token_type": None}), "token_type is not a list"),
    "types for fewer": (lambda k: k["tokenizer.ggml.token_type"].pop(), "token_type is not a list"),
    "no merges": (lambda k: k.update({"tokenizer.ggml.merges": None}), "merges' is missing"),
    "control tokens first": (lambda k: k["tokenizer.ggml.token_type"].reverse(), "is not the order"),
    "a byte token": (lambda k: k["tokenizer.ggml.token_type"].__setitem__(0, 6), "is not the order"),
    "token twice": (put("!", "#"), "twice"),
    "control token twice": (put("</think>", "<think>"), "twice"),
    "merge of three": (lambda k: k["tokenizer.ggml.merges"].append("a b c"), "two tokens and a space"),
    "merge of nothing": (lambda k: k["tokenizer.ggml.merges"].append(""), "two tokens and a space"),
    "merge of unknown tokens": (lambda k: k["tokenizer.ggml.merges"].append("zz qq"), "do not fit together"),
    "not byte-level": (put("!", "▁"), r"'\\u2581', which stands for no byte"),
    "no think token": (put("</think>", "<other>"), "control tokens are missing: </think>"),
}


@pytest.mark.parametrize("case", REFUSED_TEXT)
def test_a_tokenizer_of_another_kind_is_refused(tmp_path, tokenizer, tiny, case):
    change, message = REFUSED_TEXT[case]
    keys = metadata_of(tiny.config, tokenizer)
    change(keys)
    file = GGUFFile(write(tmp_path / "x.gguf", keys, {}))
    with pytest.raises(GGUFError, match=message):
        gguf_model.tokenizer(file)


def test_a_merge_of_many_spaces_costs_no_more_than_its_text(tmp_path, tokenizer, tiny):
    keys = metadata_of(tiny.config, tokenizer)
    keys["tokenizer.ggml.merges"].append(" " * 2_000_000)
    file = GGUFFile(write(tmp_path / "x.gguf", keys, {}))
    tracemalloc.start()
    try:
        with pytest.raises(GGUFError, match="two tokens and a space"):
            gguf_model.tokenizer(file)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("template", [["a"], 7, "{% if %}"])
def test_a_template_that_is_none_is_refused(tmp_path, tokenizer, tiny, template):
    file = saved(tmp_path / "x.gguf", tiny, tokenizer, **{"tokenizer.chat_template": template})
    with pytest.raises(GGUFError, match="template"):
        gguf_model.chat_format(file, tokenizer)


def test_sampling_defaults_are_read(tmp_path, tokenizer, tiny):
    sampling = {"general.sampling.temp": 0.6, "general.sampling.top_k": 20, "general.sampling.top_p": 0.95}
    file = saved(tmp_path / "x.gguf", tiny, tokenizer, **sampling)
    assert gguf_model.generation_config(file) == {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
    bad = saved(tmp_path / "bad.gguf", tiny, tokenizer, **{"general.sampling.top_p": 7.0})
    with pytest.raises(GGUFError, match=r"top_p 7.0 is not a number from 0 to 1"):
        gguf_model.generation_config(bad)


def test_damaged_metadata_never_ends_in_anything_but_an_error(tmp_path, tokenizer, tiny):
    """Every key in turn is replaced by values of other types, or left out."""
    whole = metadata_of(tiny.config, tokenizer) | {"tokenizer.chat_template": "x", "general.sampling.temp": 0.5}
    embedding = {"token_embd.weight": np.zeros((320, 32), np.float32)}
    for key in whole:
        for value in (None, "text", -1, 0, 1e30, True, ["a", "b"], [1.5, 2.5]):
            file = GGUFFile(write(tmp_path / "x.gguf", whole | {key: value}, embedding))
            for read in (gguf_model.model_config, gguf_model.tokenizer, gguf_model.generation_config, chat_format_of):
                # Whatever else it raises fails the test.
                with contextlib.suppress(GGUFError):
                    read(file)


def chat_format_of(file: GGUFFile):
    return gguf_model.chat_format(file, gguf_model.tokenizer(file))


# ---- Together -------------------------------------------------------------------------------------------------


def test_a_file_chats_like_the_directory(tmp_path, tiny_checkpoint, tokenizer, tiny):
    path = saved(tmp_path / "x.gguf", tiny, tokenizer, **{"general.sampling.temp": 0.25}).path
    from_file, from_directory = LLM(path), LLM(tiny_checkpoint)
    params = SamplingParams(temperature=0, max_tokens=12)
    messages = [{"role": "user", "content": "The quick brown fox"}]
    answers = [llm.chat(messages, params=params, stream=False) for llm in (from_file, from_directory)]
    assert answers[0].content == answers[1].content != ""
    assert from_file.defaults().temperature == 0.25


def test_the_command_line_describes_and_reads_a_file(tmp_path, tokenizer, tiny):
    from typer.testing import CliRunner

    from qwen3.cli.app import app

    path = str(saved(tmp_path / "x.gguf", tiny, tokenizer, "Q8_0").path)
    facts = json.loads(CliRunner().invoke(app, ["info", path, "--json"]).stdout)
    assert facts["stored"]["dtypes"]["Q8_0"]["tensors"] == 15
    assert 8.5 < facts["stored"]["bits_per_weight"] < 9.5
    assert facts["stored"]["metadata"]["general.architecture"] == "qwen3"
    assert facts["text"] == {"tokens": tokenizer.vocab_size, "control_tokens": 26, "chat_format": "hybrid"}
    text = CliRunner().invoke(app, ["info", path]).stdout
    for part in (
        "Qwen3 dense",
        "bits a weight; run as stored",
        "Memory to run it as stored",
        "tokenizer.ggml.pre",
        "15 tensors",
    ):
        assert part in text
    ids = CliRunner().invoke(app, ["tokenize", path, "The quick fox", "--ids"]).stdout
    assert ids.split() == [str(id) for id in tokenizer.encode("The quick fox")]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"is a file, but no .gguf file"):
        LLM(tmp_path / "model.bin")
