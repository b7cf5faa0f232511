"""What of a conversation is trained on, and how documents become batches."""

from itertools import pairwise

import pytest
import torch

from qwen3.chat import render
from qwen3.tokenizer import Tokenizer
from qwen3.train.batch import pack
from qwen3.train.conversations import encode, learn_tokenizer, step_documents
from qwen3.train.curriculum import sample


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


def test_a_batch_predicts_each_trained_token_from_the_one_before(tokenizer):
    documents = step_documents(tokenizer, 0, 3, 16)
    (batch,) = pack(documents, 10_000)
    expected = [
        (before, after)
        for document in documents
        for (before, _), (after, trained) in pairwise(zip(document.ids, document.trained, strict=True))
        if trained
    ]
    counted = batch.loss_weight_T > 0
    assert list(zip(batch.tokens_T[counted].tolist(), batch.targets_T[counted].tolist(), strict=True)) == expected
    assert batch.lengths == [len(document.ids) for document in documents]
    assert torch.equal(batch.positions_T, torch.cat([torch.arange(length) for length in batch.lengths]))


def test_packing_keeps_every_document_once_and_the_budget(tokenizer):
    documents = step_documents(tokenizer, 0, 0, 40)
    batches = list(pack(documents, 400))
    assert len(batches) > 1
    assert all(len(batch.tokens_T) <= 400 for batch in batches)
    assert torch.cat([batch.tokens_T for batch in batches]).tolist() == [id for each in documents for id in each.ids]


def test_a_step_sees_the_next_examples_of_the_stream_whatever_came_before(tokenizer):
    stream = [encode(tokenizer, sample(5, index)) for index in range(12)]
    assert step_documents(tokenizer, 5, 2, 4) == stream[8:12]
    assert step_documents(tokenizer, 5, 0, 12) == stream


def test_too_few_examples_for_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="vocabulary of"):
        learn_tokenizer(0, 5, 2048)
