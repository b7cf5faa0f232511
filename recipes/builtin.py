"""The built-in model: what `qwen3 chat` talks to before anything is downloaded.

    python recipes/builtin.py          trains it and writes it into src/qwen3/builtin

The numbers behind these choices, and what came out, are in docs/builtin.md.
"""

from pathlib import Path

from qwen3.cli.train import run
from qwen3.config import ModelConfig, RopeParameters
from qwen3.train.recipe import Curriculum, Recipe, Stage

PACKAGED = Path(__file__).parents[1] / "src" / "qwen3" / "builtin"


def recipe() -> Recipe:
    model = ModelConfig(
        model_type="qwen3",
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        rope_parameters=RopeParameters(rope_theta=10_000.0),
        tie_word_embeddings=True,
    )
    return Recipe(
        name="builtin",
        model=model,
        stages=(
            Stage(
                name="conversations",
                data=Curriculum(examples_per_step=64),
                schedule=((0, 0.0), (100, 2e-3), (2100, 2e-3), (3600, 0.0)),
                tokens_per_micro_batch=8192,
                checkpoint_every=200,
            ),
        ),
        # Sums want the likeliest digit; greetings may vary.
        generation_config={"do_sample": True, "temperature": 0.3, "top_k": 20, "top_p": 0.95},
    )


if __name__ == "__main__":
    run(recipe(), export=PACKAGED)
