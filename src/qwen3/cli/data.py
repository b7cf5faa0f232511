"""`qwen3 data`: build a data set, look into it, trace a step to its documents, learn a tokenizer."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen3 import __version__
from qwen3.cli import options
from qwen3.cli.report import table

if TYPE_CHECKING:
    from qwen3.train.data.sources import Source
    from qwen3.train.data.stage import Stage

data = typer.Typer(no_args_is_help=True, help="Pre-training data: build, inspect, trace, and learn a tokenizer.")

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCES...",
        help="Files, globs or directories of .jsonl, .jsonl.gz, .parquet or text; hf://owner/name?config=&split=; or a "
        ".toml file that lists [[source]] tables with location, name, license, url, commit, text.",
    ),
]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A data set that `qwen3 data build` made.")]
TextField = Annotated[str, typer.Option(help="The field or column that holds the text.")]


@data.command()
def build(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="Where the data set goes; a build found there goes on.")],
    tokenizer: Annotated[str, typer.Option(help="A directory, a name on the hub, or 'builtin'.")] = "builtin",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE", help="Keep what passes, e.g. 'education>=2', 'language=en,de', 'tokens>=64'. Repeat."
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Labels to give: characters, language, domain, education, safety, repetition (default: all), or "
            "your own as name=module:function. Repeat."
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact/--no-exact", help="Drop texts that occurred before.")] = True,
    near: Annotated[
        float, typer.Option(min=0, max=1, help="Drop texts at least this similar to an earlier one; 0: none.")
    ] = 0.8,
    name: Annotated[str, typer.Option(help="Name of the sources. Default: what the records say.")] = "",
    license: Annotated[str, typer.Option(help="Licence of records that name none.")] = "",
    url: Annotated[str, typer.Option(help="Where the sources are from, for the manifest.")] = "",
    commit: Annotated[str, typer.Option(help="Their version, for the manifest.")] = "",
    text_field: TextField = "text",
    skip_malformed: Annotated[
        bool, typer.Option("--skip-malformed", help="Count and skip records that cannot be read.")
    ] = False,
    unit_mib: Annotated[
        int, typer.Option(min=0, help="MiB of raw data in a unit of work and a shard; 0: by the size of the sources.")
    ] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one a core.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Run as a Ray Data job; storage must be shared.")] = False,
) -> None:
    """Raw text to labelled, filtered, deduplicated token shards. Ctrl-C stops; the same command goes on.

    \b
      qwen3 data build corpus/*.jsonl.gz --out data/general --keep "education>=1" --keep "repetition<=0.3"
      qwen3 data build hf://HuggingFaceFW/fineweb-edu?config=sample-10BT --tokenizer Qwen/Qwen3-0.6B-Base --out data/web
    """
    from qwen3.tokenizer import Tokenizer
    from qwen3.train.data import labels as labellers
    from qwen3.train.data import workers as where
    from qwen3.train.data.build import Job
    from qwen3.train.data.build import build as build_dataset
    from qwen3.train.data.sources import Source

    job = Job(
        sources=tuple(Source(each, name, license, url, commit, text_field) for each in sources),
        keep=tuple(keep or ()),
        labellers=tuple(label or labellers.DEFAULT),
        exact=exact,
        near=near,
        skip_malformed=skip_malformed,
        unit_bytes=unit_mib << 20,
    )
    chosen = Tokenizer.load(options.find(tokenizer, weights=False))
    if not (out / "manifest.json").exists():
        _tell_left_out(job.sources)
    run_units = where.ray_cluster() if ray else where.processes(workers or os.cpu_count() or 1)
    try:
        with _progress() as show:
            made = build_dataset(job, chosen, out, run_units, show, f"qwen3 {__version__}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there", file=sys.stderr)
        raise
    dropped = made.incoming.documents - made.documents
    print(f"{out}: {made.documents:,} documents, {made.tokens:,} tokens; {dropped:,} documents dropped")


@data.command()
def inspect(
    directory: Directory,
    by: Annotated[list[str] | None, typer.Option(help="Labels to count by. Default: all that are words.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Most values shown of each label.")] = 12,
    examples: Annotated[int, typer.Option(min=0, help="Documents shown.")] = 3,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte and check it against the manifest.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """What a data set holds: sources, shares by label, what was dropped and why."""
    from qwen3.cli.inspection import print_inspection
    from qwen3.train.data.dataset import Dataset

    dataset = Dataset(directory)
    if verify:
        with _progress() as show:
            dataset.verify(lambda done, total: show("verify", done, total))
    if as_json:
        print((directory / "manifest.json").read_text(encoding="utf-8"), end="")
        return
    print_inspection(dataset, by or [], top, examples)
    if verify:
        print("every byte is as the manifest says")


@data.command()
def trace(
    directory: Directory,
    step: Annotated[int, typer.Option(min=0, help="The step of the stage, from 0.")],
    stage: Annotated[str, typer.Option(help="general, reasoning, long-context, or a stage of --recipe.")] = "general",
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="RECIPE.py",
            help="A file that is run: a recipe for `qwen3 train`, or one with a function stages() of data stages.",
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="What recipe() is called with: for recipes/pretrain.py a size, as 4B.")
    ] = None,
    sequence_length: Annotated[int | None, typer.Option(min=2, help="Of a built-in stage.")] = None,
    tokens_per_step: Annotated[int | None, typer.Option(min=2, help="Of a built-in stage.")] = None,
    seed: Annotated[int | None, typer.Option(help="The run's seed. Default: the recipe's, else 0.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most pieces shown.")] = 40,
    as_json: options.Json = False,
) -> None:
    """Which documents a step sees: source, file and record, which of their tokens, and in which row.

    \b
      qwen3 data trace data/web --step 1000 --stage reasoning
      qwen3 data trace data/pretrain --step 1000 --stage reasoning --recipe recipes/pretrain.py --variant 4B
    """
    import numpy as np

    from qwen3.cli.inspection import preview
    from qwen3.cli.recipe_file import load_data_stage
    from qwen3.train.data.dataset import Dataset
    from qwen3.train.data.stage import StageData

    dataset = Dataset(directory)
    if recipe is None and variant is not None:
        raise ValueError("--variant is what a recipe is called with: name it by --recipe")
    if recipe is None:
        chosen, own_seed = _built_in_stage(stage, sequence_length, tokens_per_step), 0
    elif sequence_length or tokens_per_step:
        raise ValueError("--sequence-length and --tokens-per-step are for built-in stages; a recipe's are its own")
    else:
        chosen, own_seed = load_data_stage(recipe, variant, stage)
    steps = StageData(dataset, chosen, own_seed if seed is None else seed)
    rows = steps.rows(step)
    digest = steps.digest(step)
    row_of = np.searchsorted(rows.ends, np.arange(len(rows.documents)), "right")
    files, records = dataset.column("file"), dataset.column("record")
    pieces = [
        {
            "row": int(row_of[number]),
            "document": document,
            "source": dataset.word("source", document),
            "file": dataset.manifest.files[files[document]].path,
            "record": int(records[document]),
            "first_token": first,
            "last_token": last - 1,
            "of_tokens": int(dataset.lengths[document]),
        }
        for number, (document, first, last) in enumerate(
            zip(rows.documents.tolist(), rows.first.tolist(), rows.last.tolist(), strict=True)
        )
    ]
    shares = steps.counts("source", step, step + 1)
    if as_json:
        print(json.dumps({"stage": chosen.name, "step": step, "digest": digest, "tokens": shares, "pieces": pieces}))
        return
    from rich.console import Console

    console = Console()
    previews = [preview(dataset, piece["document"], piece["first_token"]) for piece in pieces[:limit]]
    console.print(
        table(
            f"{chosen.name}, step {step}: {len(pieces):,} pieces in {len(rows):,} rows of {chosen.row:,} tokens",
            ("where", "row", "document", "tokens", "begins"),
            [
                (
                    f"{piece['source']}: {Path(piece['file']).name}, record {piece['record']:,}",
                    str(piece["row"]),
                    f"{piece['document']:,}",
                    f"{piece['first_token']:,}-{piece['last_token']:,} of {piece['of_tokens']:,}",
                    text,
                )
                for piece, text in zip(pieces, previews, strict=False)
            ],
        )
    )
    if len(pieces) > limit:
        print(f"... and {len(pieces) - limit:,} more (--limit, --json)")
    for source, tokens in shares.most_common():
        print(f"{tokens / chosen.tokens_per_step:7.2%}  {tokens:>12,} tokens  {source}")
    print(f"cut to fill rows: {rows.cut_tokens / chosen.tokens_per_step:.2%} of tokens. SHA-256 of the ids: {digest}")


@data.command("tokenizer")
def learn_tokenizer(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="Directory for tokenizer.json and tokenizer_config.json.")],
    vocab_size: Annotated[int, typer.Option(min=282, help="Ids, the 26 control tokens included.")] = 32_768,
    megabytes: Annotated[
        int, typer.Option(min=1, help="Million characters to learn from, spread over the sources.")
    ] = 200,
    text_field: TextField = "text",
) -> None:
    """Learn a byte-level BPE tokenizer with Qwen3's splits and control tokens from raw text."""
    from qwen3.train.bbpe import train_tokenizer
    from qwen3.train.data import hub
    from qwen3.train.data.sources import Source, sample_texts

    given = [Source(each, text=text_field) for each in sources]
    _tell_left_out(given)
    with _progress() as show:
        local = hub.local_sources(given, out / "raw", lambda count: show("download", count, 0))
        made = train_tokenizer(sample_texts(local, megabytes * 1_000_000, show), vocab_size)
    made.save(out)
    print(f"{out}: a tokenizer of {made.vocab_size:,} ids")
    if made.vocab_size < vocab_size:
        print(f"the texts hold too few distinct words for {vocab_size:,}", file=sys.stderr)


def _built_in_stage(name: str, sequence_length: int | None, tokens_per_step: int | None) -> Stage:
    from qwen3.train.data.stage import STAGES

    if name not in STAGES:
        raise ValueError(f"no stage {name!r}: there are {', '.join(STAGES)}; others need --recipe")
    given = {"sequence_length": sequence_length, "tokens_per_step": tokens_per_step}
    return STAGES[name](**{option: value for option, value in given.items() if value is not None})


def _tell_left_out(given: Iterable[Source]) -> None:
    """On stderr, which files of directories are of no format that is read."""
    from qwen3.train.data import sources

    for source in (each for one in given for each in sources.expand(one)):
        if files := sources.left_out(source):
            names = ", ".join(map(str, files[:5]))
            more = f" and {len(files) - 5:,} more" if len(files) > 5 else ""
            print(f"{source.location}: left out {names}{more}: not {', '.join(sources.FORMATS)}", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A function that shows how far each phase is: bars on a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda phase, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total or None)
            bars.update(tasks[phase], completed=done, total=total or None)

        yield show
