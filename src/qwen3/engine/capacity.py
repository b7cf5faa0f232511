"""How much memory the cache of keys and values may take, and whether a context fits it.

The figures come from the calculator and from what is free before the weights are loaded. The number of blocks is
settled once, at the start; their memory is taken when they are first used, so a machine with much of it does not wait
for pages that nobody needs, and nothing ever grows beyond them.

Knows no tensors.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from qwen3.config import ModelConfig
from qwen3.engine.blocks import BLOCK_TOKENS, blocks_for
from qwen3.engine.request import ContextError, RequestError
from qwen3.engine.scheduler import MAX_RUNNING
from qwen3.memory import estimate
from qwen3.weight_choice import MemoryShortageError

_LEAST_CONTEXT = 512
# Of what is free; the rest stays with the system and other programs.
_SHARE = 3 / 4


@dataclass(frozen=True)
class Capacity:
    """`line` says what was decided that nobody asked for, and is empty where nothing was."""

    num_blocks: int
    max_context: int
    line: str = ""


def plan_cache(
    config: ModelConfig,
    *,
    free_bytes: int,
    bytes_per_token: float,
    chunk: int,
    max_context: int | None,
    kv_tokens: int | None,
    is_packed: bool,
) -> Capacity:
    """Blocks for the sequences that run at once, and the longest of these.

    Args:
        free_bytes: memory that is left beside the weights.
        bytes_per_token: what a position of the cache takes.
        chunk: the most tokens of a pass.
        max_context: the longest sequence; None takes the model's own, or what fits.
        kv_tokens: positions of the cache in all; None takes what memory gives, up to MAX_RUNNING such sequences.
        is_packed: whether the native kernels run the model.

    Raises MemoryShortageError, with the numbers and what would fit, or RequestError where the arguments disagree.
    """
    if kv_tokens is not None and (kv_tokens < BLOCK_TOKENS or kv_tokens < (max_context or 0)):
        raise RequestError(
            f"kv_tokens {kv_tokens} does not hold one context of {max_context or BLOCK_TOKENS} tokens: give more, or "
            "a shorter max_context"
        )
    if (max_context or 0) > config.max_context:
        raise ContextError(
            f"max_context {max_context} is beyond the model's {config.max_context} tokens; "
            "YaRN stretches it, e.g. yarn=4.0"
        )
    context = max_context or min(config.max_context, kv_tokens or config.max_context)

    def room(context: int) -> int:
        """Positions for which there is memory while sequences of this length are computed."""
        # The native kernels need no mask, and so nothing that grows with the context.
        length, weights = (min(context, chunk), "int8") if is_packed else (context, "bf16")
        working = estimate(config, weights=weights, context=length, chunk=chunk).activations
        return max(int((free_bytes - working) / bytes_per_token), 0) // BLOCK_TOKENS * BLOCK_TOKENS

    wanted, line = kv_tokens or context, ""
    if wanted > room(context):
        longest = bisect.bisect(range(1, context + 1), 0, key=lambda length: length - min(room(length), context))
        if max_context is not None or kv_tokens is not None or longest < _LEAST_CONTEXT:
            halved = "kv int8, which takes half as much" if is_packed else "weights int8 or int4"
            advice = (
                f"take max_context {longest} or less, or {halved}" if longest else "free memory, or take int4 weights"
            )
            raise MemoryShortageError(
                f"keys and values of {wanted:,} tokens take {_gb(wanted * bytes_per_token)}, but beside the weights "
                f"{_gb(free_bytes)} of memory are free, also for computing: {advice}"
            )
        line = (
            f"context: {longest:,} tokens of the model's {context:,}, because {_gb(free_bytes)} of memory are free "
            "beside the weights"
        )
        context = longest
    if kv_tokens is None:
        kv_tokens = max(context, min(int(_SHARE * room(context)), MAX_RUNNING * context))
    return Capacity(blocks_for(kv_tokens), context, line)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
