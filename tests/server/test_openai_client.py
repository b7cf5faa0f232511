"""The `openai` client, which refuses what is outside its schema, over the whole surface."""

import json
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pydantic
import pytest
from serving import HELLO, HTTP, chat, client_of, serving

WEATHER = [{"role": "user", "content": "the weather?"}]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("weather", "now")]
SUM = [{"role": "user", "content": "What is 17 + 25?"}]


def post(url, body, path="/v1/chat/completions", **headers):
    return HTTP.post(url + path, content=json.dumps(body), headers={"content-type": "application/json", **headers})


def events_of(url, body, path="/v1/chat/completions"):
    """The data of a stream's events, and its comments."""
    response = post(url, body | {"stream": True}, path)
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    data = [json.loads(line.removeprefix("data: ")) for line in lines[:-1] if line.startswith("data: ")]
    return data, [line for line in lines if line.startswith(":")]


# ---- Several answers ----------------------------------------------------------------------------------------------


def test_n_answers_are_those_of_seeds_that_follow_each_other(builtin_url):
    client = client_of(builtin_url)
    options = {"temperature": 2, "top_p": 1, "max_tokens": 12, "extra_body": {"top_k": 0}}
    together = chat(client, HELLO, n=3, seed=5, **options)
    alone = [chat(client, HELLO, seed=5 + i, **options) for i in range(3)]
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    texts = [answer.choices[0].message.to_dict() for answer in alone]
    assert [choice.message.to_dict() for choice in together.choices] == texts
    assert len({json.dumps(text) for text in texts}) == 3
    assert together.usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert together.usage.completion_tokens == sum(answer.usage.completion_tokens for answer in alone)


def test_n_streams_add_up_to_n_answers(builtin_url):
    client = client_of(builtin_url)
    options = {"n": 2, "seed": 5, "temperature": 1.5, "max_tokens": 12}
    whole = chat(client, SUM, **options)
    *chunks, last = chat(client, SUM, **options, stream=True, stream_options={"include_usage": True})
    assert (last.choices, last.usage) == ([], whole.usage)
    for choice in whole.choices:
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert own[0].delta.to_dict() == {"role": "assistant", "content": None}
        assert [part.finish_reason for part in own] == [None] * (len(own) - 1) + [choice.finish_reason]
        text = "".join(getattr(part.delta, "reasoning_content", None) or "" for part in own)
        assert text == choice.message.reasoning_content


def test_the_largest_seed_is_followed_by_the_smallest(builtin_url):
    options = {"temperature": 1.5, "max_tokens": 8}
    client = client_of(builtin_url)
    second = chat(client, SUM, n=2, seed=2**63 - 1, **options).choices[1]
    assert second.message == chat(client, SUM, seed=-(2**63), **options).choices[0].message


# ---- Log-probabilities --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"stop": "world"}, {"max_tokens": 9}, {"messages": WEATHER, "tools": TOOLS}])
def test_logprob_tokens_joined_are_the_content(client, options):
    choice = chat(client, logprobs=True, **options).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == (choice.message.content or "")
    assert bytes(byte for token in tokens for byte in token.bytes) == (choice.message.content or "").encode()
    chunks = [chunk.choices[0] for chunk in chat(client, logprobs=True, stream=True, **options)]
    assert [token for chunk in chunks for token in chunk.logprobs.content] == tokens


def test_logprobs_are_the_models(builtin, builtin_url):
    answer = chat(client_of(builtin_url), SUM, temperature=0, logprobs=True, top_logprobs=3, reasoning_effort="none")
    tokens = answer.choices[0].logprobs.content
    assert "42" in "".join(token.token for token in tokens)
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.token == token.top_logprobs[0].token
        assert [each.logprob for each in token.top_logprobs] == sorted(
            (each.logprob for each in token.top_logprobs), reverse=True
        )
        assert sum(math.exp(each.logprob) for each in token.top_logprobs) <= 1 + 1e-5


# ---- Streams ------------------------------------------------------------------------------------------------------


def test_a_call_comes_with_its_name_first_and_arguments_after(client):
    calls = [
        call
        for chunk in chat(client, WEATHER, tools=TOOLS, stream=True)
        for call in chunk.choices[0].delta.tool_calls or []
    ]
    for index, name, arguments in ((0, "weather", {"city": "Zürich", "days": 2}), (1, "now", {})):
        first, *later = (call for call in calls if call.index == index)
        assert (first.type, first.function.name, bool(first.id)) == ("function", name, True)
        assert all(call.id is None and call.type is None and call.function.name is None for call in later)
        assert json.loads("".join(call.function.arguments for call in (first, *later))) == arguments


def test_counts_may_come_with_every_chunk_and_timings_too(builtin_url):
    options = {"messages": SUM, "max_tokens": 8, "timings_per_token": True}
    options["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    first, *chunks = events_of(builtin_url, options)[0]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 8
    assert "timings" not in first
    assert all(chunk["timings"]["predicted_n"] <= 8 for chunk in chunks)


def test_progress_is_reported_from_what_the_cache_had_to_the_whole_prompt(builtin_url):
    messages = [{"role": "user", "content": "12 + 30 = 42, " * 40}]
    chunks, _ = events_of(builtin_url, {"messages": messages, "max_tokens": 4, "return_progress": True})
    progress = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert progress[0]["cache"] == progress[0]["processed"]
    assert progress[-1]["processed"] == progress[-1]["total"] > 200
    done = [each["processed"] for each in progress]
    assert done == sorted(set(done))
    assert chunks.index(next(chunk for chunk in chunks if "prompt_progress" in chunk)) == 1


def test_a_silent_stream_is_kept_alive_by_comments(scripted):
    with serving(scripted, keep_alive=0.02) as url:
        silent = [{"role": "user", "content": "silent"}]
        data, comments = events_of(url, {"messages": silent})
        assert comments[:2] == [": keep-alive"] * 2
        assert "".join(each["choices"][0]["delta"].get("content") or "" for each in data) == "At last."


def test_reasoning_may_also_have_its_other_name(scripted):
    with serving(scripted, emits_reasoning=True) as url:
        message = post(url, {"messages": HELLO}).json()["choices"][0]["message"]
        assert message["reasoning"] == message["reasoning_content"] == "They greet."
        deltas = [chunk["choices"][0]["delta"] for chunk in events_of(url, {"messages": HELLO})[0]]
        assert "".join(delta.get("reasoning", "") for delta in deltas) == "They greet."
        assert [delta.get("reasoning") for delta in deltas] == [delta.get("reasoning_content") for delta in deltas]
        for name in ("reasoning", "reasoning_content"):
            history = [*WEATHER, {"role": "assistant", "content": None, name: "Hm."}, {"role": "tool", "content": "x"}]
            prompt = post(url, {"messages": history}, "/v1/chat/completions/render").json()["prompt"]
            assert "<think>\nHm.\n</think>" in prompt


# ---- Answers by their ids -----------------------------------------------------------------------------------------


def test_an_answer_has_the_id_of_its_request(scripted_url):
    response = post(scripted_url, {"messages": HELLO}, **{"x-request-id": "mine-1"})
    assert (response.headers["x-request-id"], response.json()["id"]) == ("mine-1", "chatcmpl-mine-1")
    response = post(scripted_url, {"messages": HELLO})
    assert response.json()["id"] == f"chatcmpl-{response.headers['x-request-id']}"


def test_two_requests_at_a_time_have_two_ids_though_they_ask_for_one(scripted, scripted_url, monkeypatch):
    both, prepare = threading.Barrier(2), scripted.prepare_chat
    monkeypatch.setattr(
        scripted, "prepare_chat", lambda *given, **options: (both.wait(20), prepare(*given, **options))[1]
    )

    def ask(messages):
        return post(scripted_url, {"messages": messages}, **{"x-request-id": "same"}).json()

    with ThreadPoolExecutor(2) as pool:
        ids = [answer["id"] for answer in pool.map(ask, [HELLO, HELLO])]
    assert len(set(ids)) == 2
    assert "chatcmpl-same" in ids
    monkeypatch.undo()
    assert "error" in ask([{"role": "robot"}])  # and keeps no id
    assert ask(HELLO)["id"] == "chatcmpl-same"


def test_thinking_is_ended_by_the_answers_id(scripted_url):
    ponder = [{"role": "user", "content": "ponder"}]
    body = {"messages": ponder, "stream": True, "thinking_budget": 10**6}
    with HTTP.stream("POST", f"{scripted_url}/v1/chat/completions", json=body) as response:
        lines = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {"))
        opening = next(lines)
        next(lines)
        ended = post(scripted_url, {}, f"/v1/chat/completions/{opening['id']}/end_thinking")
        assert ended.json() == {"id": opening["id"], "object": "chat.completion.end_thinking"}
        deltas = [line["choices"][0]["delta"] for line in lines]
    assert "I have to give the solution" in "".join(delta.get("reasoning_content", "") for delta in deltas)
    assert any("content" in delta for delta in deltas)
    gone = post(scripted_url, {}, f"/v1/chat/completions/{opening['id']}/end_thinking")
    assert gone.status_code == 404


@pytest.mark.parametrize(
    ("body", "warns"),
    [({"temperature": 0}, True), ({"temperature": 0, "reasoning_effort": "none"}, False), ({}, False)],
)
def test_greedy_thinking_draws_a_warning(scripted_url, body, warns):
    assert ("x-qwen3-warning" in post(scripted_url, {"messages": HELLO} | body).headers) == warns


# ---- Structured output and tools, as the client offers them -------------------------------------------------------


class Sum(pydantic.BaseModel):
    left: int
    right: int


OFF = {"reasoning_effort": "none", "max_tokens": 60, "temperature": 0}


def test_the_clients_parse_gives_an_object_of_its_class(builtin_url):
    client = client_of(builtin_url)
    answer = client.chat.completions.parse(model="builtin", messages=SUM, response_format=Sum, **OFF)
    assert isinstance(answer.choices[0].message.parsed, Sum)
    with client.chat.completions.stream(model="builtin", messages=SUM, response_format=Sum, **OFF) as stream:
        streamed = stream.get_final_completion().choices[0].message
    assert streamed.parsed == answer.choices[0].message.parsed


@pytest.mark.parametrize(
    ("body", "pattern"),
    [
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"regex": "[0-9]{4}-x"}}, "[0-9]{4}-x"),
        ({"structured_outputs": {"json": '{"const": 7}'}}, "7"),
        ({"structured_outputs": {"grammar": 'start: "a" ("b"|"c") "d"'}}, "a[bc]d"),
        ({"structured_outputs": {"json_object": True}}, r"\{.*"),
        ({"response_format": {"type": "json_object"}}, r"\{.*"),
        ({"response_format": {"type": "json_object", "schema": {"const": "42"}}}, '"42"'),
        ({"json_schema": {"enum": [1, 2]}}, "[12]"),
        ({"grammar": 'start: "x"'}, "x"),
    ],
)
def test_each_way_to_ask_for_a_form_gives_it(builtin_url, body, pattern):
    content = chat(client_of(builtin_url), SUM, extra_body=body, **OFF).choices[0].message.content
    assert re.fullmatch(pattern, content, re.DOTALL)
    text = complete(client_of(builtin_url), extra_body=body, temperature=0, max_tokens=60).choices[0].text
    assert re.fullmatch(pattern, text, re.DOTALL)


def test_a_form_that_cannot_be_compiled_is_400(builtin_url):
    for form in ({"regex": "("}, {"grammar": "start: ("}, {"json": {"type": "hiccup"}}):
        response = post(builtin_url, {"messages": SUM, "structured_outputs": form})
        assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "now"}}])
def test_a_call_that_is_asked_for_comes_streamed_and_not(builtin_url, choice):
    client = client_of(builtin_url)
    parameters = {"type": "object", "properties": {"on": {"type": "boolean"}}, "additionalProperties": False}
    tools = [tool | {"function": tool["function"] | {"parameters": parameters}} for tool in TOOLS]
    # Room for the blanks that JSON may have, of which a model without tools in its training makes use.
    options = OFF | {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 400}
    answer = chat(client, SUM, **options).choices[0]
    (call, *_) = answer.message.tool_calls
    assert answer.finish_reason == "tool_calls"
    assert call.function.name in (["now"] if isinstance(choice, dict) else ["weather", "now"])
    assert isinstance(json.loads(call.function.arguments), dict)
    deltas = [
        delta
        for chunk in chat(client, SUM, stream=True, **options)
        for delta in chunk.choices[0].delta.tool_calls or []
        if delta.index == 0
    ]
    assert (deltas[0].function.name, deltas[0].type) == (call.function.name, "function")
    assert "".join(delta.function.arguments or "" for delta in deltas) == call.function.arguments


# ---- Completions --------------------------------------------------------------------------------------------------


def complete(client, prompt="12 + 30 =", **options):
    return client.completions.create(model="builtin", prompt=prompt, **options)


def test_several_prompts_with_several_answers_come_in_order(builtin, builtin_url):
    client = client_of(builtin_url)
    prompts = ["12 + 30 =", "Once upon"]
    options = {"max_tokens": 8, "temperature": 1.2, "seed": 3}
    together = complete(client, prompts, n=2, **options)
    alone = [complete(client, prompt, **(options | {"seed": 3 + i})) for prompt in prompts for i in range(2)]
    assert [choice.text for choice in together.choices] == [answer.choices[0].text for answer in alone]
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert together.usage.prompt_tokens == alone[0].usage.prompt_tokens + alone[2].usage.prompt_tokens
    ids = [builtin.tokenizer.encode(prompt) for prompt in prompts]
    assert complete(client, ids, n=2, **options).choices == together.choices
    assert complete(client, [prompts[0], ids[1]], n=2, best_of=2, **options).choices == together.choices


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"best_of": 2}, "best_of may only be n"),
        ({"suffix": "x"}, "suffix: the model only continues a text"),
        ({"max_tokens": 0}, "max_tokens 0 is for echo: true"),
        ({"prompt": []}, "prompt: it must be a text, a list of token ids"),
        ({"prompt": ["a", 1]}, "prompt: it must be a text, a list of token ids"),
        ({"prompt": [[1, "a"]]}, "prompt: it must be a text, a list of token ids"),
        ({"prompt": [1.5]}, "prompt: it must be a text, a list of token ids"),
        ({"prompt": [True]}, "prompt: it must be a text, a list of token ids"),
        ({"prompt": ""}, "prompt: it must be a text, a list of token ids"),
        ({"prompt": None}, "prompt: it must be a text, a list of token ids"),
        ({"prompt": [10**6]}, "prompt token 1000000 is not an id below"),
        ({"logprobs": True}, "logprobs: input should be a valid integer"),
        ({"stream": True, "echo": True, "logprobs": 1}, "echo with logprobs is not streamed"),
    ],
)
def test_a_faulty_completion_is_400_and_names_the_field(scripted_url, body, message):
    response = post(scripted_url, {"prompt": "a"} | body, "/v1/completions")
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_an_echo_begins_with_the_prompt(builtin_url):
    client = client_of(builtin_url)
    options = {"temperature": 0, "max_tokens": 6}
    plain = complete(client, **options).choices[0].text
    assert complete(client, echo=True, **options).choices[0].text == f"12 + 30 ={plain}"
    chunks = complete(client_of(builtin_url, is_strict=False), echo=True, stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in chunks) == f"12 + 30 ={plain}"
    alone = complete(client, echo=True, max_tokens=0)
    assert (alone.choices[0].text, alone.choices[0].finish_reason) == ("12 + 30 =", "length")
    assert alone.usage.completion_tokens == 0


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_prompt_logprobs_are_those_that_lm_eval_reads(builtin, builtin_url, max_tokens):
    """Loglikelihood of a continuation given a context, as lm-eval takes it from this endpoint."""
    import torch

    context, continuation = builtin.tokenizer.encode("12 + 30"), builtin.tokenizer.encode(" = 42")
    ids = context + continuation
    options = {"max_tokens": max_tokens, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1234}
    # The client's schema has no null for the first token, which has no log-probability in OpenAI's own answers either.
    first, choice = complete(client_of(builtin_url, is_strict=False), [ids[:3], ids], **options).choices
    assert first.index == 0
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(ids) + max_tokens
    for begin, text in zip(logprobs.text_offset, logprobs.tokens, strict=True):
        assert choice.text[begin:].startswith(text)
    assert (logprobs.token_logprobs[0], logprobs.top_logprobs[0]) == (None, None)
    expected = torch.log_softmax(builtin.logits(ids), dim=-1)
    for i in range(1, len(ids)):
        assert logprobs.token_logprobs[i] == pytest.approx(float(expected[i - 1, ids[i]]), abs=1e-4)
        is_greedy = int(expected[i - 1].argmax()) == ids[i]
        assert (logprobs.token_logprobs[i] == max(logprobs.top_logprobs[i].values())) == is_greedy


def test_completion_logprobs_stream_as_they_are_whole(builtin_url):
    options = {"temperature": 1, "seed": 7, "max_tokens": 12, "logprobs": 2}
    whole = complete(client_of(builtin_url), **options).choices[0].logprobs.to_dict()
    chunks = [
        chunk.choices[0].logprobs for chunk in complete(client_of(builtin_url, is_strict=False), stream=True, **options)
    ]
    for name, values in whole.items():
        assert [value for chunk in chunks for value in getattr(chunk, name)] == values
    assert len(whole["tokens"]) <= 12


def test_models_are_served_by_the_names_given(scripted):
    with serving(scripted, names=["qwen3", "gpt-4"]) as url:
        client = client_of(url)
        assert [model.id for model in client.models.list()] == ["qwen3"]
        for name in ("qwen3", "gpt-4"):
            assert client.chat.completions.create(model=name, messages=HELLO).model == "qwen3"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="builtin", messages=HELLO)
