"""The engine: advances every running request by one step at a time.

A request's tokens are the same whatever runs beside it. Where the model's rows do not depend on one another (native
kernels), all requests share one pass, which reads the weights once. Torch's matrix products choose other summation
orders for other row counts, so with them each request runs by itself, in shapes that depend on it alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from qwen3.engine.attend import cached_attend
from qwen3.engine.cache import KVCache, PagePool
from qwen3.engine.request import FinishReason, Request, RequestError
from qwen3.engine.sampler import sample
from qwen3.model import Qwen3

# Most tokens of one pass. Longer prompts take several: bounds the activations' memory and a step's time. The native
# kernels are at full speed with fewer.
TORCH_CHUNK, NATIVE_CHUNK = 2048, 512
MAX_RUNNING = 32


class Engine:
    """Runs requests on one model. Not thread-safe: one caller steps it."""

    def __init__(self, model: Qwen3, kv_format: str | None = None) -> None:
        """`kv_format` of `ops.paged.KV_FORMATS` is how a packed model keeps keys and values; None takes bf16.

        Raises RequestError where there is no choice: other models keep them in their dtype.
        """
        if kv_format is not None and not model.is_packed:
            raise RequestError(
                f"kv {kv_format!r} is for models on the native kernels (weights int8 or int4, or a GGUF file); "
                f"this one keeps keys and values in {str(model.dtype).removeprefix('torch.')}"
            )
        self._model = model
        self._chunk = NATIVE_CHUNK if model.is_packed else TORCH_CHUNK
        self.pool = PagePool(
            model.config, model.dtype, model.device, (kv_format or "bf16") if model.is_packed else None
        )
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

    def step(self) -> None:
        """Advance every running request by one prefill chunk or one token."""
        with self._computing():
            self._step()

    def _step(self) -> None:
        while self._waiting and len(self._running) < MAX_RUNNING:
            request = self._waiting.popleft()
            if request.cache is None:
                request.cache = KVCache(self.pool)
            self._running.append(request)
        for requests in self._passes():
            self._advance(requests)
        self._forget_finished()

    def hidden(self, token_ids: Sequence[int]) -> Tensor:
        """Hidden states [T, D] of a text of its own, in passes as a request's prompt takes them."""
        return torch.cat(list(self.hidden_chunks(token_ids)))

    def hidden_chunks(self, token_ids: Sequence[int]) -> Iterator[Tensor]:
        """`hidden`, pass by pass; others may run between them."""
        cache = KVCache(self.pool)
        try:
            for begin in range(0, len(token_ids), self._chunk):
                with self._computing():
                    hidden_nD = self._forward([cache], [token_ids[begin : begin + self._chunk]])
                yield hidden_nD
        finally:
            cache.release()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Without gradients; and beside the native kernels' threads torch's own would only be in the way."""
        num_threads = torch.get_num_threads()
        if self._model.is_packed:
            torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(num_threads)

    def _forward(self, caches: Sequence[KVCache], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Hidden states of the next tokens of several sequences, whose caches then hold them."""
        counts = [len(chunk) for chunk in chunks]
        tokens_T = torch.tensor([token for chunk in chunks for token in chunk])
        positions_T = torch.cat([torch.arange(c.length, c.length + n) for c, n in zip(caches, counts, strict=True)])
        device = self._model.device
        hidden_TD = self._model(tokens_T.to(device), positions_T.to(device), cached_attend(caches, counts))
        for cache, count in zip(caches, counts, strict=True):
            cache.advance(count)
        return hidden_TD

    def _passes(self) -> Iterator[list[Request]]:
        """The running requests, as they share passes of at most `_chunk` tokens.

        Whole chunks only: how a request's own prompt is cut must not depend on the others.
        """
        if not self._model.has_independent_rows:
            yield from ([request] for request in self._running)
            return
        requests: list[Request] = []
        room = self._chunk
        for request in self._running:
            count = min(self._chunk, request.num_tokens - request.cache.length)
            if count > room:
                yield requests
                requests, room = [], self._chunk
            requests.append(request)
            room -= count
        if requests:
            yield requests

    def _advance(self, requests: list[Request]) -> None:
        """One pass over the next tokens of `requests`, and a drawn token for each that is then complete."""
        started = time.perf_counter()
        caches: list[KVCache] = [request.cache for request in requests]
        starts = [cache.length for cache in caches]
        chunks = [request.tokens_from(start, self._chunk) for request, start in zip(requests, starts, strict=True)]
        hidden_TD = self._forward(caches, chunks)
        last_rows = [hidden_nD[-1] for hidden_nD in hidden_TD.split([len(chunk) for chunk in chunks])]
        complete = [i for i, request in enumerate(requests) if caches[i].length == request.num_tokens]
        if complete:
            logits = self._model.logits(torch.stack([last_rows[i] for i in complete])).float()
            for i, logits_V in zip(complete, logits, strict=True):
                request = requests[i]
                request.accept(sample(logits_V, request.params, request.generated_ids, request.seed, request.stop_ids))
        elapsed = time.perf_counter() - started
        for request, start in zip(requests, starts, strict=True):
            if start < len(request.prompt_ids):
                request.prefill_seconds += elapsed
            else:
                request.decode_seconds += elapsed

    def _forget_finished(self) -> None:
        for request in self._running:
            if request.is_finished:
                request.cache.release()
                request.cache = None
        self._running = [request for request in self._running if not request.is_finished]
        self._waiting = deque(request for request in self._waiting if not request.is_finished)
