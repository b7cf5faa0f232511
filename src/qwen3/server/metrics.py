"""What the server counts and measures, for Prometheus. No label has a value that clients choose."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from qwen3.engine.request import Finished
from qwen3.server.worker import Batch

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One server's figures. Counters grow in the event loop, `step_seconds` in the engine thread."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"qwen3_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"qwen3_{name}", text, buckets=_SECONDS, registry=registry)

        self.answers = counter(
            "http_responses", "Answers by method and status; 499: the client left.", ("method", "status")
        )
        self.finished = counter("generations_finished", "Generations that ended, by reason.", ("reason",))
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts whose generation ended.")
        self.cached_tokens = counter("prompt_tokens_cached", "Those of them that came from the cache.")
        self.prompt_seconds = counter("prompt_seconds", "Time in which prompts were computed, of each request.")
        self.generated_tokens = counter("generated_tokens", "Tokens generated.")
        self.reasoning_tokens = counter("reasoning_tokens", "Those of them inside think blocks.")
        self.generated_seconds = counter("generated_seconds", "Time in which tokens were generated, of each request.")
        self.unknown_fields = counter("unknown_request_fields", "Request fields that were ignored.")
        self.first_token = histogram("time_to_first_token_seconds", "From a request's start to its first event.")
        self.between_tokens = histogram("inter_token_seconds", "From one piece of an answer to the next.")
        self.step_seconds = histogram("engine_step_seconds", "One step of all running requests.")

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A figure that is read when it is asked for."""
        Gauge(f"qwen3_{name}", text, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    async def timed(self, batches: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        """The same batches, with their times observed and what they finish counted."""
        last, observe = time.perf_counter(), self.first_token.observe
        async for batch in batches:
            if batch:
                now = time.perf_counter()
                observe(now - last)
                last, observe = now, self.between_tokens.observe
                for _, event in batch:
                    if isinstance(event, Finished):
                        self._count(event)
            yield batch

    def _count(self, finished: Finished) -> None:
        usage = finished.usage
        self.finished.labels(str(finished.reason)).inc()
        self.prompt_tokens.inc(usage.prompt_tokens)
        self.cached_tokens.inc(usage.cached_tokens)
        self.prompt_seconds.inc(usage.prefill_seconds)
        self.generated_tokens.inc(usage.completion_tokens)
        self.reasoning_tokens.inc(usage.reasoning_tokens)
        self.generated_seconds.inc(usage.decode_seconds)
