"""The built-in model, which `qwen3 chat` talks to before anything is downloaded: Qwen3's three stages on a small scale.

    python recipes/builtin.py CORPUS    public text in CORPUS and generated conversations; writes src/qwen3/builtin
    python recipes/builtin.py           the conversations alone

The numbers behind these choices, and what came out, are in docs/builtin.md.
"""

import sys
from pathlib import Path

from qwen3.cli.train import run
from qwen3.config import ModelConfig, RopeParameters
from qwen3.train.conversations import learn_tokenizer
from qwen3.train.data import stage as data
from qwen3.train.data.build import Job, build
from qwen3.train.data.sources import Source
from qwen3.train.recipe import Curriculum, Mix, Recipe, Shards, Stage

PACKAGED = Path(__file__).parents[1] / "src" / "qwen3" / "builtin"
SHORT, LONG = 512, 2048
KEEP = (
    # Those that allow to ship a model trained on the text; the card names them.
    "license=public domain,CC0-1.0,MIT,MIT OR Apache-2.0,Apache-2.0,CC-BY-4.0,CC-BY (Tatoeba)",
    "language=en,de,fr,es,zh,pt,it",
)
# In percent; the rest as in the curriculum.
SUMS = (("addition", 45.0), ("addition_of_three", 16.0), ("subtraction", 8.0))
SOME_KEYS, MORE_KEYS = ("recall", 5.0), ("recall", 9.0)


def recipe(directory: str = "") -> Recipe:
    """The three stages on the data set in `directory` and on conversations; without one, on conversations alone."""
    model = ModelConfig(
        model_type="qwen3",
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=LONG,
        rope_parameters=RopeParameters(10_000.0),
        tie_word_embeddings=True,
    )

    def seen(text: data.Stage, conversations: Curriculum) -> Mix | Curriculum:
        return Mix(Shards(directory, text, 8 * LONG), conversations) if directory else conversations

    also = {"cut_thoughts": 0.08, "held_out_examples": 128}
    general = Stage(
        name="general",
        data=seen(data.general(SHORT, 1024), Curriculum(24, (MORE_KEYS,), words=200, **also)),
        schedule=((0, 0.0), (60, 4e-3), (400, 4e-3)),
        tokens_per_micro_batch=8192,
        checkpoint_every=100,
        evaluate_every=200,
    )
    reasoning = Stage(
        name="reasoning",
        data=seen(data.reasoning(SHORT, 512), Curriculum(40, (*SUMS, SOME_KEYS), words=200, **also)),
        schedule=((0, 4e-3), (2500, 1.5e-3), (4500, 8e-4)),
        tokens_per_micro_batch=8192,
        checkpoint_every=100,
        evaluate_every=500,
    )
    long_context = Stage(
        name="long-context",
        data=seen(data.long_context(LONG, 2048), Curriculum(30, (*SUMS, MORE_KEYS), words=1080, **also)),
        schedule=((0, 8e-4), (600, 0.0)),
        tokens_per_micro_batch=8192,
        rope_theta=100_000.0,
        checkpoint_every=200,
        evaluate_every=200,
    )
    return Recipe(
        name="builtin",
        model=model,
        stages=(general, reasoning, long_context),
        optimizer="muon",
        # Sums want the likeliest digit; greetings may vary.
        generation_config={"do_sample": True, "temperature": 0.3, "top_k": 20, "top_p": 0.95},
    )


def build_text(corpus: str, directory: str) -> None:
    """The data set that `recipe` reads, from the files in `corpus`; returns at once if it is there."""
    made = recipe()
    tokenizer = learn_tokenizer(made.seed, made.tokenizer_examples, made.model.vocab_size)
    build(Job((Source(corpus),), keep=KEEP), tokenizer, Path(directory))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        build_text(sys.argv[1], "data/builtin")
        run(recipe("data/builtin"), export=PACKAGED)
    else:
        print("no text is given: all three stages train on generated conversations alone")
        run(recipe(), export=PACKAGED)
