"""`qwen3 ckpt`: are the bytes those that were written, what changed between two versions, where do they come from."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwen3.cli import options
from qwen3.cli.report import table

if TYPE_CHECKING:
    from qwen3.checkpoint.drift import Comparison

ckpt = typer.Typer(no_args_is_help=True, help="Checkpoints and models: integrity, drift between versions, lineage.")

Where = Annotated[
    str, typer.Argument(metavar="PATH", help="A run, a checkpoint step_N, a model's directory or its name on the hub.")
]


@ckpt.command()
def verify(
    path: Where,
    record: Annotated[
        bool, typer.Option("--record", help="Write SHA256SUMS of a model that has no digests yet, for later.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Read every byte and compare it with the digests there are; exit code 1 and the file's name if one differs.

    Digests come from a training checkpoint's manifest, SHA256SUMS, or the hub cache's names. Of a run, all checkpoints
    are verified, and that each names its parent as it is now.

    Examples:

    \b
      qwen3 ckpt verify runs/builtin
      qwen3 ckpt verify my-model --record
    """
    from qwen3.checkpoint import integrity

    where = options.find(path)
    if record:
        print(f"the digests are in {integrity.record(where)}")
        return
    results = {directory: integrity.verify(directory) for directory in integrity.checkpoints(where)}
    faults = [
        f"{directory / each.file} {each.fault}" for directory, files in results.items() for each in files if each.fault
    ]
    faults += _broken_links(where)
    if as_json:
        files = [{"directory": str(directory), **asdict(each)} for directory, all_ in results.items() for each in all_]
        print(json.dumps({"files": files, "faults": faults}, indent=2))
    else:
        for directory, files in results.items():
            for each in files:
                state = "DAMAGED" if each.fault else f"right ({each.source})" if each.source else "unknown: no digest"
                print(f"{directory / each.file}: {state}")
    if faults:
        raise ValueError("; ".join(faults))


@ckpt.command()
def diff(
    before: Where,
    after: Where,
    top: Annotated[int, typer.Option(min=1, help="Tensors shown, most changed first.")] = 20,
    as_json: options.Json = False,
) -> None:
    """What changed between two versions: drift of every tensor, config, tokenizer and chat template.

    Of a run the newest checkpoint is taken. `relative` is the norm of the change over the norm before.

    Examples:

    \b
      qwen3 ckpt diff runs/builtin/step_3200 runs/builtin/step_3600
      qwen3 ckpt diff Qwen/Qwen3-0.6B-Base Qwen/Qwen3-0.6B
    """
    from qwen3.checkpoint import drift, integrity

    pair = [integrity.checkpoints(options.find(each))[-1] for each in (before, after)]
    found = drift.compare(*pair)
    if as_json:
        print(json.dumps({"before": str(pair[0]), "after": str(pair[1]), "same": found.is_same, **asdict(found)}))
        return
    _print_comparison(found, top)


@ckpt.command()
def log(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, or a checkpoint step_N.")],
    as_json: options.Json = False,
) -> None:
    """The lineage of a run: its checkpoints, what each was made from, its starts, and where its first weights are from.

    Example:

    \b
      qwen3 ckpt log runs/builtin
    """
    from qwen3.checkpoint import integrity
    from qwen3.train import ledger

    ancestors = integrity.lineage(path)
    run = path if integrity.step_of(path) < 0 else path.parent
    totals = ledger.read(run) if ledger.exists(run) else None
    if as_json:
        steps = [{**asdict(each), "directory": str(each.directory)} for each in ancestors]
        attempts = [asdict(each) for each in totals.attempts] if totals else None
        parent = asdict(totals.parent) if totals and totals.parent else None
        print(json.dumps({"checkpoints": steps, "attempts": attempts, "parent": parent}, indent=2))
        return
    for number in range(len(ancestors) - 1, -1, -1):
        each = ancestors[number]
        print(f"step {each.step:,}  {each.stage}  manifest {each.digest[:16]}")
        commit, _, changes = each.commit.partition(" ")
        print(f"  recipe {each.recipe[:16] or 'unknown'}, code {f'{commit[:16]} {changes}'.strip() or 'unknown'}")
        if each.parent is None:
            print("  from: " + ("no parent is named" if number else "the start of the run, or a parent not named"))
        elif number and integrity.is_child(each, ancestors[number - 1]):
            print(f"  from: step {ancestors[number - 1].step:,}")
        else:
            print(f"  from: manifest {each.parent[:16]}, which is not here")
    if totals:
        for attempt in totals.attempts:
            end = "to its end" if attempt.ended else "then stopped or killed"
            print(f"{attempt.time}: from step {attempt.first:,}; kept to step {attempt.last:,}, {end}")
        if totals.parent:
            print(f"first weights: {totals.parent.location}, {totals.parent.digest[:16]}")
        else:
            print("first weights: drawn at random")
    else:
        print("no ledger: what happened between the checkpoints is unknown")


@ckpt.command()
def upcycle(
    dense: Where,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory, in the official sparse layout.")],
    experts: Annotated[int, typer.Option(min=1, help="Experts of each layer.")] = 8,
    top_k: Annotated[int, typer.Option(min=1, help="Experts that a token takes.")] = 2,
    pieces: Annotated[
        int, typer.Option(min=1, help="Experts that a feed-forward is cut into; divides the others.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Draws the routers.")] = 0,
) -> None:
    """Make a sparse model of a dense one that computes the same function, to train on (a recipe's `start_from`).

    Experts are copies of the dense feed-forward, or with --pieces of equal parts of its width.

    Example:

    \b
      qwen3 ckpt upcycle Qwen/Qwen3-0.6B-Base sparse --experts 32 --top-k 8 --pieces 4
    """
    from qwen3.checkpoint.generation_config import load_generation_config
    from qwen3.checkpoint.load import load_model, save_model
    from qwen3.tokenizer import Tokenizer
    from qwen3.train.upcycle import upcycle

    where = options.find(dense)
    sparse = upcycle(load_model(where), experts, top_k, pieces, seed)
    tokenizer = Tokenizer.load(where) if (where / "tokenizer.json").is_file() else None
    save_model(sparse, out, tokenizer=tokenizer, generation_config=load_generation_config(where) or None)
    config = sparse.config
    used = f"{config.num_parameters:,} parameters, {config.num_active_parameters:,} of them for a token"
    print(f"{out}: {config.num_experts} experts of width {config.moe_intermediate_size:,} a layer, {used}")


def _broken_links(run: Path) -> list[str]:
    """Neighbours of which the later one names a parent that is not the one before, though nothing is between them."""
    from qwen3.checkpoint import integrity

    if not any(run.glob(f"step_*/{integrity.MANIFEST}")):
        return []
    chain = integrity.lineage(run)
    known = {each.digest for each in chain}
    return [
        f"{later.directory / integrity.MANIFEST} names a parent {later.parent[:16]}, but step {before.step:,} before "
        f"it is {before.digest[:16]}: one of them was changed, or checkpoints between them are gone"
        for before, later in pairwise(chain)
        if later.parent is not None and later.parent not in known
    ]


def _print_comparison(found: Comparison, top: int) -> None:
    from rich.console import Console

    if found.is_same:
        print("nothing changed")
        return
    rows = [
        (drift.name, f"{drift.relative:.3e}", f"{drift.largest:.3e}", f"{drift.cosine:.8f}", f"{drift.elements:,}")
        for drift in found.drifts[:top]
    ]
    Console().print(table("drift", ("tensor", "relative", "largest", "cosine", "elements"), rows))
    changed = sum(drift.largest > 0 for drift in found.drifts)
    print(f"{changed:,} of {len(found.drifts):,} tensors changed; all together by {found.total:.3e}")
    for what, names in (
        ("only before", found.only_before),
        ("only after", found.only_after),
        ("of another shape", found.reshaped),
    ):
        if names:
            print(f"{what}: {', '.join(names[:top])}{' ...' if len(names) > top else ''}")
    for what, old, new in found.files:
        print(f"{what}: {old} -> {new}")
    sys.stdout.flush()
