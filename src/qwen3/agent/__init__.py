"""Tools for a model: Python functions and Model Context Protocol servers, and the loop that lets a model use them.

from qwen3 import LLM
from qwen3.agent import Agent, Tool

def population(city: str) -> int:
    "Number of people who live in a city."
    return {"Bern": 134_000}[city]

agent = Agent(LLM("Qwen/Qwen3-4B"), [Tool.of(population)])
for event in agent.run([{"role": "user", "content": "How many people live in Bern?"}]):
    print(event)
"""

from qwen3.agent.builtin import BUILTIN
from qwen3.agent.loop import Agent, AgentEvent, ToolResult, turn_messages
from qwen3.agent.mcp import McpError, McpServer, connect, read_servers
from qwen3.agent.tools import Tool, ToolDefinitionError, ToolFailure

__all__ = [
    "BUILTIN",
    "Agent",
    "AgentEvent",
    "McpError",
    "McpServer",
    "Tool",
    "ToolDefinitionError",
    "ToolFailure",
    "ToolResult",
    "connect",
    "read_servers",
    "turn_messages",
]
