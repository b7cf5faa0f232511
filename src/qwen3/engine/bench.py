"""What `qwen3 bench` measures: requests through the engine that serves, timed, beside what the memory gives.

A case is one phase at one depth and batch. Prefill is the time from adding the requests to the first token of each;
decode the time of steps that each draw one token a request, greedily. Depth is not computed: a request starts with that
many random keys and values in its cache, which costs a decode step what computed ones would.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from statistics import harmonic_mean

import torch

from qwen3 import ops
from qwen3.engine import engine as engine_module
from qwen3.engine.attend import cached_attend
from qwen3.engine.cache import KVCache
from qwen3.engine.engine import Engine
from qwen3.engine.profile import timed
from qwen3.engine.request import ContextError, Request, RequestError, SamplingParams
from qwen3.engine.scheduler import MAX_RUNNING
from qwen3.model import Qwen3
from qwen3.model.transforms import weights_of
from qwen3.ops import native
from qwen3.ops.layer import PackedLayers
from qwen3.ops.packed import PlainMemory

_SECONDS_BETWEEN_READS = 0.2


class Phase(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True)
class Case:
    """`tokens` are those of one request: of its prompt, or generated."""

    phase: Phase
    tokens: int
    depth: int
    batch: int

    def __str__(self) -> str:
        return f"{self.phase} {self.tokens:,}, depth {self.depth:,}, batch {self.batch}"


@dataclass(frozen=True)
class Spread:
    """Of several repetitions."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Repetition:
    """How long a case took, and the bandwidth that plain memory gave between its steps, in GB/s; 0 for prefill."""

    seconds: float
    bandwidth: float


@dataclass(frozen=True)
class Measurement:
    """A case and its repetitions so far."""

    case: Case
    bytes_per_step: float
    """Weights and cached keys and values that one decode step reads; 0 for prefill, which arithmetic bounds."""
    repetitions: list[Repetition] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> Spread:
        """Of all requests together."""
        num_tokens = self.case.tokens * self.case.batch
        return Spread.of([num_tokens / each.seconds for each in self.repetitions])

    @property
    def gb_per_second(self) -> Spread:
        return Spread.of([self._gigabytes / each.seconds for each in self.repetitions])

    @property
    def bandwidth_share(self) -> Spread:
        """What each repetition read of what the memory gave meanwhile."""
        return Spread.of([self._gigabytes / each.seconds / each.bandwidth for each in self.repetitions])

    @property
    def _gigabytes(self) -> float:
        return self.bytes_per_step * self.case.tokens / 1e9


@dataclass(frozen=True)
class Profile:
    """One more repetition with timers on. Shares are of its time; they sum to 1."""

    case: Case
    seconds: float
    shares: dict[str, float]
    """By operation, `sample`, and `rest`: everything else, Python and small torch operations."""
    outside_native: float
    """The share that no native kernel was running: Python, and whatever torch computes."""


def plan(prompts: Sequence[int], generate: int, depths: Sequence[int], batches: Sequence[int]) -> list[Case]:
    """The cases in the order in which they run; a prompt or generation of 0 tokens leaves out its phase.

    Raises RequestError for numbers that cannot be run.
    """
    if min((*prompts, generate, *depths)) < 0 or not 1 <= min(batches) <= max(batches) <= MAX_RUNNING:
        raise RequestError(f"lengths and depths are at least 0, batches 1 to {MAX_RUNNING}")
    cases = []
    for depth in depths:
        for batch in batches:
            cases += [Case(Phase.PREFILL, prompt, depth, batch) for prompt in prompts if prompt]
            cases += [Case(Phase.DECODE, generate, depth, batch)] if generate else []
    if not cases:
        raise RequestError("there is nothing to measure: give a prompt or a generation of at least one token")
    return cases


class Bench:
    """Measures cases on one model. `measurements` holds what is measured so far, also after an interruption."""

    def __init__(
        self,
        model: Qwen3,
        cases: Sequence[Case],
        max_context: int,
        *,
        kv_format: str | None = None,
        probe_megabytes: int = 512,
    ) -> None:
        """Raises ContextError where a case is longer than `max_context`."""
        for case in cases:
            if case.depth + case.tokens >= max_context:
                raise ContextError(
                    f"{case}: {case.depth + case.tokens:,} tokens and the next one do not fit the context of "
                    f"{max_context:,}; choose a smaller depth or length"
                )
        self._model = model
        self._engine = Engine(model, kv_format)
        self.kv_format = self._engine.pool.format
        self._probe_megabytes = probe_megabytes
        self._cases = cases
        self.measurements: list[Measurement] = []
        self.profiles: list[Profile] = []
        self.peak_bytes = 0
        """Of the process, once every case has warmed up; before that 0."""

    def run(self, repeat: int, *, with_profile: bool = False) -> Iterator[str]:
        """Yields what comes next, before it runs. Repetitions go through all cases in turn, so that a slow minute of
        the machine falls on all of them."""
        for case in self._cases:
            yield f"warm-up: {case}"
            is_decode = case.phase is Phase.DECODE
            # Of decode only the last step, which has the longest context and so the most memory.
            self._prepare(replace(case, tokens=1, depth=case.depth + case.tokens - 1) if is_decode else case)
            self._run()
        self.peak_bytes = peak_memory()
        memory = PlainMemory(self._probe_megabytes)  # not before: it must not count
        measurements = [Measurement(case, self._bytes_per_step(case)) for case in self._cases]
        for i in range(repeat):
            for measurement in measurements:
                yield f"{i + 1} of {repeat}: {measurement.case}"
                self._prepare(measurement.case)
                is_decode = measurement.case.phase is Phase.DECODE
                measurement.repetitions.append(self._run(memory if is_decode else None))
                if not i:
                    self.measurements.append(measurement)
        for case in self._cases if with_profile else ():
            yield f"profile: {case}"
            self.profiles.append(self._profile(case))

    def _prepare(self, case: Case) -> None:
        """Give the engine the case's requests, their depths already in the cache."""
        num_prompt, num_generated = (case.tokens, 1) if case.phase is Phase.PREFILL else (1, case.tokens)
        params = SamplingParams(temperature=0, max_tokens=num_generated)
        draw = random.Random(0)
        for _ in range(case.batch):
            prompt = draw.choices(range(self._model.config.vocab_size), k=case.depth + num_prompt)
            request = Request(prompt, params, seed=0, stop_ids=frozenset(), max_length=sys.maxsize)
            self._start(request, case.depth)

    @torch.inference_mode()
    def _start(self, request: Request, depth: int) -> None:
        """Have the engine take the first `depth` tokens of `request` for computed: random keys and values."""
        pool, config = self._engine.pool, self._model.config
        sequence = self._engine.scheduler.start_filled(request, depth)
        if depth == 0:
            return
        attend = cached_attend([KVCache(pool, pool.pages(sequence.blocks))], [depth])
        shape = (2, depth, config.num_key_value_heads, config.head_dim)
        keys, values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(pool.dtype)
        for layer in range(config.num_hidden_layers):
            attend.write(layer, keys, values)

    def _run(self, memory: PlainMemory | None = None) -> Repetition:
        """All steps of what is prepared. Between them `memory` is read now and then, as what it gives changes by the
        second where others use it too."""
        seconds = next_read = 0.0
        reads: list[float] = []
        while self._engine.has_work:
            if memory is not None and seconds >= next_read:
                reads.append(memory.bandwidth())
                next_read = seconds + _SECONDS_BETWEEN_READS
            start = time.perf_counter()
            self._engine.step()
            seconds += time.perf_counter() - start
        return Repetition(seconds, harmonic_mean(reads) if reads else 0.0)

    def _profile(self, case: Case) -> Profile:
        kernels = [(native._native, name) for name in dir(native._native) if _is_function(name)]
        operations = [(ops, name) for name in ops.IMPLEMENTATIONS] + [
            (engine_module, "sample"),
            (PackedLayers, "__call__"),
        ]
        self._prepare(case)
        with timed(operations) as by_operation, timed(kernels) as by_kernel:
            seconds = self._run().seconds
        shares = {name: own / seconds for name, own in by_operation.items() if own}
        shares["rest"] = 1 - sum(shares.values())
        return Profile(case, seconds, shares, outside_native=1 - sum(by_kernel.values()) / seconds)

    def _bytes_per_step(self, case: Case) -> float:
        if case.phase is Phase.PREFILL:
            return 0.0
        # The first step sees the depth and its own token, the last `tokens - 1` more.
        mean_context = case.depth + (case.tokens + 1) / 2
        cached = case.batch * mean_context * self._engine.pool.bytes_per_token
        return bytes_read(self._model, case.batch) + cached


def bytes_read(model: Qwen3, batch: int) -> float:
    """Bytes of the weights that a step with one token for each of `batch` requests reads.

    That is no embedding that is not the head as well, beyond a row a request, and of a layer's experts those that any
    request chooses, for choices that are uniform and independent.
    """
    config = model.config
    total = 0.0
    for name, weight in weights_of(model):
        share = 1.0
        if ".experts" in name:
            share = 1 - (1 - config.num_experts_per_tok / config.num_experts) ** batch
        elif name == "model.embed_tokens" and not config.tie_word_embeddings:
            share = batch / config.vocab_size
        total += share * weight.nbytes
    return total


def peak_memory() -> int:
    """The most resident bytes that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: there a child starts with its parent's peak.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _is_function(name: str) -> bool:
    return callable(getattr(native._native, name)) and not isinstance(getattr(native._native, name), type)
