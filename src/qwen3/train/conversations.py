"""From the curriculum's conversations to documents of token ids.

Which examples a step sees is a function of the step number alone, so the only state of the data is one integer.
"""

from __future__ import annotations

from collections.abc import Iterator

from qwen3.chat.template import render
from qwen3.tokenizer import Tokenizer
from qwen3.train.batch import Document
from qwen3.train.bbpe import train_tokenizer
from qwen3.train.curriculum import Example, sample
from qwen3.train.recipe import Curriculum


def learn_tokenizer(seed: int, num_examples: int, vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` ids, learnt from the first examples of the stream `seed`."""
    conversations = (sample(seed, index).messages for index in range(num_examples))
    tokenizer = train_tokenizer((render(each, add_generation_prompt=False).text for each in conversations), vocab_size)
    if tokenizer.vocab_size != vocab_size:
        raise ValueError(f"{num_examples} examples give a vocabulary of {tokenizer.vocab_size}, not {vocab_size}")
    return tokenizer


def encode(tokenizer: Tokenizer, example: Example) -> Document:
    """The rendered conversation, trained on what the model generates after the last generation prompt only.

    Earlier assistant turns stand in the history without their think blocks, a form that is never generated; and with
    the hard switch off the empty think block is part of the prompt, not of the answer. Where a budget ended the
    thought, only what comes after it is trained: the model should not learn to stop there.
    """
    ids, trained = tokenizer.encode_trained(render(example.messages, example.tools, add_generation_prompt=False).spans)
    prompt = tokenizer.encode_spans(render(example.messages[:-1], example.tools, example.thinking, True).spans)
    assert ids[: len(prompt)] == prompt, "training must see the tokens that serving sees"
    start = ids.index(tokenizer.id("</think>"), len(prompt)) + 1 if example.is_cut else len(prompt)
    return Document(ids, [False] * start + trained[start:])


def documents(
    tokenizer: Tokenizer, seed: int, data: Curriculum, first: int, split: str = "train"
) -> Iterator[Document]:
    """One step's conversations, from example `first` of the stream `seed` on."""
    options = {"split": split, "shares": dict(data.shares), "words": data.words, "cut_thoughts": data.cut_thoughts}
    for index in range(first, first + data.examples_per_step):
        yield encode(tokenizer, sample(seed, index, **options))
