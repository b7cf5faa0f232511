"""Model Context Protocol servers as tools, by the official `mcp` package.

A server is a program that is started and spoken to over its standard input and output, or an address that is spoken to
over streamable HTTP. Each connection is one task in the loop of the asynchronous tools. Whatever goes wrong with a
server is an `McpError` that names it: at the start as an exception, later as a call's result.
"""

from __future__ import annotations

import asyncio
import shlex
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from qwen3.agent.tools import Tool, ToolFailure, event_loop, tool_name, without_titles
from qwen3.strict_json import read_object

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult

_START_SECONDS = 30.0
# The `mcp` package gives a program two seconds to end by itself, two after SIGTERM, and then kills it.
_CLOSE_SECONDS = 8.0
_MAX_TOOLS = 1_000
_LOG_TAIL_BYTES = 600


class McpError(ToolFailure, ValueError):
    """A server that cannot be used, or has failed; the message names it."""


@dataclass(frozen=True)
class McpServer:
    """Where a server is: a command to start, or an address. Without a name it has the one that it gives itself."""

    name: str = ""
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the few variables that a program gets anyway: PATH, HOME and the like, never all of this process's."""
    cwd: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> McpServer:
        """From a URL, or a command line."""
        if text.startswith(("http://", "https://")):
            return cls(url=text)
        try:
            command = tuple(shlex.split(text))
        except ValueError as error:
            raise McpError(f"{text!r} is not a command line: {error}") from None
        if not command:
            raise McpError("an MCP server is a command line or a URL, and this is empty")
        return cls(command=command)

    def __str__(self) -> str:
        return self.name or self.url or shlex.join(self.command)


def read_servers(file: Path) -> list[McpServer]:
    """The servers of a file in the form that most clients share: `{"mcpServers": {NAME: {"command": ..., "args": [...],
    "env": {...}}, NAME: {"url": ..., "headers": {...}}}}`. Keys that only other clients know are not read.

    Raises McpError naming what is wrong, and OSError.
    """
    try:
        servers = read_object(file).get("mcpServers")
    except ValueError as error:
        raise McpError(f"{file}: {error}") from None
    if not isinstance(servers, dict):
        raise McpError(f"{file}: it has no object mcpServers")
    return [
        _server(entry, name, f"{file}: mcpServers.{name}")
        for name, entry in servers.items()
        if not (isinstance(entry, dict) and entry.get("disabled") is True)
    ]


def _server(entry: Any, name: str, where: str) -> McpServer:
    if not isinstance(entry, dict) or ("command" in entry) == ("url" in entry):
        raise McpError(f"{where} must be an object with either a command or a url")
    if entry.get("type") == "sse":
        raise McpError(f"{where}: the transport sse is of the past and not supported; use the server's streamable HTTP")
    fields = {"command": str, "args": list, "env": dict, "cwd": str, "url": str, "headers": dict}
    for key, kind in fields.items():
        value = entry.get(key, kind())
        parts = value if kind is list else value.values() if kind is dict and isinstance(value, dict) else ()
        if not isinstance(value, kind) or not all(isinstance(part, str) for part in parts):
            of_strings = "" if kind is str else " of strings"
            raise McpError(f"{where}.{key} must be a {kind.__name__}{of_strings}")
    if "url" in entry:
        if not entry["url"].startswith(("http://", "https://")):
            raise McpError(f"{where}.url must begin with http:// or https://")
        return McpServer(name, url=entry["url"], headers=entry.get("headers", {}))
    command = (entry["command"], *entry.get("args", ()))
    return McpServer(name, command, entry.get("env", {}), entry.get("cwd"))


@contextmanager
def connect(servers: Sequence[McpServer], *, timeout: float = 60.0) -> Iterator[list[Tool]]:
    """Start or reach all servers, at the same time, for their tools; in the end all are left, and what was started
    has ended. `timeout` is that of the tools, in seconds. Raises McpError."""
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        raise ImportError("MCP servers need a package that is not installed: pip install 'qwen3[agent]'") from error
    connections = [_Connection(server, timeout) for server in servers]
    try:
        yield [tool for connection in connections for tool in connection.tools.result()]
    finally:
        for connection in connections:
            connection.leave()
        for connection in connections:
            connection.wait()


class _Connection:
    """One server. What it opens is closed by the task that opened it, as `anyio` demands."""

    def __init__(self, server: McpServer, timeout: float) -> None:
        self._server, self._timeout = server, timeout
        self.tools: Future[list[Tool]] = Future()
        self._leaving = asyncio.Event()
        self._task = asyncio.run_coroutine_threadsafe(self._run(), event_loop())

    def leave(self) -> None:
        if self.tools.done():
            event_loop().call_soon_threadsafe(self._leaving.set)
        else:
            self._task.cancel()

    def wait(self) -> None:
        """After `leave`: until all is closed. How a server that has been left fails then is nobody's concern."""
        with suppress(CancelledError, TimeoutError):
            self._task.exception(_CLOSE_SECONDS)

    async def _run(self) -> None:
        with tempfile.TemporaryFile() as log:
            try:
                async with self._client(log) as client:
                    tools = [self._tool(client, tool, log) for tool in await _list_tools(client)]
                    self.tools.set_result(tools)
                    await self._leaving.wait()
            except Exception as error:
                if not self.tools.done():
                    self.tools.set_exception(self._failure(f"cannot be used: {_cause(error)}", log))
            finally:
                self.tools.cancel()

    @asynccontextmanager
    async def _client(self, log: BinaryIO) -> AsyncIterator[Client]:
        from mcp import Client, StdioServerParameters, stdio_client

        server = self._server
        if server.url is None:
            command, *arguments = server.command
            parameters = StdioServerParameters(command=command, args=arguments, env=dict(server.env), cwd=server.cwd)
            async with Client(stdio_client(parameters, errlog=log), read_timeout_seconds=_START_SECONDS) as client:
                yield client
            return
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        # A server may be silent for as long as a tool takes, and between two messages of its own.
        limits = httpx2.Timeout(_START_SECONDS, read=max(self._timeout, 300.0))
        async with httpx2.AsyncClient(headers=dict(server.headers), timeout=limits) as http:
            transport = streamable_http_client(server.url, http_client=http)
            async with Client(transport, read_timeout_seconds=_START_SECONDS) as client:
                yield client

    def _tool(self, client: Client, listed: Any, log: BinaryIO) -> Tool:
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        async def call(arguments: dict[str, Any]) -> str:
            try:
                # The loop's own limit comes first, and cancels this.
                result = await client.call_tool(listed.name, arguments, read_timeout_seconds=self._timeout + 5)
            except MCPError as error:
                if error.code == CONNECTION_CLOSED:
                    raise self._failure("has ended", log) from error
                raise McpError(f"the MCP server {str(self._server)!r}: {error}") from error
            except Exception as error:
                raise McpError(f"the MCP server {str(self._server)!r} failed: {_cause(error)}") from error
            text = _text(result)
            if result.is_error:
                raise ToolFailure(text)
            return text

        calls_itself = client.server_info.name if client.server_info else ""
        return Tool(
            name=tool_name(listed.name),
            description=listed.description or listed.name,
            parameters=without_titles(listed.input_schema),
            call=call,
            source=self._server.name or calls_itself or str(self._server),
            timeout=self._timeout,
        )

    def _failure(self, what: str, log: BinaryIO) -> McpError:
        """An error with the end of what a program wrote to its standard error, which tells why it has ended."""
        size = log.seek(0, 2)
        log.seek(max(0, size - _LOG_TAIL_BYTES))
        last_lines = log.read().decode("utf-8", "replace").strip()
        message = f"the MCP server {str(self._server)!r} {what}"
        return McpError(f"{message}; it wrote: {last_lines}" if last_lines else message)


def _cause(error: BaseException) -> str:
    # Task groups wrap the one exception that tells something.
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


async def _list_tools(client: Client) -> list[Any]:
    tools: list[Any] = []
    cursor: str | None = None
    while len(tools) < _MAX_TOOLS:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools[:_MAX_TOOLS]


def _text(result: CallToolResult) -> str:
    """What of a result is text; of the rest it says what it is."""
    parts = []
    for block in result.content:
        match block.type:
            case "text":
                parts.append(block.text)
            case "resource" if hasattr(block.resource, "text"):
                parts.append(block.resource.text)
            case "resource_link":
                parts.append(f"[{block.name}: {block.uri}]")
            case kind:
                parts.append(f"[{kind}, which this model cannot read]")
    return "\n".join(parts)
