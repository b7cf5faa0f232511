"""OpenAI's Responses, without state: a request to a generation, events to the response's own events or to one answer.

The unstreamed answer is the `response` of the stream's last event. Reasoning is an item with its text
(`reasoning_text`), not a summary; sent back in a tool turn that goes on, it is the model's reasoning again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen3.chat import Event
from qwen3.engine.generation import Generation, Progress
from qwen3.engine.llm import LLM
from qwen3.engine.request import Finished, FinishReason, SamplingParams, Usage
from qwen3.server import block_answers
from qwen3.server.blocks import Block, BlockStream, Change, Closed, Conversation, Grew, Opened, function_tool
from qwen3.server.bodies import StrictRoute
from qwen3.server.counts import timings
from qwen3.server.documents import documented
from qwen3.server.errors import ApiError
from qwen3.server.openai_chat import greedy_warning
from qwen3.server.responses_schema import (
    FunctionCallItem,
    FunctionCallOutputItem,
    MessageItem,
    ReasoningItem,
    ResponsesRequest,
    TextFormat,
    ToolMode,
)
from qwen3.server.service import Service
from qwen3.server.streaming import event as sent
from qwen3.server.streaming import joined
from qwen3.server.worker import Batch, Work

_TEXTS = {"reasoning": "reasoning_text", "text": "output_text", "call": "function_call_arguments"}
_ID_PREFIXES = {"reasoning": "rs", "text": "msg", "call": "fc"}


def prepare(llm: LLM, body: ResponsesRequest, params: SamplingParams) -> Generation:
    """Raises ValueError for what the schema could not see: tools' schemas, the context's length."""
    generation = llm.prepare_chat(
        messages(body),
        [function_tool(tool.name, tool.description, tool.parameters, tool.strict) for tool in body.offered_tools],
        body.is_thinking,
        params,
        thinking_budget=body.thinking_budget,
        tool_choice=body.tool_name,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        constraint=body.constraint,
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
    )
    generation.report(progress=bool(body.stream and body.return_progress))
    return generation


def messages(body: ResponsesRequest) -> list[dict[str, Any]]:
    """The input as messages of chat completions."""
    conversation = Conversation()
    if body.instructions is not None:
        conversation.say("system", body.instructions)
    for item in body.input:
        match item:
            case MessageItem(role=role, content=parts):
                conversation.say(role, _text(parts))
            case ReasoningItem(content=parts, summary=summary):
                conversation.reason(_text(parts or summary or ()))
            case FunctionCallItem(call_id=id, name=name, arguments=arguments):
                conversation.call(id, name, arguments)
            case FunctionCallOutputItem(call_id=id, output=parts):
                conversation.result(id, _text(parts))
    return conversation.messages


def _text(parts: Iterable[Any]) -> str:
    return "".join(part.text for part in parts)


class ResponsesWire:
    """One response's wire format."""

    generations: Sequence[Work]

    def __init__(self, id: str, body: ResponsesRequest, params: SamplingParams, model: str) -> None:
        """`id` begins with resp_."""
        self.id = id
        self._has_timings = bool(body.timings_per_token)
        self._blocks = BlockStream()
        self._num_sent = 0
        self._response = _described(body, params) | {
            "id": id,
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "usage": None,
        }

    def opening(self) -> bytes:
        kinds = ("response.created", "response.in_progress")
        return _encoded(self._event(kind, response=dict(self._response)) for kind in kinds)

    def encode(self, batch: Batch) -> bytes:
        return _encoded(message for _, event, _ in joined(batch) for message in self._messages(event))

    def failure(self, error: ApiError) -> bytes:
        code = "server_error" if error.status >= 500 else "invalid_prompt"
        self._response |= {"status": "failed", "error": {"code": code, "message": error.message}}
        return _encoded([self._event("response.failed", response=self._response)])

    def closing(self) -> bytes:
        return b""

    def whole(self, answers: Sequence[Sequence[Any]]) -> dict[str, Any]:
        for event in answers[0]:
            for _ in self._messages(event):
                pass
        return self._response

    def _messages(self, event: Event | Progress | Finished) -> Iterator[dict[str, Any]]:
        """What the stream says about an event."""
        match event:
            case Finished():
                yield from self._end(event)
            case Progress():
                progress = {"total": event.total, "cache": event.cached, "processed": event.processed}
                more = {"prompt_progress": progress | {"time_ms": event.seconds * 1000}}
                yield self._event("response.in_progress", response=dict(self._response), **more)
            case _:
                for change in self._blocks.feed(event):
                    yield from self._change(change)

    def _end(self, finished: Finished) -> Iterator[dict[str, Any]]:
        is_whole = finished.reason in (FinishReason.STOP, FinishReason.TOOL_CALLS)
        status = "completed" if is_whole else "incomplete"
        for change in self._blocks.close():
            yield from self._change(change, status)
        self._response |= {"status": status, "usage": _usage(finished.usage)}
        if is_whole:
            self._response["completed_at"] = int(time.time())
        else:
            self._response["incomplete_details"] = {"reason": "max_output_tokens"}
        yield self._event(f"response.{status}", response=self._response, **self._timings())

    def _change(self, change: Change, status: str = "completed") -> Iterator[dict[str, Any]]:
        """`status` is that of an item that closes."""
        block = change.block
        kind = f"response.{_TEXTS[block.kind]}"
        item_id = f"{_ID_PREFIXES[block.kind]}_{self.id.removeprefix('resp_')}_{block.index}"
        place: dict[str, Any] = {"item_id": item_id, "output_index": block.index}
        if block.kind != "call":
            place["content_index"] = 0
        logprobs = {"logprobs": []} if block.kind == "text" else {}
        match change:
            case Opened():
                item = _item(block, item_id, "in_progress")
                yield self._event("response.output_item.added", output_index=block.index, item=item)
                if block.kind != "call":
                    yield self._event("response.content_part.added", **place, part=_part(block))
            case Grew(_, text):
                yield self._event(f"{kind}.delta", **place, delta=text, **logprobs, **self._timings())
            case Closed():
                item = _item(block, item_id, status)
                self._response["output"] = [*self._response["output"], item]
                whole = {"arguments" if block.kind == "call" else "text": block.text}
                yield self._event(f"{kind}.done", **place, **whole, **logprobs)
                if block.kind != "call":
                    yield self._event("response.content_part.done", **place, part=_part(block))
                yield self._event("response.output_item.done", output_index=block.index, item=item)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        message = {"type": kind, "sequence_number": self._num_sent, **fields}
        self._num_sent += 1
        return message

    def _timings(self) -> dict[str, Any]:
        return {"timings": timings(self.generations[0].finished.usage)} if self._has_timings else {}


def _encoded(messages: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(sent(message, message["type"]) for message in messages)


def _item(block: Block, id: str, status: str) -> dict[str, Any]:
    """An item of the output; one in progress is still empty."""
    item: dict[str, Any] = {"id": id, "status": status}
    if block.kind == "call":
        arguments = "" if status == "in_progress" else block.text
        return item | {"type": "function_call", "call_id": block.id, "name": block.name, "arguments": arguments}
    content = [] if status == "in_progress" else [_part(block)]
    if block.kind == "text":
        return item | {"type": "message", "role": "assistant", "content": content}
    return item | {"type": "reasoning", "summary": [], "content": content, "encrypted_content": None}


def _part(block: Block) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": block.text}
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": []}


def _described(body: ResponsesRequest, params: SamplingParams) -> dict[str, Any]:
    """What a response says about its request, and about what was made of it."""
    choice, reasoning = body.tool_choice or ToolMode(type="auto"), body.reasoning
    text_format = (body.text and body.text.format) or TextFormat()
    return {
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning and reasoning.effort, "summary": reasoning and reasoning.summary},
        "store": False,
        "temperature": params.temperature,
        "text": {"format": text_format.model_dump(exclude_none=True)},
        "tool_choice": choice.type if isinstance(choice, ToolMode) else choice.model_dump(),
        "tools": [tool.model_dump() for tool in body.tools or ()],
        "top_p": params.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def _usage(counts: Usage) -> dict[str, Any]:
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
    }


def responses_router(service: Service) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])

    async def responses(request: Request, body: ResponsesRequest) -> Response:
        service.note_unknown(body)
        service.check_model(body.model)
        llm = service.llm
        params = replace(llm.defaults(body.is_thinking), **body.sampling())
        wire = ResponsesWire(service.answer_id("resp_", request), body, params, service.names[0])
        headers = greedy_warning(llm, params, body.is_thinking)
        return await service.reply(request, wire, bool(body.stream), lambda: prepare(llm, body, params), headers)

    documented(router, "/v1/responses", responses, block_answers.Response, is_streamed=True)
    router.add_api_route("/responses", responses, methods=["POST"], include_in_schema=False)
    return router
