"""The balance loss is one of all processes, counted as far as the step has come; gradients reach the routers by it."""

from dataclasses import replace

import pytest
import torch
from training import gradients, relative_difference, three_stages
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func
from transformers_models import reference_pair

from qwen3.model import CausalAttend
from qwen3.train.balance import LoadBalance
from qwen3.train.trainer import Trainer


def observed(model, tokens, recompute=False):
    """Router logits of one document."""
    logits = []
    positions = torch.arange(len(tokens))
    hidden = model(tokens, positions, CausalAttend([len(tokens)]), recompute=recompute, router_logits=logits)
    return hidden, logits


@pytest.fixture(scope="module")
def model():
    return reference_pair(moe=True)[1]


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 320, (60,), generator=torch.Generator().manual_seed(1))


def test_in_one_batch_it_is_transformers_loss_divided_by_the_experts_of_a_token(model, tokens):
    _, logits = observed(model, tokens)
    balance, _ = LoadBalance(model.config).losses(logits, torch.ones(60, dtype=torch.bool))
    # transformers joins all layers' tokens before it multiplies: compare layer by layer.
    expected = sum(load_balancing_loss_func((layer,), 8, 2) for layer in logits) / len(logits) / 2
    torch.testing.assert_close(balance / 60, expected, rtol=1e-6, atol=0)


def test_balanced_experts_give_one_and_a_collapsed_router_gives_more(model):
    even = torch.eye(8).repeat(4, 1)
    collapsed = torch.zeros(32, 8).index_fill(1, torch.tensor([0, 1]), 20.0)
    for logits, expected in ((even, 1.0), (collapsed, 4.0)):
        balance, _ = LoadBalance(model.config).losses([logits] * 3, torch.ones(32, dtype=torch.bool))
        assert (balance / 32).item() == pytest.approx(expected, rel=0.05)


def test_counts_roll_over_the_micro_batches_of_a_step_and_start_anew(model, tokens):
    _, logits = observed(model, tokens)
    balance, every = LoadBalance(model.config), torch.ones(60, dtype=torch.bool)
    whole, _ = balance.losses(logits, every)
    assert balance.counts_LE.sum() == 3 * 60 * 2
    counts = balance.counts_LE.clone()
    balance.start_step()
    first = torch.arange(60) < 25
    balance.losses(logits, first)
    rest, _ = balance.losses(logits, ~first)
    assert torch.equal(balance.counts_LE, counts)
    # The last micro-batch sees the whole step's counts, so its share of the loss is that of the whole.
    share = counts / counts.sum(-1, keepdim=True)
    expected = sum(
        8 * (share[i] * layer[~first].float().softmax(-1).sum(0)).sum() for i, layer in enumerate(logits)
    ) / len(logits)
    torch.testing.assert_close(rest, expected)
    assert whole.item() > rest.item()


class Rank:
    """One of several processes, which adds what the others count of each micro-batch."""

    device = torch.device("cpu")

    def __init__(self, others):
        self._others = iter(others)

    def sum(self, counts_LE):
        return counts_LE + next(self._others)


def counts(model, logits, is_counted):
    balance = LoadBalance(model.config)
    balance.losses(logits, is_counted)
    return balance.counts_LE


def balance_gradient(model, logits, micro_batches, others=None):
    """[layers, T, E] of the balance losses of micro-batches, which are masks of tokens."""
    leaves = [layer.detach().clone().requires_grad_() for layer in logits]
    balance = LoadBalance(model.config, Rank(others) if others else None)
    sum(balance.losses(leaves, is_counted)[0] for is_counted in micro_batches).backward()
    return torch.stack([leaf.grad for leaf in leaves])


def test_the_loss_is_the_same_whichever_process_has_which_tokens_of_a_micro_batch(model, tokens):
    _, logits = observed(model, tokens)
    number = torch.arange(60)
    micro_batches = [number < 35, number >= 35]
    alone = balance_gradient(model, logits, micro_batches)
    for is_mine in (number % 2 == 0, number % 7 < 2):
        together = torch.zeros_like(alone)
        for mine in (is_mine, ~is_mine):
            others = [counts(model, logits, each & ~mine) for each in micro_batches]
            together += balance_gradient(model, logits, [each & mine for each in micro_batches], others)
        torch.testing.assert_close(together, alone)
    # Cut into others, the step has another one.
    cut = balance_gradient(model, logits, [number < 20, (number >= 20) & (number < 35), number >= 35])
    assert (cut - alone).norm() > 0.01 * alone.norm()


def test_cut_into_other_micro_batches_a_step_differs_in_the_balance_loss_alone(data, tmp_path):
    def step(tokens_per_micro_batch, balance):
        recipe = three_stages(data, "30B-A3B").each_stage(tokens_per_micro_batch=tokens_per_micro_batch)
        run = tmp_path / f"{tokens_per_micro_batch} {balance}"
        return gradients(Trainer(replace(recipe, balance=balance, z_loss=0.1), run))

    assert relative_difference(step(512, 0.0), step(1024, 0.0)) < 1e-5
    assert relative_difference(step(512, 1.0), step(1024, 1.0)) > 1e-3


def test_gradients_are_the_same_with_and_without_recomputation(model, tokens):
    def found(recompute):
        model.zero_grad()
        hidden, logits = observed(model, tokens, recompute)
        balance, z = LoadBalance(model.config).losses(logits, torch.ones(60, dtype=torch.bool))
        (hidden.square().mean() + balance + 0.1 * z).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    kept, again = found(False), found(True)
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)
    assert all(kept[f"model.layers.{i}.mlp.gate.weight"].abs().sum() > 0 for i in range(3))


def test_observing_the_routers_changes_no_value(model, tokens):
    hidden, _ = observed(model, tokens)
    assert torch.equal(hidden, model(tokens, torch.arange(60), CausalAttend([60])))
