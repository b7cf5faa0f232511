"""Token counts in OpenAI's form, and times in llama.cpp's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwen3.engine.request import Usage


def usage(counts: Sequence[Usage], num_choices: int = 1) -> dict[str, Any]:
    """Of a request's generations. A prompt with `num_choices` answers, which come one after another, counts once."""
    prompts = counts[::num_choices]
    prompt_tokens = sum(each.prompt_tokens for each in prompts)
    completion_tokens = sum(each.completion_tokens for each in counts)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(each.cached_tokens for each in prompts)},
        "completion_tokens_details": {"reasoning_tokens": sum(each.reasoning_tokens for each in counts)},
    }


def timings(counts: Usage) -> dict[str, Any]:
    """Of one generation. The first token comes with the prompt, so the rate is that of the others."""
    prompt_n = counts.prompt_tokens - counts.cached_tokens
    steps = max(counts.completion_tokens - 1, 0)
    prompt_ms, predicted_ms = counts.prefill_seconds * 1000, counts.decode_seconds * 1000
    return {
        "cache_n": counts.cached_tokens,
        "prompt_n": prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": _over(prompt_ms, prompt_n),
        "prompt_per_second": _over(prompt_n * 1000, prompt_ms),
        "predicted_n": counts.completion_tokens,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": _over(predicted_ms, steps),
        "predicted_per_second": _over(steps * 1000, predicted_ms),
    }


def _over(value: float, by: float) -> float:
    return value / by if by else 0.0
