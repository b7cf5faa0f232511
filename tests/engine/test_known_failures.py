"""What thinking models' servers have got wrong: each test is named for a failure that users of others reported."""

import json

import pytest
import torch
from scripted import SpeakingEngine, wants

from qwen3 import LLM, SamplingParams
from qwen3.chat import ChatFormat, Message, ToolCall, fold, render
from qwen3.engine.request import FinishReason
from qwen3.engine.sampler import sample
from qwen3.grammar import Constraint

QUESTION = [{"role": "user", "content": "What is the weather?"}]
CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}]
SCHEMA = Constraint("json_schema", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
PARAMS = SamplingParams(temperature=0, max_tokens=300)


@pytest.fixture(scope="module")
def llm():
    return LLM("builtin")


@pytest.fixture
def thinking_only(llm):
    llm._prompts.format = ChatFormat.THINKING_2507
    yield llm
    llm._prompts.format = ChatFormat.HYBRID


def ask(llm, text, *, thinking=True, tools=None, params=PARAMS, **options):
    llm._engine = SpeakingEngine(wants(llm.tokenizer, text))
    *events, finished = llm.chat(QUESTION, tools, thinking, params, **options)
    return fold(events), finished.reason


def test_answer_in_the_reasoning_field_when_the_prompt_already_closed_the_think_block(llm):
    assert ask(llm, "It rains.", thinking=False)[0] == Message(content="It rains.")


def test_output_without_an_opening_think_not_split(thinking_only):
    assert ask(thinking_only, "Hm.\n</think>\n\nIt rains.")[0] == Message("Hm.", "It rains.")


def test_tool_calls_drafted_inside_thinking_executed(llm):
    message, reason = ask(llm, f"<think>\nPerhaps {CALL}?\n</think>\n\nIt rains.", tools=TOOLS)
    assert message == Message(f"Perhaps {CALL}?", "It rains.")
    assert reason is FinishReason.STOP


def test_literal_tool_call_in_prose_losing_text(llm):
    text = "A call stands between <tool_call> and </tool_call>, as JSON."
    assert ask(llm, text, thinking=False, tools=TOOLS)[0] == Message(content=text)


@pytest.mark.parametrize("call", [CALL.replace("now", "then"), CALL.replace('"arguments": ', ""), "<tool_call>\nnow"])
def test_malformed_or_unknown_call_dropped_instead_of_returned_as_content(llm, call):
    assert ask(llm, f"Look:\n{call}", thinking=False, tools=TOOLS)[0] == Message(content=f"Look:\n{call}")


def test_stop_strings_firing_inside_reasoning(llm):
    params = SamplingParams(temperature=0, max_tokens=300, stop=["rains"])
    message, _ = ask(llm, "<think>\nIf it rains.\n</think>\n\nYes, it rains.", params=params)
    assert message == Message("If it rains.", "Yes, it ")


def test_structured_output_not_enforced_with_thinking_off(llm):
    message, reason = ask(llm, "It rains.", thinking=False, constraint=SCHEMA)
    assert isinstance(json.loads(message.content)["a"], int)
    assert reason is FinishReason.STOP


def test_structured_output_not_enforced_after_the_think_block_was_skipped(llm):
    message, _ = ask(llm, "It rains.", constraint=SCHEMA)
    assert isinstance(json.loads(message.content)["a"], int)


def test_structured_output_applied_to_the_thinking_text(llm):
    message, _ = ask(llm, '<think>\nIt rains, so 3.\n</think>\n\n{"a": 3}', constraint=SCHEMA)
    assert message == Message("It rains, so 3.", '{"a": 3}')


def test_structured_output_that_is_whitespace_for_ever(llm):
    message, reason = ask(llm, '{"a":' + " \n" * 200, thinking=False, constraint=SCHEMA)
    assert reason is FinishReason.STOP
    assert len(message.content) < 40


@pytest.mark.parametrize("tool_choice", ["required", "now"])
def test_required_or_named_tool_choice_not_enforced_with_thinking_off(llm, tool_choice):
    message, reason = ask(llm, "It rains.", thinking=False, tools=TOOLS, tool_choice=tool_choice)
    assert [(call.name, message.content) for call in message.tool_calls] == [("now", "")]
    assert reason is FinishReason.TOOL_CALLS


def test_budget_not_enforced(llm):
    message, _ = ask(llm, "<think>\n" + "Hm. " * 300, thinking_budget=10)
    assert message.reasoning.count("Hm") < 10
    assert message.content


def test_presence_penalty_counting_prompt_tokens(llm):
    """The prompt's tokens have the same logits with the penalty as without, and forced ones count as generated."""
    generation = llm.prepare_chat(QUESTION, params=SamplingParams(presence_penalty=2.0), constraint=SCHEMA)
    request = generation.request
    logits = torch.zeros(llm.config.vocab_size)
    said, unsaid = request.prompt_ids[-1], 300
    logits[said], logits[unsaid] = 1.0, 0.5
    params = SamplingParams(temperature=0, presence_penalty=2.0)
    assert sample(logits, params, request.generated_ids, 0, ()).token_id == said
    assert sample(logits, params, [said], 0, ()).token_id == unsaid


def test_template_crash_on_null_content():
    messages = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "now"}}]}]
    assert "None" not in render([*messages, {"role": "tool", "content": None}]).text


def test_content_part_arrays_dropped():
    parts = [{"type": "text", "text": "It is "}, {"type": "text", "text": "cold."}]
    assert "It is cold." in render([{"role": "user", "content": parts}]).text


def test_reasoning_of_a_multi_step_tool_turn_lost_from_history():
    call = Message("I need the time.", "", (ToolCall(0, "call_0", "now", "{}"),)).to_dict()
    turns = [*QUESTION, call, {"role": "tool", "content": "12:00"}]
    assert "I need the time." in render(turns).text
    assert "I need the time." not in render([*turns, {"role": "assistant", "content": "Noon."}, *QUESTION]).text
