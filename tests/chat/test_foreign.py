"""A checkpoint's own template: recognised where it is official, honoured and contained where it is not."""

import json
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3.chat import ChatError, ChatFormat, ForeignTemplate, Span, load_format, render
from qwen3.tokenizer import CONTROL_TOKENS

PARITY = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "template_parity.py"))
USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
FOREIGN = """
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content | trim }}{{ '<|im_end|>' }}{% endgeneration %}
    {%- else %}
        {{- message['content'].strip() + '<|im_end|>' }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}{{ call.function.arguments.city }}{% endfor %}
    {{- '\n' }}
{%- endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' ~ ('' if enable_thinking else '<think></think>') }}
{%- endif %}
"""
TEMPLATE = ForeignTemplate(FOREIGN)


def write_config(directory: Path, **config) -> Path:
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


# Recognising


@pytest.mark.parametrize("format", ChatFormat)
def test_official_templates_are_recognised_however_they_are_written(shared, tmp_path, format):
    official = PARITY["VARIANTS"][format](PARITY["official_template"](shared / "tokenizer"))
    rewritten = "{# edited #}" + official.replace("message.role", "message['role']").replace(
        "'<|im_end|>\\n'", "'<|im_end|>' ~ '\\n'"
    )
    for source in (official, rewritten):
        assert load_format(write_config(tmp_path, chat_template=source)) is format


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("'<think>\\n\\n</think>\\n\\n'", "'<think>\\n</think>\\n'"),
        ("loop.last or (not loop.last and reasoning_content)", "reasoning_content"),
        ('message.role == "tool"', 'message.role == "function"'),
        ("tool | tojson", "tool | tojson(indent=1)"),
        ("content.lstrip('\\n')", "content"),
    ],
)
def test_an_official_template_with_any_change_is_foreign(shared, tmp_path, old, new):
    official = PARITY["official_template"](shared / "tokenizer")
    assert old in official
    foreign = load_format(write_config(tmp_path, chat_template=official.replace(old, new)))
    assert isinstance(foreign, ForeignTemplate)


def test_a_directory_without_a_template_has_the_hybrid_format(tmp_path):
    assert load_format(tmp_path) is ChatFormat.HYBRID
    assert load_format(write_config(tmp_path, eos_token="<|im_end|>")) is ChatFormat.HYBRID


def test_the_template_file_goes_before_the_configuration(tmp_path):
    write_config(tmp_path, chat_template="config", eos_token={"content": "<|im_end|>"})
    (tmp_path / "chat_template.jinja").write_text("file{{ eos_token }}", encoding="utf-8")
    assert render([USER], format=load_format(tmp_path)).text == "file<|im_end|>"


def test_of_several_templates_the_default_is_taken(tmp_path):
    named = [{"name": "rag", "template": "rag"}, {"name": "default", "template": "plain"}]
    assert load_format(write_config(tmp_path, chat_template=named)).source == "plain"
    with pytest.raises(ChatError, match="none is named 'default'"):
        load_format(write_config(tmp_path, chat_template=named[:1]))


@pytest.mark.parametrize(
    ("config", "message"), [("{", "not readable as JSON"), ('{"chat_template": 1}', "must be a string, got int")]
)
def test_an_unusable_configuration_is_refused(tmp_path, config, message):
    (tmp_path / "tokenizer_config.json").write_text(config, encoding="utf-8")
    with pytest.raises(ChatError, match=message):
        load_format(tmp_path)


# Rendering


def test_a_foreign_template_is_rendered_with_spans():
    rendered = render([USER, ANSWER], thinking=False, format=TEMPLATE)
    assert rendered.spans == (
        Span("<|im_start|>", control=True),
        Span("user\nHi"),
        Span("<|im_end|>", control=True),
        Span("\n"),
        Span("<|im_start|>", control=True),
        Span("assistant\n"),
        Span("Hello", trained=True),
        Span("<|im_end|>", control=True, trained=True),
        Span("\n"),
        Span("<|im_start|>", control=True),
        Span("assistant\n"),
        Span("<think>", control=True),
        Span("</think>", control=True),
    )


def test_arguments_in_json_text_reach_a_foreign_template_as_an_object():
    call = {"function": {"name": "f", "arguments": '{"city": "Rome"}'}}
    assert "Rome" in render([USER, {**ANSWER, "tool_calls": [call]}], format=TEMPLATE).text


def test_the_last_message_of_a_foreign_template_can_be_continued():
    rendered = render([USER, ANSWER], format=TEMPLATE, continue_final_message=True)
    assert rendered.text.endswith("<|im_start|>assistant\nHello")
    with pytest.raises(ChatError, match="needs a chat template that ends a turn"):
        render([USER, ANSWER], format=ForeignTemplate("x"), continue_final_message=True)


def test_control_tokens_that_a_checkpoint_added_are_control_spans(tmp_path):
    added = {"151669": {"content": "[TURN]"}}
    format = load_format(
        write_config(tmp_path, chat_template="[TURN]{{ messages[0].content }}", added_tokens_decoder=added)
    )
    assert render([{"role": "user", "content": "[TURN]"}], format=format).spans == (
        Span("[TURN]", control=True),
        Span("[TURN]"),
    )


# Containing


@given(pieces=st.lists(st.sampled_from([*CONTROL_TOKENS, "<|im_", "end|>", "<", "x", "\ue000", " "]), max_size=6))
def test_text_from_outside_never_becomes_a_control_span(pieces):
    content = "".join(pieces)
    tools = [{"name": content, content: [content]}]
    rendered = render([{"role": "user", "content": content}], tools, format=TEMPLATE)
    controls = [span.text for span in rendered.spans if span.control]
    assert controls == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]
    tojson = json.dumps(tools, ensure_ascii=False)
    assert rendered.text == f"<|im_start|>user\n{content.strip()}<|im_end|>\n{tojson}<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('no system role') }}", "refuses this conversation: no system role"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{% set _ = messages.append(1) %}", "not safely callable|unsafe"),
        ("{{ undefined.attribute.other }}", "failed on this conversation"),
        ("{% if %}", "does not compile"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_an_error(source, message):
    with pytest.raises(ChatError, match=message):
        render([USER], format=ForeignTemplate(source))


def test_a_generation_block_changes_nothing_in_the_text():
    plain = FOREIGN.replace("{%- generation %}", "{%- if true %}").replace("{% endgeneration %}", "{% endif %}")
    assert "generation %}" not in plain.replace("add_generation_prompt %}", "")
    messages = [USER, ANSWER, USER]
    assert render(messages, format=ForeignTemplate(plain)).text == render(messages, format=TEMPLATE).text
