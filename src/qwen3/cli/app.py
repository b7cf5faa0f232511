"""The typer application: a command's module is found and imported when the command is called."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from qwen3 import __version__
from qwen3.cli.errors import errors_in_one_line
from qwen3.cli.main import COMMANDS, OVERVIEW

_LOOKS = {
    "rich_markup_mode": "rich",
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class LazyCommands(TyperGroup):
    """Commands by name, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"qwen3.cli.{cmd_name}"), cmd_name)
        single = typer.Typer(add_completion=False, **_LOOKS)
        if isinstance(command, typer.Typer):
            single.add_typer(command, name=cmd_name)
            return _flowing(typer.main.get_command(single).commands[cmd_name])
        single.command(name=cmd_name)(command)
        return _flowing(typer.main.get_command(single))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS:
            ctx.fail(f"There is no command {args[0]!r}; there are {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(OVERVIEW)

    def invoke(self, ctx: Any) -> Any:
        with errors_in_one_line(debug=ctx.params["debug"]):
            return super().invoke(ctx)


def _flowing(command: Any) -> Any:
    """The command with the paragraphs of its help in one line each, to be broken where the terminal ends and not where
    the source does."""
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(text if text.startswith("\b") else " ".join(text.split()) for text in paragraphs)
    for inner in getattr(command, "commands", {}).values():
        _flowing(inner)
    return command


app = typer.Typer(cls=LazyCommands, **_LOOKS)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"qwen3 {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[bool, typer.Option("--debug", envvar="QWEN3_DEBUG")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    pass
