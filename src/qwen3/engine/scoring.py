"""How likely a given text is: log-probabilities of a prompt's own tokens.

A `ScoredPrompt` is to who steps the engine what a `Generation` is: the engine's steps take its passes, one of one
prompt each. Its memory is that of one pass and of the logits of `_ROWS` positions.
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
        self._engine, self.prompt_ids, self._then = engine, prompt_ids, then
        self._passes = self._score(model, num_top)
        self._tokens: list[TokenLogprob] = []
        self._is_scored = self._is_reported = False
        self.is_done = False

    def start(self) -> None:
        self._engine.run_beside(self._passes)

    def cancel(self) -> None:
        self._passes.close()
        self.is_done = True
        if self._then is not None:
            self._then.cancel()

    def end_thinking(self) -> None:
        """There is none."""

    @property
    def is_due(self) -> bool:
        """Whether it is scored and has not said so, or its continuation is due."""
        return self._is_scored and (not self._is_reported or (self._then is not None and self._then.is_due))

    def poll(self) -> Sequence[Event | Progress | Logprobs | PromptLogprobs]:
        if not self._is_scored or self.is_done:
            return []
        events = [] if self._is_reported else [PromptLogprobs(self._tokens)]
        self._is_reported = True
        if self._then is not None:
            events += self._then.poll()
        self.is_done = self._then is None or self._then.is_done
        return events

    @property
    def finished(self) -> Finished:
        if self._then is not None:
            return self._then.finished
        return Finished(FinishReason.LENGTH, Usage(len(self.prompt_ids), 0, 0, 0.0, 0.0))

    def _score(self, model: Qwen3, num_top: int) -> Iterator[object]:
        for hidden_nD in self._engine.hidden_beside(self.prompt_ids):
            if hidden_nD is None:
                yield
                continue
            first = len(self._tokens) + 1
            following = self.prompt_ids[first : first + len(hidden_nD)]
            for begin in range(0, len(following), _ROWS):
                ids = following[begin : begin + _ROWS]
                with torch.inference_mode():
                    logits_RV = model.logits(hidden_nD[begin : begin + len(ids)]).float()
                    rows = zip(logits_RV, ids, strict=True)
                    self._tokens += [_logprob(logits_V, id, num_top) for logits_V, id in rows]
            yield
        self._is_scored = True
        if self._then is not None:
            self._then.start()


def _logprob(logits_V: torch.Tensor, id: int, num_top: int) -> TokenLogprob:
    top_ids = ops.largest(logits_V, max(num_top, 1))
    below_V = logits_V - logits_V[top_ids[0]]
    log_sum = below_V.exp().sum().log()
    top = [(token, float(below_V[token] - log_sum)) for token in top_ids[:num_top].tolist()]
    return TokenLogprob(id, float(below_V[id] - log_sum), tuple(top))
