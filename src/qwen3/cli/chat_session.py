"""The state of one conversation in the terminal: messages, settings, the last answer.

Every change either succeeds or leaves the conversation as it was; an answer that was cut short is kept and marked.
Knows nothing of the screen and of commands.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3.agent import Agent, AgentEvent, Tool, turn_messages
from qwen3.chat.template import ChatError, ChatFormat, check_messages
from qwen3.engine.request import Finished, FinishReason, RequestError, SamplingParams, Usage

if TYPE_CHECKING:
    from qwen3.engine.llm import LLM

INTERRUPTED = "interrupted"
_ANSWER_RESERVE = 512
_WHOLE_NUMBERS = frozenset({"top_k", "seed", "max_tokens", "min_tokens"})
SETTABLE = (
    "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty seed max_tokens min_tokens"
).split()


class SessionError(ValueError):
    """Something that cannot be done with this conversation; the message says why."""


@dataclass(frozen=True)
class Answer:
    """An answer, whole or cut short; `finished` is None where the user stopped it."""

    events: tuple[AgentEvent, ...]
    finished: Finished | None

    def to_messages(self) -> list[dict[str, Any]]:
        """The conversation's messages, more than one where tools were called; where the answer was cut short, the last
        one's `finish_reason` says so."""
        messages = turn_messages(self.events)
        reason = self.finished.reason if self.finished else INTERRUPTED
        if reason not in (FinishReason.STOP, FinishReason.TOOL_CALLS):
            last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
            messages[last]["finish_reason"] = str(reason)
        return messages

    @property
    def content(self) -> str:
        """The text of the last step."""
        return self.to_messages()[-1]["content"]

    @property
    def reasoning(self) -> str:
        """That of all steps."""
        thoughts = (message.get("reasoning_content", "").strip() for message in self.to_messages())
        return "\n\n".join(filter(None, thoughts))


class ChatSession:
    """A conversation with one model. `overrides` are sampling parameters that differ from the model's defaults."""

    def __init__(
        self,
        llm: "LLM",
        *,
        system: str | None = None,
        thinking: bool = True,
        overrides: dict[str, Any] | None = None,
        thinking_budget: int | None = None,
        tools: Sequence[Tool] = (),
        allow: Callable[[Tool, dict[str, Any]], bool] | None = None,
    ) -> None:
        """`allow` is asked before a tool runs."""
        self.llm = llm
        self.agent = Agent(llm, tools, allow=allow)
        self.messages: list[dict[str, Any]] = []
        self.thinking = thinking if self._only_thinking is None else self._only_thinking
        self.overrides = dict(overrides or {})
        self.thinking_budget = thinking_budget
        self.last: Answer | None = None
        self.finished: list[Usage] = []
        self.file: Path | None = None
        if system is not None:
            self.set_system(system)

    # ---- Answers ----------------------------------------------------------------------------------------------

    def ask(self, text: str) -> Iterator[AgentEvent]:
        """Add a user message and stream the answer. Where not one token came, the message is taken back."""
        return self._answer([*self.messages, {"role": "user", "content": text}])

    def retry(self) -> Iterator[AgentEvent]:
        """Answer the last user message anew; the old answer stays until the new one has begun."""
        return self._answer(self.messages[: self._last_question() + 1])

    def _answer(self, messages: list[dict[str, Any]]) -> Iterator[AgentEvent]:
        before, self.messages = self.messages, messages
        events: list[AgentEvent] = []
        finished: Finished | None = None
        try:
            turn = self.agent.run(
                self.messages,
                thinking=self.thinking,
                params=self.sampling(),
                thinking_budget=self.thinking_budget,
                answer_reserve=self._answer_reserve,
            )
            with closing(turn):
                for event in turn:
                    events.append(event)
                    if isinstance(event, Finished):
                        self.finished.append(event.usage)
                    yield event
            finished = next(event for event in reversed(events) if isinstance(event, Finished))
        finally:
            if events:
                self.last = Answer(tuple(events), finished)
                self.messages = [*self.messages, *self.last.to_messages()]
            else:
                self.messages = before

    # ---- Changes ----------------------------------------------------------------------------------------------

    def undo(self) -> str:
        """Take back the last user message and what followed; returns its text."""
        question = self._last_question()
        text = self.messages[question]["content"]
        self.messages = self.messages[:question]
        return text

    def reset(self) -> None:
        """Forget all but the system message."""
        self.messages = [message for message in self.messages[:1] if message["role"] == "system"]
        self.last = None

    @property
    def system(self) -> str | None:
        if self.messages and self.messages[0]["role"] == "system":
            return self.messages[0]["content"]
        return None

    def set_system(self, text: str) -> None:
        """Replace the system message; an empty text removes it."""
        rest = self.messages[0 if self.system is None else 1 :]
        self.messages = [{"role": "system", "content": text}, *rest] if text else rest

    def set_thinking(self, thinking: bool) -> None:
        """The hard switch. Raises SessionError for models that have none."""
        if self._only_thinking not in (None, thinking):
            raise SessionError(f"{self.llm.name} {'never' if thinking else 'always'} thinks: it has no switch")
        self.thinking = thinking

    @property
    def _only_thinking(self) -> bool | None:
        """The one mode of a model without a switch."""
        if self.llm.format in (ChatFormat.THINKING_2507, ChatFormat.INSTRUCT_2507):
            return self.llm.format is ChatFormat.THINKING_2507
        return None

    def sampling(self) -> SamplingParams:
        """What the next answer is sampled with: the model's defaults for the mode, and the overrides."""
        return replace(self.llm.defaults(self.thinking), **self.overrides)

    @property
    def _answer_reserve(self) -> int:
        """Tokens that thinking leaves for the answer: who reads along wants one, however long the thoughts."""
        max_tokens = self.sampling().max_tokens
        return _ANSWER_RESERVE if max_tokens is None else min(_ANSWER_RESERVE, max_tokens // 2)

    def set_sampling(self, name: str, value: str) -> None:
        """Override a sampling parameter, or return to the model's own with 'default'."""
        if name not in SETTABLE:
            raise SessionError(f"no parameter {name!r}; there are {', '.join(SETTABLE)}")
        overrides = {key: old for key, old in self.overrides.items() if key != name}
        if value != "default":
            kind = int if name in _WHOLE_NUMBERS else float
            try:
                overrides[name] = kind(value)
            except ValueError:
                raise SessionError(f"{name} {value!r} is not a {'whole ' * (kind is int)}number") from None
        SamplingParams(**overrides)
        self.overrides = overrides

    def _last_question(self) -> int:
        for i in reversed(range(len(self.messages))):
            if self.messages[i]["role"] == "user":
                return i
        raise SessionError("there is no question yet")

    # ---- Files ------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the conversation as JSON; a file of the same name is replaced at once or not at all.

        Raises SessionError where the file exists and is something else than a conversation.
        """
        if path.exists():
            try:
                _read(path)
            except ValueError:
                raise SessionError(f"{path} exists and is not a saved conversation: choose another name") from None
        state = {
            "model": self.llm.name,
            "thinking": self.thinking,
            "thinking_budget": self.thinking_budget,
            "sampling": self.overrides,
            "messages": self.messages,
        }
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            try:
                json.dump(state, file, ensure_ascii=False, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
        self.file = path

    def load(self, path: Path) -> None:
        """Continue a saved conversation, or any JSON list of messages in OpenAI's form."""
        state = _read(path)
        overrides = state.get("sampling", self.overrides)
        self.thinking = state.get("thinking", self.thinking)
        self.thinking_budget = state.get("thinking_budget", self.thinking_budget)
        self.overrides, self.messages = dict(overrides), state["messages"]
        self.last, self.file = None, path


def _read(path: Path) -> dict[str, Any]:
    """A checked saved conversation. Raises OSError, or SessionError naming what is wrong."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SessionError(f"{path} is not a saved conversation: {error}") from None
    if isinstance(state, list):
        state = {"messages": state}
    if not isinstance(state, dict) or not isinstance(state.get("messages"), list):
        raise SessionError(f"{path} is not a saved conversation: it holds no list of messages")
    thinking, budget, sampling = state.get("thinking", True), state.get("thinking_budget"), state.get("sampling", {})
    try:
        if state["messages"]:
            turns = check_messages(state["messages"])
            # Content parts and null become plain text, which all else here relies on.
            state["messages"] = [
                {**message, "content": turn.content} for message, turn in zip(state["messages"], turns, strict=True)
            ]
        if not isinstance(thinking, bool):
            raise SessionError(f"thinking {thinking!r} is not true or false")
        if budget is not None and (type(budget) is not int or budget < 0):
            raise SessionError(f"thinking_budget {budget!r} is not a whole number of at least 0")
        if not isinstance(sampling, dict) or not sampling.keys() <= set(SETTABLE):
            raise SessionError(f"sampling {sampling!r} is not an object of {', '.join(SETTABLE)}")
        SamplingParams(**sampling)
    except (ChatError, RequestError, SessionError) as error:
        raise SessionError(f"{path}: {error}") from None
    return state
