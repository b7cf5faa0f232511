"""What a training run is: `Recipe`, every choice in one frozen value. It holds no state and opens no files.

Recipes are Python functions that return one; a variant is a function that changes another with
`dataclasses.replace`, never a copied file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from qwen3.config import ModelConfig


@dataclass(frozen=True)
class Recipe:
    """A run on the procedural curriculum.

    The tokenizer has `model.vocab_size` ids, and the model's special token ids come from it. Step s trains on the
    examples s * `examples_per_step` and following of the stream `seed`, which also draws the initial weights.
    """

    name: str
    model: ModelConfig
    schedule: tuple[tuple[int, float], ...]
    """Learning rates as (step, rate) points; see `train.schedule`. The last point is the end of the run."""
    examples_per_step: int
    tokens_per_micro_batch: int
    """Most tokens in one forward pass; a step accumulates gradients over as many as it needs."""
    weight_decay: float = 0.1
    """Of matrices, the embedding included; norm scales are not decayed."""
    betas: tuple[float, float] = (0.9, 0.95)
    max_gradient_norm: float = 1.0
    bfloat16: bool = True
    """Compute in bfloat16 with compiled blocks; weights and moments stay float32. False: float32 as written."""
    tokenizer_examples: int = 20_000
    """Examples of the same stream that the tokenizer's merges are learnt from."""
    checkpoint_every: int = 500
    seed: int = 0
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    """The sampling that the exported model recommends."""

    @property
    def steps(self) -> int:
        return self.schedule[-1][0]

    def tiny(self) -> Recipe:
        """The same recipe for tests: some ten thousand parameters, six steps, a second on one core."""
        model = replace(
            self.model,
            vocab_size=512,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
        )
        return replace(
            self,
            name=f"{self.name}-tiny",
            model=model,
            schedule=((0, 0.0), (2, 2e-3), (3, 2e-3), (6, 0.0)),
            examples_per_step=8,
            tokens_per_micro_batch=512,
            bfloat16=False,
            tokenizer_examples=500,
            checkpoint_every=3,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of every choice: a checkpoint of one recipe does not resume another."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
