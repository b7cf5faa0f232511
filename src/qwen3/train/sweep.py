"""The runs of a scaling-law sweep, planned and read back; and fitted laws as a file.

    plan.jsonl    a run a line: model, tokens, learning rate, batch, operations; `loss` is null until it has run, and
                  stays so if the run diverged: then `failed` says why
    laws.json     what `scaling.fit` found, for each kind of model and stage

A sweep is a star: for each model and number of tokens, learning rates at one batch and batches at one rate, as factors
of what Step Law says, whose optimum a fit then finds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qwen3.config import ModelConfig
from qwen3.strict_json import parse_object, read_object
from qwen3.train.data.stage import STAGES
from qwen3.train.data.stage import Stage as DataStage
from qwen3.train.flops import model_flops
from qwen3.train.recipe import Recipe, Shards, Stage
from qwen3.train.scaling import Laws, LossLaw, PowerLaw, Run, ScalingError, step_law
from qwen3.train.schedule import warm_up_and_decay


@dataclass(frozen=True)
class PlannedRun:
    """`parameters` are those of a token without embeddings; `batch` in tokens; `flops` of the whole run."""

    name: str
    kind: str
    stage: str
    parameters: int
    tokens: int
    learning_rate: float
    batch: int
    steps: int
    sequence_length: int
    flops: int
    model: dict[str, Any]
    loss: float | None = None
    failed: str = ""
    """Why there is no loss and will be none; empty if the run is still to come or went well."""


def size_of(config: ModelConfig) -> int:
    """N of the laws: parameters that one token meets, without embeddings."""
    return config.num_active_parameters - config.num_embedding_parameters


def kind_of(config: ModelConfig) -> str:
    return "moe" if config.is_moe else "dense"


def smaller(target: ModelConfig, hidden_size: int, vocab_size: int | None = None) -> ModelConfig:
    """A model of the target's proportions: layers, heads and feed-forwards shrink with the width, the number of experts
    does not. Weights are drawn larger, as 1 / sqrt(width): with the target's own deviation small models hardly learn to
    attend, and rates that suit them spoil it."""
    ratio = hidden_size / target.hidden_size
    if not 0 < ratio <= 1 or hidden_size % 16:
        raise ScalingError(f"width {hidden_size}: choose a multiple of 16 up to the target's {target.hidden_size:,}")

    def part(count: int, multiple: int) -> int:
        return max(multiple, round(count * ratio / multiple) * multiple)

    heads_per_kv = target.num_attention_heads // target.num_key_value_heads
    kv_heads = part(target.num_key_value_heads, 1)
    return replace(
        target,
        hidden_size=hidden_size,
        intermediate_size=part(target.intermediate_size, 16),
        moe_intermediate_size=part(target.moe_intermediate_size, 16) if target.is_moe else 0,
        num_hidden_layers=max(2, round(target.num_hidden_layers * ratio)),
        num_attention_heads=kv_heads * heads_per_kv,
        num_key_value_heads=kv_heads,
        head_dim=max(16, min(target.head_dim, hidden_size // heads_per_kv // 2 * 2)),
        initializer_range=target.initializer_range / math.sqrt(ratio),
        vocab_size=vocab_size or target.vocab_size,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def plan(
    target: ModelConfig,
    widths: Sequence[int],
    tokens_per_parameter: Sequence[float],
    rate_factors: Sequence[float],
    batch_factors: Sequence[float],
    *,
    stage: str = "general",
    sequence_length: int = 4096,
    vocab_size: int | None = None,
) -> Iterator[PlannedRun]:
    """All runs of a sweep towards `target`, the cheapest first. Batches are whole sequences, tokens whole batches.
    ScalingError for a stage or a width that there is none of."""
    _data_stage(stage, sequence_length, sequence_length)
    runs = []
    for width in widths:
        model = smaller(target, width, vocab_size)
        size = size_of(model)
        flops_of_sequence = model_flops(model, [sequence_length]).total
        for ratio in tokens_per_parameter:
            rate, batch = step_law(size, ratio * size)
            star = [(factor, 1.0) for factor in rate_factors] + [(1.0, f) for f in batch_factors if f != 1]
            for rate_factor, batch_factor in star:
                rows = max(1, round(batch * batch_factor / sequence_length))
                steps = max(1, math.ceil(ratio * size / (rows * sequence_length)))
                tokens = rows * sequence_length * steps
                name = f"{kind_of(model)}-{width}-{ratio:g}x-lr{rate_factor:g}-b{batch_factor:g}"
                runs.append(
                    PlannedRun(
                        name,
                        kind_of(model),
                        stage,
                        size,
                        tokens,
                        rate * rate_factor,
                        rows * sequence_length,
                        steps,
                        sequence_length,
                        flops_of_sequence * rows * steps,
                        model.to_dict(),
                    )
                )
    return iter(sorted(runs, key=lambda run: run.flops))


def write_plan(path: Path, runs: Sequence[PlannedRun]) -> None:
    path.write_text("".join(json.dumps(asdict(run), allow_nan=False) + "\n" for run in runs), encoding="utf-8")


def read_plan(path: Path) -> list[PlannedRun]:
    """What `write_plan` wrote; ScalingError naming the line for anything else."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            found.append(PlannedRun(**parse_object(line)))
        except (ValueError, TypeError) as error:
            raise ScalingError(f"{path}, line {number}: not a run that `qwen3 scaling plan` wrote: {error}") from None
    return found


def recipe(run: PlannedRun, data: str, *, held_out_tokens: int = 1 << 17, micro_batch: int = 1 << 14) -> Recipe:
    """A planned run on the data set in `data`, as its stage draws from it, float32: 15% of its few steps warm up, a
    cosine falls to a tenth. ScalingError if there is no such stage."""
    rows = run.batch // run.sequence_length
    most = max(1, micro_batch // run.sequence_length)
    at_once = max(each for each in range(1, min(rows, most) + 1) if rows % each == 0) * run.sequence_length
    seen = _data_stage(run.stage, run.sequence_length, run.batch)
    stage = Stage(
        run.stage,
        Shards(data, seen, max(1, held_out_tokens // at_once) * at_once),
        warm_up_and_decay(run.steps, run.learning_rate, run.learning_rate / 10, max(1, run.steps * 3 // 20)),
        tokens_per_micro_batch=at_once,
        checkpoint_every=run.steps,
        evaluate_every=run.steps,
    )
    model = ModelConfig.from_dict(run.model)
    return Recipe(run.name, model, (stage,), balance=1e-3 if model.is_moe else 0.0, bfloat16=False)


def _data_stage(name: str, sequence_length: int, tokens_per_step: int) -> DataStage:
    if name not in STAGES:
        raise ScalingError(f"no stage {name!r}: there are {', '.join(STAGES)}")
    return STAGES[name](sequence_length, tokens_per_step)


def read_runs(path: Path) -> list[Run]:
    """The runs of a file that have a loss. Needs `parameters`, `tokens`, `learning_rate`, `batch`, `loss`; `kind` and
    `stage` where they are not dense and general. ScalingError naming the line."""
    found = []
    for number, value in _lines(path):
        if value.get("loss") is None:
            continue
        numbers = {}
        for name in ("parameters", "tokens", "learning_rate", "batch", "loss"):
            each = value.get(name)
            if type(each) not in (int, float) or not each > 0:
                raise ScalingError(f"{path}, line {number}: {name} is {each!r:.50}, not a number above 0")
            numbers[name] = float(each)
        found.append(Run(**numbers, kind=value.get("kind", "dense"), stage=value.get("stage", "general")))
    if not found:
        raise ScalingError(f"{path} has no run with a loss: run the plan, and write each run's held-out loss into it")
    return found


def failed_runs(path: Path) -> list[str]:
    """The names of the runs that `read_runs` leaves out because they failed."""
    return [str(value.get("name", f"line {number}")) for number, value in _lines(path) if value.get("failed")]


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                yield number, parse_object(line)
            except ValueError as error:
                raise ScalingError(f"{path}, line {number}: {error}") from None


# ---- Laws as a file -------------------------------------------------------------------------------------------


def write_laws(path: Path, laws: dict[tuple[str, str], Laws]) -> None:
    entries = []
    for (kind, stage), each in laws.items():
        entry: dict[str, Any] = {"kind": kind, "stage": stage}
        if each.loss:
            entry["loss"] = {"constants": list(each.loss.constants), "samples": each.loss.samples.tolist()}
        for name in ("learning_rate", "batch"):
            if law := getattr(each, name):
                constants = [law.scale, law.of_parameters, law.of_tokens]
                entry[name] = {"constants": constants, "samples": law.samples.tolist()}
        entries.append(entry)
    path.write_text(json.dumps({"laws": entries}) + "\n", encoding="utf-8")


def read_laws(path: Path) -> dict[tuple[str, str], Laws]:
    """What `write_laws` wrote; ScalingError for anything else."""
    try:
        return {(entry["kind"], entry["stage"]): _laws(entry) for entry in read_object(path)["laws"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ScalingError(f"{path} holds no laws that `qwen3 scaling fit` wrote: {error}") from None


def _laws(entry: dict[str, Any]) -> Laws:
    def numbers(name: str, count: int) -> tuple[tuple[float, ...], np.ndarray] | None:
        if name not in entry:
            return None
        constants, samples = np.array(entry[name]["constants"], float), np.array(entry[name]["samples"], float)
        if constants.shape != (count,) or samples.ndim != 2 or samples.shape[1] != count:
            raise ValueError(f"{name} does not have {count} constants")
        return tuple(constants.tolist()), samples

    loss, rate, batch = numbers("loss", 5), numbers("learning_rate", 3), numbers("batch", 3)
    return Laws(
        LossLaw(*loss) if loss else None,
        PowerLaw(*rate[0], rate[1]) if rate else None,
        PowerLaw(*batch[0], batch[1]) if batch else None,
    )
