"""The chat page in real Chromium: before a scripted server, and once before the built-in model."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from page_server import ATTACKS, RICH, Script, page_server
from serving import serving

sync_api = pytest.importorskip("playwright.sync_api", reason="the page's tests need: pip install playwright")
expect = sync_api.expect

CHROMIUM = os.environ.get("QWEN3_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
AUDIT, GROWING, WATCH = (
    (Path(__file__).parent / f"{name}.js").read_text("utf-8") for name in ("audit", "growing", "watch")
)
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run"
).split()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("the page's tests need Chromium: apt install chromium, or its path in QWEN3_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def script():
    return Script()


@pytest.fixture(scope="module")
def url(scripted, script):
    with page_server(scripted, script) as url:
        yield url


@pytest.fixture
def open_page(browser, script):
    """Opens the page in a fresh profile. In the end: no script has failed, no policy was violated, and no request has
    left the server."""
    script.__init__()
    contexts, faults, foreign = [], [], []

    def open_page(url, **options):
        context = browser.new_context(**options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if is_fault(message) else None)
        page.on(
            "request",
            lambda request: None if request.url.startswith((url, "data:", "blob:")) else foreign.append(request.url),
        )
        page.goto(url)
        expect(page.locator("#model")).to_have_text("builtin")
        return page

    def is_fault(message):
        return message.type == "error" and "Failed to load resource" not in message.text

    open_page.faults = faults
    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert foreign == []


@pytest.fixture
def page(open_page, url):
    return open_page(url)


def reload(page):
    page.reload()
    expect(page.locator("#model")).to_have_text("builtin")


def ask(page, text, *, waits=True):
    page.locator("#message").fill(text)
    page.keyboard.press("Enter")
    if waits:
        expect(page.locator("#send")).to_be_visible()


def answers(page):
    return page.locator(".message.assistant .prose")


def press(page, *keys):
    for key in keys:
        page.keyboard.press(f"Alt+{key}")


def text_of_download(page, click):
    with page.expect_download() as info:
        click()
    return info.value.suggested_filename, Path(info.value.path()).read_text("utf-8")


# ---- Answers ------------------------------------------------------------------------------------------------------


def test_markdown_code_and_maths_become_nodes(page, script):
    ask(page, "How does binary search work?")
    prose = answers(page)
    expect(prose.locator("h4")).to_have_text("Binary search")
    expect(prose.locator("li li")).to_have_count(2)
    expect(prose.locator("td.right").first).to_have_text("n")
    expect(prose.locator("math")).to_have_count(4)
    expect(prose.locator("div.maths msubsup, div.maths munderover")).to_have_count(1)
    expect(prose.locator(".code-keyword").first).to_have_text("def")
    link = prose.locator("a")
    assert link.get_attribute("href") == "https://en.wikipedia.org/wiki/Binary_search"
    assert "noopener" in link.get_attribute("rel")
    stats = page.locator(".stats").text_content()
    assert re.search(r"\d+ tokens · .*80 of 100 prompt tokens from cache", stats)
    assert page.locator("#context-meter").get_attribute("aria-valuemax") == "2048"


GROWN = [
    "# One\n\ntwo\n\nthree\n\nfour\n\n- five\n",
    "a\n===\n\n- one\n- two\n\n  more\n\n1. x\n   ```py\n   if x:\n   ```\n2. y\n\n\ttab\n",
    "[link][a]\n\n[a]: https://example.org\n\nsee [a]\n\n> quote\nlazy\n\n---\n***\n",
    "| a | b |\n|--|--|\n| 1 | 2 |\n| 3 |",
    "$$\n- a\n= b\n$$\n\n\\[ x \\]\n\nIt costs $5 or $6, not \\(x\\) nor $y$.\n\n$$\nnot\n\nmaths\n",
    "```\n\n\n```\n~~~js\n```\n~~~\nend\r\nwith\r\n\r\ncarriage\r\nreturns",
    "\n\n\nx\n\n\n",
]


def test_a_growing_text_ends_as_the_whole_text_would_and_its_early_blocks_stay(page):
    texts = page.evaluate(GROWING, [ATTACKS, RICH, *GROWN])
    for live, whole, num_firsts in texts:
        assert live.replace("\n", "") == whole.replace("\n", "")
        assert num_firsts <= 1


def test_text_from_the_model_runs_nothing_loads_nothing_and_links_nowhere_dangerous(page):
    page.evaluate(WATCH)
    ask(page, "attack me, and think")
    ask(page, "weather")
    ask(page, "<img src=x onerror=window.hit=40>")
    press(page, "KeyE")
    page.keyboard.press("Escape")
    assert page.evaluate("[window.hit, window.violation]") == [None, None]
    kinds = "script, img, iframe, svg:not(.icon), object, embed, form, style, [onerror], [onclick], [onload]"
    assert page.locator(f"#messages :is({kinds})").count() == page.locator("#messages form.results").count()
    for href in page.locator("#messages a").evaluate_all("links => links.map((link) => link.getAttribute('href'))"):
        assert re.match(r"https?://|mailto:", href), href
    # Whatever else it writes, it is shown.
    expect(answers(page).first).to_contain_text("<script>window.hit = 1</script>")
    reload(page)
    expect(answers(page).first).to_contain_text("<script>window.hit = 1</script>")
    assert page.evaluate("window.hit") is None


def test_the_policy_stops_a_script_that_would_parse_html(page, open_page):
    for program in (
        "document.body.innerHTML = '<b>x</b>'",
        "new DOMParser().parseFromString('<b>x</b>', 'text/html')",
        "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
    ):
        with pytest.raises(sync_api.Error, match="TrustedHTML"):
            page.evaluate(program)
    assert open_page.faults
    open_page.faults.clear()


def test_a_long_answer_stays_responsive_and_draws_only_its_last_block(page):
    page.evaluate(WATCH)
    started = time.monotonic()
    ask(page, "20,000 words", waits=False)
    expect(answers(page)).to_contain_text("Part 400", timeout=20_000)
    page.locator("#message").fill("typed while it streams")
    expect(page.locator("#send")).to_be_visible(timeout=30_000)
    assert time.monotonic() - started < 30
    assert answers(page).locator("h5").count() == 500
    # 500 headings; each is drawn again a few times while it is the last block, and never after.
    assert page.evaluate("window.drawn") < 2000
    assert page.evaluate("window.longest") < 1000
    assert page.locator("#message").input_value() == "typed while it streams"


# ---- Thinking -----------------------------------------------------------------------------------------------------


def test_thinking_is_shown_apart_with_its_tokens_and_time_and_folds_when_the_answer_begins(page, script):
    script.delay = 0.01
    ask(page, "think, then hello", waits=False)
    thinking = page.locator(".thinking")
    expect(thinking.locator("summary")).to_have_text(re.compile(r"Thinking · \d+ tokens · \d"))
    expect(thinking.locator("details")).to_have_attribute("open", "")
    expect(page.locator("#send")).to_be_visible()
    expect(thinking.locator("summary")).to_have_text(re.compile(r"Thought · 54 tokens · [\d.]+ m?s"))
    expect(thinking.locator("details")).not_to_have_attribute("open", "")
    thinking.locator("summary").click()
    expect(thinking.locator(".thoughts")).to_contain_text("The loop invariant")
    expect(answers(page)).not_to_contain_text("invariant")


def test_answer_now_ends_the_thinking_of_the_running_answer(page, script):
    script.delay = 0.01
    ask(page, "think long, then hello", waits=False)
    page.get_by_role("button", name="Answer now").click()
    expect(page.locator("#send")).to_be_visible()
    assert script.ended_thinking == ["chatcmpl-1"]
    expect(answers(page)).to_have_text(re.compile("^You said"))


def test_the_switch_the_budget_and_the_sampling_of_each_mode_are_what_is_sent(page, script):
    ask(page, "one")
    page.locator("#budget").fill("3")
    expect(page.locator("#budget-text")).to_have_text("512")
    ask(page, "two")
    press(page, "KeyT")
    expect(page.locator("#thinking")).to_have_attribute("aria-checked", "false")
    ask(page, "three")
    first, second, third = script.requests
    assert first["chat_template_kwargs"] == second["chat_template_kwargs"] == {"enable_thinking": True}
    assert "thinking_budget" not in first
    assert second["thinking_budget"] == 512
    assert third["chat_template_kwargs"] == {"enable_thinking": False}
    assert "thinking_budget" not in third
    assert (first["top_p"], third["top_p"], third["temperature"]) == (0.95, 0.8, 0.7)
    press(page, "KeyS")
    page.get_by_label("Temperature").nth(1).fill("0.15")
    page.get_by_label("Longest answer").fill("77")
    page.get_by_label("System prompt").fill("Be brief.")
    expect(page.locator("#plain-preset")).to_have_value("custom")
    expect(page.locator("#thinking-preset")).to_have_value("recommended")
    page.keyboard.press("Escape")
    ask(page, "four")
    body = script.requests[-1]
    assert (body["temperature"], body["max_tokens"]) == (0.15, 77)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    reload(page)
    press(page, "KeyS")
    expect(page.locator("#plain-preset")).to_have_value("custom")
    page.locator("#plain-preset").select_option("recommended")
    page.keyboard.press("Escape")
    ask(page, "five")
    assert script.requests[-1]["temperature"] == 0.7


# ---- The conversation ---------------------------------------------------------------------------------------------


def test_stop_keeps_what_came_and_the_server_hears_of_it(page, script):
    script.delay = 0.01
    ask(page, "endless", waits=False)
    expect(answers(page)).to_contain_text("again again")
    page.keyboard.press("Escape")
    expect(page.locator(".note")).to_have_text("Stopped.")
    expect(answers(page)).to_contain_text("again again")
    deadline = time.monotonic() + 5
    while script.running:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reload_keeps_what_came_and_a_deleted_conversation_stays_deleted(page, script):
    script.delay = 0.01
    ask(page, "endless", waits=False)
    page.wait_for_timeout(2500)  # a growing answer is kept every two seconds
    reload(page)
    expect(answers(page)).to_contain_text("again again")
    expect(page.locator(".note")).to_have_text("Interrupted.")
    ask(page, "endless", waits=False)
    expect(answers(page).nth(1)).to_contain_text("again again")
    page.get_by_role("button", name="Actions for endless").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator("#conversations li")).to_have_count(0)
    reload(page)
    expect(page.locator("#conversations li")).to_have_count(0)


def test_retry_and_edit_make_branches_that_can_be_switched(page, script):
    ask(page, "first")
    press(page, "KeyR")
    expect(page.locator(".versions")).to_have_text("2 / 2")
    expect(answers(page)).to_have_text("You said: first (answer 2)")
    page.get_by_role("button", name="Previous version").click()
    expect(answers(page)).to_have_text("You said: first (answer 1)")
    ask(page, "second")
    press(page, "KeyE")
    page.get_by_label("Edit the question").fill("second, edited")
    page.get_by_role("button", name="Send", exact=True).first.click()
    expect(answers(page).nth(1)).to_have_text("You said: second, edited (answer 4)")
    assert [message["content"] for message in script.requests[-1]["messages"]] == [
        "first",
        "You said: first (answer 1)",
        "second, edited",
    ]
    press(page, "Comma")
    expect(answers(page).nth(1)).to_have_text("You said: second (answer 3)")
    reload(page)
    expect(answers(page).nth(1)).to_have_text("You said: second (answer 3)")
    page.get_by_role("button", name="Branch into a new conversation").first.click()
    expect(page.locator("#conversations li")).to_have_count(2)
    expect(answers(page)).to_have_count(1)
    ask(page, "third")
    assert len(script.requests[-1]["messages"]) == 3


def test_tool_calls_are_shown_and_answered(page, script):
    press(page, "KeyS")
    page.get_by_label("Offer tools").check()
    page.get_by_label("Functions, in the form of OpenAI").fill("[{")
    expect(page.locator("#set-tools-fault")).to_contain_text("Not used yet")
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    page.get_by_label("Functions, in the form of OpenAI").fill(json.dumps(tools))
    expect(page.locator("#set-tools-fault")).to_have_text("")
    page.keyboard.press("Escape")
    ask(page, "weather?")
    assert script.requests[-1]["tools"] == tools
    expect(page.locator(".call")).to_contain_text("<b>weather</b>")
    expect(page.locator(".call pre")).to_contain_text('"city": "Zürich"')
    page.get_by_label("Result of <b>weather</b>").fill('{"celsius": 21}')
    page.get_by_role("button", name="Send results").click()
    expect(answers(page).nth(1)).to_contain_text("You said")
    call, result = script.requests[-1]["messages"][-2:]
    assert call["tool_calls"][0]["function"]["name"] == "<b>weather</b>"
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": '{"celsius": 21}'}


def test_json_mode_sends_the_schema_and_shows_the_object(page, script):
    page.get_by_role("switch", name="JSON").click()
    ask(page, "who?")
    assert script.requests[-1]["response_format"] == {"type": "json_object"}
    expect(answers(page).locator("pre")).to_have_text('{\n  "name": "Ada",\n  "age": 36\n}')
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    press(page, "KeyS")
    page.get_by_label("JSON schema").fill(json.dumps(schema))
    page.keyboard.press("Escape")
    ask(page, "who?")
    assert script.requests[-1]["response_format"]["json_schema"] == {"name": "answer", "schema": schema, "strict": True}


def test_conversations_are_kept_searched_renamed_and_deleted(page):
    ask(page, "about apples")
    press(page, "KeyN")
    ask(page, "about pears")
    reload(page)
    expect(answers(page)).to_contain_text("about pears")
    items = page.locator("#conversations li")
    expect(items).to_have_count(2)
    press(page, "KeyK")
    page.keyboard.type("said APPLES")
    expect(items).to_have_text("about apples")
    items.get_by_role("button", name="about apples", exact=True).click()
    expect(answers(page)).to_contain_text("about apples")
    page.get_by_role("button", name="Actions for about apples").click()
    page.keyboard.press("Enter")
    page.locator("#rename").fill("Fruit <b>")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Fruit <b>", exact=True)).to_be_visible()
    page.get_by_role("button", name="Actions for Fruit <b>").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(page.get_by_role("button", name="Fruit <b>", exact=True)).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Fruit <b>", exact=True)).to_be_visible()


def test_an_exported_conversation_comes_back_the_same_and_qwen3_chat_reads_it(page, scripted, tmp_path):
    from qwen3.cli.chat_session import ChatSession

    ask(page, "think, then first")
    press(page, "KeyR")
    expect(page.locator(".stats")).to_be_visible()
    page.get_by_role("button", name="Actions for think, then first").click()
    name, text = text_of_download(page, page.get_by_role("menuitem", name="Export as JSON").click)
    assert name == "think-then-first.json"
    page.get_by_role("button", name="Actions for think, then first").click()
    name, markdown = text_of_download(page, page.get_by_role("menuitem", name="Export as Markdown").click)
    assert name.endswith(".md")
    assert "## User\n\nthink, then first" in markdown
    assert "<summary>Thinking</summary>" in markdown
    file = tmp_path / "conversation.json"
    file.write_text(text, "utf-8")
    session = ChatSession(scripted)
    session.load(file)
    assert [message["role"] for message in session.messages] == ["user", "assistant"]
    page.locator("#import-file").set_input_files(file)
    expect(page.locator("#conversations li")).to_have_count(2)
    page.get_by_role("button", name="Actions for think, then first").first.click()
    _, again = text_of_download(page, page.get_by_role("menuitem", name="Export as JSON").click)
    assert shape(json.loads(again)) == shape(json.loads(text))
    damaged = json.loads(text)
    damaged["nodes"]["root"]["children"] *= 2
    file.write_text(json.dumps(damaged))
    page.locator("#import-file").set_input_files(file)
    expect(page.locator(".toast").last).to_contain_text("is not a conversation")
    file.write_text(json.dumps([{"role": "system", "content": "S"}, {"role": "user", "content": [{"text": "Hi"}]}]))
    page.locator("#import-file").set_input_files(file)
    expect(page.locator(".user .text")).to_have_text("Hi")


def shape(conversation, node="root"):
    """A conversation's tree without the ids that each page gives."""
    nodes = conversation["nodes"]
    kept = {key: value for key, value in nodes[node].items() if key not in ("id", "parent", "children")}
    return kept, [shape(conversation, child) for child in nodes[node]["children"]]


# ---- Faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("busy", "256 requests are running"),
        ("fails", "the engine failed"),
        ("break off", "connection ended before the answer"),
        ("too long", "the context holds 40960"),
    ],
)
def test_a_fault_is_shown_and_can_be_retried(page, script, question, message):
    ask(page, question)
    expect(page.get_by_role("alert")).to_contain_text(message)
    page.get_by_role("alert").get_by_role("button", name="Retry").click()
    expect(page.get_by_role("alert")).to_contain_text(message)
    assert len(script.requests) == 2
    assert script.requests[0] == script.requests[1]


def test_a_server_that_is_away_is_named_and_the_question_stays(page, url):
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "anyone?")
    expect(page.get_by_role("alert")).to_contain_text("No connection")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Retry").click()
    expect(answers(page)).to_contain_text("You said: anyone?")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_missing_key_is_asked_for_and_kept_in_the_tab(page, script):
    script.key = "secret"
    ask(page, "hello")
    page.get_by_label("Key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Key", exact=True)).to_have_value("")
    page.get_by_label("Key", exact=True).fill("secret")
    page.keyboard.press("Enter")
    expect(answers(page)).to_contain_text("You said: hello")
    kept = page.evaluate(
        "[JSON.stringify(localStorage), JSON.stringify(sessionStorage), location.href, document.cookie]"
    )
    assert ["secret" in place for place in kept] == [False, True, False, False]
    reload(page)
    ask(page, "again")
    expect(answers(page).last).to_contain_text("You said: again")


# ---- For everybody ------------------------------------------------------------------------------------------------


def test_everything_can_be_done_by_keyboard(page, script):
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.type("line one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("line two")
    page.keyboard.press("Enter")
    expect(answers(page)).to_contain_text("line two")
    assert script.requests[0]["messages"][-1]["content"] == "line one\nline two"
    expect(page.locator("#message")).to_be_focused()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
    controls = {"new-chat", "search", "toggle-sidebar", "chat-tab", "show-settings", "message", "thinking", "budget"}
    assert controls | {"json", "Retry", "Copy the answer", "Edit"} <= reached
    page.locator("#chat-tab").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#memory-tab")).to_be_focused()
    expect(page.locator("#memory")).to_be_visible()
    press(page, "KeyM", "KeyH")
    expect(page.locator("#shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()
    press(page, "KeyB")
    expect(page.locator("#sidebar")).to_be_hidden()
    press(page, "KeyB", "KeyI")
    expect(page.locator("#message")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_roles_and_contrast_are_good_enough_for_everybody(open_page, url, scheme):
    page = open_page(url, color_scheme=scheme, reduced_motion="reduce")
    ask(page, "How does binary search work? Please think")
    page.locator(".thinking summary").click()
    assert page.evaluate(AUDIT) == []
    ask(page, "weather")
    ask(page, "busy")
    expect(page.get_by_role("alert")).to_be_visible()
    assert page.evaluate(AUDIT) == []
    press(page, "KeyS")
    assert page.evaluate(AUDIT) == []
    page.keyboard.press("Escape")
    press(page, "KeyM")
    expect(page.locator(".chart")).to_be_visible()
    assert page.evaluate(AUDIT) == []


def test_a_listener_hears_that_it_thinks_the_answer_block_by_block_and_its_end(page):
    page.evaluate(WATCH)
    ask(page, "How does binary search work? Please think")
    heard = page.evaluate("window.heard")
    assert heard[0] == "Thinking"
    assert "Binary search" in " ".join(heard)
    assert heard[-1].startswith("Answer finished")
    assert page.locator("#messages").get_attribute("aria-live") == "off"


def test_a_phone_shows_everything_without_scrolling_sideways(open_page, url):
    page = open_page(url, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page.locator("#message").fill("How does binary search work? Please think")
    page.locator("#send").tap()
    expect(page.locator(".stats")).to_be_visible()
    expect(page.locator("#sidebar")).to_be_hidden()

    def overflow():
        sizes = "['html', 'body', '#scroller', '#memory'].map((name) => document.querySelector(name))"
        return page.evaluate(f"{sizes}.map((each) => each.scrollWidth - each.clientWidth)")

    assert overflow() == [0, 0, 0, 0]
    page.locator("#toggle-sidebar").tap()
    expect(page.locator("#sidebar")).to_be_visible()
    page.locator("#backdrop").tap(position={"x": 340, "y": 300})
    expect(page.locator("#sidebar")).to_be_hidden()
    page.locator("#memory-tab").tap()
    expect(page.locator(".chart")).to_be_visible()
    assert overflow() == [0, 0, 0, 0]
    assert (
        page.evaluate("document.getElementById('memory').scrollWidth - document.getElementById('memory').clientWidth")
        == 0
    )


def test_colours_follow_the_system_until_they_are_chosen(open_page, url):
    page = open_page(url, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(background)
    assert dark != light
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.evaluate(background) == dark
    reload(page)
    assert page.evaluate(background) == dark


def test_the_calculator_shows_the_servers_numbers(page):
    page.goto(page.url + "#memory")
    page.locator("#memory-model").select_option("Qwen3-8B")
    page.locator("#memory-weights").select_option("q4_k_m")
    page.locator("#memory-context").fill("40000")
    expect(page.locator(".total")).to_contain_text("for 40,000 tokens")
    query = "model=Qwen3-8B&weights=q4_k_m&kv=bf16&context=40000"
    report = page.request.get(f"{page.url.partition('#')[0]}v1/memory?{query}").json()
    total = report["estimates"][0]["bytes"]["total"] / 2**30
    expect(page.locator(".total strong")).to_have_text(f"{total:.2f} GiB")
    assert page.locator("#memory").get_by_text("fits", exact=True).count() == sum(
        place["longest_context"]["q4_k_m"] >= 40000 for place in report["machines"]
    )
    assert page.locator(".chart").get_attribute("aria-label").startswith("Memory of Qwen3-8B")
    page.locator("#memory-context").fill("0")
    expect(page.locator("#memory-result")).to_contain_text("whole numbers within their bounds")


def test_the_calculators_form_is_made_once_however_often_it_is_shown_meanwhile(page):
    waiting = []
    page.route("**/v1/memory/choices", lambda route: waiting.append(route))
    with page.expect_request("**/v1/memory/choices"):
        page.locator("#memory-tab").click()
    page.locator("#chat-tab").click()
    page.locator("#memory-tab").click()
    expect(page.locator("#memory")).to_be_visible()
    assert len(waiting) == 1
    waiting[0].continue_()
    expect(page.locator("#memory-model")).to_have_count(1)


# ---- The real server ----------------------------------------------------------------------------------------------


def test_the_built_in_model_answers_with_a_key_that_the_browser_asked_for(open_page, builtin):
    with serving(builtin, api_keys=["secret"]) as url:
        page = open_page(url, http_credentials={"username": "", "password": "secret"})
        ask(page, "What is 17 + 25?", waits=False)
        expect(page.locator(".stats")).to_have_text(re.compile(r"\d+ tokens"), timeout=20_000)
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(answers(page)).to_have_text(re.compile(r"\S"))
        assert page.evaluate("sessionStorage.length") == 0
