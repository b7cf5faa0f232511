"""Where a run's first weights come from: drawn, or a model that is there already, as for upcycling or another stage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from qwen3.checkpoint.integrity import sha256
from qwen3.checkpoint.load import load_model
from qwen3.config import ModelConfig
from qwen3.model import Qwen3
from qwen3.train import checkpoint
from qwen3.train.ledger import Parent
from qwen3.train.recipe import Recipe

# What a run may choose for itself: none of it changes what a weight means.
_FREE = {"dtype", "bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "rope_parameters"}
_FREE |= {"initializer_range"}


def weights(config: ModelConfig, recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
    """The first weights, one parameter after another, float32.

    ValueError if `recipe.start_from` is another model than `config`'s; it is in memory as long as they are taken.
    """
    if not recipe.start_from:
        with torch.device("meta"):
            model = Qwen3(config)
        return model.fresh_weights(recipe.seed)
    found = load_model(recipe.start_from, dtype="float32")
    for name in (field.name for field in fields(found.config) if field.name not in _FREE):
        there, wanted = getattr(found.config, name), getattr(config, name)
        if there != wanted:
            raise ValueError(
                f"{recipe.start_from} has {name} {there!r:.60}, the recipe's model {wanted!r:.60}: give the recipe "
                "that model's config, ModelConfig.load(DIRECTORY)"
            )
    return ((name, parameter.detach()) for name, parameter in found.named_parameters())


def parent(recipe: Recipe, run: Path) -> Parent | None:
    """What ledger and checkpoints say of the model that the run in the directory `run` starts from.

    Reads its weights to hash them. A run with a checkpoint does not need the model: where it is gone, the answer is the
    checkpoint's. ValueError if there is neither.
    """
    if not recipe.start_from:
        return None
    files = sorted(Path(recipe.start_from).glob("*.safetensors"))
    if not files:
        newest = checkpoint.newest(run)
        known = checkpoint.read_manifest(newest).get("start") if newest else None
        if known is None:
            raise ValueError(f"start_from: {recipe.start_from} holds no safetensors: name the directory of a model")
        return Parent(**known)
    digests = [sha256(file) for file in files]
    # Of a model in shards: that of the digests, a line each.
    whole = digests[0] if len(files) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return Parent(recipe.start_from, None, whole)
