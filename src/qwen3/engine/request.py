"""What is asked of the engine and what comes back: sampling parameters, requests, results.

Pure data and bookkeeping over token ids. Knows no torch, no tokenizer and no text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from qwen3.engine.guide import Guide

MAX_TOP_LOGPROBS = 20


class RequestError(ValueError):
    """A request that cannot be served as asked; the message names the field and the fix."""


class ContextError(RequestError):
    """A prompt that does not fit the model's context; the message has both numbers."""


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is drawn. The defaults draw from the model's unmodified distribution.

    Order of effect: logit_bias, penalties, temperature, top_k, top_p, min_p, as in transformers. Penalties count
    generated tokens only, never the prompt.
    """

    temperature: float = 1.0
    """0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probabilities reach this sum."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of each token that was generated before."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time it was generated."""
    repetition_penalty: float = 1.0
    """Divides (positive) or multiplies (negative) the logit of each token that was generated before."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids; -inf bans a token."""
    seed: int | None = None
    """The same seed gives the same tokens, alone or in a batch; None draws a fresh one."""
    max_tokens: int | None = None
    """At most this many generated tokens; None generates until the model stops or the context is full."""
    min_tokens: int = 0
    """No stop token before this many generated tokens."""
    stop: Sequence[str] = ()
    """Strings that end the answer and are left out of it; never looked for inside reasoning."""
    stop_token_ids: Sequence[int] = ()
    """Token ids that end the generation, beside the model's own."""
    ignore_eos: bool = False
    """Go on past the model's own end tokens (for benchmarks)."""
    logprobs: int | None = None
    """Report log-probabilities, with this many alternatives (0 to 20) a token."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        self._number("temperature", 0, 100)
        self._number("top_p", 0, 1, low_open=True)
        self._number("min_p", 0, 1)
        self._number("presence_penalty", -2, 2)
        self._number("frequency_penalty", -2, 2)
        self._number("repetition_penalty", 0, 100, low_open=True)
        self._whole("top_k", 0)
        self._whole("min_tokens", 0)
        self._whole("max_tokens", 1, optional=True)
        self._whole("seed", -(2**63), optional=True)
        self._whole("logprobs", 0, optional=True)
        if (self.logprobs or 0) > MAX_TOP_LOGPROBS:
            raise RequestError(f"logprobs {self.logprobs} is above the limit of {MAX_TOP_LOGPROBS}")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise RequestError("stop holds something other than non-empty strings")
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or isinstance(bias, bool) or not isinstance(bias, int | float):
                raise RequestError(f"logit_bias {token!r}: {bias!r} does not map a token id to a number")
            if math.isnan(bias) or bias == math.inf:
                raise RequestError(f"logit_bias of token {token} is {bias}: use a finite number, or -inf to ban it")

    def _number(self, name: str, low: float, high: float, *, low_open: bool = False) -> None:
        value = getattr(self, name)
        good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if not good or (low_open and value == low):
            raise RequestError(f"{name} {value!r} is not a number {'above' if low_open else 'from'} {low} to {high}")

    def _whole(self, name: str, low: int, *, optional: bool = False) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise RequestError(f"{name} {value!r} is not a whole number of at least {low}")

    def check_tokens(self, vocab_size: int) -> None:
        """Raise RequestError where a token id named here is not below `vocab_size`."""
        for name in ("logit_bias", "stop_token_ids"):
            for token in getattr(self, name):
                if not 0 <= token < vocab_size:
                    raise RequestError(f"{name}: token id {token} is not below the vocabulary's {vocab_size}")


# Recommended by the model cards for the two modes; greedy decoding is advised against when thinking.
THINKING = SamplingParams(temperature=0.6, top_p=0.95, top_k=20)
NON_THINKING = SamplingParams(temperature=0.7, top_p=0.8, top_k=20)


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORT = "abort"


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability in nats of a generated token under the model's unmodified distribution.

    A token that was forced, not drawn, has log-probability 0 and no alternatives.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Usage:
    """Counts in tokens, times in seconds. Reasoning tokens are part of the completion tokens."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    prefill_seconds: float
    decode_seconds: float
    cached_tokens: int = 0
    """Of the prompt, those that were not computed because they were in the cache."""


@dataclass(frozen=True)
class Finished:
    """The last event of every stream."""

    reason: FinishReason
    usage: Usage
    stop_string: str | None = None
    """The one of `SamplingParams.stop` that ended the answer."""
    error: str = ""
    """Why an aborted answer could not go on by its rules."""


@dataclass(eq=False)
class Request:
    """One sequence on its way through the engine. Only the engine changes it; anyone may read it."""

    prompt_ids: list[int]
    params: SamplingParams
    seed: int
    stop_ids: frozenset[int]
    max_length: int
    """The longest that prompt and generation together may get, in tokens."""
    guide: Guide | None = None
    priority: int = 0
    """The lower, the earlier it is served; among equals who came first."""
    cache_salt: str = ""
    """Prefixes are shared among requests with the same one only."""

    generated_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    cached_tokens: int = 0
    """Of the prompt, how many were not computed because another request had."""
    num_computed: int = 0
    """Tokens whose keys and values were held after the last pass."""

    def __post_init__(self) -> None:
        if self.guide is not None:
            self._force(self.guide.opening())

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    def tokens_from(self, start: int, limit: int) -> list[int]:
        """At most `limit` tokens of prompt and generation from position `start` on."""
        split = len(self.prompt_ids)
        if start >= split:
            return self.generated_ids[start - split : start - split + limit]
        head = self.prompt_ids[start : start + limit]
        return head + self.generated_ids[: limit - len(head)]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.generated_ids)

    @property
    def num_left(self) -> int:
        """Tokens that may still be generated."""
        limits = [self.max_length - self.num_tokens]
        if self.params.max_tokens is not None:
            limits.append(self.params.max_tokens - len(self.generated_ids))
        return min(limits)

    def mask(self) -> np.ndarray | None:
        """Which tokens may be drawn next, see `grammar.Matcher.mask`; None for any."""
        return None if self.guide is None else self.guide.mask()

    def accept(self, drawn: TokenLogprob) -> None:
        """Take the drawn token, and whatever must follow it; notices the end."""
        self._append(drawn)
        if self.guide is not None:
            self._force(self.guide.observe(drawn.token_id))

    def end_thinking(self) -> None:
        """Close the think block, if it is open or as soon as it opens."""
        if self.guide is not None and not self.is_finished:
            self._force(self.guide.end_thinking())

    def _force(self, tokens: Sequence[int]) -> None:
        """Take the tokens that the guide wants, and its word that the answer is over."""
        for token in tokens:
            if not self.is_finished:
                self._append(TokenLogprob(token, 0.0))
        if self.guide.error and self.finish_reason is not FinishReason.LENGTH:  # it may be of the next token
            self.finish_reason = FinishReason.ABORT
        elif self.guide.is_over and not self.is_finished:
            self.finish_reason = FinishReason.STOP

    def _append(self, entry: TokenLogprob) -> None:
        self.generated_ids.append(entry.token_id)
        if self.params.logprobs is not None:
            self.logprobs.append(entry)
        if entry.token_id in self.stop_ids:
            self.finish_reason = FinishReason.STOP
        elif len(self.generated_ids) == self.params.max_tokens or self.num_tokens >= self.max_length:
            self.finish_reason = FinishReason.LENGTH
