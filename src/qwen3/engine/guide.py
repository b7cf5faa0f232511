"""What must, and what may, follow in one answer: bounds the thinking, and holds the answer to its rules.

A guide sees every token of a request. After each it may force some (`opening`, `observe`, `end_thinking`: the queue of
forced tokens), and it says which of the next may be drawn (`mask`). Three things force tokens: the sentence that closes
the think block, the tags and newlines of the format around what the rules ask for, and a grammar that leaves no choice.

Rules are either in force from the answer's beginning (`content`, `calls`): then thinking is free, but may not end the
request, and what follows it is one of what the rules allow. Or there are only `arguments`: the answer is free, but
after the exact header of an offered tool in it the arguments are constrained until `</tool_call>`.

It works on token ids and compiled grammars, and does not know where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from qwen3.chat import StreamState, Structure
from qwen3.engine.thinking import LoopDetector, ThinkingPolicy
from qwen3.grammar import Grammar, Grammars, Matcher


@dataclass(frozen=True)
class FormatIds:
    """Tokens of the chat format. `closing` is the sentence that ends the thinking, with its `</think>` and newlines."""

    think: int
    end_think: int
    call: int
    end_call: int
    newline: int
    after_think: tuple[int, ...]
    closing: tuple[int, ...]


@dataclass(frozen=True)
class Rules:
    """What an answer is held to. Without any it is free."""

    content: Grammar | None = None
    """All of the answer's text."""
    calls: Grammar | None = None
    """A tool call from after `<tool_call>` on. Without `content` there must be one."""
    arguments: Mapping[str, Grammar] = field(default_factory=dict)
    """For each tool what follows its header, in an answer that is otherwise free."""
    parallel: bool = True
    """With `calls`: more than one may be made."""
    written: str = ""
    """The answer's text so far, where a message is continued."""

    @property
    def are_strict(self) -> bool:
        return self.content is not None or self.calls is not None


class _Phase(Enum):
    FREE = auto()
    OPEN = auto()
    """Rules are in force, and nothing of the answer is there yet; there may be thinking."""
    CONTENT = auto()
    CALL = auto()
    AFTER_CALL = auto()


class Guide:
    """The guide of one request.

    Attributes:
        is_over: the answer is complete though no end token says so.
        error: why the answer cannot be completed by its rules, else "".
    """

    def __init__(
        self,
        structure: Structure,
        ids: FormatIds,
        grammars: Grammars,
        room: int,
        *,
        policy: ThinkingPolicy = ThinkingPolicy(),  # noqa: B008 - it is frozen
        rules: Rules = Rules(),
        may_think: bool = True,
    ) -> None:
        """`room` is the number of tokens that the request may generate at most; `may_think` is false for models that
        have no think block. Raises GrammarError where the rules do not fit what was written."""
        self._structure, self._ids, self._grammars, self._room = structure, ids, grammars, room
        self._policy, self._rules, self._may_think = policy, rules, may_think
        self._phase = _Phase.OPEN if rules.are_strict else _Phase.FREE
        self._content = rules.content.matcher(rules.written) if rules.content else None
        self._matcher: Matcher | None = None  # of the content or call that is being written
        self._must_end_thinking = self._lacks_newlines = False
        self._loop = LoopDetector() if policy.loop_guard else None
        self._num_generated = self._num_reasoning = 0
        self.is_over = False
        self.error = ""

    def opening(self) -> list[int]:
        """What must be generated before anything is drawn."""
        return self._forced()

    def observe(self, token: int) -> list[int]:
        """Note a drawn token; the ids that must follow it, mostly none."""
        before = self._structure.state
        self._count(token)
        match self._phase:
            case _Phase.OPEN if before is not StreamState.REASONING:
                self._begin(token)
            case _Phase.OPEN:
                self._lacks_newlines = token == self._ids.end_think
            case _Phase.CONTENT | _Phase.CALL:
                self._accept(token)
            case _Phase.AFTER_CALL if token == self._ids.newline:
                self._phase = _Phase.CALL
            case _Phase.AFTER_CALL:
                self.is_over = True
            case _Phase.FREE if self._structure.called in self._rules.arguments:
                self._matcher = self._rules.arguments[self._structure.called].matcher()
                self._phase = _Phase.CALL
        self._watch_for_loops(token)
        return self._forced()

    def end_thinking(self) -> list[int]:
        """Close the think block: now if it is open, or as soon as it opens; the ids that must follow."""
        self._must_end_thinking = True
        return self._forced()

    def mask(self) -> np.ndarray | None:
        """Which tokens may be drawn next, as `Matcher.mask` has it; None for any."""
        state = self._structure.state
        match self._phase:
            case _Phase.FREE:
                return None
            case _Phase.OPEN if state is StreamState.REASONING:
                return ~self._grammars.bits(self._grammars.end_ids)
            case _Phase.OPEN:
                can_call = self._rules.calls is not None
                can_think = state is StreamState.START and self._may_think
                tags = frozenset([self._ids.call] * can_call + [self._ids.think] * can_think)
                return self._mask_of(self._content, tags)
            case _Phase.CONTENT | _Phase.CALL:
                return self._mask_of(self._matcher)
            case _Phase.AFTER_CALL:
                return self._grammars.bits(self._grammars.end_ids | {self._ids.newline})

    def _mask_of(self, matcher: Matcher | None, also: frozenset[int] = frozenset()) -> np.ndarray:
        if matcher is None:
            return self._grammars.bits(also)
        mask = matcher.mask()
        self.error = matcher.error
        if self.error:
            return self._grammars.bits(self._grammars.end_ids)
        return mask | self._grammars.bits(also) if also else mask

    def _count(self, token: int) -> None:
        if self._structure.state is StreamState.REASONING and token != self._ids.end_think:
            self._num_reasoning += 1
        self._num_generated += 1
        self._structure.observe(token)

    def _begin(self, token: int) -> None:
        """The first token of the answer, or of its thinking."""
        if self._structure.state is StreamState.REASONING:
            return
        if token == self._ids.call and self._rules.calls is not None:
            self._begin_call()
            return
        self._matcher, self._phase = self._content, _Phase.CONTENT
        self._accept(token)

    def _begin_call(self) -> None:
        self._matcher, self._phase = self._rules.calls.matcher(), _Phase.CALL

    def _accept(self, token: int) -> None:
        if token in self._grammars.end_ids:
            self.is_over = True
        else:
            self._matcher.accept(token)
            self.error = self._matcher.error

    def _watch_for_loops(self, token: int) -> None:
        if self._loop is None or not self._loop.is_loop(token):
            return
        if self._structure.state is StreamState.REASONING:
            self._must_end_thinking = True
            self._loop = LoopDetector()
        elif self._phase is _Phase.FREE:
            self.is_over = True

    def _forced(self) -> list[int]:
        """All that must follow now; it counts as seen."""
        forced: list[int] = []
        while not (self.is_over or self.error) and (tokens := self._next_forced()):
            for token in tokens:
                self._count(token)
            forced += tokens
        return forced

    def _next_forced(self) -> list[int]:
        if self._structure.state is StreamState.REASONING:
            num_left = self._room - self._num_generated - len(self._ids.closing)
            if self._must_end_thinking or self._policy.is_spent(self._num_reasoning, num_left):
                return list(self._ids.closing)
            return []
        match self._phase:
            case _Phase.OPEN if self._lacks_newlines:
                self._lacks_newlines = False
                return list(self._ids.after_think)
            case _Phase.OPEN if self._structure.state is not StreamState.START or not self._may_think:
                if self._content is None:
                    return self._open_call()
                if self._rules.calls is None:
                    self._matcher, self._phase = self._content, _Phase.CONTENT
                    return self._next_of_grammar()
            case _Phase.CALL if self._matcher is None:
                return self._open_call()
            case _Phase.CONTENT | _Phase.CALL:
                return self._next_of_grammar()
        return []

    def _open_call(self) -> list[int]:
        self._begin_call()
        return [self._ids.call]

    def _next_of_grammar(self) -> list[int]:
        if not self._matcher.is_over:
            forced = self._matcher.forced()
            self.error = self._matcher.error
            return forced
        if self._phase is _Phase.CONTENT:
            self.is_over = True
            return []
        self._matcher = None
        self._phase = _Phase.AFTER_CALL if self._rules.are_strict else _Phase.FREE
        self.is_over = self._rules.are_strict and not self._rules.parallel
        return [self._ids.end_call]
