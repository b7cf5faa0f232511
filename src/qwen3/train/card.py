"""A model card: what is known of a model or a run, from its ledger, its data shares and its files, as `Section`s.

Nothing is estimated here and nothing is left out in silence: what no file says is written as unknown. `card_text`
renders the sections as markdown and HTML. For a model without a ledger, `training.json` beside its weights may hold
what its makers recorded, as sections of label and value.

    run      ledger/, data_shares.json, log.jsonl, step_N/, evaluation.json, model/
    model    config.json, training.json, evaluation.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3.checkpoint import integrity
from qwen3.config import ModelConfig
from qwen3.strict_json import read_object
from qwen3.train import charts, ledger, shares
from qwen3.train.energy import Grid
from qwen3.train.ledger import Spent, Totals
from qwen3.train.shares import DataShares

TRAINING, EVALUATION = "training.json", "evaluation.json"
UNKNOWN = "unknown: not recorded"

Rows = list[tuple[str, str]]


class CardError(ValueError):
    """What a card cannot be made of; the message says what is missing."""


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """`name` is a file name without its ending, `svg` the picture."""

    name: str
    title: str
    svg: str


@dataclass(frozen=True)
class Code:
    text: str


Block = str | Table | Chart | Code


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Card:
    title: str
    sections: tuple[Section, ...]


def of(path: Path, name: str, grid: Grid | None = None) -> Card:
    """The card of the run or model in the directory `path`. CardError for what is neither; and the errors of whatever
    it holds that is damaged."""
    totals = ledger.read(path) if ledger.exists(path) else None
    model = next((each for each in (path, path / "model") if (each / "config.json").is_file()), None)
    if totals is None and model is None:
        raise CardError(f"{path} is neither a run with a ledger nor a model: it has no ledger/ and no config.json")
    config = ModelConfig.from_dict(totals.model) if totals else ModelConfig.load(model)
    recorded = read_object(model / TRAINING) if model and (model / TRAINING).is_file() else {}
    counted = shares.read(path)
    stale = 0
    if totals and counted and counted.tokens != totals.kept.tokens:
        # The run went on after they were counted.
        counted, stale = None, counted.tokens
    made = [Section("Model", (_pairs(_model_rows(config)),))]
    if totals:
        made.append(Section("Compute", tuple(_compute(totals, grid or Grid()))))
    else:
        unknown = ["hardware", "device-hours", "floating-point operations", "energy", "carbon"]
        made.append(_recorded("Compute", recorded, unknown))
    made.append(
        Section("Training data", tuple(_data(counted, totals, stale)))
        if totals or counted
        else _recorded("Training data", recorded, ["tokens", "sources and their shares", "languages and their shares"])
    )
    if log := _log_chart(path):
        made.append(Section("Training curve", (log,)))
    made.append(
        Section("Reproduce", tuple(_reproduce(totals)))
        if totals
        else _recorded("Reproduce", recorded, ["recipe", "code"])
    )
    made.append(
        Section("Lineage", tuple(_lineage(path, totals))) if totals else _recorded("Lineage", recorded, ["parents"])
    )
    made.append(Section("Evaluation", tuple(_evaluation([path, *([model] if model else [])], recorded))))
    made.append(Section("Limits", tuple(_limits(totals, counted, recorded))))
    return Card(f"Model card: {name}", tuple(made))


def record(run: Path, grid: Grid | None = None) -> dict[str, dict[str, str]]:
    """What `training.json` of a model that `run` made should hold, so that its card needs no ledger."""
    found: dict[str, dict[str, str]] = {}
    for section in of(run, "", grid).sections:
        if section.title not in ("Compute", "Training data", "Reproduce", "Lineage"):
            continue
        rows = found.setdefault(section.title, {})
        for block in section.blocks:
            if isinstance(block, Table) and block.columns[1:] == ("tokens", "share"):
                label = {"source": "sources", "language": "languages", "license": "licences"}.get(
                    block.columns[0], block.columns[0]
                )
                *values, total = block.rows
                rows["tokens"] = f"{total[1]}, counted from the documents of every step"
                rows[f"{label} and their shares"] = "; ".join(f"{name} {n} ({share})" for name, n, share in values)
            elif isinstance(block, Table):
                shown = block.rows
                if block.columns[0] == "checkpoint":
                    # The last of each stage is enough: nobody who has the model alone has their files.
                    shown = {stage: (step, stage, *digests) for step, stage, *digests in shown}.values()
                for name, *values in shown:
                    label = f"{block.columns[0]}: {name}" if block.columns[0] else name
                    named = zip(block.columns[1:], values, strict=True)
                    rows[label] = "; ".join(f"{column} {value}".strip() for column, value in named)
            elif isinstance(block, Code):
                rows["command"] = "; ".join(block.text.splitlines())
    return found


def _pairs(rows: Rows) -> Table:
    return Table(("", ""), tuple(rows))


def _recorded(title: str, recorded: Mapping[str, Any], expected: list[str]) -> Section:
    """What `training.json` says under `title`, and that the rest of what a reader expects there is unknown."""
    said = recorded.get(title, {})
    rows = [(key, str(value) if value is not None else UNKNOWN) for key, value in said.items()]
    rows += [(key, UNKNOWN) for key in expected if key not in said]
    return Section(title, (_pairs(rows),))


def _model_rows(config: ModelConfig) -> Rows:
    rows = [
        ("architecture", f"Qwen3, {'mixture of experts' if config.is_moe else 'dense'}, decoder-only transformer"),
        ("parameters", f"{config.num_parameters:,} ({config.num_non_embedding_parameters:,} without embeddings)"),
    ]
    if config.is_moe:
        chosen = f"{config.num_experts_per_tok} of {config.num_experts} experts"
        rows.append(("parameters of a token", f"{config.num_active_parameters:,}, {chosen} a layer"))
    heads = f"{config.num_attention_heads} query and {config.num_key_value_heads} key-value heads of {config.head_dim}"
    width = config.moe_intermediate_size if config.is_moe else config.intermediate_size
    rows += [
        ("layers", f"{config.num_hidden_layers} of hidden size {config.hidden_size:,}, feed-forward {width:,}"),
        ("attention", f"{heads}, QK-Norm, RoPE base {config.rope_parameters.rope_theta:,.0f}"),
        ("vocabulary", f"{config.vocab_size:,}, {'tied' if config.tie_word_embeddings else 'separate'} head"),
        ("context", f"{config.max_context:,} tokens"),
    ]
    return rows


# ---- Compute --------------------------------------------------------------------------------------------------


def _compute(totals: Totals, grid: Grid) -> Iterator[Block]:
    used = totals.used
    machines = sorted({attempt.hardware for attempt in totals.attempts})
    processes = sorted({attempt.processes for attempt in totals.attempts})
    missing = totals.steps - totals.recorded_steps
    yield _pairs(
        [
            ("hardware", "; ".join(machines)),
            ("processes", ", ".join(map(str, processes))),
            ("device-hours", f"{used.device_hours:,.4g} ({used.core_hours:,.4g} core-hours)"),
            ("floating-point operations", f"{used.flops:.4g}, from the shapes of every step"),
            *_energy_rows(used, grid),
            ("of these done twice", _twice(totals)),
            (
                "steps",
                f"{totals.steps:,}" + (f", of which {missing:,} without a ledger: not in here" if missing else ""),
            ),
            ("steps skipped", _skipped(totals)),
        ]
    )
    rows = [
        (
            stage.name,
            f"{stage.first + 1:,} to {stage.last:,}",
            f"{stage.tokens:,}",
            f"{stage.trained_tokens:,}",
            f"{stage.flops:.4g}",
        )
        for stage in totals.stages
    ]
    yield Table(("stage", "steps", "tokens", "trained on", "FLOPs"), tuple(rows))


def _energy_rows(used: Spent, grid: Grid) -> Rows:
    """Energy and carbon of what was measured, the building's overhead included, by which meters, and without what.

    The uncertainties of the meters add up: nothing says that their errors are independent.
    """
    kwh = {kind: joules / 3.6e6 * grid.overhead for kind, joules in sorted(used.joules.items())}
    total, uncertainty = sum(kwh.values()), sum(value * kind.uncertainty for kind, value in kwh.items())
    by = [f"{kind.part}: {kind.method}, {value:.4g} kWh within {kind.uncertainty:.0%}" for kind, value in kwh.items()]
    unmeasured = sorted(used.unmeasured_hours.items())
    by += [f"{part}: not measured in {hours:,.4g} device-hours" for part, hours in unmeasured]
    without = "".join(f", without the {part} where it was not measured" for part, _ in unmeasured)
    energy = f"{total:.4g} kWh, give or take {uncertainty:.2g}{without}"
    grams, grams_uncertainty = total * grid.grams_per_kwh, uncertainty * grid.grams_per_kwh
    carbon = f"{grams:,.4g} g CO2e, give or take {grams_uncertainty:,.2g}{without}"
    return [
        ("energy", energy if kwh else UNKNOWN),
        ("energy by", "; ".join(by) or UNKNOWN),
        ("carbon", carbon if kwh else UNKNOWN),
        ("carbon by", f"{grid.grams_per_kwh:g} g CO2e a kWh: {grid.source}; overhead x {grid.overhead:g}"),
    ]


def _skipped(totals: Totals) -> str:
    if not totals.knows_skips:
        return UNKNOWN
    skipped = totals.kept.skipped_steps
    return f"{skipped:,}, which saw their tokens and trained on none" if skipped else "none"


def _twice(totals: Totals) -> str:
    again = totals.repeated
    if not again.flops:
        return "nothing"
    return f"{again.tokens:,} tokens, {again.device_hours:,.3g} device-hours, {again.flops:.3g} operations, after kills"


# ---- Data -----------------------------------------------------------------------------------------------------


def _data(counted: DataShares | None, totals: Totals | None, stale: int) -> Iterator[Block]:
    if counted is None:
        yield f"The steps saw {totals.kept.tokens:,} tokens. Their shares by source, language and label: {UNKNOWN}."
        if stale:
            yield f"Shares were counted when the run had {stale:,} tokens; its command counts again when it ends."
        return
    skipped = " Steps that were skipped saw theirs too." if totals and totals.kept.skipped_steps else ""
    yield (
        f"The steps saw exactly {counted.tokens:,} tokens, counted from the documents of every step. Each table adds "
        f"up to that number.{skipped}"
    )
    for label in counted.labels:
        values = counted.total(label)
        rows = [(value, f"{tokens:,}", f"{tokens / counted.tokens:.2%}") for value, tokens in values.items()]
        rows.append(("total", f"{sum(values.values()):,}", "100%"))
        yield Table((label, "tokens", "share"), tuple(rows))
        yield Chart(f"share-{label}", f"Tokens by {label}", charts.bars(f"Tokens by {label}", values))
    origins = {
        (
            each.name or "(by record)",
            each.license or "(by record)",
            each.url or "unknown",
            each.commit[:12] or "unknown",
        )
        for stage in counted.stages
        for each in stage.sources
    }
    if origins:
        yield Table(("source", "licence", "URL", "commit"), tuple(sorted(origins)))
    if digests := sorted({stage.dataset_sha256 for stage in counted.stages if stage.dataset_sha256}):
        yield f"SHA-256 of all token ids of the data set: {', '.join(digests)}."


def _log_chart(path: Path) -> Chart | None:
    log = path / "log.jsonl"
    if not log.is_file():
        return None
    points, held_out = [], []
    for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            # A run is writing it, or was killed while it did.
            break
        report = json.loads(line)
        points.append((report["step"], report["loss"]))
        if report.get("held_out_loss") is not None:
            held_out.append((report["step"], report["held_out_loss"]))
    series = [charts.Series("training", [(x, y) for x, y in points if y is not None])]
    if held_out:
        series.append(charts.Series("held out", held_out, is_dotted=True))
    svg = charts.lines("Loss in nats a token", series, "step", "loss")
    return Chart("loss", "Loss in nats a token", svg)


# ---- Reproduce, lineage, evaluation, limits --------------------------------------------------------------------


def _reproduce(totals: Totals) -> Iterator[Block]:
    codes = {attempt.code["sha256"]: attempt.code for attempt in totals.attempts}
    rows = [("recipe", f"{totals.name}, SHA-256 {totals.recipe_sha256}")]
    for code in codes.values():
        commit = code.get("commit", "commit unknown: not run from a checkout")
        rows.append(("code", f"{code['software']}, {commit}, SHA-256 of the sources {code['sha256']}"))
    yield _pairs(rows)
    yield "The commands as they were given; each goes on where the one before stopped:"
    commands = [attempt.command for attempt in totals.attempts]
    yield Code("\n".join(dict.fromkeys(commands)))
    yield "`qwen3 data trace` shows the documents of any step, `qwen3 ckpt verify` whether the files are those written."


def _lineage(path: Path, totals: Totals) -> Iterator[Block]:
    parents = "none: first weights drawn at random by the recipe's seed"
    if totals.parent:
        step = "" if totals.parent.step is None else f", step {totals.parent.step:,}"
        parents = f"{totals.parent.location}{step}, SHA-256 {totals.parent.digest}"
    yield _pairs([("parents", parents)])
    rows = [
        (
            attempt.time,
            f"{attempt.first:,}",
            f"{attempt.last:,}",
            str(attempt.processes),
            "ended" if attempt.ended else "stopped or killed",
        )
        for attempt in totals.attempts
    ]
    yield Table(("started (UTC)", "from step", "kept to step", "processes", "how it went"), tuple(rows))
    if any(path.glob(f"step_*/{integrity.MANIFEST}")):
        steps = [
            (f"{each.step:,}", each.stage or "", each.digest, each.parent or "none named")
            for each in integrity.lineage(path)
        ]
        yield Table(("checkpoint", "stage", "SHA-256 of its manifest", "of its parent's"), tuple(steps))


def _evaluation(places: list[Path], recorded: Mapping[str, Any]) -> Iterator[Block]:
    files = [place / EVALUATION for place in places if (place / EVALUATION).is_file()]
    results = read_object(files[0]) if files else recorded.get("Evaluation", {})
    if not results:
        yield f"{UNKNOWN}. `{EVALUATION}` in the run or model (names and figures) would be shown here."
        return
    yield Table(("what", "result"), tuple(_flat("", results)))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _flat(f"{prefix} / {key}" if prefix else key, each)
    else:
        yield prefix, f"{value:.4g}" if isinstance(value, float) else str(value)


def _limits(totals: Totals | None, counted: DataShares | None, recorded: Mapping[str, Any]) -> Iterator[Block]:
    yield from recorded.get("Limits", [])
    if totals is None:
        yield "There is no ledger beside this model: what is unknown above its files cannot tell."
        return
    if not all(attempt.ended for attempt in totals.attempts):
        yield "Time and energy between the last step of an attempt that was killed and the kill are not counted."
    used = totals.used
    if estimated := sum(joules for kind, joules in used.joules.items() if kind.is_estimate):
        share = estimated / sum(used.joules.values())
        yield f"{share:.0%} of the energy was not measured but estimated from declared watts."
    for part, hours in sorted(used.unmeasured_hours.items()):
        yield f"The energy of the {part} was not measured in {hours:,.4g} device-hours: no figure holds it."
    yield "Not counted: making the hardware, building the data, experiments before this run, storage and network."
    if counted is None:
        yield "No data shares were counted for this run."
