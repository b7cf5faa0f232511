"""What several commands share: options for the model, thinking and sampling, text from stdin, loading with progress."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qwen3.engine.llm import LLM

_MODEL, _THINKING, _SAMPLING = "Model", "Thinking", "Sampling (default: what the checkpoint recommends for the mode)"

Model = Annotated[
    str, typer.Argument(help="A directory, a .gguf file, a name on the hub such as Qwen/Qwen3-4B, or 'builtin'.")
]
Dtype = Annotated[
    str | None,
    typer.Option(help="Compute in float32, bfloat16 or float16. Default: as stored.", rich_help_panel=_MODEL),
]
Weights = Annotated[
    str,
    typer.Option(
        help="bf16, or int8 or int4 for the fast CPU kernels; auto chooses by size and free memory, and says so.",
        rich_help_panel=_MODEL,
    ),
]
CachePacked = Annotated[
    bool,
    typer.Option(
        "--cache-packed", help="Keep int8 or int4 weights on disk and start from there.", rich_help_panel=_MODEL
    ),
]
Kv = Annotated[
    str | None,
    typer.Option(
        help="Cache of the fast CPU kernels: bf16 (the default), fp16, fp32, or int8 for half the memory.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=_MODEL)]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit on the hub.", rich_help_panel=_MODEL, show_default=False)
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Use only what is already on this machine.", rich_help_panel=_MODEL)
]
MaxContext = Annotated[
    int | None,
    typer.Option(min=1, help="Longest conversation in tokens. Default: the model's own.", rich_help_panel=_MODEL),
]
Yarn = Annotated[
    float | None,
    typer.Option(help="Stretch the context by this factor, e.g. 4 for 131,072 tokens.", rich_help_panel=_MODEL),
]

Thinking = Annotated[
    bool, typer.Option("--thinking/--no-thinking", help="Reason before answering.", rich_help_panel=_THINKING)
]
ThinkingBudget = Annotated[
    int | None,
    typer.Option(min=0, help="Reasoning tokens after which the model must answer.", rich_help_panel=_THINKING),
]
HideThinking = Annotated[
    bool, typer.Option("--hide-thinking", help="Do not show the reasoning.", rich_help_panel=_THINKING)
]

Temperature = Annotated[float | None, typer.Option(help="0 takes the likeliest token.", rich_help_panel=_SAMPLING)]
TopP = Annotated[
    float | None, typer.Option(help="Smallest set of tokens with this probability.", rich_help_panel=_SAMPLING)
]
TopK = Annotated[int | None, typer.Option(help="This many likeliest tokens; 0 for all.", rich_help_panel=_SAMPLING)]
MinP = Annotated[
    float | None, typer.Option(help="Drop tokens below this share of the likeliest.", rich_help_panel=_SAMPLING)
]
PresencePenalty = Annotated[
    float | None, typer.Option(help="-2 to 2; 1.5 helps quantized models that repeat.", rich_help_panel=_SAMPLING)
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1 makes used tokens less likely.", rich_help_panel=_SAMPLING)
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.", rich_help_panel=_SAMPLING)]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer, reasoning included.", rich_help_panel=_SAMPLING)]

System = Annotated[str | None, typer.Option(help="System message.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def refuse_text_as_model(model: str) -> None:
    """Explain the order of arguments to who gave a text only."""
    if any(char.isspace() for char in model) and not Path(model).exists():
        raise typer.BadParameter(f"MODEL comes before the text: qwen3 ... builtin {model!r}", param_hint="MODEL")


def find(name: str, *, weights: bool = True) -> Path:
    """The directory of a run or model: a path, 'builtin', or a name on the hub, which is downloaded if need be.

    Raises CheckpointError. Beside a directory 'runs', 'runs/typo' is a path that does not exist, and not asked of the
    hub; official names are, whatever directories there are.
    """
    from qwen3.checkpoint.hub import resolve
    from qwen3.checkpoint.safetensors import CheckpointError

    path, is_official = Path(name), name.lower().startswith("qwen/")
    if len(path.parts) > 1 and path.parent.is_dir() and not path.exists() and not is_official:
        raise CheckpointError(f"{name} does not exist; {path.parent} does, so it is not looked for on the hub")
    return resolve(name, weights=weights)


def read_stdin() -> str:
    """All of stdin. Raises a usage error where a person sits at it, who would wait for nothing."""
    if sys.stdin.isatty():
        raise typer.BadParameter("give a text after MODEL, or pipe it in", param_hint="TEXT")
    return sys.stdin.buffer.read().decode("utf-8")


def sampling_overrides(**options: Any) -> dict[str, Any]:
    """Those sampling options that were given. Raises RequestError for a value that no model would take."""
    from qwen3.engine.request import SamplingParams

    given = {name: value for name, value in options.items() if value is not None}
    SamplingParams(**given)
    return given


def load_llm(model: str, **options: Any) -> "LLM":
    """Load a checkpoint; stderr says how its weights are kept and, on a terminal, how far it is."""
    with _progress(model) as progress, _no_collection():
        from qwen3.engine.llm import LLM

        return LLM(model, progress=progress, notify=lambda line: print(line, file=sys.stderr), **options)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Importing torch and reading a vocabulary make many objects and no garbage; looking for it takes a quarter of a
    second."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _progress(model: str) -> Iterator[Callable[[int, int], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("[dim]{task.description}"), BarColumn(bar_width=30), DownloadColumn(binary_units=True))
    bar = Progress(*columns, console=console, transient=True)

    def show(done: int, total: int) -> None:
        # Not earlier: until the first bytes are loaded, the line belongs to the download's own bar.
        if not bar.tasks:
            bar.start()
            bar.add_task(f"Loading {model}")
        bar.update(bar.task_ids[0], completed=done, total=total)

    try:
        yield show
    finally:
        bar.stop()
