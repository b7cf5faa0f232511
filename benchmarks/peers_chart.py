"""The chart of `peers.py` as SVG: a panel for each model size and test, a bar for each engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

PANEL_WIDTH, LABEL_WIDTH, VALUE_WIDTH, MARGIN = 300, 160, 50, 20
BAR_HEIGHT, BAR_GAP, HEADING_HEIGHT = 16, 6, 34
OURS, PEERS, INK = "#c2410c", "#94a3b8", "#1e293b"

Medians = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Tokens a second by size, engine and test."""


def svg(medians: Medians, tests: Sequence[str], caption: str) -> str:
    """Sizes from top to bottom, tests from left to right; each panel has its own scale."""
    parts, top = [_text(MARGIN, MARGIN + 10, f"Tokens a second: {caption}", size=12)], 2 * MARGIN + 6
    for size, engines in medians.items():
        for column, test in enumerate(tests):
            speeds = {engine: measured[test] for engine, measured in engines.items() if test in measured}
            labels = LABEL_WIDTH if column == 0 else 0
            left = MARGIN + (LABEL_WIDTH if column else 0) + column * (PANEL_WIDTH + MARGIN)
            parts.append(_text(left + labels, top + 12, f"{size.upper()}: {test}", size=13, weight="bold"))
            for row, engine in enumerate(engines):
                y = top + HEADING_HEIGHT - 10 + row * (BAR_HEIGHT + BAR_GAP)
                if column == 0:
                    parts.append(_text(left + labels - 8, y + 12, engine, anchor="end"))
                if engine in speeds:
                    parts += _bar(left + labels, y, speeds[engine], max(speeds.values()), engine.startswith("qwen3"))
        top += HEADING_HEIGHT + len(engines) * (BAR_HEIGHT + BAR_GAP) + MARGIN
    width = 2 * MARGIN + LABEL_WIDTH + len(tests) * (PANEL_WIDTH + MARGIN) - MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}" '
    head += 'font-family="system-ui, sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{top}" fill="white"/>', *parts, "</svg>", ""])


def _bar(x: float, y: float, value: float, largest: float, is_ours: bool) -> list[str]:
    width = max(1.0, (PANEL_WIDTH - VALUE_WIDTH) * value / largest)
    fill = OURS if is_ours else PEERS
    return [
        f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="2" fill="{fill}"/>',
        _text(x + width + 5, y + 12, f"{value:,.1f}" if value < 100 else f"{value:,.0f}"),
    ]


def _text(x: float, y: float, text: str, *, size: int = 11, weight: str = "normal", anchor: str = "start") -> str:
    look = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'
