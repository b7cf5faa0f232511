"""How likely a given text is: log-probabilities of a prompt's own tokens.

A `ScoredPrompt` is to who steps the engine what a `Generation` is, and advances by one pass of the prompt whenever it
is polled. Its memory is that of one pass and of the logits of `_ROWS` positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from qwen3 import ops
from qwen3.chat import Event
from qwen3.engine.engine import Engine
from qwen3.engine.generation import Generation, Logprobs, Progress
from qwen3.engine.request import Finished, FinishReason, TokenLogprob, Usage
from qwen3.model import Qwen3

_ROWS = 64


@dataclass(frozen=True)
class PromptLogprobs:
    """Of each token of the prompt but the first, for which there is none."""

    tokens: list[TokenLogprob]


class ScoredPrompt:
    """Scores a prompt, then runs `then` on it if there is one."""

    def __init__(
        self, engine: Engine, model: Qwen3, prompt_ids: Sequence[int], num_top: int, then: Generation | None
    ) -> None:
        """`num_top` likeliest tokens are reported at each position."""
        self.prompt_ids, self._then = prompt_ids, then
        self._passes = self._score(engine, model, num_top)
        self._tokens: list[TokenLogprob] = []
        self._is_scored = False
        self.is_done = False

    def start(self) -> None:
        """Nothing runs before the first `poll`."""

    def cancel(self) -> None:
        self._passes.close()
        if self._then is not None:
            self._then.cancel()

    def end_thinking(self) -> None:
        """There is none."""

    @property
    def is_due(self) -> bool:
        """`poll` is what scores."""
        return not self._is_scored or (self._then is not None and self._then.is_due)

    def poll(self) -> Sequence[Event | Progress | Logprobs | PromptLogprobs]:
        if self._is_scored:
            events = self._then.poll()
            self.is_done = self._then.is_done
            return events
        if (scored := next(self._passes, None)) is not None:
            self._tokens += scored
            return []
        self._is_scored = True
        self.is_done = self._then is None
        if self._then is not None:
            self._then.start()
        return [PromptLogprobs(self._tokens)]

    @property
    def finished(self) -> Finished:
        if self._then is not None:
            return self._then.finished
        return Finished(FinishReason.LENGTH, Usage(len(self.prompt_ids), 0, 0, 0.0, 0.0))

    def _score(self, engine: Engine, model: Qwen3, num_top: int) -> Iterator[list[TokenLogprob]]:
        # Others may hold the blocks that it needs.
        while not engine.can_hold(len(self.prompt_ids)):
            yield []
        done = 0
        for hidden_nD in engine.hidden_chunks(self.prompt_ids):
            following = self.prompt_ids[done + 1 : done + 1 + len(hidden_nD)]
            done += len(hidden_nD)
            scored: list[TokenLogprob] = []
            for begin in range(0, len(following), _ROWS):
                ids = following[begin : begin + _ROWS]
                with torch.inference_mode():
                    logits_RV = model.logits(hidden_nD[begin : begin + len(ids)]).float()
                    scored += [_logprob(logits_V, id, num_top) for logits_V, id in zip(logits_RV, ids, strict=True)]
            yield scored


def _logprob(logits_V: torch.Tensor, id: int, num_top: int) -> TokenLogprob:
    top_ids = ops.largest(logits_V, max(num_top, 1))
    below_V = logits_V - logits_V[top_ids[0]]
    log_sum = below_V.exp().sum().log()
    top = [(token, float(below_V[token] - log_sum)) for token in top_ids[:num_top].tolist()]
    return TokenLogprob(id, float(below_V[id] - log_sum), tuple(top))
