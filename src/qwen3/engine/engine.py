"""The engine: advances every running request by one step at a time.

Each request's tokens run through the model by themselves, in shapes that depend on that request alone. So its
tokens are the same whatever runs beside it, at the price that a batch gains no speed from reading the weights
once; that needs kernels whose rows do not depend on the batch's size.
"""

from __future__ import annotations

import time
from collections import deque

import torch

from qwen3.engine.attend import CachedAttend
from qwen3.engine.cache import KVCache
from qwen3.engine.request import FinishReason, Request
from qwen3.engine.sampler import sample
from qwen3.model import Qwen3

# Prompts longer than this are computed in several steps: bounds the activations' memory and a step's time.
PREFILL_CHUNK = 2048
MAX_RUNNING = 32


class Engine:
    """Runs requests on one model. Not thread-safe: one caller steps it."""

    def __init__(self, model: Qwen3) -> None:
        self._model = model
        weight = model.model.embed_tokens.weight
        self._dtype, self._device = weight.dtype, weight.device
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []

    def add(self, request: Request) -> None:
        """Queue a request; it starts when fewer than MAX_RUNNING others run."""
        self._waiting.append(request)

    def abort(self, request: Request, reason: FinishReason = FinishReason.ABORT) -> None:
        """End a request now and free its cache; nothing happens to one that has ended."""
        if not request.is_finished:
            request.finish_reason = reason
        self._forget_finished()

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    @torch.inference_mode()
    def step(self) -> None:
        """Advance every running request by one prefill chunk or one token."""
        while self._waiting and len(self._running) < MAX_RUNNING:
            request = self._waiting.popleft()
            request.cache = KVCache(self._model.config, self._dtype, self._device)
            self._running.append(request)
        for request in self._running:
            self._advance(request)
        self._forget_finished()

    def _advance(self, request: Request) -> None:
        started = time.perf_counter()
        cache: KVCache = request.cache
        start = cache.length
        tokens = request.tokens_from(start, PREFILL_CHUNK)
        tokens_T = torch.tensor(tokens, device=self._device)
        positions_T = torch.arange(start, start + len(tokens), device=self._device)
        hidden_TD = self._model(tokens_T, positions_T, CachedAttend(cache))
        cache.advance(len(tokens))
        if cache.length == request.num_tokens:
            logits_V = self._model.logits(hidden_TD[-1:])[0].float()
            request.accept(sample(logits_V, request.params, request.generated_ids, request.seed, request.stop_ids))
        elapsed = time.perf_counter() - started
        if start < len(request.prompt_ids):
            request.prefill_seconds += elapsed
        else:
            request.decode_seconds += elapsed

    def _forget_finished(self) -> None:
        for request in self._running:
            if request.is_finished:
                request.cache = None
        self._running = [request for request in self._running if not request.is_finished]
        self._waiting = deque(request for request in self._waiting if not request.is_finished)
