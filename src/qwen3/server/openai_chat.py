"""OpenAI's chat completions: a request to generations, events to chunks or to one answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen3 import __version__
from qwen3.chat import ChatFormat, Content, Reasoning, TokenText, ToolCall, ToolCallDelta, fold
from qwen3.engine.generation import Generation, Logprobs, Progress
from qwen3.engine.llm import LLM
from qwen3.engine.request import Finished, SamplingParams, Usage
from qwen3.server import answers
from qwen3.server.bodies import StrictRoute
from qwen3.server.chat_schema import ChatRequest
from qwen3.server.counts import timings, usage
from qwen3.server.documents import documented
from qwen3.server.errors import ApiError
from qwen3.server.schemas import Common
from qwen3.server.service import Service
from qwen3.server.streaming import encode, joined, openai_closing, openai_failure
from qwen3.server.worker import Batch, Work

FINGERPRINT = f"build-{__version__}"
GREEDY_THINKING = (
    "greedy decoding while thinking tends to repeat without end: leave temperature out for the recommended sampling"
)


def in_our_roles(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with OpenAI's newer name for the system role translated."""
    return [message | {"role": "system"} if message.get("role") == "developer" else message for message in messages]


def sampling_of(llm: LLM, body: Common, *, thinking: bool) -> list[SamplingParams]:
    """The sampling of each answer to one prompt; with a seed, they follow each other."""
    params = replace(llm.defaults(thinking), **body.sampling())
    if params.seed is None:
        return [params] * (body.n or 1)
    seeds = ((params.seed + i + 2**63) % 2**64 - 2**63 for i in range(body.n or 1))
    return [replace(params, seed=seed) for seed in seeds]


def greedy_warning(llm: LLM, params: SamplingParams, is_thinking: bool) -> dict[str, str]:
    """Headers for an answer that its sampling may keep from ending."""
    is_greedy = params.temperature == 0 and is_thinking and llm.format is not ChatFormat.INSTRUCT_2507
    return {"X-Qwen3-Warning": GREEDY_THINKING} if is_greedy else {}


def prepare(llm: LLM, body: ChatRequest) -> list[Generation]:
    """Raises ValueError for what the schema could not see: messages, token ids, the context's length."""
    generations = []
    for params in sampling_of(llm, body, thinking=body.is_thinking):
        generation = llm.prepare_chat(
            in_our_roles(body.messages),
            body.tools,
            body.is_thinking,
            params,
            thinking_budget=body.budget,
            tool_choice=body.tool_name,
            parallel_tool_calls=body.parallel_tool_calls is not False,
            constraint=body.constraint,
            continue_final_message=bool(body.continue_final_message),
            add_generation_prompt=body.add_generation_prompt is not False,
            answer_reserve=body.answer_reserve,
            loop_guard=bool(body.loop_guard),
            priority=body.priority or 0,
            cache_salt=body.cache_salt or "",
        )
        progress = bool(body.stream and body.return_progress)
        generation.report(progress=progress, logprobs_of=llm.tokenizer if body.logprobs else None)
        generations.append(generation)
    return generations


class ChatWire:
    """One request's wire format. What is the same in all chunks of a stream is written once."""

    generations: Sequence[Work]

    def __init__(self, id: str, body: ChatRequest, service: Service) -> None:
        self.id = id
        self._body, self._token_bytes = body, service.llm.tokenizer.token_bytes
        self._emits_reasoning = service.settings.emits_reasoning
        self._fields = {
            "created": int(time.time()),
            "id": id,
            "model": service.names[0],
            "system_fingerprint": FINGERPRINT,
        }
        self._head = f'data: {{"object":"chat.completion.chunk",{encode(self._fields)[1:-1]},"choices":['
        self._finished: dict[int, Usage] = {}

    def whole(self, answers: Sequence[Sequence[Any]]) -> dict[str, Any]:
        counts = [events[-1].usage for events in answers]
        choices = [self._choice(i, events) for i, events in enumerate(answers)]
        totals = {"usage": usage(counts, len(counts)), "timings": timings(counts[0])}
        return {"object": "chat.completion"} | self._fields | {"choices": choices} | totals

    def _choice(self, index: int, events: Sequence[Any]) -> dict[str, Any]:
        message = fold(events).to_dict()
        if message.get("tool_calls") and not message["content"]:
            message["content"] = None
        if self._emits_reasoning and "reasoning_content" in message:
            message["reasoning"] = message["reasoning_content"]
        tokens = [token for event in events if isinstance(event, Logprobs) for token in event.tokens]
        reason = str(events[-1].reason)
        return {"index": index, "message": message, "logprobs": self._logprobs(tokens), "finish_reason": reason}

    def opening(self) -> bytes:
        delta = '{"role":"assistant","content":null}'
        return b"".join(self._chunk(i, delta, has_counts=False) for i in range(len(self.generations)))

    def encode(self, batch: Batch) -> bytes:
        return b"".join([self._encode(*item) for item in joined(batch)])

    def _encode(self, index: int, event: Any, tokens: Sequence[TokenText]) -> bytes:
        match event:
            case Content(text):
                return self._chunk(index, f'{{"content":{encode(text)}}}', tokens=tokens)
            case Reasoning(text):
                also = f',"reasoning":{encode(text)}' if self._emits_reasoning else ""
                return self._chunk(index, f'{{"reasoning_content":{encode(text)}{also}}}')
            case ToolCall() | ToolCallDelta():
                function = {"arguments": event.arguments}
                call: dict[str, Any] = {"index": event.index, "function": function}
                if event.id:
                    call |= {"id": event.id, "type": "function", "function": {"name": event.name} | function}
                return self._chunk(index, encode({"tool_calls": [call]}))
            case Progress():
                progress = {"total": event.total, "cache": event.cached, "processed": event.processed}
                return self._chunk(index, more={"prompt_progress": progress | {"time_ms": event.seconds * 1000}})
            case Finished():
                return self._end(index, event)
            case _:  # tokens whose text came before
                return self._chunk(index, tokens=tokens)

    def _end(self, index: int, finished: Finished) -> bytes:
        self._finished[index] = finished.usage
        if not self._body.includes_usage:
            return self._chunk(index, reason=finished.reason, more={"timings": timings(finished.usage)})
        last = b""
        if len(self._finished) == len(self.generations):
            counts = [self._finished[i] for i in range(len(self.generations))]
            totals = {"usage": usage(counts, len(counts)), "timings": timings(counts[0])}
            last = f"{self._head}],{encode(totals)[1:-1]}}}\n\n".encode()
        return self._chunk(index, reason=finished.reason) + last

    def _chunk(
        self,
        index: int,
        delta: str = "{}",
        *,
        tokens: Sequence[TokenText] = (),
        reason: str | None = None,
        more: dict[str, Any] | None = None,
        has_counts: bool = True,
    ) -> bytes:
        """`delta` is JSON, `more` is what the chunk has beside its choice."""
        logprobs = encode(self._logprobs(tokens)) if self._body.logprobs else "null"
        end = f'"{reason}"' if reason else "null"
        choice = f'{{"index":{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{end}}}'
        if has_counts and (self._body.shows_usage_always or self._body.timings_per_token):
            more = self._counts_so_far(index) | (more or {})
        tail = f",{encode(more)[1:-1]}" if more else ""
        return f"{self._head}{choice}]{tail}}}\n\n".encode()

    def _counts_so_far(self, index: int) -> dict[str, Any]:
        counts = self.generations[index].finished.usage
        shown = {"usage": usage([counts])} if self._body.shows_usage_always else {}
        has_timings = self._body.timings_per_token and counts.completion_tokens
        return shown | ({"timings": timings(counts)} if has_timings else {})

    def _logprobs(self, tokens: Sequence[TokenText]) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        content = [
            {
                "token": token.text,
                "logprob": token.owner.logprob,
                "bytes": list(token.bytes),
                "top_logprobs": [self._alternative(id, logprob) for id, logprob in token.owner.top],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _alternative(self, id: int, logprob: float) -> dict[str, Any]:
        data = self._token_bytes(id)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}

    failure = staticmethod(openai_failure)
    closing = staticmethod(openai_closing)


def chat_router(service: Service) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])

    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        service.note_unknown(body)
        service.check_model(body.model)
        llm = service.llm
        wire = ChatWire(service.answer_id("chatcmpl-", request), body, service)
        params = sampling_of(llm, body, thinking=body.is_thinking)
        headers = greedy_warning(llm, params[0], body.is_thinking)
        return await service.reply(request, wire, bool(body.stream), lambda: prepare(llm, body), headers)

    async def end_thinking(id: str) -> dict[str, Any]:
        """Have a running answer go on after its think block. `id` is the answer's, as in its chunks."""
        if not service.end_thinking(id):
            raise ApiError(404, f"no answer {id[:200]!r} is running")
        return {"id": id, "object": "chat.completion.end_thinking"}

    documented(router, "/v1/chat/completions", chat_completions, answers.ChatCompletion, is_streamed=True)
    router.add_api_route("/chat/completions", chat_completions, methods=["POST"], include_in_schema=False)
    documented(router, "/v1/chat/completions/{id}/end_thinking", end_thinking, answers.EndedThinking)
    return router
