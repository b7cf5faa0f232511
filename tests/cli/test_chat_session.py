"""A conversation's state: what it keeps, what it takes back, what it writes and reads."""

import json

import pytest

from qwen3.chat import ChatFormat, Content, Reasoning
from qwen3.cli.chat_session import ChatSession, SessionError
from qwen3.engine.request import NON_THINKING, THINKING, Finished, RequestError


def _roles(session):
    return [message["role"] for message in session.messages]


def test_an_answer_joins_the_conversation_with_its_reasoning(fake_llm):
    session = ChatSession(fake_llm, system="Be brief.")
    events = list(session.ask("12+30"))
    assert [type(event) for event in events] == [Reasoning] * 6 + [Content] * 2 + [Finished]
    assert session.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "12+30"},
        {"role": "assistant", "content": "It is 42.", "reasoning_content": "I add 12 and 30 . "},
    ]
    list(session.ask("and 1?"))
    assert fake_llm.calls[-1]["messages"] == session.messages[:-1]


def test_closing_an_answer_stops_the_model_and_keeps_the_marked_part(fake_llm):
    session = ChatSession(fake_llm)
    events = session.ask("1+2")
    while not isinstance(next(events), Content):
        pass
    events.close()
    assert fake_llm.was_stopped
    assert session.messages[-1]["content"] == "It is "
    assert session.messages[-1]["finish_reason"] == "interrupted"
    assert session.last.finished is None


def test_an_answer_cut_by_length_is_marked(fake_llm):
    session = ChatSession(fake_llm)
    list(session.ask("cut 1+2"))
    assert session.messages[-1]["finish_reason"] == "length"


def test_a_failed_question_leaves_no_trace(fake_llm):
    session = ChatSession(fake_llm)
    list(session.ask("1+2"))
    before = list(session.messages)
    with pytest.raises(RequestError, match="120 tokens"):
        list(session.ask("overflow"))
    assert session.messages == before


def test_retry_answers_the_same_question_and_keeps_the_old_answer_where_it_fails(fake_llm):
    session = ChatSession(fake_llm)
    list(session.ask("1+2"))
    before = list(session.messages)
    list(session.retry())
    assert fake_llm.calls[0]["messages"] == fake_llm.calls[1]["messages"]
    assert session.messages == before
    session.messages[0]["content"] = "overflow"
    with pytest.raises(RequestError):
        list(session.retry())
    assert session.messages == before


def double(x: int) -> int:
    """Twice x."""
    return 2 * x


def test_a_turn_with_tools_keeps_its_calls_results_and_reasoning(fake_llm):
    session = ChatSession(fake_llm, tools=[double])
    list(session.ask('use double {"x": 4}'))
    assert _roles(session) == ["user", "assistant", "tool", "assistant"]
    assert session.messages[1]["reasoning_content"] == "A tool."
    assert session.messages[3]["content"] == "It gave 8."
    assert len(session.finished) == 2
    assert (session.last.content, session.last.reasoning) == ("It gave 8.", "A tool.")
    list(session.retry())
    assert _roles(session) == ["user", "assistant", "tool", "assistant"]
    session.undo()
    assert session.messages == []


def test_a_turn_that_is_stopped_in_a_tool_is_kept_and_can_go_on(fake_llm, tmp_path):
    session = ChatSession(fake_llm, tools=[double])
    turn = session.ask('use double {"x": 4}')
    while not isinstance(next(turn), Finished):
        pass
    turn.close()
    assert _roles(session) == ["user", "assistant", "tool"]
    assert session.messages[1]["finish_reason"] == "interrupted"
    assert session.messages[2]["content"] == "not run: the turn ended before"
    session.save(tmp_path / "talk.json")
    again = ChatSession(fake_llm)
    again.load(tmp_path / "talk.json")
    assert again.messages == session.messages


def test_undo_takes_back_question_and_answer_and_reset_all_but_the_system_message(fake_llm):
    session = ChatSession(fake_llm, system="Be brief.")
    list(session.ask("1+2"))
    list(session.ask("3+4"))
    assert session.undo() == "3+4"
    assert _roles(session) == ["system", "user", "assistant"]
    session.reset()
    assert _roles(session) == ["system"]
    with pytest.raises(SessionError, match="no question yet"):
        session.undo()
    with pytest.raises(SessionError, match="no question yet"):
        session.retry()


def test_sampling_follows_the_mode_and_overrides_stay(fake_llm):
    session = ChatSession(fake_llm, overrides={"seed": 5})
    assert session.sampling().temperature == THINKING.temperature
    session.set_thinking(False)
    assert session.sampling().temperature == NON_THINKING.temperature
    session.set_sampling("temperature", "0")
    session.set_thinking(True)
    assert (session.sampling().temperature, session.sampling().seed) == (0, 5)
    session.set_sampling("temperature", "default")
    assert session.sampling().temperature == THINKING.temperature


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("colour", "1", "no parameter 'colour'"),
        ("top_p", "2", "top_p 2.0 is not a number"),
        ("top_p", "much", "top_p 'much' is not a number"),
        ("top_k", "2.5", "top_k '2.5' is not a whole number"),
    ],
)
def test_a_wrong_parameter_is_refused_and_changes_nothing(fake_llm, name, value, message):
    session = ChatSession(fake_llm)
    with pytest.raises(ValueError, match=message):
        session.set_sampling(name, value)
    assert session.overrides == {}


@pytest.mark.parametrize(("chat_format", "only"), [(ChatFormat.THINKING_2507, True), (ChatFormat.INSTRUCT_2507, False)])
def test_models_with_one_mode_have_no_switch(fake_llm, chat_format, only):
    fake_llm.format = chat_format
    session = ChatSession(fake_llm, thinking=not only)
    assert session.thinking is only
    with pytest.raises(SessionError, match="no switch"):
        session.set_thinking(not only)


def test_save_and_load_restore_the_conversation_and_its_settings(fake_llm, tmp_path):
    session = ChatSession(fake_llm, system="Sei kurz: äöü", thinking=False, overrides={"top_k": 7}, thinking_budget=9)
    list(session.ask("1+2"))
    file = tmp_path / "talk.json"
    session.save(file)
    session.save(file)
    other = ChatSession(fake_llm)
    other.load(file)
    assert (other.messages, other.thinking) == (session.messages, False)
    assert (other.overrides, other.thinking_budget) == ({"top_k": 7}, 9)
    assert "äöü" in file.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [file]


def test_a_plain_list_of_messages_loads_with_its_parts_joined(fake_llm, tmp_path):
    file = tmp_path / "messages.json"
    parts = [{"type": "text", "text": "1 "}, {"type": "text", "text": "+ 2"}]
    file.write_text(json.dumps([{"role": "user", "content": parts}]))
    session = ChatSession(fake_llm)
    session.load(file)
    assert session.undo() == "1 + 2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        '{"messages": 3}',
        '[{"role": "pirate", "content": "x"}]',
        '[{"role": "user", "content": 3}]',
        '{"messages": [], "thinking": "yes"}',
        '{"messages": [], "thinking_budget": -1}',
        '{"messages": [], "sampling": {"top_p": 9}}',
        '{"messages": [], "sampling": {"tpo_p": 0.5}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_named_in_the_error_and_changes_nothing(fake_llm, tmp_path, text):
    file = tmp_path / "broken.json"
    file.write_text(text)
    session = ChatSession(fake_llm)
    list(session.ask("1+2"))
    before = vars(session).copy()
    with pytest.raises(SessionError, match=r"broken\.json"):
        session.load(file)
    assert vars(session) == before


def test_save_never_replaces_a_file_that_is_no_conversation(fake_llm, tmp_path):
    file = tmp_path / "thesis.txt"
    file.write_text("years of work")
    with pytest.raises(SessionError, match="choose another name"):
        ChatSession(fake_llm).save(file)
    assert file.read_text() == "years of work"


def test_a_failed_save_leaves_the_old_file_and_no_other(fake_llm, tmp_path, monkeypatch):
    session = ChatSession(fake_llm)
    file = tmp_path / "talk.json"
    session.save(file)
    before = file.read_text()
    list(session.ask("1+2"))

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        session.save(file)
    assert file.read_text() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("max_tokens", "reserve"), [(None, 512), (5000, 512), (100, 50)])
def test_thinking_leaves_tokens_for_an_answer(fake_llm, max_tokens, reserve):
    overrides = {} if max_tokens is None else {"max_tokens": max_tokens}
    list(ChatSession(fake_llm, overrides=overrides).ask("1 + 1"))
    assert fake_llm.calls[-1]["reserve"] == reserve
