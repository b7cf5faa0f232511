"""`qwen3 chat`: a conversation in the terminal, or one message a line from a pipe."""

from pathlib import Path
from typing import Annotated

import typer

from qwen3.cli import options

_TOOLS = "Tools"


def chat(
    model: options.Model = "builtin",
    system: options.System = None,
    load_file: Annotated[
        Path | None, typer.Option("--load", metavar="FILE", help="Continue a conversation saved with /save.")
    ] = None,
    tools: Annotated[
        list[str] | None,
        typer.Option(
            metavar="builtin|FILE.py",
            help="Let the model use a calculator and a clock, or the functions of your Python file, which is run.",
            rich_help_panel=_TOOLS,
            show_default=False,
        ),
    ] = None,
    mcp: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMMAND|URL|FILE.json",
            help="The tools of a Model Context Protocol server, or of those in a file with mcpServers.",
            rich_help_panel=_TOOLS,
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Run tools without asking.", rich_help_panel=_TOOLS)] = False,
    thinking: options.Thinking = True,
    thinking_budget: options.ThinkingBudget = None,
    hide_thinking: options.HideThinking = False,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    presence_penalty: options.PresencePenalty = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    dtype: options.Dtype = None,
    weights: options.Weights = "auto",
    cache_packed: options.CachePacked = False,
    kv: options.Kv = None,
    device: options.Device = "cpu",
    max_context: options.MaxContext = None,
    yarn: options.Yarn = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
) -> None:
    """Talk to a model in the terminal.

    Reasoning runs in a small window and folds to one line when the answer begins; Ctrl-T or /expand shows it in full.
    Ctrl-C stops an answer, not the program. /help lists the commands: /think, /no_think, /retry, /undo, /save ...

    When stdin is a pipe, each line is one message and the answers go to stdout.

    Examples:

    \b
      qwen3 chat
      qwen3 chat Qwen/Qwen3-4B --thinking-budget 2000
      qwen3 chat ./my-model --system "Answer in French." --no-thinking
      qwen3 chat Qwen/Qwen3-4B --tools builtin --tools my_functions.py --mcp "python server.py"
      echo "12 + 30" | qwen3 chat
    """
    overrides = options.sampling_overrides(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        presence_penalty=presence_penalty,
        repetition_penalty=repetition_penalty,
        seed=seed,
        max_tokens=max_tokens,
    )
    llm = options.load_llm(
        model,
        dtype=dtype,
        weights=weights,
        cache_packed=cache_packed,
        kv=kv,
        device=device,
        max_context=max_context,
        yarn=yarn,
        revision=revision,
        offline=offline,
    )
    # Only now: the chat format and its tokenizer library would make --help slow.
    from qwen3.cli.chat_loop import run

    clean = run(
        llm,
        system=system,
        file=load_file,
        thinking=thinking,
        thinking_budget=thinking_budget,
        overrides=overrides,
        hide_thinking=hide_thinking,
        tools=tools or (),
        servers=mcp or (),
        approves_all=yes,
    )
    if not clean:
        raise typer.Exit(1)
