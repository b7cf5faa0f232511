"""A server of the Model Context Protocol, made with the official package; its first argument is where it speaks."""

import os
import sys

import anyio
from mcp.server.mcpserver import MCPServer

server = MCPServer("demo")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def environment(name: str) -> str:
    """The value of an environment variable."""
    return os.environ.get(name, "unset")


@server.tool()
def pick(title: str) -> list[str]:
    """Several texts."""
    return [title, "ü"]


@server.tool()
async def slow(marker: str) -> str:
    """Takes long; writes to the file `marker` where it is cancelled."""
    try:
        await anyio.sleep(60)
    except anyio.get_cancelled_exc_class():
        with open(marker, "w") as file:
            file.write("cancelled")
        raise
    return "done"


@server.tool()
def die() -> str:
    """Ends the server."""
    print("out of cheese", file=sys.stderr, flush=True)
    os._exit(3)


if __name__ == "__main__":
    server.run()
