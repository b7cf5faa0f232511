"""What a training run is: `Recipe`, every choice in one frozen value. It holds no state and opens no files.

A run is a sequence of stages, each measured in tokens: its data, sequence length, batch, learning rates and RoPE base.
Recipes are Python functions that return one; a variant is a function that changes another with
`dataclasses.replace`, never a copied file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from qwen3.config import ModelConfig
from qwen3.train import schedule
from qwen3.train.data.stage import Stage as DataStage
from qwen3.train.layout import check_division
from qwen3.train.schedule import Schedule

DIGEST_VERSION = 2
"""Of what `Recipe.digest` reads: raise it with every change. Digests of other versions cannot be compared."""


@dataclass(frozen=True)
class Curriculum:
    """The procedural conversations: step s sees the examples s * `examples_per_step` and following of the stream, which
    goes on where an earlier stage's conversations stopped."""

    examples_per_step: int
    shares: tuple[tuple[str, float], ...] = ()
    """Tasks and their shares in percent, where they are not those of `curriculum.TASKS`."""
    words: int = 0
    """Length of the longest document in which a conversation looks something up (the task `recall`)."""
    cut_thoughts: float = 0.0
    """Share of thoughts that are ended anywhere, as a spent thinking budget ends them; the model learns to answer."""
    held_out_examples: int = 0
    """Held-out conversations that an evaluation reads; 0: as many as a step's."""


@dataclass(frozen=True)
class Shards:
    """A data set that `qwen3 data build` made, as `stage` reads it."""

    directory: str
    stage: DataStage
    held_out_tokens: int = 0
    """Tokens of held-out documents, drawn as the stage draws, that an evaluation reads; 0: one step's."""


@dataclass(frozen=True)
class Mix:
    """Both in every step."""

    shards: Shards
    conversations: Curriculum


@dataclass(frozen=True)
class Stage:
    """One segment of a run, with steps counted from its own start."""

    name: str
    data: Curriculum | Shards | Mix
    schedule: Schedule
    """Learning rates as (step, rate) points; see `train.schedule`. The last point is the end of the stage."""
    tokens_per_micro_batch: int
    """Most tokens in one forward pass of a process; a step accumulates gradients over as many as it needs."""
    rope_theta: float | None = None
    """Base of the rotary angles from here on; None: the model's own."""
    checkpoint_every: int = 500
    evaluate_every: int = 0
    """Steps between evaluations on held-out documents, and at the end; 0: never."""
    sample_every: int = 0
    """Steps between continuations of the recipe's `prompts`; 0: never."""

    def __post_init__(self) -> None:
        """ValueError naming the field that no run could have, and what to do."""
        try:
            schedule.check(self.schedule)
        except ValueError as error:
            raise ValueError(f"stage {self.name}: {error}") from None
        for name, least in (("checkpoint_every", 1), ("evaluate_every", 0), ("sample_every", 0)):
            if (steps := getattr(self, name)) < least:
                raise ValueError(f"stage {self.name}: {name} is {steps}: choose a number of steps, {least} or more")
        row = self.shards.stage.row if self.shards else 1
        if self.shards:
            sizes = {"tokens_per_step": self.shards.stage.tokens_per_step, "held_out_tokens": self.held_out_tokens}
            for name, tokens in sizes.items():
                if tokens < 1 or tokens % row:
                    raise ValueError(
                        f"stage {self.name}: {name} is {tokens:,}, no whole number of rows: "
                        f"choose a multiple of {row:,}"
                    )
        if self.tokens_per_micro_batch < row:
            raise ValueError(
                f"stage {self.name}: tokens_per_micro_batch is {self.tokens_per_micro_batch:,}, less than a row: "
                f"choose {row:,} or more, or shorten the rows"
            )

    @property
    def steps(self) -> int:
        return self.schedule[-1][0]

    @property
    def shards(self) -> Shards | None:
        return self.data.shards if isinstance(self.data, Mix) else self.data if isinstance(self.data, Shards) else None

    @property
    def conversations(self) -> Curriculum | None:
        return self.data.conversations if isinstance(self.data, Mix) else None if self.shards else self.data

    @property
    def held_out_tokens(self) -> int:
        """Of the shards' documents, what an evaluation reads."""
        return self.shards.held_out_tokens or self.shards.stage.tokens_per_step

    def rows_per_micro_batch(self, readers: int) -> int:
        """Rows of the shards in one forward pass of each of `readers`."""
        seen = self.shards.stage
        return max(1, min(self.tokens_per_micro_batch // seen.row, seen.tokens_per_step // seen.row // readers))

    def check_readers(self, readers: int) -> None:
        """DataError if so many cannot divide the shards' rows of a step, or of an evaluation, among them."""
        if self.shards:
            row, at_once = self.shards.stage.row, self.rows_per_micro_batch(readers)
            check_division(self.shards.stage.tokens_per_step // row, readers, at_once)
            if self.evaluate_every:
                check_division(self.held_out_tokens // row, readers, at_once, "an evaluation", "held_out_tokens")

    def check_context(self, ranks: int) -> None:
        """ValueError if so many cannot divide each row among them."""
        chunks = 2 * ranks
        if ranks > 1 and (not isinstance(self.data, Shards) or self.data.stage.row % chunks):
            raise ValueError(
                f"stage {self.name}: context parallelism of {ranks} needs rows from shards, of a multiple of {chunks} "
                "tokens"
            )


@dataclass(frozen=True)
class Recipe:
    """A training run, from fresh weights or a model's.

    The model's special token ids come from the tokenizer: that of the data sets, which must all have the same, or where
    there are only conversations one of `model.vocab_size` ids that is learnt from them.
    """

    name: str
    model: ModelConfig
    stages: tuple[Stage, ...]
    optimizer: str = "adamw"
    """"adamw", or "muon": Muon for the layers' matrices, AdamW for the rest."""
    weight_decay: float = 0.1
    """Of matrices, the embedding included; norm scales are not decayed."""
    betas: tuple[float, float] = (0.9, 0.95)
    max_gradient_norm: float = 1.0
    balance: float = 0.0
    """Coefficient of the experts' global-batch load balance; see `train.balance`."""
    z_loss: float = 0.0
    """Coefficient of the router's z-loss."""
    bfloat16: bool = True
    """Compute in bfloat16 with compiled blocks; weights and moments stay float32. False: float32 as written."""
    recompute: bool = False
    """Activation checkpointing: keep each layer's input only, and compute the rest again in the backward pass."""
    spike_sigmas: float = 6.0
    """A step whose loss or gradient norm is this many standard deviations above the last ones' mean is skipped."""
    spike_window: int = 128
    most_skips: int = 10
    """Skipped steps in a row after which the run stops."""
    tokenizer_examples: int = 20_000
    """Conversations that the tokenizer's merges are learnt from, where no data set brings one."""
    prompts: tuple[str, ...] = ()
    """Texts that samples during training continue."""
    seed: int = 0
    """Draws the initial weights and the order of the data."""
    start_from: str = ""
    """Directory of a model, of the config `model`, whose weights the run begins with; empty: they are drawn."""
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    """The sampling that the exported model recommends."""

    def __post_init__(self) -> None:
        """ValueError for stages that cannot be told apart."""
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"{self.name}: stages are called {names}: have one or more, each with a name of its own")

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def place(self, step: int) -> tuple[int, int]:
        """The stage that step `step` of the run belongs to, by number, and the step's number in it."""
        for number, stage in enumerate(self.stages):
            if step < stage.steps:
                return number, step
            step -= stage.steps
        raise ValueError(f"{self.name} has {self.steps} steps")

    def first_example(self, number: int) -> int:
        """The conversation of the stream that stage `number` begins with."""
        before = [stage for stage in self.stages[:number] if stage.conversations]
        return sum(stage.steps * stage.conversations.examples_per_step for stage in before)

    def rope_theta(self, number: int) -> float:
        """The base in stage `number`: what it or the last stage before it says."""
        said = [stage.rope_theta for stage in self.stages[: number + 1] if stage.rope_theta is not None]
        return said[-1] if said else self.model.rope_parameters.rope_theta

    def each_stage(self, **changes: Any) -> Recipe:
        """The same recipe with every stage changed."""
        return replace(self, stages=tuple(replace(stage, **changes) for stage in self.stages))

    def tiny(self) -> Recipe:
        """The same recipe for tests: some ten thousand parameters, six steps a stage, seconds on one core. Sequences of
        shards are shortened so that those of the shortest stage have 64 tokens."""
        shrink = min((stage.shards.stage.sequence_length for stage in self.stages if stage.shards), default=64) // 64
        is_moe = self.model.is_moe
        model = replace(
            self.model,
            vocab_size=2048 if any(stage.shards for stage in self.stages) else 512,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            **({"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32} if is_moe else {}),
        )
        return replace(
            self,
            name=f"{self.name}-tiny",
            model=model,
            stages=tuple(_tiny_stage(stage, shrink) for stage in self.stages),
            bfloat16=False,
            tokenizer_examples=500,
            start_from="",
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the choices that a step depends on: a checkpoint of one recipe does not resume another. Where the
        data and the first weights lie is no such choice; what they are, checkpoints say apart. Two ways to write one
        choice may differ, but for defaults that are written out, and for what a data set's tokenizer decides."""
        return self._digest(self.stages)

    def _digest(self, stages: tuple[Stage, ...]) -> str:
        """Of the run's first `stages`, whose last may end earlier."""
        values = asdict(replace(self, stages=stages))
        for name in ("name", "recompute", "most_skips", "prompts", "generation_config"):
            del values[name]
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            del values["model"][name]
        if any(stage.shards for stage in self.stages):
            del values["tokenizer_examples"]
        values["start_from"] = bool(self.start_from)
        for number, stage in enumerate(values["stages"]):
            for name in ("checkpoint_every", "evaluate_every", "sample_every"):
                del stage[name]
            stage["rope_theta"] = self.rope_theta(number)
            if shards := stages[number].shards:
                stage["data"].get("shards", stage["data"])["stage"]["row_tokens"] = shards.stage.row
            data = stage["data"]
            for part in (data.get("shards", data), data.get("conversations", data)):
                for name in ("directory", "held_out_tokens", "held_out_examples"):
                    part.pop(name, None)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def digest_until(self, step: int) -> str:
        """The digest of what the first `step` steps depend on: a run that has done them may go on with another end."""
        number, last = self.place(max(step - 1, 0))
        points = self.stages[number].schedule
        # Rates up to a step depend on the points up to the first that is not before it.
        known = 1 + next(index for index, (end, _) in enumerate(points) if end > last)
        stages = (*self.stages[:number], replace(self.stages[number], schedule=points[:known]))
        return self._digest(stages)


def _tiny_stage(stage: Stage, shrink: int) -> Stage:
    """Six steps; sequences of shards that many times shorter."""
    data = _tiny_data(stage.data, shrink)
    shards = data.shards if isinstance(data, Mix) else data
    return replace(
        stage,
        data=data,
        schedule=((0, 0.0), (2, 2e-3), (3, 2e-3), (6, 0.0)),
        tokens_per_micro_batch=max(512, shards.stage.row) if isinstance(shards, Shards) else 512,
        checkpoint_every=3,
        evaluate_every=min(stage.evaluate_every, 3),
        sample_every=min(stage.sample_every, 3),
    )


def _tiny_data(data: Curriculum | Shards | Mix, shrink: int) -> Curriculum | Shards | Mix:
    if isinstance(data, Mix):
        return Mix(_tiny_data(data.shards, shrink), _tiny_data(data.conversations, shrink))
    if isinstance(data, Curriculum):
        return replace(data, examples_per_step=8, words=min(data.words, 40), held_out_examples=0)
    length = data.stage.sequence_length // shrink
    tokens = max(1024, 2 * length)
    pools = tuple(
        replace(pool, where=tuple(_tiny_rule(rule, shrink) for rule in pool.where)) for pool in data.stage.pools
    )
    smaller = replace(data.stage, sequence_length=length, row_tokens=0, tokens_per_step=tokens, pools=pools)
    return replace(data, stage=smaller, held_out_tokens=0)


def _tiny_rule(rule: str, shrink: int) -> str:
    """A rule about lengths for documents that many times shorter; any other as it is."""
    return re.sub(r"^(tokens\D+)(\d+)$", lambda found: f"{found[1]}{int(found[2]) // shrink}", rule)
