"""The loop over a scripted model, and over the real chat format."""

import asyncio
import sys
import threading
import time

import pytest
from agents import QUESTION, ScriptedChat, call, result_of, results_of
from serving import ScriptedEngine

from qwen3 import LLM
from qwen3.agent import Agent, Tool, ToolFailure, ToolResult, turn_messages
from qwen3.chat import Content, Reasoning, ToolCall
from qwen3.engine.request import Finished, FinishReason


def double(x: int) -> int:
    """Twice x."""
    return 2 * x


def test_steps_alternate_with_results_until_an_answer_without_calls():
    model = ScriptedChat(
        [Reasoning("I need to double."), Content("Wait."), call("double", '{"x": 4}')],
        [Reasoning("It is 8."), Content("Eight.")],
    )
    events = list(Agent(model, [double]).run(QUESTION, thinking=True))
    assert [type(event) for event in events] == [
        *(Reasoning, Content, ToolCall, Finished, ToolResult),
        *(Reasoning, Content, Finished),
    ]
    assert events[4] == ToolResult("call_0", "double", "8")
    (_, tools, options), _ = model.requests
    assert options == {"thinking": True}
    assert tools[0]["function"]["parameters"]["properties"] == {"x": {"type": "integer"}}
    assert model.num_closed == 2


def test_the_reasoning_of_a_multi_step_tool_turn_stays_in_history():
    model = ScriptedChat([Reasoning("I need to double."), call("double", '{"x": 4}')], [Content("Eight.")])
    turn = turn_messages(Agent(model, [double]).run(QUESTION))
    assert model.requests[1][0] == [*QUESTION, *turn[:2]]
    assert turn == [
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "I need to double.",
            "tool_calls": [
                {"id": "call_0", "type": "function", "function": {"name": "double", "arguments": '{"x": 4}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_0", "name": "double", "content": "8"},
        {"role": "assistant", "content": "Eight."},
    ]


def test_without_tools_it_is_the_model_alone():
    model = ScriptedChat([Content("Hello.")])
    assert turn_messages(Agent(model).run(QUESTION)) == [{"role": "assistant", "content": "Hello."}]
    assert model.requests == [(QUESTION, None, {})]


def test_calls_of_one_answer_run_at_the_same_time_and_their_results_keep_the_order():
    # Each of the two waits for the other: one after the other they would fail.
    meeting = threading.Barrier(2, timeout=5)

    def first() -> str:
        """Meets."""
        meeting.wait()
        time.sleep(0.05)
        return "first"

    async def second() -> str:
        """Meets too."""
        await asyncio.to_thread(meeting.wait)
        return "second"

    results = results_of([first, second], call("first"), call("second", index=1))
    assert [(result.text, result.is_error) for result in results] == [("first", False), ("second", False)]


def test_after_max_steps_it_stops_and_says_so():
    model = ScriptedChat(*([call("double", '{"x": 1}')] for _ in range(3)))
    events = list(Agent(model, [double], max_steps=2).run(QUESTION))
    assert len(model.requests) == 2
    assert [event.text for event in events if isinstance(event, ToolResult)] == [
        "2",
        "not run: this turn has reached its limit of 2 steps",
    ]
    assert events[-2].reason is FinishReason.TOOL_CALLS
    assert turn_messages(events)[-1]["role"] == "tool"
    with pytest.raises(ValueError, match="max_steps 0"):
        Agent(model, max_steps=0)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ('{"x": "many"}', "x: Input should be a valid integer"),
        ("{}", "x: Field required"),
        ('{"x": 1, "y": 2}', "y: Extra inputs are not permitted"),
        ('{"x": ', "the arguments are not JSON"),
        ("[1]", "the arguments are not a JSON object"),
    ],
)
def test_wrong_arguments_are_a_result_and_the_function_is_not_called(arguments, part):
    def forbidden(x: int) -> None:
        """Not to be called."""
        pytest.fail("called")

    text, is_error = result_of(forbidden, arguments)
    assert part in text
    assert is_error


def test_a_tool_that_does_not_exist_is_a_result():
    (result,) = results_of([double], call("triple"))
    assert result.text == "there is no tool 'triple'; there are double"
    assert result.is_error


def _raise(error):
    raise error


class _Unwritable:
    def __str__(self):
        raise OSError("cannot be written")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda: _raise(RuntimeError("no fuse")), "RuntimeError: no fuse"),
        (lambda: _raise(ToolFailure("ask again later")), "ask again later"),
        (sys.exit, "SystemExit: "),
        (lambda: _Unwritable(), "OSError: cannot be written"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_whatever_a_tool_raises_is_its_result(function, text, is_async):
    def tool() -> str:
        """Fails."""
        return function()

    async def async_tool() -> str:
        """Fails."""
        return function()

    shown, is_error = result_of(async_tool if is_async else tool)
    assert is_error
    assert text in shown or (function is sys.exit and "SystemExit" in shown)
    assert result_of(double, '{"x": 1}') == ("2", False)


@pytest.mark.parametrize(
    ("value", "text"),
    [("ü", "ü"), (3, "3"), (None, "null"), ({"a": [1, "ü"]}, '{"a": [1, "ü"]}'), ("\ud800", "?"), (b"x", "\"b'x'\"")],
)
def test_a_result_is_text_or_json(value, text):
    assert result_of(Tool("t", "", {}, lambda arguments: value)) == (text, False)


def test_a_long_result_is_cut_and_says_so():
    text, _ = result_of(Tool("t", "", {}, lambda arguments: "x" * 5000, max_result=100))
    assert text == "x" * 100 + "\n[cut: 100 of 5,000 characters]"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_tool_that_takes_too_long_is_left_behind(is_async):
    ended = threading.Event()

    async def endless(arguments):
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    def endless_thread(arguments):
        ended.wait(60)

    started = time.monotonic()
    text, is_error = result_of(Tool("t", "", {}, endless if is_async else endless_thread, timeout=0.1))
    assert time.monotonic() - started < 5
    assert (text, is_error) == ("stopped: it took longer than 0.1 seconds", True)
    # A coroutine is cancelled; of a thread nobody can ask that.
    assert ended.wait(5 if is_async else 0) == is_async
    ended.set()


def test_closing_the_turn_cancels_what_runs():
    ended, started = threading.Event(), threading.Event()

    async def endless(arguments):
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    tools = [Tool("quick", "", {}, lambda arguments: started.wait(5)), Tool("endless", "", {}, endless)]
    model = ScriptedChat([call("quick"), call("endless", index=1)])
    turn = Agent(model, tools).run(QUESTION)
    events = [next(turn) for _ in range(4)]  # two calls, Finished, and one result
    turn.close()
    assert ended.wait(5)
    assert [message["content"] for message in turn_messages(events)[1:]] == [
        "true",
        "not run: the turn ended before",
    ]


def test_a_call_that_the_user_refuses_is_not_run_and_all_are_asked_before_any_runs():
    log = []

    def note(x: int) -> None:
        """Leaves a trace."""
        log.append(("ran", x))

    def allow(tool, arguments):
        log.append(("asked", tool.name, arguments["x"]))
        return arguments["x"] != 1

    calls = [call("note", f'{{"x": {x}}}', x) for x in (0, 1)]
    results = results_of([note], *calls, allow=allow)
    assert [result.text for result in results] == ["null", "not run: the user refused this call"]
    assert log == [("asked", "note", 0), ("asked", "note", 1), ("ran", 0)]


def test_an_answer_that_was_cut_runs_no_calls():
    class Cut(ScriptedChat):
        def chat(self, *arguments, **options):
            *parts, finished = super().chat(*arguments, **options)
            yield from parts
            yield Finished(FinishReason.LENGTH, finished.usage)

    events = list(Agent(Cut([call("double", '{"x": 1}')]), [double]).run(QUESTION))
    assert isinstance(events[-1], Finished)
    assert turn_messages(events)[1]["content"] == "not run: the turn ended before"


def test_a_turn_over_the_real_format_reads_its_results_and_its_reasoning():
    prompts = []

    def script(prompt):
        prompts.append(prompt)
        if "<tool_response>" not in prompt:
            called = '{"name": "double", "arguments": {"x": 21}}'
            return f"<think>\nI double.\n</think>\n\n<tool_call>\n{called}\n</tool_call>"
        return "<think>\nI read.\n</think>\n\nIt is 42."

    llm = LLM("builtin")
    llm._engine = ScriptedEngine(llm.tokenizer, script)
    messages = turn_messages(Agent(llm, [double]).run(QUESTION))
    assert messages[-1]["content"] == "It is 42."
    assert messages[-1]["reasoning_content"] == "I read."
    assert "<think>\nI double.\n</think>" in prompts[1]
    assert "<tool_response>\n42\n</tool_response>" in prompts[1]
    assert '"name": "double"' in prompts[0]


def test_the_builtin_model_answers_through_the_loop_as_without_it():
    llm = LLM("builtin")
    params = llm.defaults(False).__class__(temperature=0, max_tokens=40)
    question = [{"role": "user", "content": "12+30"}]
    alone = llm.chat(question, None, False, params, stream=False)
    (message,) = turn_messages(Agent(llm).run(question, thinking=False, params=params))
    assert message["content"] == alone.content
