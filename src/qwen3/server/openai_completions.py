"""OpenAI's text completions: a request to generations, events to chunks or to one answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen3.chat import Content, TokenText
from qwen3.engine.generation import Logprobs, Progress
from qwen3.engine.llm import LLM
from qwen3.engine.request import Finished, TokenLogprob, Usage
from qwen3.engine.scoring import PromptLogprobs
from qwen3.server import answers
from qwen3.server.bodies import StrictRoute
from qwen3.server.completions_schema import CompletionRequest
from qwen3.server.counts import timings, usage
from qwen3.server.documents import documented
from qwen3.server.openai_chat import FINGERPRINT, sampling_of
from qwen3.server.service import Service
from qwen3.server.streaming import encode, joined, openai_closing, openai_failure
from qwen3.server.worker import Batch, Work


def prepare(llm: LLM, body: CompletionRequest) -> list[Work]:
    """A generation for each answer to each prompt. Raises ValueError for what the schema could not see."""
    works: list[Work] = []
    for prompt in body.prompt:
        for params in sampling_of(llm, body, thinking=False):
            generation = llm.prepare_completion(
                prompt,
                params,
                constraint=body.constraint,
                priority=body.priority or 0,
                cache_salt=body.cache_salt or "",
            )
            progress = bool(body.stream and body.return_progress)
            has_logprobs = body.logprobs is not None
            generation.report(progress=progress, logprobs_of=llm.tokenizer if has_logprobs else None)
            if body.echo and (has_logprobs or body.max_tokens == 0):
                then = generation if body.max_tokens != 0 else None
                works.append(llm.prepare_scoring(generation.prompt_ids, body.logprobs or 0, then))
            else:
                works.append(generation)
    return works


class CompletionWire:
    """One request's wire format."""

    generations: Sequence[Work]

    def __init__(self, id: str, body: CompletionRequest, service: Service) -> None:
        self.id = id
        self._body, self._tokenizer = body, service.llm.tokenizer
        self._fields = {
            "id": id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.names[0],
            "system_fingerprint": FINGERPRINT,
        }
        self._head = f'data: {encode(self._fields)[:-1]},"choices":['
        self._finished: dict[int, Usage] = {}
        self._num_chars: dict[int, int] = {}

    def whole(self, answers: Sequence[Sequence[Any]]) -> dict[str, Any]:
        counts = [events[-1].usage for events in answers]
        choices = [self._choice(i, events) for i, events in enumerate(answers)]
        totals = {"usage": usage(counts, self._body.n or 1), "timings": timings(counts[0])}
        return self._fields | {"choices": choices} | totals

    def _choice(self, index: int, events: Sequence[Any]) -> dict[str, Any]:
        echoed = self._echo(index)
        text = echoed + "".join(event.text for event in events if isinstance(event, Content))
        logprobs = None
        if self._body.logprobs is not None:
            tokens: list[TokenText] = []
            for event in events:
                if isinstance(event, PromptLogprobs):
                    tokens += self._prompt_tokens(index, event)
                elif isinstance(event, Logprobs):
                    tokens += event.tokens
            logprobs = self._logprobs(tokens, 0)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": str(events[-1].reason)}

    def opening(self) -> bytes:
        return b"".join(self._chunk(i, self._echo(i)) for i in range(len(self.generations)) if self._body.echo)

    def encode(self, batch: Batch) -> bytes:
        return b"".join([self._encode(*item) for item in joined(batch)])

    def _encode(self, index: int, event: Any, tokens: Sequence[TokenText]) -> bytes:
        match event:
            case Content(text):
                return self._chunk(index, text, tokens=tokens)
            case Progress():
                progress = {"total": event.total, "cache": event.cached, "processed": event.processed}
                return self._chunk(index, more={"prompt_progress": progress | {"time_ms": event.seconds * 1000}})
            case Finished():
                return self._end(index, event)
            case None:
                return self._chunk(index, tokens=tokens)
        return b""

    def _end(self, index: int, finished: Finished) -> bytes:
        self._finished[index] = finished.usage
        if not self._body.includes_usage:
            return self._chunk(index, reason=finished.reason, more={"timings": timings(finished.usage)})
        last = b""
        if len(self._finished) == len(self.generations):
            counts = [self._finished[i] for i in range(len(self.generations))]
            totals = {"usage": usage(counts, self._body.n or 1), "timings": timings(counts[0])}
            last = f"{self._head}],{encode(totals)[1:-1]}}}\n\n".encode()
        return self._chunk(index, reason=finished.reason) + last

    def _chunk(
        self,
        index: int,
        text: str = "",
        *,
        tokens: Sequence[TokenText] = (),
        reason: str | None = None,
        more: dict[str, Any] | None = None,
    ) -> bytes:
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = self._logprobs(tokens, self._num_chars.get(index, 0))
            self._num_chars[index] = self._num_chars.get(index, 0) + sum(len(token.text) for token in tokens)
        end = f'"{reason}"' if reason else "null"
        choice = f'{{"index":{index},"text":{encode(text)},"logprobs":{encode(logprobs)},"finish_reason":{end}}}'
        tail = f",{encode(more)[1:-1]}" if more else ""
        return f"{self._head}{choice}]{tail}}}\n\n".encode()

    # ---- The prompt -------------------------------------------------------------------------------------------

    def _echo(self, index: int) -> str:
        return self._tokenizer.decode(self.generations[index].prompt_ids) if self._body.echo else ""

    def _prompt_tokens(self, index: int, scores: PromptLogprobs) -> Iterator[TokenText]:
        detokenizer = self._tokenizer.detokenizer()
        ids = self.generations[index].prompt_ids
        for i, (id, score) in enumerate(zip(ids, [None, *scores.tokens], strict=True)):
            text = detokenizer.feed([id]) + (detokenizer.finish() if i == len(ids) - 1 else "")
            yield TokenText(score, text, self._tokenizer.token_bytes(id))

    # ---- Log-probabilities ------------------------------------------------------------------------------------

    def _logprobs(self, tokens: Sequence[TokenText], begin: int) -> dict[str, Any]:
        """In the form of the old completions; the text of the first token begins at the character `begin`."""
        offsets = [begin]
        for token in tokens:
            offsets.append(offsets[-1] + len(token.text))
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [None if token.owner is None else token.owner.logprob for token in tokens],
            "top_logprobs": [self._alternatives(token.owner, token.text) for token in tokens],
            "text_offset": offsets[:-1],
        }

    def _alternatives(self, score: TokenLogprob | None, text: str) -> dict[str, float] | None:
        """The likeliest tokens and the one that was taken. Where two have the same text, the likelier counts."""
        if score is None:
            return None
        found: dict[str, float] = {}
        for id, logprob in score.top:
            found.setdefault(self._tokenizer.decode([id]), logprob)
        if all(id != score.token_id for id, _ in score.top):
            found.setdefault(text, score.logprob)
        return found

    failure = staticmethod(openai_failure)
    closing = staticmethod(openai_closing)


def completions_router(service: Service) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])

    async def completions(request: Request, body: CompletionRequest) -> Response:
        service.note_unknown(body)
        service.check_model(body.model)
        llm = service.llm
        wire = CompletionWire(service.answer_id("cmpl-", request), body, service)
        return await service.reply(request, wire, bool(body.stream), lambda: prepare(llm, body))

    documented(router, "/v1/completions", completions, answers.TextCompletion, is_streamed=True)
    router.add_api_route("/completions", completions, methods=["POST"], include_in_schema=False)
    return router
