"""The command line with a scripted model in place of a loaded one; run as a program it is `qwen3`.

The model answers a sum, and obeys words in the last message: `slow` (a token each 20 ms), `overflow`, `cut`, and
`use NAME {ARGUMENTS}`, a tool call whose result it then repeats. After `ahead` it says when it was stepped while idle.
"""

import re
import time
from types import SimpleNamespace

from qwen3.chat import ChatFormat, Content, Reasoning, ToolCall
from qwen3.engine.request import NON_THINKING, THINKING, ContextError, Finished, FinishReason, Usage


class FakeLLM:
    name = "fake"
    storage = "float32"
    format = ChatFormat.HYBRID
    max_context = 100
    config = SimpleNamespace(num_parameters=1234)
    tokenizer = SimpleNamespace(encode=lambda text, control=True: text.split())

    def __init__(self) -> None:
        self.calls: list[dict] = []
        self.was_stopped = False
        self.has_idle_work = False

    def idle_step(self):
        self.has_idle_work = False
        print("read ahead", flush=True)

    def defaults(self, thinking=True):
        return THINKING if thinking else NON_THINKING

    def chat(self, messages, tools=None, thinking=True, params=None, *, thinking_budget=None, answer_reserve=None):
        call = {"messages": messages, "tools": tools, "thinking": thinking, "params": params}
        self.calls.append(call | {"budget": thinking_budget, "reserve": answer_reserve})
        text = messages[-1]["content"]
        if found := re.search(r"use (\w+) (\{.*\})", text):
            assert found[1] in {tool["function"]["name"] for tool in tools}
            return self._events([Reasoning("A tool."), ToolCall(0, "call_0", found[1], found[2])], text)
        if messages[-1]["role"] == "tool":
            return self._events([Content(f"It gave {text}.")], text)
        if "overflow" in text:
            raise ContextError("the prompt has 120 tokens and the context holds 100")
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        words = f"I add {' and '.join(map(str, numbers))} .".split() * (100 if "slow" in text else 1)
        reasoning = [Reasoning(word + " ") for word in words] if thinking and "/no_think" not in text else []
        return self._events([*reasoning, Content("It is "), Content(f"{sum(numbers)}.")], text)

    def stream(self, prompt, params=None):
        self.calls.append({"prompt": prompt, "params": params})
        return self._events([Content(" and"), Content(" so on")], prompt)

    def _events(self, events, text):
        try:
            for event in events:
                if "slow" in text:
                    time.sleep(0.02)
                yield event
            reason = FinishReason.LENGTH if "cut" in text else FinishReason.STOP
            if isinstance(event, ToolCall):
                reason = FinishReason.TOOL_CALLS
            num_reasoning = sum(isinstance(event, Reasoning) for event in events)
            self.has_idle_work = "ahead" in text
            error = "too many states" if "broken" in text else ""
            yield Finished(reason, Usage(10, len(events), num_reasoning, 0.1, 0.5), error=error)
        except GeneratorExit:
            self.was_stopped = True
            raise


if __name__ == "__main__":
    from qwen3.cli import main, options

    options.load_llm = lambda model, **settings: FakeLLM()
    main.main()
