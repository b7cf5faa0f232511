"""Constraints: what they allow is valid, what they cannot hold they refuse, and nothing takes long."""

import json
import time

import jsonschema
import numpy as np
import pytest

from qwen3 import grammar
from qwen3.grammar import MAX_SOURCE_BYTES, Constraint, GrammarError, Grammars
from qwen3.tokenizer import CONTROL_TOKENS, Tokenizer
from qwen3.train import bbpe

VOCAB = 600  # beyond the tokenizer's own, as the models' embeddings are


@pytest.fixture(scope="module")
def tokenizer():
    texts = ['{"name": "Zürich", "value": [1, 2.5, null, true]}\n  "the quick brown fox"'] * 3
    return bbpe.train_tokenizer(texts, 330)


@pytest.fixture(scope="module")
def grammars(tokenizer):
    return Grammars(tokenizer, VOCAB, [tokenizer.eos_id, tokenizer.end_of_text_id])


def allowed(mask):
    return set(np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist())


def accepts(grammars, tokenizer, constraint, text):
    """Whether `text` is a whole answer; every token must be one that its mask allowed."""
    matcher = grammars.compile(constraint).matcher()
    for token in tokenizer.encode(text, control=False):
        is_allowed = token in allowed(matcher.mask())
        matcher.accept(token)
        assert is_allowed == (not matcher.error)
        if not is_allowed:
            return False
    return matcher.is_complete


def schema(value):
    return Constraint("json_schema", value)


@pytest.mark.parametrize(
    ("value", "instances"),
    [
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc", "a", "abcd", "äö", 12, None]),
        ({"type": "string", "pattern": "^[a-c]+$"}, ["abc", "", "abd"]),
        ({"type": "string", "format": "date"}, ["2024-02-28", "2024-13-01", "today"]),
        ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000", "123"]),
        ({"type": "integer", "minimum": -5, "exclusiveMaximum": 100}, [-6, -5, 0, 99, 100, 1.5, "1"]),
        ({"type": "number", "multipleOf": 0.5}, [0.5, 1, 0.3]),
        ({"type": "integer", "multipleOf": 25_000_000}, [50_000_000, 60_000_000]),
        ({"enum": ["a", 1, None, {"k": [1]}]}, ["a", 1, None, {"k": [1]}, "b", 2]),
        ({"const": {"a": [True]}}, [{"a": [True]}, {"a": [False]}, {}]),
        ({"type": ["boolean", "null"]}, [True, False, None, 0]),
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
            [[], [1], [1, 2], [1, 2, 3], ["a"]],
        ),
        ({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, [[1, "a"], ["a", 1], [1, "a", 2]]),
        (
            {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]},
            [{"a": 1}, {"a": 1, "b": [None]}, {"b": 1}, {"a": "x"}, {"a": 1, "c": 2}],
        ),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"x": 1}, {"x": "1"}]),
        (
            {"type": "object", "patternProperties": {"^x_": {"type": "null"}}, "additionalProperties": False},
            [{"x_a": None}, {"x_a": 1}, {"y": None}],
        ),
        ({"anyOf": [{"type": "null"}, {"type": "object", "required": ["a"]}]}, [None, {"a": 0}, {}, 1]),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, [3, 2, "3"]),
        (
            {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
            [{}, {"next": {"next": {}}}, {"next": 1}],
        ),
        (True, [1, "a", [None], {"a": {}}]),
    ],
)  # fmt: skip
def test_a_schema_accepts_what_is_valid_and_nothing_else(grammars, tokenizer, value, instances):
    for instance in instances:
        is_valid = jsonschema.Draft202012Validator(
            value, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        ).is_valid(instance)
        for separators in ((",", ":"), (", ", ": ")):
            text = json.dumps(instance, ensure_ascii=False, separators=separators)
            assert accepts(grammars, tokenizer, schema(value), text) == is_valid, text
        assert (
            accepts(grammars, tokenizer, schema(value), json.dumps(instance, indent=2, ensure_ascii=False)) == is_valid
        )


@pytest.mark.parametrize(
    "value",
    [
        {"type": "string", "format": "password"},
        {"type": "integer", "format": "int32"},
        {"type": "array", "items": {"type": "string", "format": "uri-reference"}, "minItems": 1.0},
        {"type": "object", "properties": {"format": {"type": "string", "format": "regex"}}},
        {"type": "string", "then": {"minLength": 5}},
    ],
)
def test_keywords_that_ask_for_nothing_do_not_stop_a_schema(grammars, value):
    grammars.compile(schema(value))


NAMES = {"$defs": {"a": {"multipleOf": 997}, "b": {"multipleOf": 991}}}


@pytest.mark.parametrize(
    "value",
    [
        {"properties": {f"p{number}": {"multipleOf": number} for number in (0.01, 12, 45, 7, 11)}},
        {"properties": {f"p{number}": {"multipleOf": number} for number in (7, 11, 13, 17, 19, 23)}},
        {"properties": {"seconds": {"multipleOf": 86_400}, "days": {"multipleOf": 7}}},
        {"type": "integer", "multipleOf": 65_536},
        {"type": "integer", "multipleOf": 1_000_000_000},
        {"anyOf": [{"multipleOf": 997}, {"multipleOf": 991}]},
        {"allOf": [{"multipleOf": 0.01}, {"multipleOf": 0.5}, {"multipleOf": 9973}]},
        {**NAMES, "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"$ref": "#/$defs/b"}}},
        {**NAMES, "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"$ref": "#/$defs/b"}, "next": {"$ref": "#"}}},
        {**NAMES, "allOf": [{"$ref": "#/$defs/a"}], "description": "a"},
        {"type": "object", "default": {"multipleOf": 123_457}, "examples": [{"multipleOf": 123_457}]},
        {"enum": [{"multipleOf": 123_457}]},
        {"const": {"multipleOf": 123_457}},
    ],
)
def test_multiples_that_take_little_are_not_refused(grammars, value):
    started = time.thread_time()
    grammars.compile(schema(value))
    assert time.thread_time() - started < 1


def test_a_property_named_like_a_keyword_of_data_is_followed(grammars):
    with pytest.raises(GrammarError, match="multipleOf"):
        grammars.compile(schema({"properties": {"default": {"multipleOf": 99_991_000}}}))


def test_a_constant_that_looks_like_a_schema_stays_as_it_is(grammars, tokenizer):
    value = {"const": {"format": "int32", "minLength": 2, "then": 1}}
    assert accepts(grammars, tokenizer, schema(value), '{"format": "int32", "minLength": 2, "then": 1}')


@pytest.mark.parametrize(
    ("constraint", "right", "wrong"),
    [
        (Constraint("json_object"), ['{"a": [{}]}', "{}"], ["[]", "1", '{"a"}', "{} "]),
        (Constraint("regex", r"(\d+|a/b\n?)"), ["12", "a/b\n", "a/b"], ["", "1a", "a/b\n\n"]),
        (Constraint("choice", ["yes", "yes, but", 'a "b"\n']), ["yes", "yes, but", 'a "b"\n'], ["no", "ye", "yes,"]),
        (Constraint("choice", ["e\u0301", "\u212b"]), [], ["e"]),
        (Constraint("grammar", 'start: "<b>" x+\nx: "a" | /[0-9]{2}/'), ["<b>a", "<b>a12"], ["<b>", "<b>1"]),
    ],
)
def test_other_constraints_accept_whole_answers_only(grammars, tokenizer, constraint, right, wrong):
    assert all(accepts(grammars, tokenizer, constraint, text) for text in right)
    assert not any(accepts(grammars, tokenizer, constraint, text) for text in wrong)


@pytest.mark.parametrize("text", ["e\u0301", "\u212b x", "caf\u00e9"])
def test_what_is_forced_is_the_text_itself_also_where_the_tokenizer_would_normalise_it(grammars, tokenizer, text):
    matcher = grammars.compile(Constraint("choice", [text])).matcher()
    assert tokenizer.decode(matcher.forced()) == text
    assert matcher.is_over


def test_white_space_between_the_parts_of_json_is_bounded(grammars, tokenizer):
    constraint = Constraint("json_object")
    assert accepts(grammars, tokenizer, constraint, "{\n" + " " * 16 + '"a": 1\n}')
    for space in ("  ", "\n\n", "\n" + " " * 17, "\t", " \n"):
        assert not accepts(grammars, tokenizer, constraint, "{" + space + '"a":1}')
    assert not accepts(grammars, tokenizer, schema({"x-guidance": {"whitespace_pattern": " *"}}), '{    "a":1}')


def test_a_schema_cannot_bring_options_that_ignore_keywords(grammars):
    with pytest.raises(GrammarError, match="not"):
        grammars.compile(schema({"not": {}, "x-guidance": {"lenient": True}}))


def test_an_answer_may_end_where_it_is_complete_and_nowhere_else(grammars, tokenizer):
    ends = {tokenizer.eos_id, tokenizer.end_of_text_id}
    matcher = grammars.compile(Constraint("regex", "a{1,2}")).matcher()
    (a,) = tokenizer.encode("a")
    assert not ends & allowed(matcher.mask())
    matcher.accept(a)
    assert ends | {a} == allowed(matcher.mask())
    assert (matcher.is_complete, matcher.is_over) == (True, False)
    matcher.accept(a)
    assert (matcher.is_complete, matcher.is_over) == (True, True)


def test_control_tokens_and_unused_ids_are_never_allowed(grammars, tokenizer):
    hidden = {*tokenizer.control_ids.values(), *range(tokenizer.vocab_size, VOCAB)}
    hidden -= {tokenizer.eos_id, tokenizer.end_of_text_id}
    for constraint in (Constraint("regex", r"(?s:.)*"), Constraint("grammar", r"start: /(.|\n)*/"), schema(True)):
        matcher = grammars.compile(constraint).matcher()
        for token in tokenizer.encode('"<tool_call>', control=False):
            assert not hidden & allowed(matcher.mask())
            matcher.accept(token)
        assert not matcher.error


@pytest.mark.parametrize("name", [*CONTROL_TOKENS, "[1-9]", "[^3]"])
def test_a_grammar_cannot_name_tokens(grammars, name):
    with pytest.raises(GrammarError):
        grammars.compile(Constraint("grammar", f'start: "a" <{name.strip("<>")}>'))


JSON_IN_GBNF = r"""
root   ::= object
value  ::= object | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws # <escapes>
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""


def test_a_grammar_of_llama_cpp_is_taken_too(grammars, tokenizer):
    constraint = Constraint("grammar", JSON_IN_GBNF)
    for text, fits in (('{"name": "</a>", "n": -12}', True), ("{}", True), ('{"a": 1.5}', False), ("[1]", False)):
        assert accepts(grammars, tokenizer, constraint, text) == fits


@pytest.mark.parametrize("text", ["root ::= this is (not valid GBNF", 'root ::= "a" <tool_call>', "root ::= missing"])
def test_a_faulty_grammar_of_llama_cpp_is_refused(grammars, text):
    with pytest.raises(GrammarError):
        grammars.compile(Constraint("grammar", text))


def test_a_token_that_is_not_allowed_is_an_error_that_stays(grammars, tokenizer):
    matcher = grammars.compile(Constraint("regex", "a+")).matcher()
    matcher.accept(tokenizer.encode("b")[0])
    assert matcher.error
    assert not matcher.is_over


def test_an_answer_can_go_on_from_what_is_written(grammars, tokenizer):
    yes_or_no = grammars.compile(Constraint("choice", ["yes, sir", "no"]))
    assert tokenizer.decode(yes_or_no.matcher("yes").forced()) == ", sir"
    with pytest.raises(GrammarError, match="to be continued"):
        yes_or_no.matcher("maybe")


def test_an_answer_is_not_refused_for_what_answers_before_it_used_up(tokenizer, monkeypatch):
    monkeypatch.setitem(grammar._LIMITS, "max_lexer_states", 2000)
    grammars = Grammars(tokenizer, VOCAB, [tokenizer.eos_id])
    compiled = []
    anew = grammars._compiled_anew
    monkeypatch.setattr(grammars, "_compiled_anew", lambda source: compiled.append(source) or anew(source))
    constraint, rng = Constraint("regex", "[ab]*a[ab]{18}c"), np.random.default_rng(0)
    for _ in range(2):
        generation = [grammars.compile(constraint).matcher() for _ in range(20)]
        for matcher in generation:
            text = "".join(rng.choice(["a", "b"], 60)) + "a" * 19 + "c"
            for token in tokenizer.encode(text, control=False):
                assert token in allowed(matcher.mask())
                matcher.accept(token)
            assert matcher.is_complete, matcher.error
    assert len(set(compiled)) == 1 < len(compiled)


def test_an_answer_that_takes_too_much_by_itself_is_refused_and_the_next_is_not(tokenizer, monkeypatch):
    monkeypatch.setitem(grammar._LIMITS, "max_lexer_states", 500)
    grammars = Grammars(tokenizer, VOCAB, [tokenizer.eos_id])
    constraint, rng = Constraint("regex", "[ab]*a[ab]{18}c"), np.random.default_rng(0)
    matcher = grammars.compile(constraint).matcher()
    for token in tokenizer.encode("".join(rng.choice(["a", "b"], 1000)), control=False):
        matcher.mask()
        matcher.accept(token)
    assert "too many states" in matcher.error
    assert accepts(grammars, tokenizer, constraint, "a" * 19 + "c")


def nested(depth):
    value = {"type": "string"}
    for _ in range(depth):
        value = {"type": "object", "properties": {"a": value}, "required": ["a"]}
    return value


def doubling(depth):
    defs = {f"d{depth}": {"type": "string"}}
    for i in range(depth):
        inner = {"$ref": f"#/$defs/d{i + 1}"}
        defs[f"d{i}"] = {"anyOf": [{"type": "array", "items": inner}, inner]}
    return {"$defs": defs, "$ref": "#/$defs/d0"}


BOMBS = {
    "deep": schema(nested(5000)),
    "less deep": schema(nested(120)),
    "long": schema({"enum": ["x" * MAX_SOURCE_BYTES]}),
    "many properties": schema({"type": "object", "properties": {f"p{i}": {"pattern": f"{i}+"} for i in range(2000)}}),
    "all of any of": schema(
        {"allOf": [{"anyOf": [{"properties": {f"p{i}_{j}": {"minLength": 2}}} for j in range(7)]} for i in range(9)]}
    ),
    "many rules": Constraint("grammar", "start: " + " | ".join(f'"{i}" x' for i in range(9000)) + "\nx: start"),
    "unbounded rule": Constraint("grammar", "start: start start"),
    "large repeats": Constraint("regex", "(((a{1,999}b){1,999}c){1,999}|d{999}){1,999}e"),
    "doubling": schema(doubling(40)),
    "no end": schema({"$ref": "#"}),
    "large numbers": schema({"type": "integer", "minimum": -(10**400), "maximum": 10**400}),
    "multiples": schema({"type": "integer", "multipleOf": 99_991_000}),
    "common multiple": schema({"type": "integer", "allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}),
    "multiples in Lark": Constraint("grammar", 'start: %json {"items": {"multiple\\u004ff": 99991000}}'),
    "multiple with zeros": schema({"type": "integer", "multipleOf": 9_991_000}),
    "multiples with zeros": schema({"properties": {f"p{i}": {"multipleOf": (97 + i) * 1000} for i in range(70)}}),
    "multiples of one value": schema({"allOf": [{"multipleOf": 99_991}, {"multipleOf": 1000}]}),
    "multiples by name": schema(
        {
            "$defs": {"a": {"multipleOf": 997}, "b": {"multipleOf": 991}},
            "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        }
    ),
    "multiples of one property": schema(
        {"allOf": [{"properties": {"a": {"multipleOf": 997}}}, {"properties": {"a": {"multipleOf": 991}}}]}
    ),
    "multiples by pattern": schema(
        {"properties": {"a": {"multipleOf": 997}}, "patternProperties": {"^a": {"multipleOf": 991}}}
    ),
    "multiple beside a long number": Constraint(
        "grammar", 'start: %json {"multipleOf": 99991000, "x": ' + "1" * 5000 + "}"
    ),
    "deep in Lark": Constraint("grammar", "start: %json " + "[" * 60_000),
    "deep and long in Lark": Constraint("grammar", "start: %json " + "[" * 10**6),
    "long string": schema({"type": "string", "minLength": 10**8}),
    "deep GBNF": Constraint("grammar", "root ::= " + "(" * 100_000),
    "many rules of GBNF": Constraint("grammar", "root ::= " + " | ".join(f'"{i}" root' for i in range(9000))),
    "ambiguous": Constraint("grammar", 'start: x*\nx: "a" | x x | x x x'),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_or_harmless_and_takes_no_time(grammars, tokenizer, bomb):
    started = time.thread_time()
    (a,) = tokenizer.encode("a")
    try:
        matcher = grammars.compile(bomb).matcher()
        for _ in range(50):
            mask = matcher.mask()
            matcher.accept(a if a in allowed(mask) else min(allowed(mask), default=a))
    except GrammarError:
        pass
    assert time.thread_time() - started < 2


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("json", None, "not one of json_object, json_schema"),
        ("json_object", {}, "no value"),
        ("json_schema", "{}", "needs a schema"),
        ("regex", None, "needs a pattern"),
        ("choice", [], "1 to 1000"),
        ("choice", ["a", ""], "not empty"),
        ("choice", "abc", "needs 1 to"),
        ("choice", ["x"] * 1001, "1 to 1000"),
        ("grammar", 3, "needs a grammar in Lark"),
        ("json_schema", False, "nothing matches"),
        ("json_schema", {"type": "strin"}, "strin"),
        ("json_schema", {"const": float("nan")}, "not JSON"),
        ("json_schema", {"$ref": "http://example.com/x"}, "example.com"),
        ("json_schema", {"uniqueItems": True}, "uniqueItems"),
        ("json_schema", {"properties": {"a": {"multipleOf": 50_021}, "b": {"multipleOf": 500.23}}}, "exceed 100,000"),
        ("grammar", "start: %json " + "[" * 60_000, "nested too deeply"),
        ("regex", "(", "unclosed"),
        ("regex", "(?=a)b", "look-around"),
        ("choice", ["\ud800"], "string"),
        ("grammar", "start: missing", "missing"),
        ("grammar", '{"grammars": []}', "expecting"),
    ],
)
def test_what_is_faulty_is_refused_with_the_reason(grammars, kind, value, message):
    with pytest.raises(GrammarError, match=message):
        grammars.compile(Constraint(kind, value))


def test_the_official_tokenizer_gives_canonical_tokens_and_no_control_tokens(shared):
    tokenizer = Tokenizer.load(shared / "tokenizer")
    grammars = Grammars(tokenizer, 151_936, [tokenizer.eos_id, tokenizer.end_of_text_id])
    city = {"type": "object", "properties": {"city": {"enum": ["Zürich 中"]}}, "required": ["city"]}
    matcher = grammars.compile(schema({**city, "additionalProperties": False})).matcher()
    tokens = []
    while not matcher.is_over:
        mask = matcher.mask()
        assert max(allowed(mask)) < tokenizer.vocab_size
        assert not (set(tokenizer.control_ids.values()) - {tokenizer.eos_id, tokenizer.end_of_text_id}) & allowed(mask)
        wanted = tokenizer.encode('{"city": "Zürich 中"}')[len(tokens)]
        assert wanted in allowed(mask)
        matcher.accept(wanted)
        tokens.append(wanted)
    assert tokens == tokenizer.encode('{"city": "Zürich 中"}')
