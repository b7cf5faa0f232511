"""What a GGUF file of a Qwen3 model says: its config, tensor names, tokenizer, chat format and sampling.

GGUF files carry in their metadata what a Hugging Face directory has in JSON files. Everything here is read off a
checked `GGUFFile` into the same objects that a directory gives, so nothing behind it knows where a model came from.
Metadata of the architecture that is not understood is refused by name, never ignored. No weights are read.

Names and meanings: ggml's docs/gguf.md, and llama.cpp's converter for `qwen3` and `qwen3moe`.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from qwen3.chat import ChatError, ChatFormat, ForeignTemplate, format_of
from qwen3.checkpoint.directory import check_fit
from qwen3.checkpoint.generation_config import checked_generation_config
from qwen3.checkpoint.gguf import GGUFError, GGUFFile
from qwen3.checkpoint.names import EMBEDDING, HEAD, FusedTensor, expected_tensors
from qwen3.config import ConfigError, ModelConfig
from qwen3.quant.blocks import DEQUANTIZED
from qwen3.tokenizer import CONTROL_TOKENS, Tokenizer

_MODEL_TYPES = {"qwen3": "qwen3", "qwen3moe": "qwen3_moe"}

_CONFIG_KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_EXPERT_KEYS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_ROPE_KEYS = {
    "rope.freq_base": "rope_theta",
    "rope.scaling.type": "rope_type",
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
# Multipliers of what YaRN computes by itself: only 1 changes nothing.
_ROPE_FACTORS = ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor")
_HEAD_SIZES = ("attention.value_length", "rope.dimension_count")
# Says only whether the context was stretched in training.
_INERT_KEYS = ("rope.scaling.finetuned",)

_WHOLE = {"token_embd": EMBEDDING, "output_norm": "model.norm.weight", "output": HEAD}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# What the numbers of tokenizer.ggml.token_type make of a token, and the order in which the kinds must stand.
_TOKEN_KINDS = {1: "vocabulary", 3: "control", 4: "control", 5: "unused"}
_TOKEN_ORDERS = (["vocabulary", "control"], ["vocabulary", "control", "unused"])
_CONTROL_TYPE = 3

_SAMPLING_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


# ---- Config and tensors ---------------------------------------------------------------------------------------


def model_config(file: GGUFFile) -> ModelConfig:
    """The config that the metadata describes. Its dtype is float32 if every tensor is F32, else bfloat16.

    Raises GGUFError for files that are no Qwen3 model, or have a key that this system cannot follow.
    """
    architecture = _require_model(file)
    prefix = f"{architecture}."
    keys = {key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)}
    is_moe = architecture == "qwen3moe"
    fields = _CONFIG_KEYS | (_EXPERT_KEYS if is_moe else {})
    for key, value in keys.items():
        if isinstance(value, tuple | np.ndarray):
            raise GGUFError(f"{file.path}: metadata {(prefix + key)[:200]!a} is a list: Qwen3's layers do not differ")
    optional = {"attention.head_count_kv", "attention.key_length"}
    if missing := [prefix + key for key in fields if key not in keys and key not in optional]:
        raise GGUFError(f"{file.path}: metadata is missing: {', '.join(missing)}")
    raw: dict[str, Any] = {name: _number(keys.pop(key)) for key, name in fields.items() if key in keys}
    rope = {name: _number(keys.pop(key)) for key, name in _ROPE_KEYS.items() if key in keys}
    if rope.get("rope_type") == "none":
        rope = {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}

    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise GGUFError(f"{file.path}: it has no matrix 'token_embd.weight': it holds no language model's weights")
    num_tokens, num_rows = len(_strings(file, "tokenizer.ggml.tokens")), embedding.shape[0]
    if num_tokens != num_rows:
        raise GGUFError(f"{file.path}: it has {num_tokens:,} tokens, but {num_rows:,} rows in its embedding")
    is_float32 = all(tensor.type == "F32" for tensor in file.tensors.values())
    raw |= {
        "model_type": _MODEL_TYPES[architecture],
        "vocab_size": num_rows,
        "rope_parameters": rope,
        # All layers of a file are sparse, and the weights of the chosen experts are always normalised.
        "norm_topk_prob": is_moe,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": "float32" if is_float32 else "bfloat16",
        "bos_token_id": _scalar(file, "tokenizer.ggml.bos_token_id"),
        "pad_token_id": _scalar(file, "tokenizer.ggml.padding_token_id"),
        "eos_token_id": _end_tokens(file),
    }
    hidden_size, heads = raw["hidden_size"], raw["num_attention_heads"]
    if "head_dim" not in raw and isinstance(hidden_size, int) and isinstance(heads, int) and heads > 0:
        raw["head_dim"] = hidden_size // heads
    try:
        config = ModelConfig.from_dict(raw)
    except ConfigError as error:
        raise GGUFError(f"{file.path}: {error}") from None
    _check_counts(file, config)

    required = dict.fromkeys(_ROPE_FACTORS, 1.0) | dict.fromkeys(_HEAD_SIZES, config.head_dim)
    required["vocab_size"] = config.vocab_size
    for key, value in keys.items():
        what = f"{file.path}: metadata {(prefix + key)[:200]!a}"
        if key in required and value != required[key]:
            raise GGUFError(f"{what} is {value!r:.100}; only {required[key]} is supported")
        if key not in required and key not in _INERT_KEYS:
            raise GGUFError(f"{what} is not known here, and may change the model")
    return config


def _check_counts(file: GGUFFile, config: ModelConfig) -> None:
    """Refuse more layers or experts than the file has tensors for, before a name is made for each."""
    if config.num_hidden_layers > len(file.tensors):
        raise GGUFError(f"{file.path}: it has {len(file.tensors):,} tensors for {config.num_hidden_layers:,} layers")
    experts = file.tensors.get("blk.0.ffn_gate_exps.weight")
    if config.is_moe and (experts is None or experts.shape[0] != config.num_experts):
        stored = "no" if experts is None else f"{experts.shape[0]:,}"
        raise GGUFError(f"{file.path}: it has {stored} experts in its first layer, not {config.num_experts:,}")


def stored_parameters(file: GGUFFile, config: ModelConfig) -> dict[str, FusedTensor]:
    """For each tensor the parameters that it holds: one, or all experts' of a layer. All of the config's, and no
    others, in their shapes and in types that can be read; raises one GGUFError that names whatever does not fit."""
    expected = _parameters_of_tensors(config)
    try:
        check_fit(
            f"{file.path}: tensors do not fit its metadata",
            {name: tensor.shape for name, tensor in expected.items()},
            {name: (tensor.type, tensor.shape) for name, tensor in file.tensors.items()},
            DEQUANTIZED,
        )
    except ValueError as error:
        raise GGUFError(str(error)) from None
    return expected


def _parameters_of_tensors(config: ModelConfig) -> dict[str, FusedTensor]:
    shapes = expected_tensors(config)
    tensors = {f"{name}.weight": FusedTensor(shapes[full], (full,)) for name, full in _WHOLE.items() if full in shapes}
    for layer in range(config.num_hidden_layers):
        for name, part in _LAYER.items():
            full = f"model.layers.{layer}.{part}.weight"
            if full in shapes:
                tensors[f"blk.{layer}.{name}.weight"] = FusedTensor(shapes[full], (full,))
        if config.is_sparse_layer(layer):
            for kind in ("gate", "up", "down"):
                parts = tuple(
                    f"model.layers.{layer}.mlp.experts.{expert}.{kind}_proj.weight"
                    for expert in range(config.num_experts)
                )
                stacked = FusedTensor((config.num_experts, *shapes[parts[0]]), parts)
                tensors[f"blk.{layer}.ffn_{kind}_exps.weight"] = stacked
    return tensors


def _require_model(file: GGUFFile) -> str:
    """The architecture, if the file is a whole model of this family."""
    architecture = _scalar(file, "general.architecture")
    if architecture not in _MODEL_TYPES:
        raise GGUFError(
            f"{file.path}: general.architecture {architecture!r:.100} is not a Qwen3 text model "
            f"(known: {', '.join(_MODEL_TYPES)})"
        )
    if (kind := _scalar(file, "general.type", "model")) != "model":
        raise GGUFError(f"{file.path}: it holds no model but, by general.type, {kind!r:.100}")
    if (count := _scalar(file, "split.count", 1)) not in (0, 1):
        raise GGUFError(
            f"{file.path}: it is one of {count!r:.20} parts: join them with llama.cpp's llama-gguf-split --merge"
        )
    return architecture


def _number(value: Any) -> Any:
    """Floats as the shortest decimal of their 32 bits: 1e-6 is stored as 9.99999997e-07."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


# ---- Text -----------------------------------------------------------------------------------------------------


def tokenizer(file: GGUFFile) -> Tokenizer:
    """The tokenizer, equal to the one of the original tokenizer.json. Raises GGUFError."""
    kind = _scalar(file, "tokenizer.ggml.model"), _scalar(file, "tokenizer.ggml.pre")
    if kind != ("gpt2", "qwen2"):
        raise GGUFError(
            f"{file.path}: its tokenizer is {kind[0]!r:.50} with pre-tokenizer {kind[1]!r:.50}, "
            "not 'gpt2' with 'qwen2', which is Qwen3's"
        )
    tokens, merges = _strings(file, "tokenizer.ggml.tokens"), _strings(file, "tokenizer.ggml.merges")
    types = file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(types, np.ndarray) or len(types) != len(tokens):
        raise GGUFError(f"{file.path}: tokenizer.ggml.token_type is not a list of one number for each token")
    types = types.tolist()
    kinds = [_TOKEN_KINDS.get(each) for each in types]
    if [kind for kind, _ in groupby(kinds)] not in _TOKEN_ORDERS:
        raise GGUFError(
            f"{file.path}: tokenizer.ggml.token_type is not the order of Qwen3's tokens: vocabulary, control tokens, "
            "unused rows"
        )
    num_vocab = kinds.index("control")
    num_tokens = num_vocab + kinds.count("control")
    vocab = {token: id for id, token in enumerate(tokens[:num_vocab])}
    # The official flags where the token is official: converters go by the look of a name.
    control = {
        token: CONTROL_TOKENS.get(token, type == _CONTROL_TYPE)
        for token, type in zip(tokens[num_vocab:num_tokens], types[num_vocab:], strict=False)
    }
    if len(vocab) + len(control) != num_tokens:
        raise GGUFError(f"{file.path}: tokenizer.ggml.tokens names a token twice")
    pairs = [tuple(merge.split(" ", 2)) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise GGUFError(f"{file.path}: tokenizer.ggml.merges holds something other than two tokens and a space")
    try:
        return Tokenizer.from_vocab(vocab, pairs, control)
    except ValueError as error:
        raise GGUFError(f"{file.path}: {error}") from None


def chat_format(file: GGUFFile, tokenizer: Tokenizer) -> ChatFormat | ForeignTemplate:
    """The chat format of `tokenizer.chat_template`; a file without one has the hybrid format. Raises GGUFError."""
    source = _scalar(file, "tokenizer.chat_template")
    if source is None:
        return ChatFormat.HYBRID
    if not isinstance(source, str):
        raise GGUFError(f"{file.path}: tokenizer.chat_template is not a text")
    name_of = {id: name for name, id in tokenizer.control_ids.items()}
    variables = {
        "bos_token": "",
        "eos_token": name_of.get(_scalar(file, "tokenizer.ggml.eos_token_id"), ""),
        "pad_token": name_of.get(_scalar(file, "tokenizer.ggml.padding_token_id"), ""),
        "unk_token": "",
    }
    try:
        return format_of(source, variables, tokenizer.control_ids)
    except ChatError as error:
        raise GGUFError(f"{file.path}: {error}") from None


def generation_config(file: GGUFFile) -> dict[str, Any]:
    """The sampling that the file recommends, in generation_config.json's names; empty where it says nothing."""
    values = {name: _number(_scalar(file, key)) for key, name in _SAMPLING_KEYS.items() if key in file.metadata}
    try:
        return dict(checked_generation_config(values))
    except ValueError as error:
        raise GGUFError(f"{file.path}: general.sampling: {error}") from None


def _end_tokens(file: GGUFFile) -> list[Any]:
    """The file names one token that ends an answer; `<|endoftext|>` ends any text."""
    ids = [_scalar(file, f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    tokens = _strings(file, "tokenizer.ggml.tokens")
    if "<|endoftext|>" in tokens:
        ids.append(tokens.index("<|endoftext|>"))
    return list(dict.fromkeys(id for id in ids if id is not None))


def _scalar(file: GGUFFile, key: str, default: Any = None) -> Any:
    value = file.metadata.get(key, default)
    if isinstance(value, tuple | np.ndarray):
        raise GGUFError(f"{file.path}: metadata {key!r} is a list")
    return value


def _strings(file: GGUFFile, key: str) -> tuple[str, ...]:
    value = file.metadata.get(key)
    if not isinstance(value, tuple):
        raise GGUFError(f"{file.path}: metadata {key!r} is missing, or not a list of texts")
    return value
