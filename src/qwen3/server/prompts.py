"""Prompts without a generation: text to tokens and back, and the prompt that a chat request stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from qwen3.engine.llm import LLM
from qwen3.engine.prompts import Prompt
from qwen3.server import answers, limits
from qwen3.server.bodies import StrictRoute
from qwen3.server.chat_schema import ChatRequest
from qwen3.server.completions_schema import DetokenizeRequest, TokenizeRequest
from qwen3.server.documents import documented
from qwen3.server.openai_chat import in_our_roles
from qwen3.server.service import Service


def prompts_router(service: Service) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["Prompts"])

    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        service.note_unknown(body)
        service.check_model(body.model)
        llm = service.llm
        tokens = await service.in_thread(lambda: _tokens(llm, body))
        return {"tokens": tokens, "count": len(tokens), "max_model_len": llm.max_context}

    async def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        service.note_unknown(body)
        service.check_model(body.model)
        llm = service.llm
        return {"content": await service.in_thread(lambda: _text(llm, body.tokens))}

    async def render(body: ChatRequest) -> dict[str, Any]:
        """The prompt of this chat request: as text, in which control tokens have their names, and as ids."""
        service.note_unknown(body)
        service.check_model(body.model)
        llm = service.llm
        prompt = await service.in_thread(lambda: _prompt(llm, body))
        counts = {"count": len(prompt.ids), "max_model_len": llm.max_context}
        return {"prompt": prompt.text, "tokens": prompt.ids} | counts

    async def apply_template(body: ChatRequest) -> dict[str, Any]:
        """The text of this chat request's prompt, by llama.cpp's name."""
        return {"prompt": (await render(body))["prompt"]}

    documented(router, "/tokenize", tokenize, answers.Tokens)
    documented(router, "/detokenize", detokenize, answers.Text)
    documented(router, "/v1/chat/completions/render", render, answers.Rendered)
    documented(router, "/apply-template", apply_template, answers.Prompt)
    return router


def _tokens(llm: LLM, body: TokenizeRequest) -> Sequence[Any]:
    ids = _ids(llm, body)
    return [_piece(llm, id) for id in ids] if body.with_pieces else ids


def _ids(llm: LLM, body: TokenizeRequest) -> Sequence[int]:
    if body.messages is None:
        text = body.content if body.content is not None else body.prompt
        return llm.tokenizer.encode(text, control=body.parse_special, limit=limits.IDS)
    prompt = llm.render_chat(
        in_our_roles(body.messages),
        body.tools,
        add_generation_prompt=body.add_generation_prompt,
        limit=limits.IDS,
    )
    return prompt.ids


def _text(llm: LLM, ids: Sequence[int]) -> str:
    if (largest := max(ids, default=0)) >= llm.config.vocab_size:
        raise ValueError(f"tokens: {largest} is not an id below {llm.config.vocab_size}")
    return llm.tokenizer.decode(ids)


def _piece(llm: LLM, id: int) -> dict[str, Any]:
    data = llm.tokenizer.token_bytes(id)
    try:
        return {"id": id, "piece": data.decode()}
    except UnicodeDecodeError:
        return {"id": id, "piece": list(data)}


def _prompt(llm: LLM, body: ChatRequest) -> Prompt:
    return llm.render_chat(
        in_our_roles(body.messages),
        body.tools,
        body.is_thinking,
        tool_choice=body.tool_name,
        continue_final_message=bool(body.continue_final_message),
        add_generation_prompt=body.add_generation_prompt is not False,
        limit=limits.IDS,
    )
