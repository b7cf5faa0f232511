"""Ranks share a step: together they see it once, whatever their number, and the trainer's loss is of the whole step."""

import hashlib

import pytest
import torch

from qwen3.config import ModelConfig
from qwen3.model import CausalAttend, Qwen3
from qwen3.train.data.build import Job, build
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.errors import DataError
from qwen3.train.data.sources import Source
from qwen3.train.data.stage import Stage, StageData
from qwen3.train.loader import batches, num_targets

from .data.conftest import make_documents, write_jsonl

STAGE = Stage("small", 128, 1024)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> StageData:
    from qwen3.checkpoint.hub import resolve
    from qwen3.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("loader")
    path = write_jsonl(folder / "corpus.jsonl", make_documents(120))
    build(Job((Source(str(path)),)), Tokenizer.load(resolve("builtin")), folder / "out")
    return StageData(Dataset(folder / "out"), STAGE)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_tokens_of_a_step_are_the_same_at_any_world_size(data, world_size):
    for step in range(4):
        rows = {}
        for rank in range(world_size):
            for number, batch in enumerate(batches(data, step, rank, world_size)):
                rows[rank + number * world_size] = batch
        ids = torch.cat([rows[number].tokens_T for number in range(len(rows))]).numpy()
        lengths = torch.tensor([length for number in range(len(rows)) for length in rows[number].lengths]).numpy()
        assert hashlib.sha256(ids.tobytes() + lengths.tobytes()).hexdigest() == data.digest(step)
        assert sum(batch.loss_weight_T.sum().item() for batch in rows.values()) == num_targets(data, step)


def test_a_micro_batch_may_hold_several_rows(data):
    one = list(batches(data, 2, rank=1, world_size=2, rows_per_batch=1))
    four = list(batches(data, 2, rank=1, world_size=2, rows_per_batch=4))
    assert len(one) == 4
    assert len(four) == 1
    for field in ("tokens_T", "positions_T", "targets_T", "loss_weight_T"):
        assert torch.equal(torch.cat([getattr(batch, field) for batch in one]), getattr(four[0], field))
    assert four[0].loss_weight_T.dtype == torch.float32


def test_rows_that_cannot_be_shared_are_refused(data):
    for world_size, rows_per_batch in ((3, 1), (2, 3)):
        with pytest.raises(DataError, match="cannot be divided among"):
            list(batches(data, 0, 0, world_size, rows_per_batch))


def test_the_packed_loss_is_that_of_each_piece_alone(data):
    config = ModelConfig(
        model_type="qwen3", vocab_size=2048, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=256,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3(config)
    model.initialise(seed=0)

    def loss(tokens, positions, lengths, targets, weights):
        logits = model.logits(model(tokens, positions, CausalAttend(lengths)))
        return (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum()

    (batch,) = batches(data, 0, rows_per_batch=data.num_rows)
    with torch.no_grad():
        packed = loss(batch.tokens_T, batch.positions_T, batch.lengths, batch.targets_T, batch.loss_weight_T)
        parts = zip(
            *(x.split(batch.lengths) for x in (batch.tokens_T, batch.targets_T, batch.loss_weight_T)), strict=True
        )
        alone = sum(loss(t, torch.arange(len(t)), [len(t)], y, w) for t, y, w in parts)
    assert packed.item() == pytest.approx(alone.item(), rel=1e-6)
