"""Structured output: what a constraint is, and which tokens may come next under it.

`Grammars` compiles for one tokenizer; a `Matcher` follows one answer. llguidance does the parsing. What stands here is
what makes it safe and right for this model:
- Sources are bounded in bytes and work, and the first mask is computed when compiling: what is too large, or matches
  nothing, is a GrammarError before a request begins.
- No grammar can produce a control token: they have no bytes here, and a Lark grammar may not name tokens. The model's
  end tokens are allowed where an answer may end, and nowhere else.
- JSON has at most one space, or one line break with up to 16 spaces, between its parts: models are trained on JSON that
  is indented or in one line, and one that has nothing to say would otherwise write white space until the end.

It does not know about requests, the chat format, or how a token is drawn.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from qwen3 import multiples
from qwen3.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Kind = Literal["json_object", "json_schema", "regex", "choice", "grammar"]

MAX_SOURCE_BYTES = 128 << 10
MAX_CHOICES = 1000
_MAX_COMPILED = 32
# Bounds of the work for compiling and for one mask, during which every request waits.
_LIMITS = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 20_000,
    "verbose_errors": False,
}
# They take the place of options that a schema brings along: its own could have keywords ignored, or space without end.
_JSON_OPTIONS = {"whitespace_flexible": True, "whitespace_pattern": r"( |\n {0,16})?", "lenient": False}
# What is not syntax in a Lark grammar: strings, comments, regular expressions.
_LARK_LITERAL = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/(?:[^/\\\n]|\\.)+/')


class GrammarError(ValueError):
    """A constraint that is faulty, too large, or beyond what can be enforced; the message says what."""


@dataclass(frozen=True)
class Constraint:
    """What an answer must be, all of it.

    `value` by kind: json_object None; json_schema the schema, an object or a boolean; regex a pattern in Rust's syntax
    that must match the whole answer; choice a list of strings; grammar a text in llguidance's form of Lark, or in
    llama.cpp's GBNF.
    Raises GrammarError where kind and value do not fit.
    """

    kind: Kind
    value: Any = None

    def __post_init__(self) -> None:
        match self.kind, self.value:
            case ("json_object", None) | ("json_schema", dict() | bool()) | ("regex" | "grammar", str()):
                return
            case "choice", list() | tuple():
                if 0 < len(self.value) <= MAX_CHOICES and all(isinstance(text, str) and text for text in self.value):
                    return
        wanted = {
            "json_object": "takes no value",
            "json_schema": "needs a schema: an object, true or false",
            "regex": "needs a pattern, as a string",
            "choice": f"needs 1 to {MAX_CHOICES} strings that are not empty",
            "grammar": "needs a grammar in Lark or GBNF, as a string",
        }
        if self.kind not in wanted:
            raise GrammarError(f"constraint kind {self.kind!r} is not one of {', '.join(get_args(Kind))}")
        raise GrammarError(f"{self.kind} {wanted[self.kind]}")


class Grammars:
    """Compiles for one tokenizer, and keeps what was compiled last. Its methods may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Collection[int]) -> None:
        """`vocab_size` is the number of logits; `end_ids` are the tokens that end an answer."""
        self._tokenizer, self._vocab_size, self.end_ids = tokenizer, vocab_size, frozenset(end_ids)
        self._mask_bytes = -(-vocab_size // 32) * 4
        self._bits: dict[frozenset[int], np.ndarray] = {}
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = Lock()

    def compile(self, constraint: Constraint) -> Grammar:
        """Raises GrammarError."""
        from llguidance import LLMatcher

        match constraint.kind:
            case "json_object":
                return self.compile_lark(f"start: {json_rule({'type': 'object'})}")
            case "json_schema":
                return self.compile_lark(f"start: {json_rule(constraint.value)}")
            case "choice":
                return self.compile_lark("start: " + " | ".join(map(lark_string, constraint.value)))
            case "regex":
                return self._compile(LLMatcher.grammar_from_regex(constraint.value))
            case "grammar":
                _check_size(constraint.value)
                text = _in_lark(constraint.value)
                if "<" in _LARK_LITERAL.sub("", text):
                    raise GrammarError("grammar: '<' outside of strings names a token, which a grammar may not do")
                return self.compile_lark(text)

    def compile_lark(self, text: str) -> Grammar:
        """Compile a Lark grammar that is trusted not to name tokens. Raises GrammarError."""
        source = json.dumps({"grammars": [{"lark_grammar": text}]})
        _check_size(source)
        _check_multiples(text)
        return self._compile(source)

    def bits(self, ids: frozenset[int]) -> np.ndarray:
        """A mask that allows `ids` only, of the format's few tokens; see `Matcher.mask`."""
        if ids not in self._bits:
            allowed_V = np.zeros(self._mask_bytes * 8, np.uint8)
            allowed_V[list(ids)] = 1
            self._bits[ids] = np.packbits(allowed_V, bitorder="little")
        return self._bits[ids]

    def _compile(self, source: str) -> Grammar:
        _check_size(source)
        with self._lock:
            compiled = self._compiled.pop(source, None) or self._compiled_anew(source)
            self._compiled[source] = compiled
            while len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        return Grammar(compiled, lambda: self._replaced(source, compiled), self._tokenizer, self._mask_bytes)

    def _compiled_anew(self, source: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        compiled = LLMatcher(self._ll_tokenizer, source, log_level=0, limits=LLParserLimits(**_LIMITS))
        _raise_error(compiled)
        # The first mask is where a grammar shows that it is too large to follow.
        probe = compiled.deep_copy()
        allows_something = any(probe.compute_bitmask())
        _raise_error(probe)
        if not allows_something:
            raise GrammarError("nothing matches it")
        return compiled

    def _replaced(self, source: str, worn: LLMatcher) -> LLMatcher:
        """The same compiled anew, for one answer; the next to ask for it do not get the worn one either."""
        with self._lock:
            if self._compiled.get(source) is worn:
                del self._compiled[source]
        return self._compiled_anew(source)

    @cached_property
    def _ll_tokenizer(self) -> LLTokenizer:
        from llguidance import LLTokenizer

        return LLTokenizer(
            _Vocabulary(self._tokenizer, self._vocab_size, self.end_ids),
            n_vocab=self._vocab_size,
            eos_token=sorted(self.end_ids),
        )


class _Vocabulary:
    """The tokenizer as llguidance wants to see it."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(end_ids)
        self.special_token_ids = sorted(end_ids)
        hidden = set(tokenizer.control_ids.values()) - end_ids
        self.tokens = [b"" if id in hidden else tokenizer.token_bytes(id) for id in range(vocab_size)]

        self._id_of_byte = {token: id for id, token in enumerate(self.tokens) if len(token) == 1}

    def __call__(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text, control=False)
        data = text.encode()
        if b"".join(self.tokens[id] for id in ids) != data:  # not in NFC, which the tokenizer would bring it to
            ids = [self._id_of_byte[data[i : i + 1]] for i in range(len(data))]
        return ids


class Grammar:
    """A compiled grammar, from which each answer takes a matcher."""

    def __init__(
        self, pristine: LLMatcher, anew: Callable[[], LLMatcher], tokenizer: Tokenizer, mask_bytes: int
    ) -> None:
        self._pristine, self._anew, self._tokenizer, self._mask_bytes = pristine, anew, tokenizer, mask_bytes

    def matcher(self, written: str = "") -> Matcher:
        """A matcher of an answer that begins with `written`. Raises GrammarError where it cannot."""
        matcher = Matcher(self._pristine.deep_copy(), self._anew, self._mask_bytes)
        for token in self._tokenizer.encode(written, control=False):
            matcher.accept(token)
        if matcher.error:
            raise GrammarError("the text that is to be continued does not match the constraint")
        return matcher


class Matcher:
    """Follows the tokens of one answer.

    Attributes:
        error: why it can go no further, if a token did not match or following took too much work; else "".
    """

    def __init__(self, matcher: LLMatcher, anew: Callable[[], LLMatcher], mask_bytes: int) -> None:
        """`anew` compiles the grammar of `matcher` once more."""
        self._matcher, self._mask_bytes = matcher, mask_bytes
        self._anew: Callable[[], LLMatcher] | None = anew
        self._accepted: list[int] = []

    def mask(self) -> np.ndarray:
        """One bit for each logit, set where the token may come next: uint8 [ceil(V / 32) * 4], low bits first."""
        return np.frombuffer(self._step(lambda matcher: matcher.compute_bitmask()), np.uint8, self._mask_bytes)

    def accept(self, token: int) -> None:
        self._step(lambda matcher: matcher.consume_token(token))
        self._accepted.append(token)

    def forced(self) -> list[int]:
        """The tokens that must follow whatever is drawn, spelt as the tokenizer would; they are accepted."""
        tokens = self._step(lambda matcher: matcher.compute_ff_tokens())
        self._step(lambda matcher: matcher.consume_tokens(tokens))
        self._accepted += tokens
        return tokens

    def _step(self, step: Callable[[LLMatcher], Any]) -> Any:
        """Copies of a compiled grammar share the lexer's states, which are bounded and only grow. Where other answers
        have used them up this one goes on with its own, so that no answer depends on those before it."""
        result = step(self._matcher)
        if self._anew and "too many states" in self.error:
            self._matcher, self._anew = self._anew(), None
            for token in self._accepted:
                self._matcher.consume_token(token)
            result = step(self._matcher)
        return result

    @property
    def is_complete(self) -> bool:
        """The answer may end here."""
        return self._matcher.is_accepting()

    @property
    def is_over(self) -> bool:
        """The answer is complete, and nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def error(self) -> str:
        return self._matcher.get_error() if self._matcher.is_error() else ""


# Where a schema holds schemas: as a value, as the values of an object, in a list.
_OF_ONE = "items additionalProperties contains not if then else propertyNames unevaluatedItems unevaluatedProperties"
_OF_NAMED = "properties patternProperties $defs definitions dependentSchemas"
_OF_MANY = "allOf anyOf oneOf prefixItems"
_COUNTS = "minLength maxLength minItems maxItems minProperties maxProperties minContains maxContains"
_FORMATS = frozenset("date date-time time duration email hostname ipv4 ipv6 uri uuid".split())


def _simplified(schema: Any) -> Any:
    """An equal schema without what llguidance stops at though it asks for nothing: formats beyond its own, which by
    draft 2020-12 only annotate; keywords that are without effect where another is missing; counts such as 2.0."""
    if not isinstance(schema, dict):
        return schema
    out = dict(schema)
    for key in _OF_ONE.split():
        if key in out:
            out[key] = _simplified(out[key])
    for key in _OF_NAMED.split():
        if isinstance(out.get(key), dict):
            out[key] = {name: _simplified(inner) for name, inner in out[key].items()}
    for key in _OF_MANY.split():
        if isinstance(out.get(key), list):
            out[key] = [_simplified(inner) for inner in out[key]]
    for key in _COUNTS.split():
        if isinstance(out.get(key), float) and out[key].is_integer():
            out[key] = int(out[key])
    if isinstance(out.get("format"), str) and out["format"] not in _FORMATS:
        del out["format"]
    if "contains" not in out:
        out = {key: value for key, value in out.items() if key not in ("minContains", "maxContains")}
    if "if" not in out or not out.keys() & {"then", "else"}:
        out = {key: value for key, value in out.items() if key not in ("if", "then", "else")}
    return out


def json_rule(schema: Mapping[str, Any] | bool) -> str:
    """JSON by a schema, as an item of a Lark rule. Raises GrammarError where it cannot be written."""
    if schema is False:
        raise GrammarError("nothing matches it")
    try:
        bounded = {**({} if schema is True else _simplified(schema)), "x-guidance": _JSON_OPTIONS}
        return "%json " + json.dumps(bounded, allow_nan=False)
    except RecursionError:
        raise GrammarError("the schema is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise GrammarError(f"the schema is not JSON: {error}") from None


def _check_size(source: str) -> None:
    if len(source) > MAX_SOURCE_BYTES:
        raise GrammarError(f"it takes {len(source):,} bytes, more than the {MAX_SOURCE_BYTES:,} allowed")


def _check_multiples(lark: str) -> None:
    try:
        multiples.check(lark)
    except RecursionError:
        raise GrammarError("the schema is nested too deeply") from None
    except ValueError as error:
        raise GrammarError(str(error)) from None


def _in_lark(text: str) -> str:
    """A grammar in Lark, as it is, or one in GBNF, translated."""
    if "::=" not in _LARK_LITERAL.sub("", text):
        return text
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return gbnf_to_lark(text)
    except Exception as error:  # it raises bare ones, of its own, and RecursionError
        raise GrammarError(f"grammar: {error}") from error


def lark_string(text: str) -> str:
    """A literal text, as an item of a Lark rule."""
    return json.dumps(text)


def _raise_error(matcher: LLMatcher) -> None:
    if matcher.is_error():
        message = " ".join(matcher.get_error().replace("<non-verbose/>", "").split())
        raise GrammarError("nothing matches it" if message.startswith("NoExtension") else message[:300])
