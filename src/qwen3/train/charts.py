"""Charts as SVG text: bars for shares, lines for curves and laws, cells for loads.

No libraries, no scripts, nothing from outside. Text takes the colour of the page around it. Every chart has a title
that a screen reader reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 16, 34, 44
_COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2")
_MOST_POINTS = 600


@dataclass(frozen=True)
class Series:
    """A named curve; `is_dotted` draws points in place of a line."""

    name: str
    points: Sequence[tuple[float, float]]
    is_dotted: bool = False


def bars(title: str, values: Mapping[str, float], most: int = 12) -> str:
    """Horizontal bars of shares of the whole, the largest first; what is beyond `most` becomes one bar."""
    total = sum(values.values()) or 1
    ordered = sorted(values.items(), key=lambda item: -item[1])
    shown = ordered[:most]
    if rest := ordered[most:]:
        shown.append((f"{len(rest)} more", sum(value for _, value in rest)))
    parts, height = [], _TOP + 24 * len(shown) + 8
    for number, (name, value) in enumerate(shown):
        y, width = _TOP + 24 * number, 380 * value / total
        parts.append(_text(150, y + 14, name[:22], "end"))
        parts.append(f'<rect x="158" y="{y}" width="{width:.1f}" height="18" rx="2" fill="{_COLOURS[0]}"/>')
        parts.append(_text(166 + width, y + 14, f"{value / total:.2%}"))
    return _svg(title, height, parts)


def lines(
    title: str, series: Sequence[Series], x_label: str, y_label: str, *, log_x: bool = False, log_y: bool = False
) -> str:
    """Curves over common axes. Points that an axis cannot show (not finite, not above 0 in logarithms) are left out."""
    kept = [
        Series(
            each.name,
            [
                (x, y)
                for x, y in each.points
                if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x) and (y > 0 or not log_y)
            ],
            each.is_dotted,
        )
        for each in series
    ]
    xs, ys = ([point[axis] for each in kept for point in each.points] for axis in (0, 1))
    if not xs:
        return _svg(title, 60, [_text(_LEFT, 50, "nothing to show")])
    place_x, ticks_x = _axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT, log_x)
    place_y, ticks_y = _axis(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP, log_y)
    parts = []
    for value in ticks_y:
        y = place_y(value)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            'stroke-opacity="0.15"/>'
        )
        parts.append(_text(_LEFT - 6, y + 4, _short(value), "end"))
    parts += [_text(place_x(value), _HEIGHT - _BOTTOM + 16, _short(value), "middle") for value in ticks_x]
    for number, each in enumerate(kept):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(place_x(x), place_y(y)) for x, y in each.points[:: max(1, len(each.points) // _MOST_POINTS)]]
        if each.is_dotted:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        else:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        x = _LEFT + 8 + 140 * (number % 4)
        y = _TOP + 4 + 16 * (number // 4)
        parts.append(f'<rect x="{x}" y="{y - 8}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 14, y + 1, each.name))
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 8, x_label, "middle"))
    parts.append(_text(_LEFT - 60, _TOP - 10, y_label))
    return _svg(title, _HEIGHT, parts)


def grid(title: str, names: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    """A named row of cells for each row of values: clear at 1, blue above (full at 4), brown below (full at 1/4)."""
    width = (_WIDTH - _LEFT - _RIGHT - 60) / max(map(len, values))
    height = max(4.0, min(24.0, 400 / len(values)))
    parts = []
    for row, (name, cells) in enumerate(zip(names, values, strict=True)):
        y = _TOP + height * row
        if height >= 12 or row % math.ceil(12 / height) == 0:
            parts.append(_text(_LEFT + 54, y + 10, name[:18], "end"))
        for column, value in enumerate(cells):
            strength = min(1.0, abs(math.log(max(value, 1e-3), 4)))
            x = _LEFT + 60 + width * column
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" stroke="white" '
                f'stroke-width="0.5" fill="{_COLOURS[0] if value > 1 else _COLOURS[1]}" '
                f'fill-opacity="{strength:.2f}"><title>{escape(name)}, {column}: {value:.3g}</title></rect>'
            )
    return _svg(title, round(_TOP + height * len(values) + 8), parts)


def _axis(
    low: float, high: float, start: float, end: float, is_log: bool
) -> tuple[Callable[[float], float], list[float]]:
    """Where a value lies between two pixels, and the values to mark."""
    turn = math.log10 if is_log else float
    first, last = turn(low), turn(high)
    if first == last:
        first, last = first - 0.5, last + 0.5
    if is_log and last - first >= 1.5:
        ticks = [10.0**power for power in range(math.ceil(first), math.floor(last) + 1)]
        ticks = ticks[:: max(1, len(ticks) // 6)]
    else:
        values = [first + (last - first) * part / 4 for part in range(5)]
        ticks = [10**value if is_log else value for value in values]
    return lambda value: start + (end - start) * (turn(value) - first) / (last - first), ticks


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:,.4g}"
    return f"{value:.2g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    name = escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{name}" font-family="system-ui, sans-serif" font-size="12" fill="currentColor">'
        f'<title>{name}</title><text x="0" y="14" font-weight="bold">{name}</text>{"".join(parts)}</svg>\n'
    )


def stacked(charts: Sequence[str]) -> str:
    """Several charts as one picture, one below the other."""
    placed, height = [], 0
    for chart in charts:
        placed.append(chart.replace("<svg ", f'<svg y="{height}" ', 1))
        height += int(chart.split(f'viewBox="0 0 {_WIDTH} ', 1)[1].split('"', 1)[0])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">\n'
        f"{''.join(placed)}</svg>\n"
    )
