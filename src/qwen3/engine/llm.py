"""`LLM`: a loaded checkpoint that chats and completes text.

The one place where the engine's token ids meet the tokenizer and the chat format.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from qwen3.chat import ChatFormat, Event, StreamParser, StreamState, fold, load_format, start_state
from qwen3.checkpoint import gguf_model
from qwen3.checkpoint.generation_config import load_generation_config
from qwen3.checkpoint.gguf import GGUFFile
from qwen3.checkpoint.hub import resolve
from qwen3.checkpoint.load import Progress
from qwen3.engine.blocks import BLOCK_TOKENS
from qwen3.engine.capacity import plan_cache
from qwen3.engine.engine import Engine, Load, chunk_of, make_pool
from qwen3.engine.generation import Generation
from qwen3.engine.guide import Guide
from qwen3.engine.loading import Notify, load_checkpoint
from qwen3.engine.prompts import Prompt, Prompts
from qwen3.engine.request import NON_THINKING, THINKING, Finished, Request, RequestError, SamplingParams
from qwen3.engine.results import ChatResult, Completion
from qwen3.engine.rules import Guides, offered_tools
from qwen3.engine.scoring import ScoredPrompt
from qwen3.engine.thinking import ThinkingPolicy
from qwen3.grammar import Constraint
from qwen3.hardware import available_bytes
from qwen3.model import Qwen3
from qwen3.model.transforms import storage_of, stored_bytes
from qwen3.ops.paged import KV_FORMATS
from qwen3.tokenizer import Tokenizer

_GENERATION_KEYS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class LLM:
    """A model with its tokenizer and chat format, ready to generate on this machine.

    Not thread-safe: streams may be interleaved in one thread, each advances all of them.
    """

    def __init__(
        self,
        model: str | Path = "builtin",
        *,
        dtype: str | None = None,
        weights: Literal["auto", "bf16", "int8", "int4"] | None = None,
        cache_packed: bool = False,
        kv: Literal["bf16", "fp16", "int8", "fp32"] | None = None,
        device: str = "cpu",
        revision: str | None = None,
        offline: bool = False,
        max_context: int | None = None,
        kv_tokens: int | None = None,
        speculate: bool = True,
        yarn: float | None = None,
        progress: Progress | None = None,
        notify: Notify | None = None,
    ) -> None:
        """Load a checkpoint.

        Args:
            model: a directory, a GGUF file, a hub name such as 'Qwen/Qwen3-4B', or 'builtin'.
            dtype: 'float32', 'bfloat16' or 'float16'; None keeps the checkpoint's. A GGUF file is dequantized into it;
                None runs it on the CPU at its own precision, with float32 activations.
            weights: 'int8' or 'int4' packs the matrices in groups of 32, as they are read, for the native CPU kernels:
                less memory, and several times the speed. 'bf16' is another word for dtype 'bfloat16'. 'auto' chooses
                by the model's size and the memory that is free (`qwen3.weight_choice`), and leaves as they are GGUF
                files, models on a GPU, and whatever has a `dtype`. None, the default here, changes no number: whoever
                wants another model than the checkpoint's must say so.
            cache_packed: keep what was packed in the user's cache directory, and start from there the next time.
            kv: how a model on the native kernels keeps keys and values: 'bf16', which None takes, 'fp16', 'fp32', or
                'int8', which takes half the memory and reads faster behind a long context. Other models keep them in
                their dtype.
            device: where torch puts the model, 'cpu' or 'cuda'.
            revision: branch, tag or commit on the hub.
            offline: use only what is already on this machine.
            max_context: refuse sequences of more tokens than this; None takes the model's own limit, or what fits.
            kv_tokens: positions that the cache of keys and values holds, of all sequences together and of what it
                remembers; None takes what memory gives (`engine.capacity`).
            speculate: guess tokens of texts that repeat themselves, where that is faster; changes no token. For models
                on the native kernels.
            yarn: stretch the context by this factor, e.g. 4 for 131,072 tokens (it costs quality on short texts).
            progress: called with (bytes loaded, bytes in all).
            notify: called with a line that says what 'auto' chose and why, if it changes the weights;
                and with one that says how much context fits, if that is less than the model's own.

        Raises ValueError (ConfigError, CheckpointError, ...) or OSError naming what is wrong with the checkpoint.
        """
        if kv not in (None, *KV_FORMATS):
            raise RequestError(f"kv {kv!r} is not one of {', '.join(KV_FORMATS)}")
        path = resolve(str(model), revision=revision, offline=offline)
        self.name = str(model)
        available = available_bytes()
        if path.is_file():
            source = GGUFFile(path)
            self.tokenizer = gguf_model.tokenizer(source)
            chat_format = gguf_model.chat_format(source, self.tokenizer)
            generation = gguf_model.generation_config(source)
        else:
            source = path
            self.tokenizer = Tokenizer.load(path)
            chat_format = load_format(path)
            generation = load_generation_config(path)
        self.model = load_checkpoint(
            source,
            dtype=dtype,
            weights=weights,
            cache_packed=cache_packed,
            device=device,
            progress=progress,
            notify=notify,
        )
        if yarn is not None:
            self.model.config = self.model.config.with_yarn(yarn)
        self.config = self.model.config
        capacity = plan_cache(
            self.config,
            free_bytes=_free_beside(self.model, available),
            bytes_per_token=make_pool(self.model, kv).bytes_per_token,
            chunk=chunk_of(self.model),
            max_context=max_context,
            kv_tokens=kv_tokens,
            is_packed=self.model.is_packed,
        )
        if capacity.line and notify is not None:
            notify(capacity.line)
        self.max_context = capacity.max_context
        self._prompts = Prompts(self.tokenizer, chat_format, self.max_context, self.config.vocab_size)
        self._sampling = {key: generation[key] for key in _GENERATION_KEYS if generation.get(key) is not None}
        self._eos_ids = frozenset(self.config.eos_token_ids) | frozenset(generation.get("eos_token_id") or ())
        self._guides = Guides(self.tokenizer, self.config.vocab_size, self._eos_ids or {self.tokenizer.eos_id})
        self._engine = Engine(self.model, kv, num_blocks=capacity.num_blocks, speculates=speculate)

    @property
    def format(self) -> ChatFormat:
        return self._prompts.format

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def storage(self) -> str:
        """The weights' formats and the dtype of activations, such as 'q4_k + q6_k weights in float32'."""
        return storage_of(self.model)

    def defaults(self, thinking: bool = True) -> SamplingParams:
        """The sampling that the checkpoint, or for the other mode the model card, recommends."""
        if thinking or self.format is ChatFormat.INSTRUCT_2507:
            base = NON_THINKING if self.format is ChatFormat.INSTRUCT_2507 else THINKING
            return replace(base, **self._sampling)
        return NON_THINKING

    # ---- Chat -------------------------------------------------------------------------------------------------

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = True,
        params: SamplingParams | None = None,
        *,
        stream: Literal[True] = True,
        **options: Any,
    ) -> Iterator[Event | Finished]: ...

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = True,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False],
        **options: Any,
    ) -> ChatResult: ...

    def chat(self, messages, tools=None, thinking=True, params=None, *, stream=True, **options):
        """Answer a conversation; arguments and errors are those of `prepare_chat`.

        With `stream` this yields Reasoning, Content, ToolCall and ToolCallDelta events and last Finished, as they
        come; closing the iterator stops the computation. Without, it returns their sum, a ChatResult.
        """
        events = self._events(self.prepare_chat(messages, tools, thinking, params, **options))
        if stream:
            return events
        *parts, finished = events
        message = fold(parts)
        return ChatResult(
            message.content, message.reasoning, message.tool_calls, finished.reason, finished.usage, finished.error
        )

    def prepare_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = True,
        params: SamplingParams | None = None,
        *,
        thinking_budget: int | None = None,
        tool_choice: str = "auto",
        parallel_tool_calls: bool = True,
        constraint: Constraint | None = None,
        continue_final_message: bool = False,
        add_generation_prompt: bool = True,
        answer_reserve: int | None = None,
        loop_guard: bool = False,
        priority: int = 0,
        cache_salt: str = "",
    ) -> Generation:
        """The answer to a conversation, not yet started.

        For who steps the engine for many requests: see `step`. Unlike the rest it may be called from any thread.

        Args:
            messages: role / content objects as in the OpenAI API.
            tools: function definitions as in the OpenAI API.
            thinking: the hard switch; while it is on, `/think` and `/no_think` in the messages choose.
            params: sampling; None takes `defaults(thinking)`.
            thinking_budget: reasoning tokens after which the model is told to answer.
            tool_choice: 'none', 'auto', 'required' (at least one call, after any thinking), or the name of the tool to
                call, once. Arguments follow the tool's schema, with 'auto' where the tool says `strict: true`; else
                they are any JSON object. A call that `max_tokens` cuts short is in the answer as far as it came.
            parallel_tool_calls: whether the answer may make more than one call.
            constraint: what the answer's text must be. It does not bind the thinking, or tool calls.
            continue_final_message: go on with the last message, from the assistant; a constraint binds all of it.
            add_generation_prompt: have the prompt begin the assistant's turn.
            answer_reserve: end the thinking where only so many of the request's tokens are left for the answer.
            loop_guard: end thinking, or a free answer, that repeats itself.
            priority: the lower, the earlier it is served.
            cache_salt: requests share cached prompts only with those of the same salt.

        Raises ChatError for malformed messages, ContextError where they do not fit, GrammarError for constraints and
        schemas that cannot be enforced, RequestError for bad options.
        """
        with self._prompts.within_context() as limit:
            prompt = self.render_chat(
                messages,
                tools,
                thinking,
                tool_choice=tool_choice,
                continue_final_message=continue_final_message,
                add_generation_prompt=add_generation_prompt,
                limit=limit,
            )
        offered = offered_tools(tools, tool_choice)
        params = params or self.defaults(thinking)
        state = start_state(prompt.rendered)
        guide = self._guides.chat(
            state,
            self._room(prompt.ids, params),
            ThinkingPolicy(thinking_budget, answer_reserve, loop_guard),
            offered,
            tool_choice,
            parallel=parallel_tool_calls,
            constraint=constraint,
            written=prompt.rendered.open_text if state is StreamState.CONTENT else "",
            may_think=self.format is not ChatFormat.INSTRUCT_2507,
        )
        parser = StreamParser(
            self.tokenizer,
            state,
            stop=params.stop,
            tool_names={tool.name for tool in offered},
            call_id_prefix=f"call_{len(messages)}_",
            streams_calls=True,
            parallel_calls=parallel_tool_calls,
        )
        request = self._request(prompt.ids, params, guide, priority, cache_salt)
        # The next prompt does not begin with two messages where this one is one.
        history = None if continue_final_message else partial(self._prompts.history, list(messages), tools, thinking)
        return Generation(self._engine, request, parser, history)

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = True,
        *,
        limit: int | None = None,
        **options: Any,
    ) -> Prompt:
        """The prompt of `prepare_chat` with these arguments. Raises TokenLimitError for more than `limit` tokens."""
        return self._prompts.chat(messages, tools, thinking, limit=limit, **options)

    # ---- Completion -------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Completion]:
        """Continue raw texts or token ids, all of them together; results in the order of the prompts.

        Control-token strings in a text prompt become control tokens, so never put untrusted text here: that is
        what `chat` is for. `params` may be one for all or one for each prompt.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if params is None or isinstance(params, SamplingParams):
            params = [params or self.defaults(thinking=False)] * len(prompts)
        if len(params) != len(prompts):
            raise RequestError(f"{len(prompts)} prompts but {len(params)} sampling parameters")
        generations = [self.prepare_completion(prompt, each) for prompt, each in zip(prompts, params, strict=True)]
        for generation in generations:
            generation.start()
        events: list[list[Event]] = [[] for _ in generations]
        try:
            while not all(generation.is_done for generation in generations):
                self._engine.step()
                for generation, parts in zip(generations, events, strict=True):
                    parts += generation.poll()
        finally:
            for generation in generations:
                generation.cancel()
        return [
            Completion(
                text=fold(parts).content,
                token_ids=generation.request.generated_ids,
                finish_reason=generation.request.finish_reason,
                logprobs=generation.request.logprobs,
                usage=generation.usage,
            )
            for generation, parts in zip(generations, events, strict=True)
        ]

    def stream(self, prompt: str | Sequence[int], params: SamplingParams | None = None) -> Iterator[Event | Finished]:
        """Continue one raw text or token ids: Content events as they come, and last Finished."""
        return self._events(self.prepare_completion(prompt, params))

    def prepare_completion(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        constraint: Constraint | None = None,
        priority: int = 0,
        cache_salt: str = "",
    ) -> Generation:
        """The continuation of one raw text or token ids, not yet started: `stream` as `prepare_chat` is to `chat`."""
        params = params or self.defaults(thinking=False)
        prompt_ids = self._prompts.ids(prompt)
        parser = StreamParser(self.tokenizer, StreamState.RAW, stop=params.stop)
        guide = None if constraint is None else self._guides.completion(self._room(prompt_ids, params), constraint)
        return Generation(self._engine, self._request(prompt_ids, params, guide, priority, cache_salt), parser)

    def prepare_scoring(
        self, prompt: str | Sequence[int], num_top: int, then: Generation | None = None
    ) -> ScoredPrompt:
        """Log-probabilities of a prompt's tokens, with `num_top` alternatives each, and then its continuation."""
        prompt_ids = self._prompts.ids(prompt)
        self._prompts.check(prompt_ids)
        return ScoredPrompt(self._engine, self.model, prompt_ids, num_top, then)

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Next-token logits of every position: float32 [T, V]."""
        self._prompts.check(token_ids)
        return self.model.logits(self._engine.hidden(token_ids)).float()

    # ---- Requests ---------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Advance the generations that were started by a chunk of their prompts or by tokens, which
        `Generation.poll` reads."""
        self._engine.step()

    @property
    def has_idle_work(self) -> bool:
        """Whether `idle_step` has something to do."""
        return self._engine.has_idle_work

    def idle_step(self) -> None:
        """While nothing runs: compute a little of how conversations will go on, so that their next turn finds it."""
        self._engine.idle_step()

    @property
    def cache_tokens(self) -> int:
        """Positions of the cache, for all sequences that run or are remembered."""
        return self._engine.blocks.capacity * BLOCK_TOKENS

    @property
    def load(self) -> Load:
        """What runs and waits, and how full the cache is."""
        return self._engine.load

    @property
    def backlog_seconds(self) -> float:
        """About how long a generation that is started now would wait for its first token."""
        return self._engine.backlog_seconds

    def _room(self, prompt_ids: Sequence[int], params: SamplingParams) -> int:
        """Tokens that a request may generate."""
        room = self.max_context - len(prompt_ids)
        return room if params.max_tokens is None else min(room, params.max_tokens)

    def _request(
        self, prompt_ids: list[int], params: SamplingParams, guide: Guide | None, priority: int, cache_salt: str
    ) -> Request:
        self._prompts.check(prompt_ids)
        params.check_tokens(self.config.vocab_size)
        stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self._eos_ids)
        seed = secrets.randbits(63) if params.seed is None else params.seed
        return Request(prompt_ids, params, seed, stop_ids, self.max_context, guide, priority, cache_salt)

    def _events(self, generation: Generation) -> Iterator[Event | Finished]:
        # Started at the first next(): an iterator that nobody starts must not run beside the others.
        generation.start()
        try:
            while not generation.is_done:
                self._engine.step()
                yield from generation.poll()
            yield generation.finished
        finally:
            generation.cancel()


def _free_beside(model: Qwen3, available: int) -> int:
    """Memory that is left beside a loaded model, of what was `available` before: mapped weights count as free after."""
    if model.device.type == "cpu":
        return available - sum(stored_bytes(model).values())
    return torch.cuda.mem_get_info(model.device)[0]
