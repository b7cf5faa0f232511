"""Chat completions as the `openai` client sees them."""

from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest
from openai.types.shared import ReasoningEffort
from serving import chat, client_of

WEATHER = [{"role": "user", "content": "the weather?"}]
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "now")
]


def test_an_answer_has_content_reasoning_and_counts(client):
    answer = chat(client)
    (choice,) = answer.choices
    assert choice.message.content == "Hello, world. 😀"
    assert choice.message.reasoning_content == "They greet."
    assert (choice.message.role, choice.finish_reason, choice.message.tool_calls) == ("assistant", "stop", None)
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens


@pytest.mark.parametrize("options", [{}, {"stop": "world"}, {"max_tokens": 6}, {"messages": WEATHER, "tools": TOOLS}])
@pytest.mark.parametrize("body", [{}, {"enable_thinking": False}])
def test_a_stream_adds_up_to_the_answer(client, options, body):
    whole = chat(client, **options, extra_body=body)
    chunks = list(chat(client, **options, extra_body=body, stream=True, stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1
    *chunks, last = chunks
    assert last.choices == []
    assert last.usage == whole.usage
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].to_dict() == {"role": "assistant", "content": None}
    assert all(delta.role is None for delta in deltas[1:])
    assert "" not in [getattr(delta, name, None) for delta in deltas for name in ("content", "reasoning_content")]
    message = whole.choices[0].message
    assert "".join(delta.content or "" for delta in deltas) == (message.content or "")
    reasoning = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert "".join(reasoning) == getattr(message, "reasoning_content", "")
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    joined = {}
    for call in calls:
        if call.index not in joined:
            assert call.id
            assert call.function.name
            joined[call.index] = (call.id, call.function.name, call.function.arguments)
        else:  # only the first piece says whose the arguments are
            assert call.id is call.function.name is None
            id, name, arguments = joined[call.index]
            joined[call.index] = (id, name, arguments + call.function.arguments)
    assert [*joined.values()] == [
        (call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []
    ]
    assert [*joined] == list(range(len(joined)))
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [whole.choices[0].finish_reason]


def test_without_include_usage_no_chunk_is_without_a_choice(client):
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in chat(client, stream=True))


@pytest.mark.parametrize(
    "body",
    [
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "none"},
    ],
)
def test_thinking_is_switched_off_by_each_of_its_names(client, body):
    message = chat(client, extra_body=body).choices[0].message
    assert message.content == "Hello, world. 😀"
    assert "reasoning_content" not in message.to_dict()


@pytest.mark.parametrize("effort", get_args(get_args(ReasoningEffort)[0]))
def test_every_effort_that_openais_client_knows_is_taken(client, effort):
    message = chat(client, reasoning_effort=effort).choices[0].message
    assert ("reasoning_content" in message.to_dict()) == (effort != "none")
    answer = client.responses.create(model="builtin", input="hello", reasoning={"effort": effort})
    assert len(answer.output) == (1 if effort == "none" else 2)


@pytest.mark.parametrize("name", ["thinking_budget", "thinking_token_budget", "reasoning_budget_tokens"])
def test_thinking_ends_at_the_budget_by_each_of_its_names(client, name):
    reasoning = chat(client, extra_body={name: 1}).choices[0].message.reasoning_content
    assert "Considering the limited time by the user" in reasoning
    assert "greet" not in reasoning


def test_tool_calls_are_in_openais_form_and_a_call_without_arguments_has_an_object(client):
    (choice,) = chat(client, WEATHER, tools=TOOLS).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look."
    assert choice.message.reasoning_content == "The user wants the weather."
    calls = [(call.type, call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    assert calls == [("function", "weather", '{"city": "Zürich", "days": 2}'), ("function", "now", "{}")]
    assert len({call.id for call in choice.message.tool_calls}) == 2


@pytest.mark.parametrize("options", [{}, {"tools": TOOLS, "tool_choice": "none"}])
def test_calls_of_tools_that_were_not_offered_are_content(client, options):
    (choice,) = chat(client, WEATHER, **options).choices
    assert choice.finish_reason == "stop"
    assert '<tool_call>\n{"name": "weather"' in choice.message.content
    assert choice.message.tool_calls is None


def test_an_answer_with_tool_calls_goes_back_with_its_results(client):
    message = chat(client, WEATHER, tools=TOOLS).choices[0].message.to_dict()
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in message["tool_calls"]]
    answer = chat(client, [{"role": "developer", "content": "Be brief."}, *WEATHER, message, *results], tools=TOOLS)
    assert answer.choices[0].finish_reason == "stop"


def test_a_stop_string_and_a_limit_end_the_answer(client):
    stopped = chat(client, stop=["world"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("Hello, ", "stop")
    cut = chat(client, max_completion_tokens=3)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 3)


def test_a_sum_is_answered_by_the_builtin_model(builtin_url):
    answer = chat(client_of(builtin_url), [{"role": "user", "content": "What is 17 + 25?"}], temperature=0)
    assert "42" in answer.choices[0].message.content
    assert answer.choices[0].message.reasoning_content


def test_eight_together_answer_as_each_alone(builtin_url):
    client = client_of(builtin_url)

    def ask(i):
        question = [{"role": "user", "content": f"What is {100 + 37 * i} + {211 * i}?"}]
        message = chat(client, question, seed=i, temperature=1.0, max_tokens=100).choices[0].message
        return message.content, message.to_dict().get("reasoning_content")

    alone = [ask(i) for i in range(8)]
    assert len(set(alone)) == 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone


def test_extreme_values_within_the_bounds_break_no_step(builtin_url):
    options = {"temperature": 1e-30, "logit_bias": {"5": 100, "6": -100}, "seed": 2**63 - 1, "frequency_penalty": 2}
    body = {"repetition_penalty": 0.1, "min_tokens": 4, "top_k": -1, "min_p": 1, "stop_token_ids": [1, 2]}
    for temperature in (1e-30, 2):
        options["temperature"] = temperature
        assert chat(client_of(builtin_url), **options, max_tokens=8, extra_body=body).usage.completion_tokens >= 4
