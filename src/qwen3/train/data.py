"""From the curriculum to packed batches.

Which examples a step sees is a function of the step number alone, so the only state of the data is one integer.
A batch says what to predict and how much each prediction weighs; the loop knows nothing else about the task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3.chat.template import render
from qwen3.tokenizer import Tokenizer
from qwen3.train.bbpe import train_tokenizer
from qwen3.train.curriculum import Example, sample


@dataclass(frozen=True)
class Document:
    """Token ids, and for each whether the model is trained to produce it."""

    ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class Batch:
    """Documents packed one after another into T tokens; none sees another."""

    tokens_T: Tensor
    positions_T: Tensor
    lengths: list[int]
    targets_T: Tensor
    """The token after each one; meaningless where the weight is zero."""
    loss_weight_T: Tensor
    """Float32, 1 where the target counts, else 0; never across a document's end."""


def learn_tokenizer(seed: int, num_examples: int, vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` ids, learnt from the first examples of the stream `seed`."""
    conversations = (sample(seed, index).messages for index in range(num_examples))
    tokenizer = train_tokenizer((render(each, add_generation_prompt=False).text for each in conversations), vocab_size)
    if tokenizer.vocab_size != vocab_size:
        raise ValueError(f"{num_examples} examples give a vocabulary of {tokenizer.vocab_size}, not {vocab_size}")
    return tokenizer


def encode(tokenizer: Tokenizer, example: Example) -> Document:
    """The rendered conversation, trained on what the model generates after the last generation prompt only.

    Earlier assistant turns stand in the history without their think blocks, a form that is never generated; and
    with the hard switch off the empty think block is part of the prompt, not of the answer.
    """
    ids, trained = tokenizer.encode_trained(render(example.messages, example.tools, add_generation_prompt=False).spans)
    prompt = tokenizer.encode_spans(render(example.messages[:-1], example.tools, example.thinking, True).spans)
    assert ids[: len(prompt)] == prompt, "training must see the tokens that serving sees"
    return Document(ids, [False] * len(prompt) + trained[len(prompt) :])


def step_documents(tokenizer: Tokenizer, seed: int, step: int, examples_per_step: int) -> list[Document]:
    """The documents of one optimizer step."""
    first = step * examples_per_step
    return [encode(tokenizer, sample(seed, index)) for index in range(first, first + examples_per_step)]


def pack(documents: Iterable[Document], max_tokens: int) -> Iterator[Batch]:
    """Batches of at most `max_tokens` tokens, documents whole and in order; ValueError for one that is longer."""
    packed: list[Document] = []
    size = 0
    for document in documents:
        length = len(document.ids)
        if length > max_tokens:
            raise ValueError(f"a document of {length} tokens exceeds {max_tokens}: raise tokens_per_micro_batch")
        if size + length > max_tokens:
            yield _batch(packed)
            packed, size = [], 0
        packed.append(document)
        size += length
    if packed:
        yield _batch(packed)


def _batch(documents: Sequence[Document]) -> Batch:
    lengths = [len(document.ids) for document in documents]
    tokens_T = torch.tensor([id for document in documents for id in document.ids])
    trained_T = torch.tensor([flag for document in documents for flag in document.trained], dtype=torch.float32)
    loss_weight_T = trained_T.roll(-1)
    ends = torch.tensor(lengths).cumsum(0) - 1
    loss_weight_T[ends] = 0
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    return Batch(tokens_T, positions_T, lengths, tokens_T.roll(-1), loss_weight_T)
