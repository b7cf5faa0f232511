"""`qwen3 card`: what is known of a run or a model, in markdown or HTML."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from qwen3.cli import options


def card(
    path: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_MODEL", help="A run's directory, a model's, a name on the hub, or 'builtin'."),
    ],
    html: Annotated[bool, typer.Option("--html", help="One page with charts, which loads nothing.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The file. Markdown gets its charts as .svg files beside it. Default: print without charts."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name. Default: the recipe's or directory's.")] = None,
    grid: Annotated[
        float | None, typer.Option(min=0, help="Grams of CO2e that a kilowatt hour emits where the run was.")
    ] = None,
    grid_source: Annotated[str | None, typer.Option(help="Where --grid is from; needed with it.")] = None,
    overhead: Annotated[
        float, typer.Option(min=1, help="Power usage effectiveness of the building; 1 counts the machines alone.")
    ] = 1.0,
    record: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Write training.json into a model that the run made: its card by itself."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """A model card: compute, energy, carbon, exact data shares, how to reproduce, lineage, evaluation, limits.

    A run's figures come from its ledger. Of a model without one, what is unknown is said to be unknown.

    Examples:

    \b
      qwen3 card runs/builtin --html --out card.html
      qwen3 card runs/builtin --grid 56 --grid-source "RTE eCO2mix, mean of 2024"
      qwen3 card builtin
    """
    from qwen3.strict_json import read_object
    from qwen3.train import card as cards
    from qwen3.train import card_text, ledger
    from qwen3.train.energy import Grid

    where = options.find(path, weights=False)
    if (grid is None) != (grid_source is None):
        raise ValueError("--grid and --grid-source belong together: a factor without its source says nothing")
    factor = Grid(overhead=overhead) if grid is None else Grid(grid, grid_source, overhead)
    if record is not None:
        if not (record / "config.json").is_file():
            raise ValueError(f"{record} is no model: it has no config.json")
        file = record / cards.TRAINING
        # What only its makers know stays: the evaluation and the limits.
        sections = (read_object(file) if file.is_file() else {}) | cards.record(where, factor)
        file.write_text(json.dumps(sections, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"the record is in {file}")
        return
    if name is None:
        name = ledger.read(where).name if ledger.exists(where) else Path(path).resolve().name
    made = cards.of(where, name, factor)
    if as_json:
        sections = [
            replace(each, blocks=tuple(block for block in each.blocks if not isinstance(block, cards.Chart)))
            for each in made.sections
        ]
        print(json.dumps(asdict(replace(made, sections=tuple(sections))), indent=2))
        return
    if out is None:
        print(card_text.html(made) if html else card_text.markdown(made), end="")
        return
    if html:
        out.write_text(card_text.html(made), encoding="utf-8")
    else:
        for chart in card_text.pictures(made):
            (out.parent / f"{out.stem}-{chart.name}.svg").write_text(chart.svg, encoding="utf-8")
        out.write_text(card_text.markdown(made, f"{out.stem}-"), encoding="utf-8")
    print(f"the card is in {out}")
