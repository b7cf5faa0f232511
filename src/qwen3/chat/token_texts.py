"""Which tokens an answer's content is made of.

A stream parser drops what belongs to the format and cuts at stop strings, so content is not the text of some tokens in
a row. `TokenTexts` follows a parser and says of each token of the content which text it contributed: these texts,
joined, are the content. A token that only begins a character contributes "", the one that completes it the character.

It does not know about log-probabilities: a token comes with whatever its owner wants back.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from qwen3.chat.stream import Content, Event, Reasoning, StreamState
from qwen3.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token of the content. `bytes` are its own; where only a part of its text is shown, those of that part."""

    owner: Any
    text: str
    bytes: bytes


@dataclass(slots=True)
class _Token:
    owner: Any
    bytes: bytes
    text: str
    rest: str
    """Of `text`, what is neither shown nor dropped yet."""
    shown: str = ""

    def settled(self) -> list[TokenText]:
        if not self.shown and self.text:
            return []
        return [TokenText(self.owner, self.shown, self.bytes if self.shown == self.text else self.shown.encode())]


class TokenTexts:
    """Follows one parser. For each token: `before` it is fed, then `after` with the events; in the end `finish`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer()
        self._tags = frozenset(tokenizer.control_ids.values())
        self._held: deque[_Token] = deque()

    def before(self, id: int, owner: Any, state: StreamState) -> None:
        """Note a token that the parser, now in `state`, is about to be fed."""
        if id in self._tags:
            self._end_character()
        if state is StreamState.REASONING or id in self._tokenizer.special_ids:
            return
        data = self._tokenizer.token_bytes(id)
        text = data.decode() if id in self._tags else self._detokenizer.feed([id])
        self._held.append(_Token(owner, data, text, text))

    def after(self, events: Iterable[Event]) -> list[TokenText]:
        """The tokens that the events settle."""
        settled: list[TokenText] = []
        for event in events:
            if isinstance(event, Content):
                settled += self._show(event.text)
            elif not isinstance(event, Reasoning):
                settled += self._settle_all()  # a tool call: what was held is its own, or the format's
        return settled

    def finish(self, events: Iterable[Event]) -> list[TokenText]:
        """The tokens that the parser's last events settle."""
        self._end_character()
        return self.after(events) + self._settle_all()

    def _end_character(self) -> None:
        if self._held and (broken := self._detokenizer.finish()):
            self._held[-1].text += broken
            self._held[-1].rest += broken

    def _settle_all(self) -> list[TokenText]:
        held, self._held = self._held, deque()
        if held and held[-1].bytes == b"<tool_call>":
            self._held.append(held.pop())  # it ended a call that was not closed, and begins the next
        return [settled for token in held if token.shown for settled in token.settled()]

    def _show(self, text: str) -> list[TokenText]:
        settled: list[TokenText] = []
        joined = "".join(token.rest for token in self._held)
        # What comes before the text is the format's: tags, and newlines beside them.
        while joined and not joined.startswith(text):
            token = self._held[0]
            cut = 1 if token.rest.startswith("\n") else len(token.rest)
            token.rest, joined = token.rest[cut:], joined[cut:]
            if not token.rest:
                settled += self._held.popleft().settled()
        while text and self._held:
            token = self._held[0]
            shown = token.rest[: len(text)]
            token.shown += shown
            token.rest, text = token.rest[len(shown) :], text[len(shown) :]
            # The last one's text may grow: by what stands for a character that is never completed.
            if not token.rest and (len(self._held) > 1 or not self._detokenizer.is_within_character):
                settled += self._held.popleft().settled()
        return settled
