"""Servers made with the official package, as programs and over HTTP."""

import importlib.util
import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from agents import QUESTION, ScriptedChat, call, result_of

from qwen3.agent import Agent, McpError, McpServer, ToolResult, connect, read_servers
from qwen3.agent.tools import start

SERVER = Path(__file__).with_name("mcp_server.py")
PROGRAM = McpServer("local", (sys.executable, str(SERVER)), env={"MINE": "1"})


@pytest.fixture(scope="module")
def url():
    """The same server, at an address."""
    spec = importlib.util.spec_from_file_location("mcp_server", SERVER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = uvicorn.Config(module.server.streamable_http_app(), port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def tools(url):
    """Of the program, and then the same of the address."""
    os.environ["QWEN3_TEST_SECRET"] = "secret"
    with connect([PROGRAM, McpServer(url=url)]) as tools:
        yield tools


@pytest.fixture
def by_name(tools):
    return {tool.name: tool for tool in reversed(tools)}


def test_a_program_and_an_address_offer_their_tools_side_by_side(tools):
    assert [(tool.source, tool.name) for tool in tools[:2]] == [("local", "add"), ("local", "environment")]
    model = ScriptedChat(
        [call("add", '{"a": 2, "b": 3}'), call("demo_add", '{"a": 4, "b": 5}', 1)],
        [call("add", '{"a": "x", "b": 3}')],
        [],
    )
    results = [event for event in Agent(model, tools).run(QUESTION) if isinstance(event, ToolResult)]
    assert [result.text for result in results[:2]] == ["5", "9"]
    assert "valid integer" in results[2].text
    assert results[2].is_error
    assert model.requests[0][1][0] == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    }


def test_a_program_gets_its_own_variables_and_not_all_of_this_process(by_name):
    assert result_of(by_name["environment"], '{"name": "MINE"}') == ("1", False)
    assert result_of(by_name["environment"], '{"name": "QWEN3_TEST_SECRET"}') == ("unset", False)


def test_results_in_several_parts_are_joined(by_name):
    assert result_of(by_name["pick"], '{"title": "t"}') == ("t\nü", False)


def test_a_server_that_dies_is_a_clear_result_and_the_turn_goes_on():
    with connect([PROGRAM]) as tools:
        model = ScriptedChat([call("die")], [call("add", '{"a": 1, "b": 2}')], [])
        results = [event for event in Agent(model, tools).run(QUESTION) if isinstance(event, ToolResult)]
    text = "the MCP server 'local' has ended; it wrote: out of cheese"
    assert [(result.text, result.is_error) for result in results] == [(text, True)] * 2


def test_cancelling_a_call_reaches_the_server(by_name, tmp_path):
    marker = tmp_path / "marker"
    running = start(by_name["slow"], {"marker": str(marker)})
    assert result_of(by_name["add"], '{"a": 1, "b": 2}') == ("3", False)  # by now the other has begun
    running.cancel()
    deadline = time.monotonic() + 5
    while not marker.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_leaving_ends_the_program_even_in_the_middle_of_a_call(tmp_path):
    script = tmp_path / "server.py"
    pid_file = tmp_path / "pid"
    script.write_text(
        f"import os, runpy\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        f"runpy.run_path({str(SERVER)!r}, run_name='__main__')\n"
    )

    def interrupted():
        with connect([McpServer("s", (sys.executable, str(script)))]) as tools:
            start(next(tool for tool in tools if tool.name == "slow"), {"marker": str(tmp_path / "marker")})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


@pytest.mark.parametrize(
    ("server", "parts"),
    [
        ("no-such-program-here x", ["'no-such-program-here x' cannot be used", "No such file"]),
        (f"{sys.executable} -c 'raise SystemExit(\"no config\")'", ["Connection closed", "it wrote: no config"]),
        ("http://127.0.0.1:9/mcp", ["'http://127.0.0.1:9/mcp' cannot be used"]),
    ],
)
def test_a_server_that_cannot_be_started_or_reached_is_named(server, parts):
    with pytest.raises(McpError) as caught, connect([McpServer.parse(server)]):
        pytest.fail("connected")
    assert all(part in str(caught.value) for part in parts)


def test_the_servers_of_a_file_in_the_form_of_other_clients(tmp_path):
    file = tmp_path / "mcp.json"
    servers = {
        "files": {"command": "npx", "args": ["-y", "files"], "env": {"A": "1"}, "autoApprove": []},
        "web": {"type": "http", "url": "https://example.com/mcp", "headers": {"Authorization": "Bearer x"}},
        "off": {"command": "x", "disabled": True},
    }
    file.write_text(json.dumps({"mcpServers": servers, "other": 1}))
    assert read_servers(file) == [
        McpServer("files", ("npx", "-y", "files"), {"A": "1"}),
        McpServer("web", url="https://example.com/mcp", headers={"Authorization": "Bearer x"}),
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not valid JSON"),
        ("{}", "no object mcpServers"),
        ('{"mcpServers": {"a": {}}}', "mcpServers.a must be an object with either a command or a url"),
        ('{"mcpServers": {"a": {"command": "x", "url": "y"}}}', "either a command or a url"),
        ('{"mcpServers": {"a": {"command": 3}}}', "a.command must be a str"),
        ('{"mcpServers": {"a": {"command": "x", "args": [1]}}}', "a.args must be a list of strings"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"k": 1}}}}', "a.env must be a dict of strings"),
        ('{"mcpServers": {"a": {"url": "ftp://x"}}}', "must begin with http"),
        ('{"mcpServers": {"a": {"type": "sse", "url": "http://x"}}}', "sse is of the past"),
    ],
)
def test_a_faulty_file_is_refused_with_the_place(tmp_path, text, part):
    file = tmp_path / "mcp.json"
    file.write_text(text)
    with pytest.raises(McpError, match=part):
        read_servers(file)


@pytest.mark.parametrize(("text", "part"), [("", "empty"), ("a 'b", "not a command line")])
def test_a_faulty_command_line_is_refused(text, part):
    with pytest.raises(McpError, match=part):
        McpServer.parse(text)
