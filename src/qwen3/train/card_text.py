"""A `Card` as markdown and as one HTML page. The page loads nothing: its charts and style are in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from qwen3.train.card import Block, Card, Chart, Code, Table

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #8886; padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: .75rem; background: #8882; }
svg { max-width: 100%; height: auto; }
"""


def markdown(card: Card, charts_at: str | None = None) -> str:
    """The card as text; pictures are linked as NAME.svg below `charts_at`, or left out where that is None."""
    parts = [f"# {card.title}"]
    for section in card.sections:
        if texts := [text for block in section.blocks if (text := _markdown(block, charts_at))]:
            parts += [f"## {section.title}", *texts]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block, charts_at: str | None) -> str:
    if isinstance(block, Table):
        lines = [block.columns, ["---"] * len(block.columns), *block.rows]
        return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
    if isinstance(block, Chart):
        return "" if charts_at is None else f"![{block.title}]({charts_at}{block.name}.svg)"
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    return block


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def html(card: Card) -> str:
    """The card as a page of its own."""
    body = [f"<h1>{escape(card.title)}</h1>"]
    for section in card.sections:
        body.append(f"<section><h2>{escape(section.title)}</h2>")
        body += [_html(block) for block in section.blocks]
        body.append("</section>")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(card.title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _html(block: Block) -> str:
    if isinstance(block, Table):
        head = _row("th", block.columns) if any(block.columns) else ""
        return f"<table>{head}{''.join(_row('td', row) for row in block.rows)}</table>"
    if isinstance(block, Chart):
        return f"<figure>{block.svg}</figure>"
    if isinstance(block, Code):
        return f"<pre>{escape(block.text)}</pre>"
    paragraph = re.sub("`([^`]*)`", r"<code>\1</code>", escape(block))
    return f"<p>{paragraph}</p>"


def _row(kind: str, cells: tuple[str, ...]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"


def pictures(card: Card) -> Iterator[Chart]:
    """All charts, for the files beside a markdown card."""
    return (block for section in card.sections for block in section.blocks if isinstance(block, Chart))
