"""An engine that says what it is told, as far as a request's rules allow, in place of what a model computes."""

from collections.abc import Callable

import numpy as np
import torch

from qwen3.engine.request import FinishReason, Request, SamplingParams, TokenLogprob
from qwen3.engine.sampler import sample
from qwen3.tokenizer import Tokenizer

# A request and the mask of its next token, to that token.
Speaker = Callable[[Request, np.ndarray | None], int]


class SpeakingEngine:
    """Each step gives every running request one token of `speaker`'s."""

    has_idle_work, backlog_seconds = False, 0.0

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._running: list[Request] = []

    def add(self, request: Request) -> None:
        self._running.append(request)

    def remember(self, prompt, cache_salt="") -> None:
        """It computes nothing, and so nothing ahead."""

    def abort(self, request: Request, reason: FinishReason = FinishReason.ABORT) -> None:
        if not request.is_finished:
            request.finish_reason = reason
        self._running = [other for other in self._running if other is not request]

    def step(self) -> None:
        for request in self._running:
            request.accept(TokenLogprob(self._speaker(request, request.mask()), 0.0))
        self._running = [request for request in self._running if not request.is_finished]


def is_allowed(mask: np.ndarray | None, token: int) -> bool:
    return mask is None or bool(mask[token // 8] >> token % 8 & 1)


def wants(tokenizer: Tokenizer, text: str) -> Speaker:
    """Says `text` and ends. What is forced upon it, it skips where that is what it wanted to say anyway. Where the text
    is not allowed it says what is, in an order that soon comes to an end, and then goes on with the text."""
    script = [*tokenizer.encode(text), tokenizer.eos_id]
    fallback = [tokenizer.eos_id, *(tokenizer.encode(char)[0] for char in '"}]:,0 ')]

    def speaker(request: Request, mask: np.ndarray | None) -> int:
        said = iter(request.generated_ids)
        place = 0
        for token in said:  # how much of the script, in order, has been said
            place += place < len(script) and token == script[place]
        wanted = script[min(place, len(script) - 1)]
        if is_allowed(mask, wanted):
            return wanted
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
        return next((token for token in fallback if token in allowed), int(allowed[0]))

    return speaker


def draws(tokenizer: Tokenizer, vocab_size: int, params: SamplingParams, seed: int) -> Speaker:
    """Draws from random logits, a little in favour of what ends things."""
    generator = torch.Generator().manual_seed(seed)
    favoured = [tokenizer.eos_id, *(tokenizer.encode(char)[0] for char in '"}]')]

    def speaker(request: Request, mask: np.ndarray | None) -> int:
        logits = torch.randn(vocab_size, generator=generator)
        logits[favoured] += 4
        return sample(logits, params, request.generated_ids, request.seed, request.stop_ids, mask).token_id

    return speaker
