"""The official checkpoints by name: eight sizes, their base models, and the 2507 versions.

Figures: Qwen3 Technical Report, table 1 and 2, and the config.json of the checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from qwen3.config import ConfigError, ModelConfig, RopeParameters

_VOCAB_SIZE = 151_936
_ENDOFTEXT, _IM_END = 151_643, 151_645


def _dense(layers: int, hidden: int, ffn: int, heads: int, *, tied: bool = False) -> ModelConfig:
    return ModelConfig(
        model_type="qwen3",
        vocab_size=_VOCAB_SIZE,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        tie_word_embeddings=tied,
        bos_token_id=_ENDOFTEXT,
        eos_token_id=_IM_END,
    )


def _moe(layers: int, hidden: int, ffn: int, heads: int, expert_ffn: int) -> ModelConfig:
    return replace(
        _dense(layers, hidden, ffn, heads),
        model_type="qwen3_moe",
        num_key_value_heads=4,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=expert_ffn,
        norm_topk_prob=True,
    )


def _base(config: ModelConfig) -> ModelConfig:
    return replace(config, max_position_embeddings=32_768, eos_token_id=_ENDOFTEXT)


def _long(config: ModelConfig, rope_theta: float) -> ModelConfig:
    """The 2507 versions: 262,144 tokens without YaRN."""
    return replace(config, max_position_embeddings=262_144, rope_parameters=RopeParameters(rope_theta))


_SIZES = {
    "0.6B": _dense(28, 1024, 3072, 16, tied=True),
    "1.7B": _dense(28, 2048, 6144, 16, tied=True),
    "4B": _dense(36, 2560, 9728, 32, tied=True),
    "8B": _dense(36, 4096, 12288, 32),
    "14B": _dense(40, 5120, 17408, 40),
    "32B": _dense(64, 5120, 25600, 64),
    "30B-A3B": _moe(48, 2048, 6144, 32, 768),
    "235B-A22B": _moe(94, 4096, 12288, 64, 1536),
}

PRESETS: dict[str, ModelConfig] = {f"Qwen3-{size}": config for size, config in _SIZES.items()}
PRESETS |= {f"Qwen3-{size}-Base": _base(_SIZES[size]) for size in ("0.6B", "1.7B", "4B", "8B", "14B", "30B-A3B")}
PRESETS |= {
    f"Qwen3-{size}-{kind}-2507": _long(_SIZES[size], theta)
    for size, theta in (("4B", 5e6), ("30B-A3B", 1e7), ("235B-A22B", 5e6))
    for kind in ("Instruct", "Thinking")
}


def preset(name: str) -> ModelConfig:
    """The config of an official checkpoint, under any name that `preset_name` takes."""
    return PRESETS[preset_name(name)]


def preset_name(name: str) -> str:
    """The official spelling of a checkpoint's name: 'Qwen3-4B' of 'qwen/qwen3-4b', 'Qwen3-4B' or '4b'.

    Raises ConfigError naming all presets for any other name.
    """
    wanted = name.lower().removeprefix("qwen/").removeprefix("qwen3-")
    for known in PRESETS:
        if known.lower() == f"qwen3-{wanted}":
            return known
    raise ConfigError(f"no preset {name!r}; known are {', '.join(PRESETS)}")
