"""Text completions as the `openai` client sees them."""

from serving import client_of

from qwen3 import LLM, SamplingParams


def complete(client, prompt="Once", **options):
    return client.completions.create(model="builtin", prompt=prompt, **options)


def test_a_stream_adds_up_to_the_text(client, scripted_url):
    whole = complete(client)
    assert whole.choices[0].text == "Hello, world. 😀"
    # The client's schema has no null as a finish reason, which OpenAI's own streams have in every chunk but the last.
    lenient = client_of(scripted_url, is_strict=False)
    *chunks, last = complete(lenient, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert (last.choices, last.usage) == ([], whole.usage)


def test_ids_a_text_and_a_list_of_one_are_the_same_prompt_and_give_the_engines_text(builtin_url):
    llm = LLM("builtin", weights="int8")
    ids = llm.tokenizer.encode("12 + 30 =")
    (expected,) = llm.generate([ids], SamplingParams(temperature=0, max_tokens=12))
    for prompt in ("12 + 30 =", ids, ["12 + 30 ="], [ids]):
        answer = complete(client_of(builtin_url), prompt, temperature=0, max_tokens=12)
        assert (answer.choices[0].text, answer.usage.prompt_tokens) == (expected.text, len(ids))
