"""A run's curves as SVG, from its logs alone: loss with held-out loss, gradient norm, learning rate; loads of experts.

Each curve has its own panel and scale; a line marks where a stage begins, dots the steps that were skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from qwen3.train import charts

WIDTH, HEIGHT, LEFT, TOP, GAP = 720, 180, 70, 28, 40
CURVE, DOT, LINE, INK = "#c2410c", "#1d4ed8", "#cbd5e1", "#1e293b"
_PANELS = (("loss", "Loss, nats a token"), ("gradient_norm", "Gradient norm"), ("learning_rate", "Learning rate"))
_MOST_POINTS = 2000

Record = dict[str, Any]


def read_log(run: Path) -> list[Record]:
    """The step reports of a run; ValueError if there are none."""
    path = run / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if not lines:
        raise ValueError(f"{run} has no log.jsonl with a step in it: name the directory of a run")
    return [json.loads(line) for line in lines]


def read_experts(run: Path) -> list[Record]:
    """How often the experts of a sparse run were chosen, at the steps that saved: `step`, `counts` [layer][expert]."""
    path = run / "experts.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def experts_svg(records: Sequence[Record]) -> str:
    """The largest and smallest load over the steps, and below it the load of every expert of each layer at the last.

    A load is an expert's share of the layer's choices over the share that an even division gives: 1 is even.
    """
    loads = [[[n * len(layer) / sum(layer) for n in layer] for layer in each["counts"]] for each in records]
    extremes = [
        charts.Series(
            f"{name} load", [(each["step"], turn(map(turn, load))) for each, load in zip(records, loads, strict=True)]
        )
        for name, turn in (("largest", max), ("smallest", min))
    ]
    over_steps = charts.lines("Load of an expert, 1 is even", extremes, "step", "load")
    names = [f"layer {number}" for number in range(len(loads[-1]))]
    return charts.stacked(
        [over_steps, charts.grid(f"Load by layer and expert, step {records[-1]['step']:,}", names, loads[-1])]
    )


def svg(records: Sequence[Record], caption: str) -> str:
    """Three panels, one above the other, over the steps."""
    width, height = WIDTH + LEFT + GAP, TOP + len(_PANELS) * (HEIGHT + GAP)
    first, last = records[0]["step"], max(records[-1]["step"], records[0]["step"] + 1)

    def x(step: int) -> float:
        return LEFT + WIDTH * (step - first) / (last - first)

    parts = [_text(LEFT, 16, caption, weight="bold")]
    for row, (field, title) in enumerate(_PANELS):
        parts += _panel(records, field, title, TOP + row * (HEIGHT + GAP), x)
    parts.append(_text(LEFT + WIDTH, height - 8, f"steps {first:,} to {records[-1]['step']:,}", anchor="end"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
    head += 'font-family="system-ui, sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def _panel(records: Sequence[Record], field: str, title: str, top: float, x: Callable[[int], float]) -> list[str]:
    held_out = [(r["step"], r["held_out_loss"]) for r in records if field == "loss" and r.get("held_out_loss")]
    points = [(r["step"], r[field]) for r in records if r[field] is not None]
    points = points[:: max(1, len(points) // _MOST_POINTS)]
    values = [value for _, value in (*points, *held_out)] or [0.0]
    low, high = min(values), max(values)

    def y(value: float) -> float:
        return top + 20 + (HEIGHT - 20) * (1 - (value - low) / ((high - low) or 1))

    parts = [_text(LEFT, top + 10, title + (", held out as dots" if held_out else ""))]
    for before, record in zip((None, *records[:-1]), records, strict=True):
        if before is None or record.get("stage") != before.get("stage"):
            at = x(record["step"])
            parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top + 16}" y2="{top + HEIGHT}" stroke="{LINE}"/>')
            parts.append(_text(at + 3, top + HEIGHT - 4, record.get("stage") or ""))
        if record.get("skipped"):
            parts.append(f'<circle cx="{x(record["step"]):.1f}" cy="{top + HEIGHT}" r="3" fill="{INK}"/>')
    line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{CURVE}" stroke-width="1.5"/>')
    parts += [f'<circle cx="{x(step):.1f}" cy="{y(value):.1f}" r="3" fill="{DOT}"/>' for step, value in held_out]
    parts += [_text(LEFT - 6, y(value) + 4, f"{value:.3g}", anchor="end") for value in sorted({low, high})]
    return parts


def _text(x: float, y: float, text: str, *, weight: str = "normal", anchor: str = "start") -> str:
    look = f'font-size="11" font-weight="{weight}" text-anchor="{anchor}" fill="{INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'
