"""Both readers under a few seconds of mutations with a fixed seed; `fuzz.py` looks further, guided by coverage."""

import random

import pytest
from fuzz.readers import TARGETS, mutated


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_get_through_every_check(tmp_path, name):
    target, seeds = TARGETS[name]
    assert [target(seed, tmp_path / "seed") for seed in seeds] == [None] * len(seeds)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_are_read_or_refused(tmp_path, name):
    target, seeds = TARGETS[name]
    generator = random.Random(name)
    refusals = [target(mutated(generator.choice(seeds), generator), tmp_path / "mutation") for _ in range(1500)]
    assert all(refusal.isprintable() for refusal in refusals if refusal is not None)
    # Damage within texts and weights does not show.
    assert 0 < refusals.count(None) < len(refusals)
