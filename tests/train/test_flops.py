"""FLOPs from shapes against what torch's own counter sees, on tiny models, dense and sparse."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from qwen3 import ops
from qwen3.config import ModelConfig
from qwen3.model import CausalAttend, Qwen3
from qwen3.presets import PRESETS
from qwen3.train import attend as training
from qwen3.train.attend import TrainingAttend
from qwen3.train.flops import decode_flops, forward_flops, model_flops, step_flops

DENSE = ModelConfig(
    model_type="qwen3",
    vocab_size=96,
    hidden_size=32,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
SPARSE = replace(
    DENSE, model_type="qwen3_moe", num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, mlp_only_layers=(1,)
)
LENGTHS = [64, 64, 7, 30]
# The counter knows the fused attention of GPUs, but not the CPU's; shared key-value heads count as if repeated.
FUSED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, *_, **__: sdpa_flop_count(q, q, q),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, *_, **__: sdpa_backward_flop_count(grad, q, q, q)
    ),
}


def counted(config: ModelConfig, *, attend=CausalAttend, recompute=False, backward=True, predictions=100) -> int:
    model = Qwen3(config)
    model.initialise(0)
    # One document after another, so that no padding is computed and counted.
    total = 0
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        for length in LENGTHS:
            tokens_T = torch.arange(length) % config.vocab_size
            with torch.set_grad_enabled(backward):
                hidden_TD = model(tokens_T, torch.arange(length), attend([length]), recompute=recompute)
                chosen_TD = hidden_TD[: min(length, max(0, predictions - total))]
                total += len(chosen_TD)
                if backward:
                    loss = hidden_TD.sum() * 0
                    if len(chosen_TD):
                        targets_T, weights_T = tokens_T[: len(chosen_TD)], torch.ones(len(chosen_TD))
                        loss = loss + ops.weighted_loss(chosen_TD, model.head_weight, targets_T, weights_T)
                    loss.backward()
                else:
                    model.logits(chosen_TD)
    return counter.get_total_flops()


@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_a_forward_pass_is_what_torch_counts(config):
    assert forward_flops(config, LENGTHS, 100).total == counted(config, backward=False)


@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("short", [0, 32, 256])
def test_a_training_step_is_what_torch_counts(config, recompute, short, monkeypatch):
    monkeypatch.setattr(training, "SHORT", short)
    found = counted(config, attend=TrainingAttend, recompute=recompute)
    ours = step_flops(config, LENGTHS, 100, recompute=recompute, fused_beyond=short)
    assert ours.total == found


def test_documents_attend_apart():
    together, apart = forward_flops(DENSE, [128]), forward_flops(DENSE, [64, 64])
    assert together.attention == 2 * apart.attention
    assert together.projections == apart.projections


def test_decoding_token_by_token_is_the_lower_triangle_of_the_square():
    steps = sum((decode_flops(DENSE, n) for n in range(64)), decode_flops(DENSE, 0, 0))
    whole = forward_flops(DENSE, [64])
    assert (steps.projections, steps.feed_forward, steps.head) == (whole.projections, whole.feed_forward, whole.head)
    assert steps.attention == whole.attention * 65 // (2 * 64)


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Qwen3-30B-A3B"])
def test_short_texts_cost_six_operations_an_active_parameter(name):
    config = PRESETS[name]
    active = config.num_active_parameters - config.vocab_size * config.hidden_size * (not config.tie_word_embeddings)
    assert model_flops(config, [1] * 1000).total == pytest.approx(6 * active * 1000, rel=0.001)
