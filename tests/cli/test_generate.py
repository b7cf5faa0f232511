"""`qwen3 generate`: pipes, JSON, batches, and a real checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAKE_CLI = Path(__file__).with_name("fake_cli.py")


def _objects(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_stdin_is_one_prompt_and_only_the_answer_goes_to_stdout(fake_qwen3, fake_llm):
    result = fake_qwen3("generate", stdin="What is\n3+4?\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "It is 7.\n", "I add 3 and 4 . \n")
    assert fake_llm.calls[0]["messages"] == [{"role": "user", "content": "What is\n3+4?"}]
    result = fake_qwen3("generate", "--hide-thinking", stdin="3+4")
    assert (result.stdout, result.stderr) == ("It is 7.\n", "")


def test_json_gives_an_object_for_each_prompt_in_their_order(fake_qwen3):
    prompts = [f"{i}+1" for i in range(12)]
    result = fake_qwen3("generate", "builtin", *prompts, "--json", "--batch", 5, "--no-thinking")
    assert result.exit_code == 0
    assert [each["text"] for each in _objects(result)] == [f"It is {i + 1}." for i in range(12)]
    assert _objects(result)[0] == {
        "text": "It is 1.",
        "reasoning": "",
        "tool_calls": [],
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "reasoning_tokens": 0,
            "prefill_seconds": 0.1,
            "decode_seconds": 0.5,
            "cached_tokens": 0,
        },
    }


def test_answers_that_take_longer_do_not_change_the_order(fake_qwen3):
    result = fake_qwen3("generate", "builtin", "1+1", "2+2 /no_think", "3+3", "--json", "--batch", 2)
    assert [each["text"] for each in _objects(result)] == ["It is 2.", "It is 4.", "It is 6."]
    assert [bool(each["reasoning"]) for each in _objects(result)] == [True, False, True]


def test_a_request_that_cannot_be_served_does_not_stop_the_others(fake_qwen3):
    result = fake_qwen3("generate", "builtin", "1+1", "overflow", "2+2", "--json")
    assert result.exit_code == 1
    first, failed, last = _objects(result)
    assert (first["text"], last["text"]) == ("It is 2.", "It is 4.")
    assert failed == {"error": "the prompt has 120 tokens and the context holds 100"}


def test_a_request_without_messages_has_its_error_and_the_others_their_answers(qwen3, checkpoint, tmp_path):
    file = tmp_path / "requests.jsonl"
    file.write_text('{"id": 1, "messages": []}\n{"id": 2, "prompt": "the cat"}\n')
    result = qwen3("generate", checkpoint, "--input", file, "--json", "--max-tokens", 3)
    failed, answered = _objects(result)
    assert failed == {"id": 1, "error": "messages is empty: at least one message is needed"}
    assert answered["usage"]["completion_tokens"] <= 3


def test_an_answer_that_its_rules_broke_off_does_not_pass_for_whole(fake_qwen3):
    shown = fake_qwen3("generate", "builtin", "broken 1+1")
    assert "cannot go on by its rules: too many states" in shown.stderr
    result = fake_qwen3("generate", "builtin", "broken 1+1", "2+2", "--json")
    assert result.exit_code == 1
    assert [each.get("error") for each in _objects(result)] == ["too many states", None]


def test_a_file_of_requests_carries_ids_tools_and_conversations(fake_qwen3, fake_llm, tmp_path):
    file = tmp_path / "requests.jsonl"
    tools = [{"type": "function", "function": {"name": "f"}}]
    requests = [
        {"id": "a", "prompt": "1+1"},
        {"messages": [{"role": "user", "content": "2+2"}], "tools": tools},
    ]
    file.write_text("\n\n".join(map(json.dumps, requests)) + "\n")
    result = fake_qwen3("generate", "--input", file, "--json", "--system", "S")
    first, second = _objects(result)
    assert (first["id"], "id" in second) == ("a", False)
    assert fake_llm.calls[1]["tools"] == tools
    assert [message["role"] for message in fake_llm.calls[1]["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("3", "does not hold a JSON object"),
        ('{"prompt": "x", "temprature": 1}', "unknown key 'temprature'"),
        ("{}", "needs either prompt or messages"),
        ('{"prompt": 3}', "prompt is not a string"),
        ('{"messages": 5}', "messages is not a list"),
    ],
)
def test_a_wrong_request_is_named_by_its_line_before_any_is_computed(fake_qwen3, fake_llm, tmp_path, line, message):
    file = tmp_path / "requests.jsonl"
    file.write_text(f'{{"prompt": "1+1"}}\n{line}\n')
    result = fake_qwen3("generate", "--input", file, "--json")
    assert result.exit_code == 1
    assert "line 2: " in result.stderr
    assert message in result.stderr
    assert fake_llm.calls == []


def test_raw_text_is_continued_without_the_chat_format(fake_qwen3, fake_llm):
    result = fake_qwen3("generate", "--raw", "--max-tokens", 3, "--stop", "a", "--stop", "b", stdin="Once\n")
    assert result.stdout == " and so on\n"
    assert fake_llm.calls[0]["prompt"] == "Once"
    assert fake_llm.calls[0]["params"].max_tokens == 3
    assert fake_llm.calls[0]["params"].stop == ("a", "b")


def test_an_answer_cut_short_says_so_on_stderr(fake_qwen3):
    assert "cut short after 8 tokens" in fake_qwen3("generate", stdin="cut 1+1").stderr


def test_a_text_in_place_of_the_model_is_a_usage_error_that_shows_the_order(fake_qwen3):
    result = fake_qwen3("generate", "What is 1+1?")
    assert result.exit_code == 2
    assert "MODEL comes before the text" in " ".join(result.stderr.split())


def test_a_reader_that_leaves_early_is_no_error():
    writer = subprocess.Popen(
        [sys.executable, FAKE_CLI, "generate", "builtin", *["slow 1+1"] * 9, "--no-thinking"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    writer.stdout.read(1)
    writer.stdout.close()
    assert writer.wait(20) == 141
    assert writer.stderr.read() == b""


def test_a_real_checkpoint_gives_the_same_text_streamed_and_in_a_batch(qwen3, checkpoint):
    settings = ("--max-tokens", 12, "--seed", 1)
    prompts = ("the cat", "and the dog")
    streamed = [qwen3("generate", checkpoint, prompt, "--raw", *settings) for prompt in prompts]
    together = qwen3("generate", checkpoint, *prompts, "--raw", "--json", *settings)
    assert [result.exit_code for result in (*streamed, together)] == [0, 0, 0]
    texts = [each["text"] for each in _objects(together)]
    assert [result.stdout for result in streamed] == [text + "\n" for text in texts]
    assert all(each["finish_reason"] == "length" for each in _objects(together))

    chat = qwen3("generate", checkpoint, *prompts, "--json", *settings)
    assert [each["usage"]["completion_tokens"] for each in _objects(chat)] == [12, 12]


def test_a_prompt_beyond_the_context_names_both_numbers(qwen3, checkpoint):
    result = qwen3("generate", checkpoint, "x " * 200, "--max-context", 64)
    assert result.exit_code == 1
    assert result.stderr.startswith("qwen3: the prompt has ")
    assert " 64" in result.stderr


@pytest.mark.parametrize(
    ("options", "stderr"),
    [
        ((), "weights: int8, "),
        (("--weights", "bf16"), ""),
        (("--dtype", "float32"), ""),
    ],
)
def test_stderr_says_how_weights_are_kept_where_it_was_decided(qwen3, checkpoint, monkeypatch, options, stderr):
    monkeypatch.setattr("qwen3.weight_choice._SMALL_PARAMETERS", 0)
    result = qwen3("generate", checkpoint, "the cat", "--raw", "--max-tokens", 2, *options)
    assert result.exit_code == 0
    assert result.stderr.startswith(stderr) if stderr else "weights" not in result.stderr


def test_cached_weights_give_the_same_answer(qwen3, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("QWEN3_CACHE", str(tmp_path))
    arguments = ("generate", checkpoint, "the cat", "--raw", "--max-tokens", 8, "--seed", 1, "--weights", "int4")
    plain, first, second = (qwen3(*arguments, *more) for more in ((), ("--cache-packed",), ("--cache-packed",)))
    assert plain.exit_code == 0
    assert plain.stdout == first.stdout == second.stdout
    assert len(list((tmp_path / "packed").glob("*.safetensors"))) == 1
