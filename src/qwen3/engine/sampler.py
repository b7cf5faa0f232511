"""Draws the next token from a row of logits.

Noise is one uniform number per token from a counter-based generator keyed by (seed, position), so a draw depends
on its own row alone and on nothing that ran beside it.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from qwen3.engine.request import SamplingParams, TokenLogprob


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on its two arguments only."""
    digest = hashlib.blake2b(struct.pack("<qQ", seed, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def sample(
    logits_V: Tensor, params: SamplingParams, generated_ids: Sequence[int], seed: int, stop_ids: Iterable[int]
) -> TokenLogprob:
    """Draw one token from float32 logits [V]; `stop_ids` are banned until `params.min_tokens` are generated."""
    adjusted_V = _adjust(logits_V, params, generated_ids, stop_ids)
    if not adjusted_V.max().isfinite():
        raise FloatingPointError(
            "the model gave no finite logit: its weights are damaged, float16 overflowed (use bfloat16 or float32), "
            "or logit_bias bans every token"
        )
    if params.temperature == 0:
        token = int(adjusted_V.argmax())
    else:
        token = _draw(adjusted_V / params.temperature, params, uniform(seed, len(generated_ids)))
    if params.logprobs is None:
        return TokenLogprob(token, 0.0)
    logprobs_V = logits_V.log_softmax(-1)
    values, ids = logprobs_V.topk(params.logprobs)
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs_V[token]), top)


def _adjust(logits_V: Tensor, params: SamplingParams, generated_ids: Sequence[int], stop_ids: Iterable[int]) -> Tensor:
    adjusted_V = logits_V.clone()
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits_V.device)
        adjusted_V[ids] += torch.tensor(list(params.logit_bias.values()), device=logits_V.device)
    if generated_ids and (params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1):
        counts = Counter(generated_ids)
        ids = torch.tensor(list(counts), device=logits_V.device)
        seen = adjusted_V[ids]
        factor = params.repetition_penalty
        seen = torch.where(seen > 0, seen / factor, seen * factor)
        times = torch.tensor(list(counts.values()), dtype=torch.float32, device=logits_V.device)
        adjusted_V[ids] = seen - params.presence_penalty - params.frequency_penalty * times
    if len(generated_ids) < params.min_tokens:
        adjusted_V[list(stop_ids)] = -torch.inf
    return adjusted_V


def candidates(scaled_V: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """What top_k, top_p and min_p leave of logits [V]: float64 probabilities and ids, most likely first.

    Probabilities of dropped candidates are 0; the others still have to be divided by their sum.
    """
    if 0 < params.top_k < len(scaled_V):
        kept, ids = scaled_V.topk(params.top_k)
    else:
        kept, ids = scaled_V.sort(descending=True, stable=True)
    probabilities = kept.double().softmax(-1)
    if params.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.where(before < params.top_p, 0.0)
    if params.min_p > 0:
        probabilities = probabilities.where(probabilities >= params.min_p * probabilities[0], 0.0)
    return probabilities, ids


def _draw(scaled_V: Tensor, params: SamplingParams, noise: float) -> int:
    """Inverse-CDF draw: the candidate in whose share of the probability `noise` in [0, 1) falls."""
    probabilities, ids = candidates(scaled_V, params)
    cumulative = probabilities.cumsum(-1)
    chosen = int(torch.searchsorted(cumulative, noise * cumulative[-1], right=True))
    # Rounding can put the last noise value at the very end of the sum: fall back to the last kept candidate.
    return int(ids[min(chosen, int(probabilities.nonzero()[-1]))])
