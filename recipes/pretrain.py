"""Pre-training in three stages, 36T tokens, for every size: general, reasoning, long context.

    qwen3 train recipes/pretrain.py --variant 4B --dry-run --devices 1024 --device H100

The stages, their lengths in tokens, sequence lengths, length mix and RoPE bases are those of the Qwen3 Technical
Report, section 3.2 (how the 36T divide above "over 30T" and "about 5T" is our choice). Learning rates and batches come
from Step Law, for each stage's own tokens: the report gives none. A stage decays to where the next one begins.

The data are one data set, built with `qwen3 data build`, that all stages read in their own way.
"""

from dataclasses import replace

from qwen3.config import RopeParameters
from qwen3.presets import PRESETS, preset
from qwen3.train import step_law
from qwen3.train.data import stage as data
from qwen3.train.recipe import Recipe, Shards, Stage
from qwen3.train.schedule import warm_up_and_decay

SIZES = ("0.6B", "1.7B", "4B", "8B", "14B", "32B", "30B-A3B", "235B-A22B")
TOKENS = {"general": 30.5e12, "reasoning": 5e12, "long-context": 0.5e12}
WARM_UP = 2000


def recipe(size: str = "0.6B", directory: str = "data/pretrain") -> Recipe:
    """The three stages for one of SIZES, on the data set in `directory`."""
    if size not in SIZES:
        raise ValueError(f"no size {size!r}: choose one of {', '.join(SIZES)}")
    base = f"Qwen3-{size}-Base"
    model = preset(base if base in PRESETS else f"Qwen3-{size}")
    model = replace(model, max_position_embeddings=32_768, rope_parameters=RopeParameters(10_000.0))
    active = model.num_active_parameters - model.num_embedding_parameters
    peaks = {name: step_law.learning_rate(active, tokens) for name, tokens in TOKENS.items()}
    ends = [*list(peaks.values())[1:], peaks["long-context"] / 10]
    stages = []
    for (name, tokens), end in zip(TOKENS.items(), ends, strict=True):
        seen = data.STAGES[name](tokens_per_step=step_law.batch_tokens(tokens))
        steps = round(tokens / seen.tokens_per_step)
        stages.append(
            Stage(
                name=name,
                data=Shards(directory, seen, held_out_tokens=seen.tokens_per_step),
                schedule=warm_up_and_decay(steps, peaks[name], end, WARM_UP if name == "general" else 0),
                tokens_per_micro_batch=seen.row,
                rope_theta=1_000_000.0 if name == "long-context" else 10_000.0,
                checkpoint_every=2000,
                evaluate_every=1000,
                sample_every=1000,
            )
        )
    return Recipe(
        name=f"pretrain-{size}",
        model=model,
        stages=tuple(stages),
        recompute=True,
        balance=1e-3 if model.is_moe else 0.0,
        prompts=("The capital of France is", "12 + 30 ="),
    )
