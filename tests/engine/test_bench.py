"""What a benchmark runs and counts: the tokens, positions and bytes of its cases."""

from dataclasses import replace

import pytest

from qwen3 import ops
from qwen3.config import ModelConfig
from qwen3.engine.bench import Bench, Case, Phase, bytes_read, peak_memory, plan
from qwen3.engine.request import ContextError, RequestError
from qwen3.model.random import random_model
from qwen3.model.transforms import stored_bytes

CONFIG = ModelConfig(
    model_type="qwen3",
    vocab_size=320,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    tie_word_embeddings=True,
)
SPARSE = replace(
    CONFIG,
    model_type="qwen3_moe",
    tie_word_embeddings=False,
    num_experts=16,
    num_experts_per_tok=4,
    moe_intermediate_size=32,
    norm_topk_prob=True,
)


def finished(model, cases, repeat=2, **options):
    bench = Bench(model, cases, max_context=1000, probe_megabytes=1)
    steps = list(bench.run(repeat, **options))
    return bench, steps


def test_plan_crosses_depths_batches_and_phases():
    assert plan([8, 16], 4, [0, 100], [2]) == [
        Case(Phase.PREFILL, 8, 0, 2),
        Case(Phase.PREFILL, 16, 0, 2),
        Case(Phase.DECODE, 4, 0, 2),
        Case(Phase.PREFILL, 8, 100, 2),
        Case(Phase.PREFILL, 16, 100, 2),
        Case(Phase.DECODE, 4, 100, 2),
    ]
    assert plan([0], 4, [0], [1]) == [Case(Phase.DECODE, 4, 0, 1)]
    assert plan([8], 0, [0], [1]) == [Case(Phase.PREFILL, 8, 0, 1)]


@pytest.mark.parametrize("numbers", [([8], 4, [0], [0]), ([8], 4, [0], [99]), ([8], 4, [-1], [1]), ([0], 0, [0], [1])])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(RequestError):
        plan(*numbers)


@pytest.mark.parametrize(("phase", "tokens", "depth"), [(Phase.PREFILL, 600, 400), (Phase.DECODE, 1, 999)])
def test_a_case_beyond_the_context_is_refused(phase, tokens, depth):
    with pytest.raises(ContextError, match="1,000"):
        Bench(random_model(CONFIG), [Case(phase, tokens, depth, 1)], max_context=1000)


def test_the_model_sees_each_token_of_a_case_once_at_its_place(monkeypatch):
    model = random_model(CONFIG)
    seen = []
    forward = type(model).forward

    def recording(self, tokens_T, positions_T, attend):
        seen.append(positions_T.tolist())
        return forward(self, tokens_T, positions_T, attend)

    monkeypatch.setattr(type(model), "forward", recording)
    finished(model, [Case(Phase.PREFILL, 5, 10, 2), Case(Phase.DECODE, 3, 10, 2)], repeat=1)
    prefill, decode = [*range(10, 15)] * 2, [[10, 10], [11, 11], [12, 12]]
    # Warm-ups first: the whole prompt, and decode's last step.
    assert seen == [prefill, [12, 12], prefill, *decode]


def test_measurements_hold_every_repetition():
    bench, steps = finished(random_model(CONFIG), plan([8], 4, [0, 6], [1, 3]), repeat=3)
    assert len(steps) == 8 * (1 + 3)
    assert [each.case for each in bench.measurements] == plan([8], 4, [0, 6], [1, 3])
    for each in bench.measurements:
        speeds = [each.case.tokens * each.case.batch / run.seconds for run in each.repetitions]
        assert len(speeds) == 3
        assert each.tokens_per_second.median == sorted(speeds)[1]
        assert 0 < min(speeds) == each.tokens_per_second.min <= each.tokens_per_second.max == max(speeds)
        assert all((run.bandwidth > 0) == (each.case.phase is Phase.DECODE) for run in each.repetitions)
    assert 0 < bench.peak_bytes <= 1.01 * peak_memory()  # the kernel counts in batches


def test_an_interruption_keeps_what_was_measured():
    bench = Bench(random_model(CONFIG), plan([8], 4, [0], [1]), max_context=100, probe_megabytes=1)
    steps = bench.run(3)
    for _ in range(2 + 1 + 1):  # two warm-ups, a measured prefill, and the decode begins
        next(steps)
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt)
    assert [(each.case.phase, len(each.repetitions)) for each in bench.measurements] == [(Phase.PREFILL, 1)]


def test_decode_reads_weights_and_cache():
    model = random_model(CONFIG)
    (measured,) = finished(model, [Case(Phase.DECODE, 5, 100, 3)], repeat=1)[0].measurements
    contexts = [101, 102, 103, 104, 105]
    cached = 2 * 2 * 2 * 16 * 2 * 3 * sum(contexts) / 5  # keys and values, layers, heads, d, bfloat16, requests
    assert measured.bytes_per_step == sum(stored_bytes(model).values()) + cached
    (run,) = measured.repetitions
    assert measured.gb_per_second.median == pytest.approx(measured.bytes_per_step * 5 / run.seconds / 1e9)
    assert measured.bandwidth_share.median == pytest.approx(measured.gb_per_second.median / run.bandwidth)


def test_a_sparse_step_reads_the_active_parameters():
    model = random_model(SPARSE, "bf16")
    embedding = SPARSE.vocab_size * SPARSE.hidden_size
    active = SPARSE.num_active_parameters - embedding + SPARSE.hidden_size
    assert bytes_read(model, 1) == pytest.approx(2 * active)
    assert bytes_read(model, 1) < bytes_read(model, 4) < bytes_read(model, 1000)
    everything = 2 * (SPARSE.num_parameters - embedding + 1000 * SPARSE.hidden_size)
    assert bytes_read(model, 1000) == pytest.approx(everything)


def test_storages_are_named_with_their_bytes():
    assert list(stored_bytes(random_model(SPARSE, "int4", 32))) == ["int4-g32", "int8-g32", "float32"]
    assert stored_bytes(random_model(CONFIG, "bf16")) == {"bfloat16": 2 * CONFIG.num_parameters}


def test_profile_divides_the_whole_time():
    before = ops.linear
    bench, _ = finished(random_model(CONFIG), plan([8], 4, [0], [1]), repeat=1, with_profile=True)
    assert [each.case for each in bench.profiles] == plan([8], 4, [0], [1])
    for each in bench.profiles:
        assert sum(each.shares.values()) == pytest.approx(1)
        assert all(share > 0 for share in each.shares.values())
        assert {"embedding", "PackedLayers", "linear", "sample", "rest"} <= each.shares.keys()
        assert each.shares["rest"] < each.outside_native < 1
    assert ops.linear is before


def test_a_model_without_native_products_is_outside_native_code_but_for_the_draw():
    (profile,) = finished(random_model(CONFIG, "bf16"), [Case(Phase.DECODE, 2, 0, 1)], 1, with_profile=True)[0].profiles
    assert 0.9 < profile.outside_native < 1
