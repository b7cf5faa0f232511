"""The training loss whose gradients are made in the forward pass, against torch's own and against the plain form."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from qwen3 import ops
from qwen3.memory import estimate_training
from qwen3.ops import cross_entropy, reference
from qwen3.presets import PRESETS

T, D, V = 37, 24, 300


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(T, D, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(V, D, generator=generator).mul(0.3).to(dtype).requires_grad_()
    targets = torch.randint(0, V, (T,), generator=generator)
    weights = torch.rand(T, generator=generator) * (torch.arange(T) % 5 > 0)
    return hidden, head, targets, weights


def in_chunks_of(tokens, monkeypatch):
    monkeypatch.setattr(cross_entropy, "BUFFER_BYTES", 4 * V * tokens)


def naive(hidden, head, targets, weights):
    return (F.cross_entropy(F.linear(hidden, head).float(), targets, reduction="none") * weights).sum()


@pytest.mark.parametrize("loss", [ops.weighted_loss, reference.weighted_loss])
@pytest.mark.parametrize("tokens", [1, 8, 100])
def test_loss_and_gradients_are_those_of_all_logits_at_once(loss, tokens, monkeypatch):
    in_chunks_of(tokens, monkeypatch)
    hidden, head, targets, weights = inputs()
    found, expected = (each(hidden, head, targets, weights) for each in (loss, naive))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(3 * found, (hidden, head)), torch.autograd.grad(3 * expected, (hidden, head)), strict=True
    ):
        assert (ours - theirs).abs().max() <= 1e-5


def test_in_bfloat16_its_gradients_are_as_near_to_the_exact_ones_as_the_plain_forms(monkeypatch):
    in_chunks_of(8, monkeypatch)
    narrow, plain = ([], [])
    for found, loss in ((narrow, ops.weighted_loss), (plain, reference.weighted_loss)):
        hidden, head, targets, weights = inputs(torch.bfloat16)
        exact = torch.autograd.grad(
            naive(hidden.float(), head.float(), targets, weights), (hidden, head), materialize_grads=True
        )
        gradients = torch.autograd.grad(loss(hidden, head, targets, weights), (hidden, head))
        assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)
        found += [
            float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(gradients, exact, strict=True)
        ]
    assert all(a < max(1.3 * b, 0.01) for a, b in zip(narrow, plain, strict=True))


@pytest.fixture
def mesh(tmp_path):
    """A group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("form", ["fused", "plain", "sharded"])
def test_in_bfloat16_many_chunks_give_the_heads_gradient_of_one(form, monkeypatch, request):
    hidden, head, targets, weights = inputs(torch.bfloat16)
    hidden, targets, weights = hidden.detach().repeat(20, 1), targets.repeat(20), weights.repeat(20)
    if form == "sharded":
        head = distribute_tensor(head.detach(), request.getfixturevalue("mesh"), [Shard(0)]).requires_grad_()
    found = []
    for tokens in (1, len(targets)):
        in_chunks_of(tokens, monkeypatch)
        if form == "fused":
            loss = ops.weighted_loss(hidden, head, targets, weights)
        else:
            loss = (ops.token_losses(hidden, head, targets, tokens) * weights).sum()
        (gradient,) = torch.autograd.grad(loss, head)
        assert gradient.dtype == torch.bfloat16
        found.append((gradient.to_local() if form == "sharded" else gradient).float())
    many, one = found
    assert (many - one).norm() / one.norm() < 0.004


@pytest.mark.parametrize("block", [7, V])
def test_in_bfloat16_a_heads_gradient_does_not_depend_on_the_blocks_it_is_added_in(block, monkeypatch):
    in_chunks_of(8, monkeypatch)
    arguments = inputs(torch.bfloat16)
    (expected,) = torch.autograd.grad(ops.weighted_loss(*arguments), arguments[1])
    monkeypatch.setattr(cross_entropy, "ROW_BLOCK", block)
    (found,) = torch.autograd.grad(ops.weighted_loss(*arguments), arguments[1])
    torch.testing.assert_close(found, expected, rtol=0.01, atol=1e-5)


def test_nothing_that_counts_gives_zeros():
    hidden, head, targets, weights = (each[:0] if len(each) == T else each for each in inputs())
    loss = ops.weighted_loss(hidden, head, targets, weights)
    (gradient,) = torch.autograd.grad(loss, head)
    assert loss.item() == 0
    assert not gradient.any()


def test_large_logits_do_not_overflow():
    hidden, head, targets, weights = inputs()
    loss = ops.weighted_loss(hidden * 1e4, head, targets, weights)
    torch.testing.assert_close(loss, naive(hidden * 1e4, head, targets, weights))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
@pytest.mark.parametrize(("dtype", "name", "most"), [("float32", "fp32", 0.5), ("bfloat16", "bf16", 0.9)])
def test_with_the_official_vocabulary_it_takes_a_small_part_of_all_logits_memory(dtype, name, most):
    script = Path(__file__).parents[2] / "benchmarks" / "head_memory.py"
    ours, theirs = (
        float(subprocess.run([sys.executable, script, each, dtype], check=True, capture_output=True, text=True).stdout)
        for each in ("qwen3", "naive")
    )
    assert ours < most
    assert theirs > 2.4
    # The calculator counts the gradient's own room too.
    size, config = torch.finfo(getattr(torch, dtype)).bits // 8, PRESETS["Qwen3-0.6B"]
    own = size * config.vocab_size * config.hidden_size
    counted = estimate_training(config, weights=name, context=2048, checkpointing=True).activations
    kept = 2048 * size * config.hidden_size * config.num_hidden_layers
    assert ours * 1e9 + own == pytest.approx(counted - kept, rel=0.06)
