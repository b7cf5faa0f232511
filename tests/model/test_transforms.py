"""Quantized models: close to the original, and independent of the batch."""

import pytest
import torch
from transformers_models import reference_pair

from qwen3 import LLM
from qwen3.engine import engine as engine_module
from qwen3.engine.engine import Engine
from qwen3.engine.request import Request, SamplingParams
from qwen3.model import CausalAttend
from qwen3.model.transforms import quantize_weights
from qwen3.ops import PackedWeight


def quantized(bits, **shape):
    _, model = reference_pair(**shape)
    reference = logits(model)
    quantize_weights(model, bits)
    return model, reference


def logits(model):
    tokens = torch.arange(0, 320, 7)
    with torch.inference_mode():
        return model.logits(model(tokens, torch.arange(len(tokens)), CausalAttend([len(tokens)])))


DENSE, UNTIED, MOE = {}, {"tie_word_embeddings": False}, {"moe": True, "moe_intermediate_size": 64}


@pytest.mark.parametrize(
    ("shape", "bits", "most"),
    # With random weights many experts are nearly as likely as others, and rounding chooses some of them.
    [(DENSE, 8, 0.03), (UNTIED, 8, 0.03), (MOE, 8, 0.15), (DENSE, 4, 0.4), (UNTIED, 4, 0.4), (MOE, 4, 0.5)],
)
def test_logits_stay_close(shape, bits, most):
    model, reference = quantized(bits, **shape)
    actual = logits(model)
    assert isinstance(model.head_weight, PackedWeight)
    assert (actual - reference).norm() <= most * reference.norm()


@pytest.mark.parametrize(("shape", "bits"), [(DENSE, 4), (DENSE, 8), (MOE, 4), (MOE, 8)])
def test_requests_draw_the_same_tokens_and_logprobs_alone_and_with_others(shape, bits):
    model, _ = quantized(bits, **shape)
    assert model.has_independent_rows

    def run(*seeds):
        engine = Engine(model)
        requests = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            prompt = torch.randint(0, 320, (1 + 7 * seed,), generator=generator).tolist()
            params = SamplingParams(temperature=1.0, max_tokens=12 + seed, logprobs=0)
            requests.append(Request(prompt, params, seed, frozenset(), 128))
            engine.add(requests[-1])
            engine.step()
        while engine.has_work:
            engine.step()
        return [(request.generated_ids, request.logprobs) for request in requests]

    assert run(0, 1, 2, 3, 4) == [run(seed)[0] for seed in range(5)]


def test_builtin_model_still_adds_in_int8():
    llm = LLM("builtin", weights="int8")
    params = SamplingParams(temperature=0, max_tokens=200)
    answer = llm.chat([{"role": "user", "content": "What is 4821 + 3977?"}], params=params, stream=False)
    assert answer.content.endswith("8798")
    assert answer.reasoning


@pytest.mark.parametrize("shape", [DENSE, MOE])
def test_a_shared_pass_is_bounded_and_changes_no_token(monkeypatch, shape):
    model, _ = quantized(8, **shape)
    monkeypatch.setattr(engine_module, "NATIVE_CHUNK", 20)
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))

    def run(*lengths):
        engine = Engine(model)
        requests = [Request([5] * n, SamplingParams(max_tokens=40), n, frozenset(), 128) for n in lengths]
        for request in requests:
            engine.add(request)
        while engine.has_work:
            engine.step()
        return [request.generated_ids for request in requests]

    together = run(45, 6, 13, 20, 1, 1)
    assert max(sizes) == 20
    assert 6 in sizes  # all six decode in one pass
    assert together == [run(length)[0] for length in (45, 6, 13, 20, 1, 1)]
