"""What of a conversation is trained on, and how documents become batches."""

from itertools import pairwise

import pytest
import torch

from qwen3.chat import render
from qwen3.engine.rules import BUDGET_SENTENCE
from qwen3.tokenizer import Tokenizer
from qwen3.train.batch import pack
from qwen3.train.conversations import LABELS, counts, documents, encode, learn_tokenizer
from qwen3.train.curriculum import sample
from qwen3.train.recipe import Curriculum


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn_tokenizer(0, 300, 450)


def test_exactly_the_answer_after_the_generation_prompt_is_trained(tokenizer):
    kinds = set()
    for index in range(400):
        example = sample(0, index)
        document = encode(tokenizer, example)
        answer = tokenizer.decode(id for id, flag in zip(document.ids, document.trained, strict=True) if flag)
        target = example.messages[-1]
        block = f"<think>\n{target['reasoning_content']}\n</think>\n\n" if example.thinking else ""
        assert answer == f"{block}{target['content']}<|im_end|>"
        prompt = render(example.messages[:-1], None, example.thinking).text
        assert tokenizer.decode(document.ids) == f"{prompt}{answer}\n"
        kinds.add((example.thinking, bool(target["reasoning_content"]), len(example.messages) > 2))
    assert len(kinds) == 6  # Thinking, `/no_think` and hard off, each with and without earlier turns.


def test_of_a_thought_that_a_budget_ended_only_the_answer_is_trained(tokenizer):
    num_cut = 0
    for index in range(100):
        whole, example = sample(0, index), sample(0, index, cut_thoughts=1.0)
        document = encode(tokenizer, example)
        answer = tokenizer.decode(id for id, flag in zip(document.ids, document.trained, strict=True) if flag)
        target = whole.messages[-1]
        assert example.is_cut == bool(target["reasoning_content"])
        if example.is_cut:
            num_cut += 1
            assert answer == f"\n\n{target['content']}<|im_end|>"
            thought, _, _ = example.messages[-1]["reasoning_content"].partition("\n\nConsidering the limited time")
            assert target["reasoning_content"].startswith(thought)
            assert tokenizer.decode(document.ids).count(BUDGET_SENTENCE) == 1
    assert num_cut > 20


def test_a_batch_predicts_each_trained_token_from_the_one_before(tokenizer):
    seen = list(documents(tokenizer, 0, Curriculum(16), 48))
    (batch,) = pack(seen, 10_000)
    expected = [
        (before, after)
        for document in seen
        for (before, _), (after, trained) in pairwise(zip(document.ids, document.trained, strict=True))
        if trained
    ]
    counted = batch.loss_weight_T > 0
    assert list(zip(batch.tokens_T[counted].tolist(), batch.targets_T[counted].tolist(), strict=True)) == expected
    assert batch.lengths == [len(document.ids) for document in seen]
    assert torch.equal(batch.positions_T, torch.cat([torch.arange(length) for length in batch.lengths]))


def test_packing_keeps_every_document_once_and_the_budget(tokenizer):
    seen = list(documents(tokenizer, 0, Curriculum(40), 0))
    batches = list(pack(seen, 400))
    assert len(batches) > 1
    assert all(len(batch.tokens_T) <= 400 for batch in batches)
    assert torch.cat([batch.tokens_T for batch in batches]).tolist() == [id for each in seen for id in each.ids]


def test_a_step_sees_the_next_examples_of_the_stream_whatever_came_before(tokenizer):
    stream = [encode(tokenizer, sample(5, index)) for index in range(12)]
    assert list(documents(tokenizer, 5, Curriculum(4), 8)) == stream[8:]
    assert list(documents(tokenizer, 5, Curriculum(12), 0)) == stream


def test_counts_are_of_the_tokens_that_the_steps_see(tokenizer):
    data = Curriculum(4)
    found = counts(tokenizer, 5, data, 8, 3)
    tokens = sum(len(each.ids) for step in range(3) for each in documents(tokenizer, 5, data, 8 + 4 * step))
    assert {label: sum(values.values()) for label, values in found.items()} == dict.fromkeys(found, tokens)
    assert set(found) == {*LABELS, "language"}


def test_too_few_examples_for_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="vocabulary of"):
        learn_tokenizer(0, 5, 2048)
