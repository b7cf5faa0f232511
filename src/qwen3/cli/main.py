"""The entry point of `qwen3`: the list of commands, and the fast way to `--help`.

Imports nothing but the standard library, so that the list shows at once; a command's module, and torch with it,
is loaded when the command runs. Command `x` is the function `x` of the module `qwen3.cli.x`, or
a group of functions under that name.
"""

import sys

from qwen3 import __version__

COMMANDS = {
    "chat": "talk to a model in the terminal",
    "generate": "answer or continue prompts, in pipes and batches",
    "serve": "an OpenAI-compatible server for a model",
    "info": "what a checkpoint is, and what it needs and does on this machine",
    "bench": "how fast a model runs on this machine",
    "memory": "bytes for weights, context and training; what fits where",
    "tokenize": "text to token ids and back",
    "data": "build, inspect and trace pre-training data",
    "train": "train a model from a recipe",
    "scaling": "plan sweeps, fit scaling laws, predict rate, batch and loss",
    "card": "a model card from a run's ledger, or of a model",
    "ckpt": "verify, compare and trace checkpoints",
    "doctor": "check this installation and this machine",
}

OVERVIEW = f"""\
Usage: qwen3 [--debug] COMMAND [OPTIONS]

The complete Qwen3 system. MODEL is a directory, a name on the hub such as Qwen/Qwen3-4B,
or nothing: then it is the small built-in model, which needs no download.

Commands:
{"".join(f"  {name:<10}{summary}{chr(10)}" for name, summary in COMMANDS.items())}
Options:
  --debug     show the traceback of an error (also: QWEN3_DEBUG=1)
  --version   print the version
  --help      this text; `qwen3 COMMAND --help` for a command's options

Examples:
  qwen3 chat
  qwen3 chat Qwen/Qwen3-4B --thinking-budget 2000
  echo "What is 17 + 25?" | qwen3 generate --no-thinking
  qwen3 serve Qwen/Qwen3-4B --port 8000
  qwen3 info Qwen3-30B-A3B
"""


def main() -> None:
    """Run the command line on sys.argv."""
    arguments = sys.argv[1:]
    # Typer alone takes longer to import than these should take.
    if arguments in ([], ["--help"], ["-h"]):
        print(OVERVIEW, end="")
    elif arguments == ["--version"]:
        print(f"qwen3 {__version__}")
    else:
        from qwen3.cli.app import app

        app(prog_name="qwen3")
