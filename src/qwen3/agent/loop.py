"""The loop: the model answers, its tool calls run, it reads their results and goes on.

A turn is what one question sets off: steps, each an answer of the model, and between them the results of its calls.
The reasoning of all steps stays in the messages that the model reads, as the chat format wants it within a turn. What
goes wrong in a tool is its result, so that the model can mend it; nothing that a tool does ends the turn.

It does not know how the model is reached: any object with `chat` will do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from qwen3.agent.tools import Tool, ToolFailure, cut, start, with_unique_names
from qwen3.chat import Content, Event, Reasoning, ToolCall, fold
from qwen3.engine.request import Finished, FinishReason

NOT_RUN = "not run: the turn ended before"
# In seconds. A Ctrl-C that comes just before Python begins to wait is noticed only when that wait ends.
_LONGEST_WAIT = 0.2


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave, as the model reads it; `id` and `name` are the call's. `is_error` where it failed."""

    id: str
    name: str
    text: str
    is_error: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The message to append to a conversation, in OpenAI's form."""
        return {"role": "tool", "tool_call_id": self.id, "name": self.name, "content": self.text}


AgentEvent = Event | Finished | ToolResult


class Chat(Protocol):
    """What the loop needs of a model; `qwen3.LLM` has it."""

    def chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, **options: Any
    ) -> Generator[Event | Finished, None, None]: ...


class Agent:
    """A model with tools.

    Attributes:
        tools: by name. Where two had one name, the later is called after its source.
    """

    def __init__(
        self,
        llm: Chat,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        *,
        max_steps: int = 10,
        allow: Callable[[Tool, dict[str, Any]], bool] | None = None,
    ) -> None:
        """Functions among `tools` become tools by `Tool.of`. After `max_steps` answers no more calls are run. `allow`
        is asked, in the thread that reads the events, before each call: where it says no, that is the result."""
        if max_steps < 1:
            raise ValueError(f"max_steps {max_steps} is not at least 1")
        self._llm, self._max_steps, self._allow = llm, max_steps, allow
        made = (tool if isinstance(tool, Tool) else Tool.of(tool) for tool in tools)
        self.tools = {tool.name: tool for tool in with_unique_names(made)}

    def run(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[AgentEvent]:
        """Answer a conversation, with as many tool calls as that takes; closing the iterator ends all that runs.

        Yields each step's Reasoning and Content as they come, then its calls, whole, and its Finished. Where that says
        TOOL_CALLS, the results follow, in the order of the calls, which run at the same time, and the next step.
        Without a next step, because `max_steps` were made, the results say so. `options` go to `chat`.

        `turn_messages` makes of the events what to append to the conversation.
        """
        messages = list(messages)
        definitions = [tool.definition for tool in self.tools.values()] or None
        for step in range(1, self._max_steps + 1):
            events: list[Event | Finished] = []
            with closing(self._llm.chat(messages, definitions, **options)) as stream:
                for event in stream:
                    events.append(event)
                    if isinstance(event, Reasoning | Content):
                        yield event
            *parts, finished = events
            calls = fold(parts).tool_calls
            yield from calls
            yield finished
            if finished.reason != FinishReason.TOOL_CALLS:
                return
            results: list[ToolResult] = []
            for result in self._results(calls, is_last_step=step == self._max_steps):
                results.append(result)
                yield result
            messages += turn_messages([*events, *results])

    def _results(self, calls: Sequence[ToolCall], is_last_step: bool) -> Iterator[ToolResult]:
        """The results of calls that run at the same time, in the order of the calls."""
        if is_last_step:
            text = f"not run: this turn has reached its limit of {self._max_steps} steps"
            yield from (ToolResult(call.id, call.name, text, is_error=True) for call in calls)
            return
        # All are asked for before any runs.
        prepared = [self._prepare(call) for call in calls]
        started = time.monotonic()
        running = [item if isinstance(item, str) else start(*item) for item in prepared]
        try:
            for call, item in zip(calls, running, strict=True):
                if isinstance(item, str):
                    yield ToolResult(call.id, call.name, item, is_error=True)
                else:
                    yield _result(call, self.tools[call.name], item, started)
        finally:
            for item in running:
                if isinstance(item, Future):
                    item.cancel()

    def _prepare(self, call: ToolCall) -> tuple[Tool, dict[str, Any]] | str:
        """What to run, or why not."""
        tool = self.tools.get(call.name)
        if tool is None:
            return f"there is no tool {call.name!r}; there are {', '.join(self.tools) or 'none'}"
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError) as error:
            return f"the arguments are not JSON: {error}"
        if not isinstance(arguments, dict):
            return "the arguments are not a JSON object"
        if self._allow is not None and not self._allow(tool, arguments):
            return "not run: the user refused this call"
        return tool, arguments


def _result(call: ToolCall, tool: Tool, running: Future[str], started: float) -> ToolResult:
    """Waits until the tool is done or its time is over."""
    while not running.done() and (left := started + tool.timeout - time.monotonic()) > 0:
        wait([running], min(left, _LONGEST_WAIT))
    if not running.done():
        running.cancel()
        failure = f"stopped: it took longer than {tool.timeout:g} seconds"
    elif running.cancelled():
        failure = "the tool cancelled itself"
    elif (error := running.exception()) is None:
        return ToolResult(call.id, call.name, running.result())
    else:
        failure = str(error) if isinstance(error, ToolFailure) else f"{type(error).__name__}: {error}"
    return ToolResult(call.id, call.name, cut(failure, tool.max_result), is_error=True)


def turn_messages(events: Iterable[AgentEvent]) -> list[dict[str, Any]]:
    """The messages that a turn's events add up to, for the conversation; of a turn that was cut short too: each call
    without a result gets one that says so."""
    messages: list[dict[str, Any]] = []
    step: list[Event] = []
    open_calls: list[ToolCall] = []

    def end_step() -> None:
        message = fold(step)
        step.clear()
        messages.append(message.to_dict())
        open_calls.extend(message.tool_calls)

    def close_calls() -> None:
        messages.extend(ToolResult(call.id, call.name, NOT_RUN).to_dict() for call in open_calls)
        open_calls.clear()

    for event in events:
        match event:
            case Finished():
                end_step()
            case ToolResult():
                open_calls.pop(0)
                messages.append(event.to_dict())
            case _:
                close_calls()
                step.append(event)
    if step:
        end_step()
    close_calls()
    return messages
