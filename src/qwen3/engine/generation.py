"""One answer on its way: a request in the engine, and the parser that turns its ids into events.

It does not step the engine, and knows nothing of the others that run beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from qwen3.chat import Content, Event, StreamParser, TokenText, TokenTexts, ToolCall, ToolCallDelta
from qwen3.engine.engine import Engine
from qwen3.engine.request import Finished, FinishReason, Request, Usage
from qwen3.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a prompt is: of `total` tokens `processed`, of these `cached` without computing. Time in seconds."""

    total: int
    cached: int
    processed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Tokens of the content, owned by their TokenLogprob. They come after the events that show them, perhaps later."""

    tokens: list[TokenText]


class Generation:
    """Made by `LLM.prepare_chat` and `prepare_completion`. Then, in the one thread that steps the engine: `start`,
    and after each step `poll`, or after one that leaves `is_due` false a later one; until `is_done`, or `cancel`."""

    def __init__(
        self,
        engine: Engine,
        request: Request,
        parser: StreamParser,
        history: Callable[[str], Sequence[int]] | None = None,
    ) -> None:
        """`history` gives, for the answer's content, the ids with which the conversation's next prompt will begin."""
        self._engine = engine
        self.request, self.parser, self._history = request, parser, history
        self._content: list[str] = []
        self.is_done = False
        self._num_read = 0
        self._called_tools = False
        self._token_texts: TokenTexts | None = None
        self._last_progress: int | None = None
        self._reports_progress = False

    def report(self, *, progress: bool = False, logprobs_of: Tokenizer | None = None) -> None:
        """Have `poll` give Progress until the first token comes, and Logprobs. To be called before `start`."""
        self._reports_progress = progress
        self._token_texts = None if logprobs_of is None else TokenTexts(logprobs_of)

    @property
    def prompt_ids(self) -> Sequence[int]:
        return self.request.prompt_ids

    def start(self) -> None:
        """Have the engine compute it with its next step; one whose answer was forced throughout needs none."""
        if not self.request.is_finished:
            self._engine.add(self.request)

    def cancel(self) -> None:
        """Compute no more of it and free its cache; nothing happens to one that has ended."""
        self._engine.abort(self.request)

    def end_thinking(self) -> None:
        """Close the think block, or as soon as it opens: the answer comes next."""
        self.request.end_thinking()
        if self.request.is_finished:
            self._engine.abort(self.request)

    @property
    def is_due(self) -> bool:
        """Whether the request has ended, or what it says might end it."""
        return self.request.is_finished or self.parser.can_end

    def poll(self) -> list[Event | Progress | Logprobs]:
        """Events of the tokens that came since the last call; ends the request at a stop string."""
        if self.is_done:
            return []
        request = self.request
        events: list[Event | Progress | Logprobs] = self._progress() if self._reports_progress else []
        first = self._num_read
        tokens = request.generated_ids[first:]
        self._num_read += len(tokens)
        if tokens and tokens[-1] in request.stop_ids:
            tokens.pop()
        if self._token_texts is None and not self.parser.can_end:
            events += self.parser.feed(tokens)
        else:
            events += self._feed_each(tokens, first)
        if self.parser.is_over:
            self._engine.abort(request, FinishReason.STOP)
            request.finish_reason = FinishReason.STOP
        if request.is_finished:
            last = self.parser.finish()
            events += last
            if self._token_texts is not None:
                events += _logprobs(self._token_texts.finish(last))
            self.is_done = True
        self._called_tools |= any(isinstance(event, ToolCall | ToolCallDelta) for event in events)
        if self._history is not None:
            self._content += [event.text for event in events if isinstance(event, Content)]
            if self.is_done and self.finish_reason in (FinishReason.STOP, FinishReason.LENGTH):
                # After a call the reasoning stays in the prompt, and the blocks of this answer are the history.
                self._engine.remember(partial(self._history, "".join(self._content)), request.cache_salt)
        return events

    def _feed_each(self, tokens: Sequence[int], first: int) -> list[Event | Logprobs]:
        """As many as the answer has: what was drawn behind its end, in the same step or while nobody read, is not of
        it."""
        texts, request = self._token_texts, self.request
        events: list[Event | Logprobs] = []
        shown: list[TokenText] = []
        for number, token in enumerate(tokens, start=first):
            if texts is not None:
                texts.before(token, request.logprobs[number], self.parser.state)
            new = self.parser.feed([token])
            if texts is not None:
                shown += texts.after(new)
            events += new
            if self.parser.is_over:
                del request.generated_ids[number + 1 :], request.logprobs[number + 1 :]
                break
        return events + _logprobs(shown)

    def _progress(self) -> list[Progress]:
        """The first is what the cache had, the last the whole prompt."""
        request, usage = self.request, self.usage
        if request.generated_ids:
            done, self._reports_progress = usage.prompt_tokens, False
        else:
            done = min(request.num_computed, usage.prompt_tokens)
        steps = [done] if self._last_progress is not None else [usage.cached_tokens, done]
        steps = [step for step in dict.fromkeys(steps) if step != self._last_progress]
        self._last_progress = done
        return [Progress(usage.prompt_tokens, usage.cached_tokens, step, usage.prefill_seconds) for step in steps]

    @property
    def finish_reason(self) -> FinishReason | None:
        reason = self.request.finish_reason
        return FinishReason.TOOL_CALLS if self._called_tools and reason is FinishReason.STOP else reason

    @property
    def usage(self) -> Usage:
        request = self.request
        return Usage(
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=len(request.generated_ids),
            reasoning_tokens=self.parser.num_reasoning_tokens,
            prefill_seconds=request.prefill_seconds,
            decode_seconds=request.decode_seconds,
            cached_tokens=request.cached_tokens,
        )

    @property
    def finished(self) -> Finished:
        """The stream's last event, once `is_done`."""
        reason, guide = self.finish_reason, self.request.guide
        error = guide.error if guide is not None and reason is FinishReason.ABORT else ""
        return Finished(reason, self.usage, self.parser.stopped, error)


def _logprobs(tokens: list[TokenText]) -> list[Logprobs]:
    return [Logprobs(tokens)] if tokens else []
