"""The training loop on the built-in recipe's tiny variant."""

import json
import math
import runpy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from training import gradients, relative_difference, state

from qwen3 import ops
from qwen3.model import CausalAttend, Qwen3
from qwen3.train.attend import TrainingAttend
from qwen3.train.batch import pack
from qwen3.train.conversations import documents
from qwen3.train.recipe import Curriculum, Recipe
from qwen3.train.schedule import learning_rate
from qwen3.train.trainer import Trainer

RECIPE_FILE = Path(__file__).parents[2] / "recipes" / "builtin.py"


@pytest.fixture(scope="module")
def tiny() -> Recipe:
    """The recipe's second stage alone: sums above all."""
    recipe = runpy.run_path(str(RECIPE_FILE))["recipe"]().tiny()
    return replace(recipe, stages=recipe.stages[1:2], optimizer="adamw").each_stage(evaluate_every=0)


def test_a_resumed_run_is_bit_equal_to_one_without_a_break(tiny, tmp_path):
    whole = list(Trainer(tiny, tmp_path / "whole").run())
    for report in Trainer(tiny, tmp_path / "broken").run():
        if report.step == 4:  # One step past the checkpoint: it is lost, and done again.
            break
    rest = list(Trainer(tiny, tmp_path / "broken").run())
    assert [report.step for report in rest] == [4, 5, 6]
    assert [report.loss for report in rest] == [report.loss for report in whole[3:]]
    a, b = (state(tmp_path / run / "step_6") for run in ("whole", "broken"))
    assert a.keys() == b.keys()
    assert len(a) == 3 * len(list(Qwen3(tiny.model).parameters()))
    assert all(torch.equal(a[name], b[name]) for name in a)
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("whole", "broken")]
    assert [[json.loads(line)["loss"] for line in log] for log in logs] == [[r.loss for r in whole]] * 2


def test_the_first_loss_is_that_of_a_uniform_guess(tiny, tmp_path):
    first = next(Trainer(tiny, tmp_path).run())
    assert first.loss == pytest.approx(math.log(tiny.model.vocab_size), rel=0.02)


def test_training_lowers_the_loss(tiny, tmp_path):
    longer = tiny.each_stage(schedule=((0, 0.0), (5, 1e-2), (30, 1e-2), (40, 0.0)), checkpoint_every=100)
    reports = list(Trainer(longer, tmp_path).run())
    assert reports[-1].loss < 0.75 * reports[0].loss


def test_accumulation_over_any_micro_batches_gives_the_same_gradients(tiny, tmp_path):
    """Conversations have masks of every length: a mean of means would differ by percents."""
    more = tiny.each_stage(data=Curriculum(examples_per_step=32))
    found = {}
    for size in (10_000, 1_000, 250):
        trainer = Trainer(more.each_stage(tokens_per_micro_batch=size), tmp_path / str(size))
        number = sum(1 for _ in trainer._feeds[0].batches(0, 0, 1))
        found[number] = gradients(trainer)
    one, *several = (found[number] for number in sorted(found))
    assert max(found) >= 8
    assert len(several) == 2
    assert all(relative_difference(each, one) <= 1e-6 for each in several)


def test_documents_packed_together_have_the_losses_they_have_alone(tiny, tmp_path):
    trainer = Trainer(tiny, tmp_path)

    def losses(batch):
        hidden_TD = trainer.model(batch.tokens_T, batch.positions_T, CausalAttend(batch.lengths))
        every = ops.token_losses(hidden_TD, trainer.model.head_weight, batch.targets_T)
        return every[batch.loss_weight_T > 0]

    conversations = list(documents(trainer.tokenizer, 0, Curriculum(6), 0))
    with torch.no_grad():
        (packed,) = pack(conversations, 10_000)
        alone = [losses(batch) for document in conversations for batch in pack([document], 10_000)]
        torch.testing.assert_close(losses(packed), torch.cat(alone), rtol=0, atol=2e-6)


def test_training_attend_equals_causal_attend_with_its_gradients():
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 1, 12, 9, 30, 300]
    q, k, v = (torch.randn(sum(lengths), heads, 8, generator=generator, requires_grad=True) for heads in (6, 2, 2))
    weight = torch.randn(q.shape, generator=generator)
    results = []
    for attend in (TrainingAttend(lengths), CausalAttend(lengths)):
        out = attend(0, q, k, v)
        results.append([out, *torch.autograd.grad((out * weight).sum(), (q, k, v))])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


def test_the_bfloat16_copy_gives_the_float32_gradients_up_to_rounding(tiny, tmp_path):
    exact = gradients(Trainer(tiny, tmp_path / "exact"))
    with torch.compiler.set_stance("force_eager"):
        rounded = gradients(Trainer(replace(tiny, bfloat16=True), tmp_path / "rounded"))
    assert all(gradient.dtype == torch.float32 for gradient in rounded.values())
    assert 0 < relative_difference(rounded, exact) < 0.03


def test_in_bfloat16_one_large_micro_batch_gives_the_gradients_of_many(tiny, tmp_path):
    more = replace(tiny, bfloat16=True).each_stage(data=Curriculum(examples_per_step=150))
    found = []
    with torch.compiler.set_stance("force_eager"):
        for size in (100_000, 1_000):
            trainer = Trainer(more.each_stage(tokens_per_micro_batch=size), tmp_path / str(size))
            found.append(gradients(trainer)["model.embed_tokens.weight"])
    one, many = found
    assert (one - many).norm() / many.norm() < 0.01


def test_a_checkpoint_of_another_recipe_is_refused(tiny, tmp_path):
    next(iter(Trainer(tiny.each_stage(checkpoint_every=1), tmp_path).run()))
    with pytest.raises(ValueError, match="another recipe"):
        Trainer(replace(tiny.each_stage(checkpoint_every=1), seed=1), tmp_path)


def test_what_changes_no_step_may_change_between_two_starts(tiny, tmp_path):
    next(iter(Trainer(tiny.each_stage(checkpoint_every=1), tmp_path).run()))
    other = replace(
        tiny,
        name="another",
        prompts=("12 + 30 =",),
        recompute=True,
        most_skips=3,
        generation_config={"temperature": 0.5},
    )
    other = other.each_stage(
        checkpoint_every=2,
        evaluate_every=3,
        sample_every=2,
        data=replace(tiny.stages[0].data, held_out_examples=4),
    )
    assert Trainer(other, tmp_path).step == 1


def test_a_document_longer_than_the_budget_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="tokens_per_micro_batch"):
        next(Trainer(tiny.each_stage(tokens_per_micro_batch=10), tmp_path).run())


def test_the_rate_rises_straight_stays_and_falls_along_a_cosine():
    schedule = ((0, 0.0), (10, 1.0), (60, 1.0), (100, 0.1))
    rates = [learning_rate(schedule, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert set(rates[10:61]) == {1.0}
    assert all(later < earlier for earlier, later in pairwise(rates[60:]))
    assert rates[80] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1, abs=0.005)
    with pytest.raises(ValueError, match="step 100 is not in"):
        learning_rate(schedule, 100)
