"""A model that plays a part: each step of an agent takes its next list of events."""

from qwen3.agent import Agent, ToolResult
from qwen3.chat import Content, Reasoning, ToolCall
from qwen3.engine.request import Finished, FinishReason, Usage

QUESTION = [{"role": "user", "content": "?"}]
_USAGE = Usage(10, 5, 2, 0.1, 0.5)


class ScriptedChat:
    def __init__(self, *steps):
        self._steps = list(steps)
        self.requests = []
        self.num_closed = 0

    def chat(self, messages, tools=None, **options):
        self.requests.append((list(messages), tools, options))
        events = self._steps.pop(0)
        try:
            yield from events
            called = any(isinstance(event, ToolCall) for event in events)
            yield Finished(FinishReason.TOOL_CALLS if called else FinishReason.STOP, _USAGE)
        finally:
            self.num_closed += 1


def call(name, arguments="{}", index=0):
    return ToolCall(index, f"call_{index}", name, arguments)


def results_of(tools, *calls, **options):
    """What the calls give that the model makes, all in one step."""
    agent = Agent(ScriptedChat([Reasoning("Hm."), *calls], [Content("Done.")]), tools, **options)
    return [event for event in agent.run(QUESTION) if isinstance(event, ToolResult)]


def result_of(tool, arguments="{}", **options):
    """Text of one call's result, and whether it is an error."""
    tool = next(iter(Agent(None, [tool]).tools.values()))
    (result,) = results_of([tool], call(tool.name, arguments), **options)
    return result.text, result.is_error
