"""One answer on its way: a request in the engine, and the parser that turns its ids into events.

It does not step the engine, and knows nothing of the others that run beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from qwen3.chat import Content, Event, StreamParser, ToolCall, ToolCallDelta
from qwen3.engine.engine import Engine
from qwen3.engine.request import Finished, FinishReason, Request, Usage


class Generation:
    """Made by `LLM.prepare_chat` and `prepare_completion`. Then, in the one thread that steps the engine: `start`,
    and after each step `poll`, until `is_done`; or `cancel`."""

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

    def poll(self) -> list[Event]:
        """Events of the tokens that came since the last call; ends the request at a stop string."""
        if self.is_done:
            return []
        request = self.request
        tokens = request.generated_ids[self._num_read :]
        self._num_read += len(tokens)
        if tokens and tokens[-1] in request.stop_ids:
            tokens.pop()
        events = self.parser.feed(tokens)
        if self.parser.is_over:
            self._engine.abort(request, FinishReason.STOP)
            request.finish_reason = FinishReason.STOP
        if request.is_finished:
            events += self.parser.finish()
            self.is_done = True
        self._called_tools |= any(isinstance(event, ToolCall | ToolCallDelta) for event in events)
        if self._history is not None:
            self._content += [event.text for event in events if isinstance(event, Content)]
            if self.is_done and self.finish_reason in (FinishReason.STOP, FinishReason.LENGTH):
                # After a call the reasoning stays in the prompt, and the blocks of this answer are the history.
                self._engine.remember(partial(self._history, "".join(self._content)), request.cache_salt)
        return events

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
        return Finished(self.finish_reason, self.usage)
