"""Reports as plain text: titled sections of aligned label and value, and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

Rows = Iterable[tuple[str, str]]


def print_sections(sections: Mapping[str, Rows]) -> None:
    """Print each section's title and rows; sections without rows are left out."""
    filled = {title: rows for title, each in sections.items() if (rows := list(each))}
    width = max(len(label) for rows in filled.values() for label, _ in rows)
    for title, rows in filled.items():
        print(title)
        for label, value in rows:
            print(f"  {label:<{width}}  {value}")


def readable_bytes(count: int) -> str:
    """`count` in binary units, three digits or more: 7.49 GiB."""
    size, unit = float(count), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.2f} {unit}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A left-aligned column and right-aligned ones."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    for row in rows:
        made.add_row(*row)
    return made
