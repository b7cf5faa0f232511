"""`qwen3 generate`: prompts in, answers out, for pipes, scripts and batches."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen3.cli import options
from qwen3.strict_json import parse_object

if TYPE_CHECKING:
    from qwen3.chat import Event
    from qwen3.engine.request import Finished

_KEYS = frozenset({"id", "prompt", "messages", "tools"})


def generate(
    model: options.Model = "builtin",
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT...", help="Each is one request: quote it. Default: all of stdin is one."),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help='JSON lines, one request each: {"prompt": ...} or {"messages": ..., "tools": ...}, and an "id".',
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a request, in the order of the requests.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without the chat format.")] = False,
    system: options.System = None,
    batch: Annotated[int, typer.Option(min=1, help="With --json, requests computed together.")] = 8,
    thinking: options.Thinking = True,
    thinking_budget: options.ThinkingBudget = None,
    hide_thinking: options.HideThinking = False,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    presence_penalty: options.PresencePenalty = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End the answer at this text; may be repeated.", show_default=False)
    ] = None,
    dtype: options.Dtype = None,
    weights: options.Weights = "auto",
    cache_packed: options.CachePacked = False,
    kv: options.Kv = None,
    device: options.Device = "cpu",
    max_context: options.MaxContext = None,
    yarn: options.Yarn = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
) -> None:
    """Answer or continue prompts.

    The answer goes to stdout as it is computed, the reasoning to stderr. With --json each request gives one object:
    text, reasoning, tool_calls, finish_reason, usage; a request that cannot be served has an error in it instead,
    and an answer that its rules broke off one beside its text; the others go on, and the exit code is 1.

    Examples:

    \b
      echo "What is 17 + 25?" | qwen3 generate --no-thinking
      qwen3 generate builtin "12 + 30" "7 * 8" --json
      qwen3 generate Qwen/Qwen3-4B-Base --raw "The capital of France is" --max-tokens 20
      qwen3 generate Qwen/Qwen3-4B --input requests.jsonl --json --batch 16 > answers.jsonl
    """
    options.refuse_text_as_model(model)
    if input_file is not None and prompts:
        raise typer.BadParameter("requests come from --input or from PROMPT, not both", param_hint="--input")
    if raw and system is not None:
        raise typer.BadParameter("--raw has no messages, and so no system message", param_hint="--system")
    overrides = options.sampling_overrides(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        presence_penalty=presence_penalty,
        repetition_penalty=repetition_penalty,
        seed=seed,
        max_tokens=max_tokens,
        stop=tuple(stop) if stop else None,
    )
    if input_file is not None:
        requests = _read_requests(input_file, raw)
    else:
        # The newline that `echo` adds is not part of the prompt.
        requests = [{"prompt": text} for text in prompts or [options.read_stdin().removesuffix("\n")]]
    llm = options.load_llm(
        model,
        dtype=dtype,
        weights=weights,
        cache_packed=cache_packed,
        kv=kv,
        device=device,
        max_context=max_context,
        yarn=yarn,
        revision=revision,
        offline=offline,
    )
    params = replace(llm.defaults(thinking and not raw), **overrides)

    def start(request: dict[str, Any]) -> Iterator[Event | Finished]:
        if raw:
            return llm.stream(request["prompt"], params)
        return llm.chat(
            _messages(request, system),
            tools=request.get("tools"),
            thinking=thinking,
            params=params,
            thinking_budget=thinking_budget,
        )

    if as_json:
        had_error = False
        for result in _answer_together(requests, start, batch):
            had_error |= "error" in result
            print(json.dumps(result, ensure_ascii=False), flush=True)
        if had_error:
            raise typer.Exit(1)
        return
    from qwen3.cli.chat_screen import PipeScreen, View

    screen = PipeScreen(View.HIDE if hide_thinking else View.SHOW)
    for request in requests:
        finished = screen.answer(start(request))
        if finished.error:
            screen.note(f"broken off, as it cannot go on by its rules: {finished.error}")
        if finished.reason == "length":
            screen.note(f"cut short after {finished.usage.completion_tokens:,} tokens: --max-tokens or the context")


def _messages(request: dict[str, Any], system: str | None) -> list[dict[str, Any]]:
    messages = request["messages"] if "messages" in request else [{"role": "user", "content": request["prompt"]}]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def _answer_together(
    requests: list[dict[str, Any]], start: Callable[[dict[str, Any]], Iterator[Event | Finished]], batch: int
) -> Iterator[dict[str, Any]]:
    """The results in the order of the requests, with up to `batch` of them being computed at a time."""
    from qwen3.chat import fold
    from qwen3.engine.request import Finished

    waiting = deque(enumerate(requests))
    running: dict[int, tuple[Iterator[Event | Finished], list[Event]]] = {}
    results: dict[int, dict[str, Any]] = {}
    num_printed = 0
    while waiting or running:
        while waiting and len(running) < batch:
            index, request = waiting.popleft()
            try:
                running[index] = start(request), []
            except ValueError as error:
                results[index] = {"error": str(error)}
        for index, (events, parts) in list(running.items()):
            # One event each in turn: every stream's step computes all that are running.
            event = next(events)
            if not isinstance(event, Finished):
                parts.append(event)
                continue
            del running[index]
            message = fold(parts)
            results[index] = {
                "text": message.content,
                "reasoning": message.reasoning,
                "tool_calls": message.to_dict().get("tool_calls", []),
                "finish_reason": str(event.reason),
                "usage": asdict(event.usage),
            } | ({"error": event.error} if event.error else {})
        while num_printed in results:
            tag = {"id": requests[num_printed]["id"]} if "id" in requests[num_printed] else {}
            yield tag | results.pop(num_printed)
            num_printed += 1


def _read_requests(file: Path, raw: bool) -> list[dict[str, Any]]:
    """The requests of a file of JSON lines. Raises ValueError naming the line and what is wrong with it."""
    requests = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            request = parse_object(line)
            if unknown := sorted(request.keys() - _KEYS):
                raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
            if ("prompt" in request) == ("messages" in request):
                raise ValueError("it needs either prompt or messages")
            if raw and "prompt" not in request:
                raise ValueError("--raw continues a prompt; messages need the chat format")
            if not isinstance(request.get("prompt", ""), str):
                raise ValueError("prompt is not a string")
            if not isinstance(request.get("messages", []), list):
                raise ValueError("messages is not a list")
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
        requests.append(request)
    return requests
