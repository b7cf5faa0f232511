"""transformers' Qwen3 with tiny random weights, and this package's model holding the same weights."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

from qwen3.config import ModelConfig
from qwen3.model import Qwen3

YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32}


def reference_pair(*, moe: bool = False, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides):
    """(transformers model, our model) of one tiny shape; `overrides` are config.json keys."""
    keys = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }
    if moe:
        keys |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}
    keys |= overrides
    torch.manual_seed(seed)
    config = (Qwen3MoeConfig if moe else Qwen3Config)(**keys)
    # Not `.to(dtype)`: that would round the rotary frequencies, which loading a checkpoint does not.
    theirs = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for parameter in theirs.parameters():
        # Larger than fresh weights, so that attention and experts discriminate and an error would show.
        noise = torch.randn_like(parameter)
        parameter.data.add_(noise * 0.1)
    ours = Qwen3(ModelConfig.from_dict(theirs.config.to_dict())).to(dtype)
    ours.load_state_dict(unfused(theirs))
    return theirs, ours


def unfused(theirs) -> dict[str, torch.Tensor]:
    """transformers' parameters under the names of the official checkpoints."""
    return unfuse(dict(theirs.named_parameters()))


def unfuse(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Split transformers' stacked expert tensors into the checkpoints' per-expert ones."""
    out = {}
    for name, tensor in state.items():
        if name.endswith("experts.gate_up_proj"):
            for expert, gate_up in enumerate(tensor):
                prefix = f"{name.removesuffix('gate_up_proj')}{expert}"
                out[f"{prefix}.gate_proj.weight"], out[f"{prefix}.up_proj.weight"] = gate_up.chunk(2)
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(tensor):
                out[f"{name.removesuffix('down_proj')}{expert}.down_proj.weight"] = down
        else:
            out[name] = tensor
    return out
