"""Anthropic's Messages: a request to a generation, events to the message's own events or to one message.

As there, the model thinks only if the request asks for it. Thinking has a signature because clients expect one, and it
says nothing; sent back in a tool turn that goes on, the thinking is the model's reasoning again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from fastapi import APIRouter, Request
from pydantic_core import from_json
from starlette.responses import Response

from qwen3.chat import Event
from qwen3.engine.generation import Generation
from qwen3.engine.llm import LLM
from qwen3.engine.request import Finished, FinishReason, SamplingParams, Usage
from qwen3.server import block_answers, limits
from qwen3.server.blocks import Block, BlockStream, Change, Closed, Conversation, Grew, Opened, function_tool
from qwen3.server.bodies import StrictRoute
from qwen3.server.documents import documented
from qwen3.server.errors import ANTHROPIC_PATH, ApiError, anthropic_body
from qwen3.server.messages_schema import (
    MessagesRequest,
    PromptRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from qwen3.server.openai_chat import greedy_warning
from qwen3.server.service import Service
from qwen3.server.streaming import event as sent
from qwen3.server.streaming import joined
from qwen3.server.worker import Batch, Work

SIGNATURE = "unsigned"
_DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}
_STOP_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.LENGTH: "max_tokens",
}


def prepare(llm: LLM, body: MessagesRequest, params: SamplingParams) -> Generation:
    """Raises ValueError for what the schema could not see: tools' schemas, the context's length."""
    return llm.prepare_chat(
        **_prompt(body),
        params=params,
        thinking_budget=body.budget,
        parallel_tool_calls=not (body.tool_choice and body.tool_choice.disable_parallel_tool_use),
        constraint=body.constraint,
    )


def count_tokens(llm: LLM, body: PromptRequest) -> dict[str, int]:
    return {"input_tokens": len(llm.render_chat(**_prompt(body), limit=limits.IDS).ids)}


def _prompt(body: PromptRequest) -> dict[str, Any]:
    """The arguments of `LLM.render_chat`."""
    return {
        "messages": messages(body),
        "tools": [
            function_tool(tool.name, tool.description, tool.input_schema, tool.strict) for tool in body.tools or ()
        ],
        "thinking": body.is_thinking,
        "tool_choice": body.tool_name,
        "continue_final_message": body.is_continued,
    }


def messages(body: PromptRequest) -> list[dict[str, Any]]:
    """The conversation as messages of chat completions."""
    conversation = Conversation()
    if body.system is not None:
        conversation.say("system", "\n\n".join(block.text for block in body.system))
    for message in body.messages:
        for kind, run in groupby(message.content, type):
            if kind is TextBlock:
                conversation.say(message.role, "".join(block.text for block in run))
                continue
            for block in run:
                match block:
                    case ThinkingBlock(thinking=text):
                        conversation.reason(text)
                    case ToolUseBlock(id=id, name=name, input=arguments):
                        conversation.call(id, name, arguments)
                    case ToolResultBlock(tool_use_id=id, content=blocks, is_error=is_error):
                        text = "".join(block.text for block in blocks or ())
                        # Text is the only way in which the model can see that a tool failed.
                        conversation.result(id, f"Error: {text}" if is_error else text)
    return conversation.messages


class MessagesWire:
    """One message's wire format."""

    generations: Sequence[Work]

    def __init__(self, id: str, body: MessagesRequest, model: str, request_id: str) -> None:
        self.id = id
        self._model, self._max_tokens, self._request_id = model, body.max_tokens, request_id
        self._shows_thinking = body.thinking is None or body.thinking.display != "omitted"
        self._blocks = BlockStream()

    def opening(self) -> bytes:
        # What the cache has of the prompt shows when it is read: the last counts tell.
        usage = _usage(self.generations[0].finished.usage)
        start = {"type": "message_start", "message": self._message([]) | {"usage": usage}}
        return _encoded([start, {"type": "ping"}])

    def encode(self, batch: Batch) -> bytes:
        return _encoded(message for _, event, _ in joined(batch) for message in self._messages(event))

    def failure(self, error: ApiError) -> bytes:
        return _encoded([anthropic_body(error, self._request_id)])

    def closing(self) -> bytes:
        return b""

    def whole(self, answers: Sequence[Sequence[Any]]) -> dict[str, Any]:
        *events, finished = answers[0]
        for event in events:
            for _ in self._messages(event):
                pass
        content = [self._content(block) for block in self._blocks.blocks]
        return self._message(content) | self._ending(finished) | {"usage": _usage(finished.usage)}

    def _messages(self, event: Event | Finished) -> Iterator[dict[str, Any]]:
        """What the stream says about an event."""
        changes = self._blocks.close() if isinstance(event, Finished) else self._blocks.feed(event)
        for change in changes:
            yield from self._change(change)
        if isinstance(event, Finished):
            yield {"type": "message_delta", "delta": self._ending(event), "usage": _usage(event.usage)}
            yield {"type": "message_stop"}

    def _change(self, change: Change) -> Iterator[dict[str, Any]]:
        block = change.block
        match change:
            case Opened():
                yield {"type": "content_block_start", "index": block.index, "content_block": self._content(block, "")}
            case Grew(_, text):
                if block.kind != "reasoning" or self._shows_thinking:
                    yield _delta(block, *_DELTAS[block.kind], text)
            case Closed():
                if block.kind == "reasoning":
                    yield _delta(block, "signature_delta", "signature", SIGNATURE)
                yield {"type": "content_block_stop", "index": block.index}

    def _content(self, block: Block, signature: str = SIGNATURE) -> dict[str, Any]:
        match block.kind:
            case "text":
                return {"type": "text", "text": block.text}
            case "reasoning":
                shown = block.text if self._shows_thinking else ""
                return {"type": "thinking", "thinking": shown, "signature": signature}
            case "call":
                return {"type": "tool_use", "id": block.id, "name": block.name, "input": _input(block.text)}

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _ending(self, finished: Finished) -> dict[str, Any]:
        reason = _STOP_REASONS[finished.reason]
        if reason == "end_turn" and finished.stop_string is not None:
            reason = "stop_sequence"
        elif reason == "max_tokens" and finished.usage.completion_tokens < self._max_tokens:
            reason = "model_context_window_exceeded"
        return {"stop_reason": reason, "stop_sequence": finished.stop_string}


def _input(arguments: str) -> dict[str, Any]:
    """A call's arguments as JSON can carry them: of a call that max_tokens cut short what is complete, as clients
    read such a stream; for a number beyond all floats null, for half a surrogate pair a question mark."""
    try:
        try:
            value = json.loads(arguments)
        except ValueError:
            value = from_json(arguments or "{}", allow_partial=True)
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        return json.loads(text, parse_constant=lambda infinite: None)
    except (ValueError, RecursionError):
        return {}


def _delta(block: Block, kind: str, field: str, text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": block.index, "delta": {"type": kind, field: text}}


def _usage(counts: Usage) -> dict[str, Any]:
    """What was read from the cache does not count as input, in this format."""
    return {
        "input_tokens": counts.prompt_tokens - counts.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached_tokens,
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"thinking_tokens": counts.reasoning_tokens},
    }


def _encoded(messages: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(sent(message, message["type"]) for message in messages)


def messages_router(service: Service) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["Anthropic"])

    async def create(request: Request, body: MessagesRequest) -> Response:
        service.note_unknown(body)
        service.check_model(body.model)
        llm, request_id = service.llm, request.state.request_id
        params = replace(llm.defaults(body.is_thinking), **body.sampling())
        wire = MessagesWire(service.answer_id("msg_", request), body, service.names[0], request_id)
        headers = {"request-id": request_id} | greedy_warning(llm, params, body.is_thinking)
        return await service.reply(request, wire, bool(body.stream), lambda: prepare(llm, body, params), headers)

    async def count(body: PromptRequest) -> dict[str, int]:
        service.note_unknown(body)
        service.check_model(body.model)
        llm = service.llm
        return await service.in_thread(lambda: count_tokens(llm, body))

    for path, endpoint, answer, is_streamed in (
        (ANTHROPIC_PATH, create, block_answers.Message, True),
        (f"{ANTHROPIC_PATH}/count_tokens", count, block_answers.TokenCount, False),
    ):
        documented(router, path, endpoint, answer, is_streamed=is_streamed, error=block_answers.AnthropicError)
    return router
