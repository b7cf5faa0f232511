"""The model against transformers' Qwen3 and Qwen3Moe: logits, gradients, cached decoding, packing."""

import pytest
import torch
from transformers_models import YARN, reference_pair, unfuse

from qwen3.engine.attend import cached_attend
from qwen3.engine.cache import KVCache, PagePool
from qwen3.model import CausalAttend
from qwen3.ops import token_losses

SHAPES = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "no grouping": {"num_key_value_heads": 4},
    "one kv head": {"num_key_value_heads": 1},
    "attention wider than hidden": {"num_attention_heads": 8, "head_dim": 64},
    "theta 5e6": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}},
    "yarn": {"rope_parameters": YARN},
    "yarn factor 2, own betas": {"rope_parameters": YARN | {"factor": 2.0, "beta_fast": 16.0, "beta_slow": 2.0}},
    "yarn attention factor": {"rope_parameters": YARN | {"attention_factor": 1.3}},
    "eps": {"rms_norm_eps": 1e-3},
}
MOE_SHAPES = {
    "moe": {},
    "moe untied": {"tie_word_embeddings": False},
    "moe raw weights": {"norm_topk_prob": False},
    "moe every second layer": {"decoder_sparse_step": 2},
    "moe with a dense layer": {"mlp_only_layers": [1]},
    "moe top-8 of 16, yarn": {"num_experts": 16, "num_experts_per_tok": 8, "rope_parameters": YARN},
}
CASES = [pytest.param(keys, False, id=name) for name, keys in SHAPES.items()]
CASES += [pytest.param(keys, True, id=name) for name, keys in MOE_SHAPES.items()]


def packed(documents):
    tokens = torch.cat(documents)
    positions = torch.cat([torch.arange(len(document)) for document in documents])
    return tokens, positions, CausalAttend([len(document) for document in documents])


def random_documents(*lengths):
    return [torch.randint(0, 320, (length,)) for length in lengths]


@pytest.mark.parametrize(("keys", "moe"), CASES)
def test_logits_of_packed_documents_equal_transformers(keys, moe):
    theirs, ours = reference_pair(moe=moe, **keys)
    documents = random_documents(17, 1, 90, 5, 33)
    expected = torch.cat([theirs(document[None]).logits[0] for document in documents])
    actual = ours.logits(ours(*packed(documents)))
    assert (actual - expected).abs().max() <= 5e-5
    assert expected.abs().max() > 0.5


@pytest.mark.parametrize(("keys", "moe"), CASES)
def test_cached_decoding_equals_transformers_full_forward(keys, moe):
    theirs, ours = reference_pair(moe=moe, **keys)
    (document,) = random_documents(61)
    expected = theirs(document[None]).logits[0]
    cache = KVCache(PagePool(ours.config, torch.float32, torch.device("cpu"), None))
    rows = []
    for chunk in document.split([20, 1, 1, 30, 1, 8]):
        positions = torch.arange(cache.length, cache.length + len(chunk))
        rows.append(ours.logits(ours(chunk, positions, cached_attend([cache], [len(chunk)]))))
        cache.advance(len(chunk))
    assert (torch.cat(rows) - expected).abs().max() <= 5e-5


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("keys", "moe"), CASES)
def test_gradients_equal_transformers(keys, moe, recompute):
    theirs, ours = reference_pair(moe=moe, **keys)
    (document,) = random_documents(70)
    theirs(document[None], labels=document[None]).loss.backward()
    tokens, positions, attend = packed([document])
    hidden = ours(tokens, positions, attend, recompute=recompute)
    token_losses(hidden[:-1], ours.head_weight, document[1:], chunk=32).mean().backward()
    expected = unfuse({name: parameter.grad for name, parameter in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        reference = expected[name]
        if parameter.grad is None:
            assert not reference.any(), name
        else:
            assert (parameter.grad - reference).norm() <= 1e-4 * max(reference.norm(), 1e-6), name


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
@torch.no_grad()
def test_bfloat16_logits_and_cached_decoding_equal_transformers_bit_for_bit(moe):
    theirs, ours = reference_pair(moe=moe, dtype=torch.bfloat16)
    (document,) = random_documents(40)
    cache = KVCache(PagePool(ours.config, torch.bfloat16, torch.device("cpu"), None))
    theirs_cache = None
    for chunk in document.split([36, 1, 1, 1, 1]):
        positions = torch.arange(cache.length, cache.length + len(chunk))
        actual = ours.logits(ours(chunk, positions, cached_attend([cache], [len(chunk)])))
        cache.advance(len(chunk))
        expected = theirs(chunk[None], past_key_values=theirs_cache, use_cache=True)
        theirs_cache = expected.past_key_values
        assert torch.equal(actual, expected.logits[0])


def test_packed_loss_is_the_sum_of_separate_losses_and_documents_do_not_touch():
    _, ours = reference_pair()
    documents = random_documents(9, 30, 14)
    tokens, positions, attend = packed(documents)
    hidden = ours(tokens, positions, attend)
    together = token_losses(hidden, ours.head_weight, tokens).sum()
    separate = sum(token_losses(ours(*packed([document])), ours.head_weight, document).sum() for document in documents)
    assert abs(together - separate) <= 1e-6 * separate
    embedded = ours.model.embed_tokens.weight.detach()[tokens].requires_grad_()
    ours.model.embed_tokens.forward = lambda _: embedded
    ours(tokens, positions, attend)[9:39].sum().backward()
    touched = embedded.grad.abs().sum(-1) > 0
    assert touched[9:39].all()
    assert not touched[:9].any()
    assert not touched[39:].any()


def test_chunked_losses_equal_naive_cross_entropy():
    _, ours = reference_pair()
    (document,) = random_documents(50)
    hidden = ours(*packed([document])).detach().requires_grad_()
    naive = torch.nn.functional.cross_entropy(ours.logits(hidden), document, reduction="none")
    chunked = token_losses(hidden, ours.head_weight, document, chunk=7)
    assert (chunked - naive).abs().max() <= 1e-6
    (expected,) = torch.autograd.grad(naive.sum(), hidden)
    (actual,) = torch.autograd.grad(chunked.sum(), hidden)
    assert (actual - expected).abs().max() <= 1e-5


def test_initialise_is_reproducible_and_starts_at_the_loss_of_guessing():
    _, ours = reference_pair(hidden_size=128)
    ours.initialise(seed=3)
    before = {name: parameter.clone() for name, parameter in ours.named_parameters()}
    ours.initialise(seed=3)
    assert all(torch.equal(before[name], parameter) for name, parameter in ours.named_parameters())
    documents = random_documents(120, 120)
    tokens, positions, attend = packed(documents)
    loss = token_losses(ours(tokens, positions, attend), ours.head_weight, tokens.roll(-1)).mean()
    assert loss.item() == pytest.approx(torch.log(torch.tensor(320.0)).item(), rel=0.02)
