"""Answers held to rules: every format, way of thinking and rule, by a model that wants to say something else."""

import json
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import SpeakingEngine, draws, wants

from qwen3 import LLM, SamplingParams
from qwen3.chat import ChatFormat, Message, ToolCall, ToolCallDelta, fold
from qwen3.engine.request import FinishReason, RequestError
from qwen3.engine.rules import BUDGET_SENTENCE
from qwen3.grammar import Constraint, GrammarError

PARAMS = SamplingParams(temperature=0, max_tokens=400)
QUESTION = [{"role": "user", "content": "What is the weather?"}]
SOFT_OFF = [{"role": "user", "content": "What is the weather? /no_think"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
NOW = {"type": "object", "properties": {}, "additionalProperties": False}


def tool(name, parameters, **more):
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


TOOLS = [tool("weather", WEATHER), tool("now", NOW)]
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm", "days": 2}}\n</tool_call>'
NOW_CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def llm():
    return LLM("builtin")


def answer(llm, speaker, messages=QUESTION, tools=None, thinking=True, params=PARAMS, **options):
    """The answer of both kinds, which must be the same, and why it ended."""
    llm._engine = SpeakingEngine(speaker if callable(speaker) else wants(llm.tokenizer, speaker))
    *events, finished = llm.chat(messages, tools, thinking, params, **options)
    whole = llm.chat(messages, tools, thinking, params, stream=False, **options)
    assert fold(events) == Message(whole.reasoning, whole.content, whole.tool_calls)
    assert (finished.reason, finished.usage) == (whole.finish_reason, replace(whole.usage, prefill_seconds=0.0))
    return fold(events), finished.reason


@pytest.fixture(params=ChatFormat, ids=lambda format: format.value)
def formatted(llm, request):
    before, llm._prompts.format = llm.format, request.param
    yield llm
    llm._prompts.format = before


WISHES = {
    "prose": "It rains.",
    "call": f"Let me look.\n{CALL}",
    "two calls": f"{CALL}\n{NOW_CALL}",
    "unknown tool": CALL.replace("weather", "stocks"),
    "wrong arguments": CALL.replace('"Ulm"', "[1]"),
    "malformed": "<tool_call>\n{city Ulm",
    "literal tag": "The tag is <tool_call>, and there is an end </tool_call> too.",
    "json": '{"answer": "It rains."}',
    "pretty json": '{\n  "answer": "It rains."\n}',
    "other json": '[{"question": 1}]',
}
RULES = {
    "auto": {"tools": TOOLS},
    "required": {"tools": TOOLS, "tool_choice": "required"},
    "named": {"tools": TOOLS, "tool_choice": "now"},
    "none": {"tools": TOOLS, "tool_choice": "none"},
    "schema": {"constraint": Constraint("json_schema", SCHEMA)},
    "schema and tools": {"tools": TOOLS, "constraint": Constraint("json_schema", SCHEMA)},
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("thinks", ["on", "off", "soft"])
@pytest.mark.parametrize("wish", WISHES)
def test_every_answer_keeps_its_rules_and_is_the_sum_of_its_stream(formatted, rules, thinks, wish):
    thought = f"\nHm. {NOW_CALL} It rains.\n" if thinks == "on" else "\n\n"
    opens = "" if formatted.format is ChatFormat.THINKING_2507 else "<think>"
    can_think = formatted.format is not ChatFormat.INSTRUCT_2507
    is_closed = formatted.format is ChatFormat.HYBRID and thinks == "off"
    text = WISHES[wish] if is_closed or not can_think else f"{opens}{thought}</think>\n\n{WISHES[wish]}"
    message, reason = answer(
        formatted, text, SOFT_OFF if thinks == "soft" else QUESTION, thinking=thinks != "off", **RULES[rules]
    )
    drafted = NOW_CALL in message.reasoning
    assert drafted == (thinks == "on" and can_think)
    assert reason is (FinishReason.TOOL_CALLS if message.tool_calls else FinishReason.STOP)
    for call in message.tool_calls:
        schema = {"weather": WEATHER, "now": NOW}[call.name]
        if rules in ("required", "named"):
            jsonschema.validate(json.loads(call.arguments), schema)
        else:
            assert isinstance(json.loads(call.arguments), dict)
    match rules:
        case "auto":
            expected = {"call": 1, "two calls": 2, "wrong arguments": 1}.get(wish, 0)
            assert len(message.tool_calls) == expected
            if not expected:
                assert message.content == WISHES[wish]
        case "required":
            assert message.content == ""
            assert len(message.tool_calls) == (2 if wish == "two calls" else 1)
        case "named":
            assert message.content == ""
            assert [call.name for call in message.tool_calls] == ["now"]
        case "none":
            assert message == Message(message.reasoning, WISHES[wish])
        case "schema":
            jsonschema.validate(json.loads(message.content), SCHEMA)
            assert not message.tool_calls
        case "schema and tools" if not message.tool_calls:
            jsonschema.validate(json.loads(message.content), SCHEMA)
        case "schema and tools":
            assert message.content == ""
    if rules.startswith("schema") and "json" in wish and wish != "other json":
        assert message.content == WISHES[wish]


# Streaming of calls


def events_of(llm, text, **options):
    llm._engine = SpeakingEngine(wants(llm.tokenizer, text))
    *events, _ = llm.chat(QUESTION, TOOLS, False, PARAMS, **options)
    return events


def test_arguments_come_as_they_are_written(llm):
    deltas = [event for event in events_of(llm, f"{CALL}\n{NOW_CALL}") if isinstance(event, ToolCallDelta)]
    firsts = [event for event in deltas if event.id]
    assert [(event.index, event.name) for event in firsts] == [(0, "weather"), (1, "now")]
    assert all(event.id == event.name == "" for event in deltas if event not in firsts)
    assert len(deltas) > 10
    pieces = [event.arguments for event in deltas]
    assert "".join(pieces) == '{"city": "Ulm", "days": 2}{}'


def test_a_call_without_the_exact_header_comes_whole(llm):
    call = '<tool_call>{"arguments": {"days": 2}, "name": "weather"}</tool_call>'
    assert events_of(llm, call) == [ToolCall(0, "call_1_0", "weather", '{"days": 2}')]


@pytest.mark.parametrize("tool_choice", ["auto", "required"])
def test_a_call_that_max_tokens_cuts_short_is_there_as_far_as_it_came(llm, tool_choice):
    lengths = set()
    for max_tokens in range(1, 60, 2):
        params = replace(PARAMS, max_tokens=max_tokens)
        message, reason = answer(llm, CALL, tools=TOOLS, thinking=False, params=params, tool_choice=tool_choice)
        assert reason in (FinishReason.LENGTH, FinishReason.TOOL_CALLS)
        for call in message.tool_calls:
            assert '{"city": "Ulm", "days": 2}'.startswith(call.arguments)
            lengths.add(len(call.arguments))
    assert len(lengths) > 5
    assert len('{"city": "Ulm", "days": 2}') in lengths


# What cannot be enforced


UNENFORCEABLE = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("tools", "tool_choice"),
    [
        ([*TOOLS, tool("odd", UNENFORCEABLE)], "required"),
        ([*TOOLS, tool("odd", UNENFORCEABLE)], "odd"),
        ([*TOOLS, tool("odd", UNENFORCEABLE, strict=True)], "auto"),
    ],
)
def test_a_tool_whose_schema_cannot_be_enforced_is_refused_by_name_and_feature(llm, tools, tool_choice):
    with pytest.raises(GrammarError, match=r"'odd'.*not"):
        llm.prepare_chat(QUESTION, tools, tool_choice=tool_choice)


def test_in_plain_auto_its_arguments_are_any_object(llm):
    call = NOW_CALL.replace("now", "odd").replace("{}", '{"a": "text"}')
    message, _ = answer(llm, call, tools=[tool("odd", UNENFORCEABLE)], thinking=False)
    assert message.tool_calls[0].arguments == '{"a": "text"}'


def test_strict_tools_have_their_schemas_enforced_in_auto_and_the_others_do_not(llm):
    wish = WISHES["wrong arguments"]
    (free,), (strict,) = (
        answer(llm, wish, tools=[tool("weather", WEATHER, strict=strict)], thinking=False)[0].tool_calls
        for strict in (False, True)
    )
    assert json.loads(free.arguments)["city"] == [1]
    jsonschema.validate(json.loads(strict.arguments), WEATHER)


@pytest.mark.parametrize(
    ("tools", "tool_choice", "error", "message"),
    [
        (None, "required", RequestError, "offered are: none"),
        (TOOLS, "stocks", RequestError, "offered are: weather, now"),
        (TOOLS, {"type": "function"}, RequestError, "tool_choice"),
        ([{"type": "function"}], "auto", RequestError, r"tools\[0\]"),
        ([tool("f", ["x"])], "auto", RequestError, "parameters"),
        ([tool("f", {"type": "string"})], "required", GrammarError, "'f'.*'string'"),
        ([tool("f", {"type": "object", "maxProperties": "x"})], "required", GrammarError, "'f'"),
    ],
)
def test_bad_tools_and_choices_are_refused(llm, tools, tool_choice, error, message):
    with pytest.raises(error, match=message):
        llm.prepare_chat(QUESTION, tools, tool_choice=tool_choice)


@pytest.mark.parametrize("tool_choice", ["auto", "required"])
@pytest.mark.parametrize("constraint", [None, Constraint("json_object")])
def test_parallel_calls_can_be_forbidden(llm, tool_choice, constraint):
    message, reason = answer(
        llm,
        f"{CALL}\n{NOW_CALL}",
        tools=TOOLS,
        thinking=False,
        tool_choice=tool_choice,
        constraint=constraint,
        parallel_tool_calls=False,
    )
    assert [call.name for call in message.tool_calls] == ["weather"]
    assert (message.content, reason) == ("", FinishReason.TOOL_CALLS)


# Constraints


def test_an_answer_without_a_choice_needs_no_model(llm):
    def silent(request, mask):
        raise AssertionError("it is asked for a token")

    message, reason = answer(llm, silent, thinking=False, constraint=Constraint("choice", ["yes"]))
    assert (message.content, reason) == ("yes", FinishReason.STOP)


@pytest.mark.parametrize(
    ("constraint", "wish", "content"),
    [
        (Constraint("choice", ["yes", "no", "not at all"]), "no", "no"),
        (Constraint("choice", ["yes", "no", "not at all"]), "not at all", "not at all"),
        (Constraint("regex", "[a-z]+ [0-9]{2}"), "abc 12 and more", "abc 12"),
        (Constraint("grammar", 'start: "<" /[a-z]+/ ">"'), "<b>", "<b>"),
        (Constraint("json_object"), '{"a": [1, {"b": null}]}', '{"a": [1, {"b": null}]}'),
    ],
)
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_constraints_hold_the_answer_and_end_it(llm, constraint, wish, content, ignore_eos):
    params = replace(PARAMS, ignore_eos=ignore_eos)
    for text, thinking in ((wish, False), (f"<think>\nHm.\n</think>\n\n{wish}", True)):
        message, reason = answer(llm, text, thinking=thinking, params=params, constraint=constraint)
        assert (message.content, reason) == (content, FinishReason.STOP)


def test_a_plain_completion_can_be_constrained(llm):
    llm._engine = SpeakingEngine(wants(llm.tokenizer, "<think>42"))
    *events, finished = llm._events(
        llm.prepare_completion("6 * 7 =", PARAMS, constraint=Constraint("regex", " [0-9]+"))
    )
    assert fold(events).content.strip().isdecimal()
    assert finished.reason is FinishReason.STOP


def test_a_constraint_binds_all_of_a_message_that_is_continued(llm):
    messages = [*QUESTION, {"role": "assistant", "content": '{"answer": "It'}]
    options = {"constraint": Constraint("json_schema", SCHEMA), "continue_final_message": True}
    message, _ = answer(llm, ' rains."}', messages, **options)
    assert message.content == ' rains."}'
    with pytest.raises(GrammarError, match="to be continued"):
        llm.prepare_chat([*QUESTION, {"role": "assistant", "content": "It rains"}], **options)


def test_the_end_waits_for_thinking_and_answer(llm):
    """A model that would rather say nothing, in its thinking or after it."""
    for text in ("", "<think>\nHm."):
        message, reason = answer(llm, text, constraint=Constraint("json_schema", SCHEMA), params=replace(
            PARAMS, max_tokens=60
        ), thinking_budget=5)  # fmt: skip
        assert reason is FinishReason.STOP
        jsonschema.validate(json.loads(message.content), SCHEMA)


# Thinking


def thinking_forever(llm):
    return wants(llm.tokenizer, "<think>\n" + "Hm, what was it? " * 200)


@pytest.mark.parametrize("budget", [0, 1, 20])
def test_the_budget_is_exact_and_the_sentence_shown_as_reasoning(llm, budget):
    message, _ = answer(llm, thinking_forever(llm), thinking_budget=budget, params=replace(PARAMS, max_tokens=120))
    sentence = BUDGET_SENTENCE.removesuffix("</think>\n\n")
    assert message.reasoning.endswith(sentence.strip("\n"))
    thoughts = message.reasoning.removesuffix(sentence.strip("\n"))
    # The newline of the format counts as the first token.
    assert len(llm.tokenizer.encode("\n" + thoughts.rstrip("\n"))) == max(budget, 1)


@pytest.mark.parametrize("reserve", [10, 50])
def test_the_answer_reserve_leaves_exactly_so_many_tokens(llm, reserve):
    llm._engine = SpeakingEngine(thinking_forever(llm))
    generation = llm.prepare_chat(QUESTION, params=replace(PARAMS, max_tokens=100), answer_reserve=reserve)
    *_, finished = llm._events(generation)
    generated = generation.request.generated_ids
    after = len(llm.tokenizer.encode("\n\n"))
    assert len(generated) - generated.index(llm.tokenizer.id("</think>")) - 1 - after == reserve
    assert finished.reason is FinishReason.LENGTH


def test_thinking_can_be_ended_from_outside_now_or_when_it_begins(llm):
    for steps in (0, 1, 30):
        llm._engine = SpeakingEngine(thinking_forever(llm))
        generation = llm.prepare_chat(QUESTION, params=replace(PARAMS, max_tokens=150))
        generation.start()
        for _ in range(steps):
            llm.step()
        generation.end_thinking()
        generation.end_thinking()
        while not generation.is_done:
            llm.step()
            generation.poll()
        generated = generation.request.generated_ids
        assert generated.index(llm.tokenizer.id("</think>")) == max(steps, 1) + len(
            llm.tokenizer.encode(BUDGET_SENTENCE.removesuffix("</think>\n\n"))
        )


def test_ending_the_thinking_of_an_answer_changes_nothing(llm):
    llm._engine = SpeakingEngine(wants(llm.tokenizer, "It rains."))
    generation = llm.prepare_chat(QUESTION, thinking=False, params=PARAMS)
    generation.start()
    llm.step()
    generation.end_thinking()
    assert len(generation.request.generated_ids) == 1


def test_the_loop_guard_ends_thinking_and_then_the_answer_that_repeats_itself(llm):
    wish = "<think>\n" + "Hm, what was it? " * 400
    params = replace(PARAMS, max_tokens=2000)
    message, reason = answer(llm, wish, params=params, loop_guard=True)
    assert reason is FinishReason.STOP
    assert "give the solution" in message.reasoning
    assert 0 < message.reasoning.count("Hm") < 80
    assert 0 < message.content.count("Hm") < 80
    assert answer(llm, wish, params=params)[1] is FinishReason.LENGTH


# Any schema, any model

NAMES = st.sampled_from(["a", "b", "ü"])
SCHEMAS = st.recursive(
    st.sampled_from(
        [
            {"type": "string"},
            {"type": "string", "maxLength": 3},
            {"type": "string", "pattern": "^[ab]+$"},
            {"type": "integer"},
            {"type": "integer", "minimum": -3, "maximum": 12},
            {"type": "number"},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": ["x", 1, None, "ü"]},
            {"const": {"k": [1, 2]}},
            {"type": ["string", "null"]},
            {"type": "string", "format": "date"},
            {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 2}]},
        ]
    ),
    lambda inner: (
        st.builds(
            lambda properties, required, more: {
                "type": "object",
                "properties": properties,
                "required": sorted(set(required) & set(properties)),
                "additionalProperties": more,
            },
            st.dictionaries(NAMES, inner, max_size=3),
            st.lists(NAMES),
            st.booleans(),
        )
        | st.builds(
            lambda items, least: {"type": "array", "items": items, "minItems": least, "maxItems": 3},
            inner,
            st.integers(0, 2),
        )
        | st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner)
    ),
    max_leaves=5,
)


@settings(max_examples=60)
@given(
    schema=SCHEMAS,
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.0, 1.0]),
    thinking=st.booleans(),
    presence=st.sampled_from([0.0, 1.5]),
)
def test_whatever_the_schema_and_the_model_a_finished_answer_is_valid(
    llm, schema, seed, temperature, thinking, presence
):
    params = SamplingParams(temperature=temperature, seed=seed, max_tokens=150, presence_penalty=presence)
    speaker = draws(llm.tokenizer, llm.config.vocab_size, params, seed)
    llm._engine = SpeakingEngine(speaker)
    constraint = Constraint("json_schema", schema)
    *events, finished = llm.chat(QUESTION, None, thinking, params, constraint=constraint, thinking_budget=5)
    if finished.reason is FinishReason.STOP:
        jsonschema.validate(json.loads(fold(events).content), schema)
    else:
        assert finished.reason is FinishReason.LENGTH


@settings(max_examples=40)
@given(parameters=st.dictionaries(NAMES, SCHEMAS, max_size=2), seed=st.integers(0, 1000), thinking=st.booleans())
def test_whatever_the_parameters_and_the_model_a_required_call_is_valid(llm, parameters, seed, thinking):
    schema = {"properties": parameters, "required": sorted(parameters), "additionalProperties": False}
    params = SamplingParams(seed=seed, max_tokens=200)
    llm._engine = SpeakingEngine(draws(llm.tokenizer, llm.config.vocab_size, params, seed))
    tools = [tool("f", schema), tool("now", NOW)]
    *events, finished = llm.chat(QUESTION, tools, thinking, params, tool_choice="required", thinking_budget=5)
    message = fold(events)
    assert message.content == ""
    if finished.reason is FinishReason.TOOL_CALLS:
        assert message.tool_calls
        for call in message.tool_calls:
            jsonschema.validate(json.loads(call.arguments), schema if call.name == "f" else NOW)
    else:
        assert finished.reason is FinishReason.LENGTH


# In the real engine


def test_constrained_answers_are_the_same_alone_together_and_with_guessed_tokens():
    items = {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 12, "maxItems": 12}
    constraints = [Constraint("json_schema", items), Constraint("json_object"), None, Constraint("regex", "(ab ){20}c")]
    params = [replace(PARAMS, temperature=0.7, seed=seed, max_tokens=500) for seed in range(4)]

    def answers(llm, together):
        generations = [
            llm.prepare_chat(QUESTION, params=one, thinking=False, constraint=constraint)
            for one, constraint in zip(params, constraints, strict=True)
        ]
        for batch in [generations] if together else [[generation] for generation in generations]:
            for generation in batch:
                generation.start()
            while not all(generation.is_done for generation in batch):
                llm.step()
                for generation in batch:
                    generation.poll()
        return [generation.request.generated_ids for generation in generations]

    plain, guessing = (LLM("builtin", weights="int8", speculate=speculate) for speculate in (False, True))
    expected = answers(plain, together=False)
    assert len(json.loads(plain.tokenizer.decode(expected[0]))) == 12
    assert answers(plain, together=True) == answers(guessing, together=False) == expected
    assert answers(guessing, together=True) == expected
