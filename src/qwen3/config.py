"""What a checkpoint says about its own shape: `ModelConfig`, whose fields are config.json's keys.

Reads and writes the official files of the whole family, dense and mixture-of-experts, in the older spelling
(`rope_theta` + `rope_scaling`) and the newer one (`rope_parameters`). A key or a value that would change the
computation and is not implemented is refused by name, never ignored. This module knows nothing of tensors;
what is discovered while running (pages, kernels) is not stored here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from qwen3.strict_json import read_object

ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}

# Keys of official and transformers-written files that do not change what this system computes.
_INERT_KEYS = frozenset(
    """_name_or_path architectures attention_dropout chunk_size_feed_forward id2label is_encoder_decoder label2id
    layer_types max_window_layers output_attentions output_hidden_states output_router_logits problem_type
    return_dict sliding_window transformers_version use_cache""".split()
)

# Ten times Qwen3-235B-A22B; a file that claims more would only make name tables and module lists explode.
_MAX_LAYERS_TIMES_EXPERTS = 131_072


class ConfigError(ValueError):
    """A config.json that this system cannot run faithfully; the message names the key and the fix."""


@dataclass(frozen=True)
class RopeParameters:
    """Rotary position embedding: plain (`default`) or YaRN (arXiv 2309.00071).

    The YaRN fields keep the defaults of the paper; `attention_factor` None means 0.1 ln(factor) + 1.
    """

    rope_theta: float = 1_000_000.0
    rope_type: str = "default"
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        _require_number("rope_theta", self.rope_theta, above=1)
        if self.rope_type not in ("default", "yarn"):
            raise ConfigError(f"rope_type {self.rope_type!r} is not supported: use 'default' or 'yarn'")
        if self.rope_type == "default":
            if self.factor is not None:
                raise ConfigError("rope 'factor' has no effect with rope_type 'default': set rope_type to 'yarn'")
            return
        if self.factor is None or self.original_max_position_embeddings is None:
            raise ConfigError(
                "YaRN needs 'factor' and 'original_max_position_embeddings', "
                'e.g. {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}'
            )
        _require_number("rope factor", self.factor, above=0.999)
        _require_int("original_max_position_embeddings", self.original_max_position_embeddings)
        _require_number("beta_slow", self.beta_slow, above=0)
        _require_number("beta_fast", self.beta_fast, above=self.beta_slow)
        if self.attention_factor is not None:
            _require_number("attention_factor", self.attention_factor, above=0)

    @property
    def cos_sin_scale(self) -> float:
        """What YaRN multiplies cos and sin by; 1 for plain RoPE."""
        if self.rope_type == "default":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0


@dataclass(frozen=True)
class ModelConfig:
    """One Qwen3 model. Field names and meanings are config.json's; counts are in elements, not bytes."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 128
    max_position_embeddings: int = 40960
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    rope_parameters: RopeParameters = field(default_factory=RopeParameters)
    dtype: str = "bfloat16"
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    # Mixture of experts; unused (0, empty) in dense models.
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    router_aux_loss_coef: float = 0.001
    # How the stored weights are quantized (FP8, AWQ, GPTQ), as the file says it; the loader interprets it.
    quantization_config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _require_model_type(self.model_type)
        for name in (
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
            "head_dim max_position_embeddings"
        ).split():
            _require_int(name, getattr(self, name))
        _require_number("rms_norm_eps", self.rms_norm_eps, above=0)
        _require_number("initializer_range", self.initializer_range, above=0)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim {self.head_dim} is odd: rotary embedding rotates pairs")
        if self.dtype not in ("bfloat16", "float16", "float32"):
            raise ConfigError(f"dtype {self.dtype!r} is not supported: use bfloat16, float16 or float32")
        for name in ("bos_token_id", "pad_token_id"):
            self._require_token(name, getattr(self, name))
        for token in self.eos_token_ids:
            self._require_token("eos_token_id", token)
        if self.is_moe:
            for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step"):
                _require_int(name, getattr(self, name))
            if self.num_experts_per_tok > self.num_experts:
                raise ConfigError(
                    f"num_experts_per_tok {self.num_experts_per_tok} is more than num_experts {self.num_experts}"
                )
            if not isinstance(self.mlp_only_layers, tuple) or not all(map(_is_int, self.mlp_only_layers)):
                raise ConfigError(f"mlp_only_layers {self.mlp_only_layers!r:.100} is not a list of layer numbers")
            _require_number("router_aux_loss_coef", self.router_aux_loss_coef, above=-1)
        if self.num_hidden_layers * max(self.num_experts, 1) > _MAX_LAYERS_TIMES_EXPERTS:
            raise ConfigError(
                f"num_hidden_layers {self.num_hidden_layers} (times experts) is beyond {_MAX_LAYERS_TIMES_EXPERTS}"
            )
        if not isinstance(self.quantization_config, Mapping | None):
            raise ConfigError(f"quantization_config {self.quantization_config!r:.100} is not an object")

    def _require_token(self, name: str, token: Any) -> None:
        if token is not None and not (_is_int(token) and 0 <= token < self.vocab_size):
            raise ConfigError(f"{name} {token!r:.100} is not a token id below vocab_size {self.vocab_size}")

    # ---- Derived ----------------------------------------------------------------------------------------------

    @property
    def is_moe(self) -> bool:
        return self.model_type == "qwen3_moe"

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def max_context(self) -> int:
        """The longest sequence in tokens, YaRN included."""
        rope = self.rope_parameters
        if rope.rope_type == "yarn":
            return max(self.max_position_embeddings, int(rope.factor * rope.original_max_position_embeddings))
        return self.max_position_embeddings

    def is_sparse_layer(self, layer: int) -> bool:
        """Whether `layer` holds experts in place of one dense feed-forward."""
        return self.is_moe and layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0

    @property
    def num_sparse_layers(self) -> int:
        return sum(self.is_sparse_layer(layer) for layer in range(self.num_hidden_layers))

    @property
    def num_parameters(self) -> int:
        """All parameters; a tied head counts once."""
        D, d = self.hidden_size, self.head_dim
        H, K = self.num_attention_heads, self.num_key_value_heads
        attention = D * d * (2 * H + 2 * K) + 2 * d
        dense = 3 * D * self.intermediate_size
        sparse = self.num_experts * (3 * D * self.moe_intermediate_size + D)
        layers = self.num_hidden_layers * (attention + 2 * D)
        layers += self.num_sparse_layers * sparse + (self.num_hidden_layers - self.num_sparse_layers) * dense
        return layers + D + self.num_embedding_parameters

    @property
    def num_embedding_parameters(self) -> int:
        """The embedding, and the head where it is not the same matrix."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def num_non_embedding_parameters(self) -> int:
        return self.num_parameters - self.num_embedding_parameters

    @property
    def num_active_parameters(self) -> int:
        """Parameters that one token meets: all of them in a dense model, the chosen experts in a sparse one."""
        idle = self.num_experts - self.num_experts_per_tok
        return self.num_parameters - self.num_sparse_layers * idle * 3 * self.hidden_size * self.moe_intermediate_size

    @property
    def num_kv_elements_per_token(self) -> int:
        """Cached keys and values of one token over all layers, in elements."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    def with_yarn(self, factor: float, original_max_position_embeddings: int = 32768) -> ModelConfig:
        """The same model with its context stretched statically: factor 2 for 65,536, factor 4 for 131,072 tokens."""
        rope = RopeParameters(self.rope_parameters.rope_theta, "yarn", factor, original_max_position_embeddings)
        return replace(self, rope_parameters=rope)

    # ---- config.json ------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path) -> ModelConfig:
        """Read config.json, or the one in the directory `path`. Raises ConfigError, or FileNotFoundError."""
        path = Path(path)
        file = path / "config.json" if path.is_dir() else path
        try:
            return cls.from_dict(read_object(file))
        except ValueError as error:
            raise ConfigError(f"{file}: {error}") from None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """Build from config.json's object; refuses what would change the computation and is not implemented."""
        raw = dict(raw)
        if "auto_map" in raw:
            raise ConfigError("'auto_map' asks to run code shipped with the checkpoint, which is refused; remove it")
        model_type = raw.get("model_type")
        _require_model_type(model_type)
        architectures = raw.get("architectures") or [ARCHITECTURES[model_type]]
        if architectures != [ARCHITECTURES[model_type]]:
            raise ConfigError(f"architectures {architectures!r} is not [{ARCHITECTURES[model_type]!r}]")
        _refuse(raw.pop("hidden_act", "silu"), "silu", "hidden_act")
        _refuse(raw.pop("attention_bias", False), False, "attention_bias")
        _refuse(raw.pop("use_sliding_window", False), False, "use_sliding_window")
        layer_types = raw.get("layer_types") or []
        if not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types):
            raise ConfigError("layer_types holds something other than 'full_attention', which is all Qwen3 uses")

        values = {key: raw.pop(key) for key in list(raw) if key in _FIELD_NAMES and key != "rope_parameters"}
        values["rope_parameters"] = _read_rope(raw)
        for name, spelling in (("dtype", "torch_dtype"), ("num_experts", "num_local_experts")):
            if spelling in raw and values.setdefault(name, value := raw.pop(spelling)) != value:
                raise ConfigError(f"{name} {values[name]!r:.100} and {spelling} {value!r:.100} disagree")
        unknown = sorted(raw.keys() - _INERT_KEYS)
        if unknown:
            raise ConfigError(f"unknown key(s) {', '.join(unknown)}: remove them if they are not needed")
        # The class defaults of transformers, for files that leave them out.
        if values.get("num_key_value_heads") is None:
            values["num_key_value_heads"] = values.get("num_attention_heads")
        if values.get("head_dim") is None:
            values["head_dim"] = 128
            if model_type == "qwen3_moe":
                for name in ("hidden_size", "num_attention_heads"):
                    _require_int(name, values.get(name))
                values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
        for key in ("dtype", "mlp_only_layers"):
            if values.get(key, ...) is None:
                del values[key]
        for name in ("eos_token_id", "mlp_only_layers"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        missing = [f.name for f in fields(cls) if f.name in _REQUIRED and f.name not in values]
        if missing:
            raise ConfigError(f"missing key(s) {', '.join(missing)}")
        for name in ("tie_word_embeddings", "norm_topk_prob"):
            if not isinstance(values.get(name, False), bool):
                raise ConfigError(f"{name} {values[name]!r} is not true or false")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """config.json's object in the spelling of the official checkpoints, which every loader reads."""
        raw: dict[str, Any] = {"architectures": [ARCHITECTURES[self.model_type]]}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("rope_parameters", "dtype") or (f.name in _MOE_FIELDS and not self.is_moe):
                continue
            if value is None and f.name in ("pad_token_id", "quantization_config"):
                continue
            raw[f.name] = list(value) if isinstance(value, tuple) else value
        rope = self.rope_parameters
        raw["rope_theta"] = rope.rope_theta
        raw["rope_scaling"] = None
        if rope.rope_type == "yarn":
            raw["rope_scaling"] = {
                f.name: getattr(rope, f.name)
                for f in fields(rope)
                if f.name != "rope_theta" and getattr(rope, f.name) is not None
            }
        raw |= {"attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "use_cache": True}
        raw |= {"use_sliding_window": False, "sliding_window": None, "torch_dtype": self.dtype}
        return raw

    def save(self, directory: str | Path) -> None:
        """Write config.json into `directory`."""
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        (Path(directory) / "config.json").write_text(text, encoding="utf-8")

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """The config of an official checkpoint by its name, e.g. 'Qwen3-4B', 'Qwen/Qwen3-4B-Base' or '4b'."""
        from qwen3.presets import preset

        return preset(name)


_FIELD_NAMES = frozenset(f.name for f in fields(ModelConfig))
_REQUIRED = frozenset(
    "model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads".split()
)
_MOE_FIELDS = frozenset(
    """num_experts num_experts_per_tok moe_intermediate_size norm_topk_prob decoder_sparse_step mlp_only_layers
    router_aux_loss_coef""".split()
)
_ROPE_NAMES = frozenset(f.name for f in fields(RopeParameters))


def _read_rope(raw: dict[str, Any]) -> RopeParameters:
    """Take both spellings out of `raw`; where a file holds both they must agree."""
    theta = raw.pop("rope_theta", None)
    scaling = raw.pop("rope_scaling", None)
    parameters = raw.pop("rope_parameters", None)
    for name, value in (("rope_scaling", scaling), ("rope_parameters", parameters)):
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{name} {value!r} is not an object")
    merged: dict[str, Any] = {}
    for source in (scaling, parameters, None if theta is None else {"rope_theta": theta}):
        for key, value in (source or {}).items():
            key = "rope_type" if key == "type" else key
            if value is None:
                continue
            if key not in _ROPE_NAMES:
                raise ConfigError(f"unknown rope key {key!r}: known are {', '.join(sorted(_ROPE_NAMES))}")
            if merged.setdefault(key, value) != value:
                raise ConfigError(f"{key} is given twice, as {merged[key]!r} and {value!r}")
    merged.setdefault("rope_theta", 10_000.0)
    if merged.get("rope_type", "default") == "default":
        # Written by some exporters beside plain RoPE, where it has no effect.
        merged.pop("original_max_position_embeddings", None)
    return RopeParameters(**merged)


def _refuse(value: Any, only: Any, name: str) -> None:
    if value != only:
        raise ConfigError(f"{name} {value!r} is not supported: Qwen3 checkpoints have {only!r}")


def _require_model_type(value: Any) -> None:
    if not isinstance(value, str) or value not in ARCHITECTURES:
        raise ConfigError(f"model_type {value!r:.100} is not a Qwen3 text model (known: {', '.join(ARCHITECTURES)})")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require_int(name: str, value: Any) -> None:
    # The upper bound keeps a lying file from asking for absurd allocations before any tensor is seen.
    if not _is_int(value) or not 0 < value < 2**31:
        raise ConfigError(f"{name} {value!r:.100} is not a positive whole number below 2^31")


def _require_number(name: str, value: Any, *, above: float) -> None:
    # Bounded, because a whole number in JSON may be beyond what a float can hold.
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < 1e30:
        raise ConfigError(f"{name} {value!r:.100} is not a finite number above {above}")
