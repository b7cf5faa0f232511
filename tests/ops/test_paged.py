"""Attention over pages: right by the reference; how a context was cut, batched and stored changes no bit."""

import functools
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3.ops import native, packed, paged, reference
from qwen3.ops.paged import KV_FORMATS, PAGE_TOKENS, PackedVector, PagedStep, PageLayout

INSTRUCTION_SETS = native.available_instruction_sets()
LAYERS = 2
STATM = Path("/proc/self/statm")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same_bits(a: torch.Tensor, b: torch.Tensor) -> None:
    assert torch.equal(a.view(torch.int32), b.view(torch.int32))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = packed.num_threads()
    packed.set_num_threads(count)
    try:
        yield
    finally:
        packed.set_num_threads(before)


class Sequences:
    """Sequences that grow side by side in pages which lie in random order, full of NaNs at first."""

    def __init__(self, layout: PageLayout, instruction_set: str = native.instruction_set()) -> None:
        self.layout, self.instruction_set = layout, instruction_set
        self.pages, self.lengths = {}, {}

    def step(self, layer: int, parts: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        for name, (q, _, _) in parts.items():
            pages = self.pages.setdefault(name, [])
            while len(pages) * PAGE_TOKENS < self.lengths.get(name, 0) + len(q):
                pages.append(torch.full((self.layout.page_bytes,), 255, dtype=torch.uint8))
        counts = [len(q) for q, _, _ in parts.values()]
        step = PagedStep(
            self.layout,
            [self.pages[name] for name in parts],
            [self.lengths.get(name, 0) for name in parts],
            counts,
            instruction_set=self.instruction_set,
        )
        q, k, v = (torch.cat(tensors) for tensors in zip(*parts.values(), strict=True))
        out = step(layer, q, k, v)
        for name, count in zip(parts, counts, strict=True):
            self.lengths[name] = self.lengths.get(name, 0) + count
        return list(out.split(counts))


def sequence(length: int, heads: int, kv_heads: int, head_dim: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    # Two queries that look at one key each keep the softmax from being flat.
    q, k, v = (normal(length, n, head_dim, seed=3 * seed + i) for i, n in enumerate((heads, kv_heads, kv_heads)))
    return q * 2, k, v


def kept(x: torch.Tensor, kv_format: str) -> torch.Tensor:
    """What a format keeps of keys or values [T, K, d]."""
    if kv_format != "int8":
        return x.to({"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[kv_format]).float()
    scale = x.abs().amax(-1, keepdim=True) / 127
    reciprocal = torch.tensor(127.0) / x.abs().amax(-1, keepdim=True)
    return torch.round(x * reciprocal) * scale


@pytest.mark.parametrize("kv_format", KV_FORMATS)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(1, 1, 16), (4, 2, 32), (8, 2, 128), (16, 1, 80), (6, 2, 256), (64, 1, 48)]
)
def test_attention_equals_the_reference(kv_format, heads, kv_heads, head_dim):
    q, k, v = sequence(570, heads, kv_heads, head_dim)
    (out,) = Sequences(PageLayout(kv_format, LAYERS, kv_heads, head_dim)).step(1, {"a": (q, k, v)})
    expected = reference.attention(q.double(), kept(k, kv_format).double(), kept(v, kv_format).double())
    # int8: queries and weights are rounded to 1 / 32,767 of their largest.
    bound = 2e-4 if kv_format == "int8" else 2e-6
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=bound * float(v.abs().max()))


@functools.cache
def by_generic(kv_format: str, heads: int, head_dim: int) -> torch.Tensor:
    q, k, v = sequence(300, heads, 2, head_dim)
    (out,) = Sequences(PageLayout(kv_format, LAYERS, 2, head_dim), "generic").step(0, {"a": (q, k, v)})
    return out


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS[1:])
@pytest.mark.parametrize("kv_format", KV_FORMATS)
@pytest.mark.parametrize(("heads", "head_dim"), [(2, 16), (4, 48), (6, 64), (14, 32)])
def test_every_instruction_set_gives_the_bits_of_the_specification(instruction_set, kv_format, heads, head_dim):
    q, k, v = sequence(300, heads, 2, head_dim)
    (out,) = Sequences(PageLayout(kv_format, LAYERS, 2, head_dim), instruction_set).step(0, {"a": (q, k, v)})
    assert_same_bits(out, by_generic(kv_format, heads, head_dim))


@functools.cache
def alone(kv_format: str, seed: int) -> torch.Tensor:
    """All of a sequence's 560 positions in one step."""
    (out,) = Sequences(PageLayout(kv_format, LAYERS, 2, 32)).step(0, {"a": sequence(560, 4, 2, 32, seed)})
    return out


@settings(max_examples=1000, deadline=None)
@given(choices=st.randoms(use_true_random=False), kv_format=st.sampled_from(list(KV_FORMATS)))
def test_a_row_is_the_same_however_its_context_was_cut_and_whatever_ran_beside_it(
    choices: random.Random, kv_format: str
):
    sequences = Sequences(PageLayout(kv_format, LAYERS, 2, 32))
    seeds = choices.sample(range(5), choices.randint(1, 3))
    whole = {str(seed): sequence(560, 4, 2, 32, seed) for seed in seeds}
    done = dict.fromkeys(whole, 0)
    for _ in range(4):
        parts = {}
        for name, tensors in whole.items():
            count = min(choices.choice([1, 1, 2, 31, 33, 255, 257]), 560 - done[name])
            if count and choices.random() < 0.8:
                parts[name] = tuple(x[done[name] : done[name] + count] for x in tensors)
        if not parts:
            continue
        for name, out in zip(parts, sequences.step(0, parts), strict=True):
            assert_same_bits(out, alone(kv_format, int(name))[done[name] : done[name] + len(out)])
            done[name] += len(out)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(num_threads):
    q, k, v = sequence(1300, 4, 2, 32)
    layout = PageLayout("bf16", LAYERS, 2, 32)
    (expected,) = Sequences(layout).step(0, {"a": (q, k, v)})
    with threads(num_threads):
        sequences = Sequences(layout)
        (prompt,) = sequences.step(0, {"a": (q[:-1], k[:-1], v[:-1])})
        (last,) = sequences.step(0, {"a": (q[-1:], k[-1:], v[-1:])})
    assert_same_bits(torch.cat([prompt, last]), expected)


def behind_one_page(layout: PageLayout, page: torch.Tensor, length: int, copies: int = 1) -> PagedStep:
    """A token behind `length` positions that all lie in one page, as one sequence or as several equal ones."""
    pages = [page] * (length // PAGE_TOKENS + 1)
    return PagedStep(layout, [pages] * copies, [length] * copies, [1] * copies)


@pytest.mark.parametrize("length", [4_090, 8_450, 13_000])
def test_splits_in_rounds_give_the_bits_of_one_after_the_other(length):
    heads, kv_heads, head_dim = 128, 2, 256
    layout = PageLayout("bf16", 1, kv_heads, head_dim)
    page = layout.new_page().fill_(0)
    PagedStep(layout, [[page]], [0], [PAGE_TOKENS]).write(0, *(normal(PAGE_TOKENS, kv_heads, head_dim) for _ in "kv"))
    q, k, v = (normal(1, n, head_dim, seed=i) for i, n in enumerate((heads, kv_heads, kv_heads)))
    with threads(2):
        (alone,) = behind_one_page(layout, page, length)(0, q, k, v)
        copies = [x.repeat(4, 1, 1) for x in (q, k, v)]  # enough tiles for two threads
        beside = behind_one_page(layout, page, length, copies=4)(0, *copies)
    for out in beside:
        assert_same_bits(alone, out)


@pytest.mark.skipif(not STATM.exists(), reason="there is no /proc to read the process's memory from")
def test_a_long_context_takes_no_memory_to_compute():
    layout = PageLayout("int8", 1, 1, 256)
    page = layout.new_page().fill_(0)
    arguments = (torch.zeros(1, 64, 256), *torch.zeros(2, 1, 1, 256))

    def taken(length: int) -> int:
        step = behind_one_page(layout, page, length)
        before = int(STATM.read_text().split()[1])
        step(0, *arguments)
        return (int(STATM.read_text().split()[1]) - before) * resource.getpagesize()

    with threads(2):
        taken(1_000)
        # A result for each of the 512 splits would be 32 MiB.
        assert taken(131_072) < 8 << 20


@pytest.mark.parametrize("kv_format", KV_FORMATS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_value_reaches_only_those_who_see_it(kv_format, bad):
    q, k, v = sequence(300, 4, 2, 32)
    (expected,) = Sequences(PageLayout(kv_format, LAYERS, 2, 32)).step(0, {"a": (q, k, v)})
    k[271, 1, 5] = bad
    v[280, 0, 7] = bad
    (out,) = Sequences(PageLayout(kv_format, LAYERS, 2, 32)).step(0, {"a": (q, k, v)})
    assert_same_bits(out[:271], expected[:271])
    assert_same_bits(out[:280, :2], expected[:280, :2])
    assert not out[280:, :2, 7].isfinite().any()
    if bad is torch.nan:
        assert out[271:, 2:].isnan().all()


def test_layers_and_sequences_do_not_touch_one_another():
    layout = PageLayout("fp32", 3, 2, 32)
    sequences = Sequences(layout)
    a, b = sequence(40, 4, 2, 32, seed=1), sequence(40, 4, 2, 32, seed=2)
    sequences.step(1, {"a": a})
    before = sequences.pages["a"][0].clone()
    sequences.step(2, {"b": b})
    assert torch.equal(sequences.pages["a"][0], before)
    layer_bytes = layout.page_bytes // 3
    assert (before[:layer_bytes] == 255).all()
    assert (before[2 * layer_bytes :] == 255).all()


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize(("T", "H", "K", "d"), [(1, 4, 2, 128), (3, 2, 1, 16), (70, 5, 1, 80)])
def test_norm_and_rotation_equal_the_reference_and_the_specification(instruction_set, T, H, K, d):
    q, k, q_weight, k_weight = normal(T, H, d), normal(T, K, d, seed=1), normal(d, seed=2), normal(d, seed=3)
    angles = normal(T, d // 2, seed=4).repeat(1, 2) * 100
    arguments = (PackedVector(q_weight), PackedVector(k_weight), 1e-6, angles.cos(), angles.sin())
    out = paged.qk_norm_rope(q, k, *arguments, instruction_set=instruction_set)
    specified = paged.qk_norm_rope(q, k, *arguments, instruction_set="generic")
    expected = reference.qk_norm_rope(q, k, q_weight, k_weight, *arguments[2:])
    for ours, generic, theirs in zip(out, specified, expected, strict=True):
        assert_same_bits(ours, generic)
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape", [(1, 16), (9, 2560), (3, 2, 48)])
def test_norms_equal_the_reference_and_the_specification(instruction_set, shape):
    x, weight = normal(*shape), normal(shape[-1], seed=1)
    out = paged.rms_norm(x, PackedVector(weight), 1e-6, instruction_set=instruction_set)
    assert_same_bits(out, paged.rms_norm(x, PackedVector(weight), 1e-6, instruction_set="generic"))
    torch.testing.assert_close(out, reference.rms_norm(x, weight, 1e-6), rtol=2e-6, atol=2e-6)


def test_an_empty_batch_is_no_work():
    assert paged.rms_norm(torch.empty(0, 16), PackedVector(torch.ones(16)), 1e-6).shape == (0, 16)


@pytest.mark.parametrize(("T", "H", "K"), [(0, 2, 1), (2, 0, 1), (2, 2, 0)])
def test_no_tokens_and_no_heads_are_no_work(T, H, K):
    norm, angles = PackedVector(torch.ones(64)), torch.zeros(T, 64)
    q, k = paged.qk_norm_rope(torch.ones(T, H, 64), torch.ones(T, K, 64), norm, norm, 1e-6, angles.cos(), angles)
    assert (q.shape, k.shape) == ((T, H, 64), (T, K, 64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fp4", 1, 1, 16), "'fp4'"),
        (("fp32", 1, 1, 24), "multiple of 16"),
        (("fp32", 1, 1, 512), "at most 256"),
        (("fp32", 1, 0, 16), "0 key-value heads"),
    ],
)
def test_impossible_layouts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PageLayout(*arguments)


def test_a_step_that_would_leave_its_memory_is_refused():
    layout = PageLayout("bf16", LAYERS, 2, 32)
    pages = [[layout.new_page()]]
    with pytest.raises(ValueError, match="do not hold positions 30 to 32"):
        PagedStep(layout, pages, [30], [3])
    with pytest.raises(ValueError, match="bytes"):
        PagedStep(PageLayout("int8", LAYERS, 2, 32), pages, [0], [3])
    step = PagedStep(layout, pages, [0], [3])
    with pytest.raises(ValueError, match="no layer 2"):
        step.write(2, torch.zeros(3, 2, 32), torch.zeros(3, 2, 32))
    with pytest.raises(ValueError, match="the keys must be"):
        step.write(0, torch.zeros(4, 2, 32), torch.zeros(3, 2, 32))
    kv = torch.zeros(3, 2, 32)
    with pytest.raises(ValueError, match="3 query heads"):
        step(0, torch.zeros(3, 3, 32), kv, kv)
    with pytest.raises(ValueError, match="the queries must be"):
        step(0, torch.zeros(3, 4, 32, dtype=torch.float64), kv, kv)
