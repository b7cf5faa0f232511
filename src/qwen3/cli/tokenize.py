"""`qwen3 tokenize`: what a text, or a conversation in the chat format, is to the model; and ids back to text."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from qwen3.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from qwen3.tokenizer import Tokenizer


def tokenize(
    model: options.Model = "builtin",
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="Default: all of stdin, as it is.")] = None,
    only_ids: Annotated[bool, typer.Option("--ids", help="Print the ids only, on one line.")] = False,
    only_count: Annotated[bool, typer.Option("--count", help="Print how many tokens there are.")] = False,
    as_json: options.Json = False,
    decode: Annotated[bool, typer.Option("--decode", help="TEXT is token ids; print their text.")] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help='TEXT is a JSON list of messages, or {"messages": ..., "tools": ...}.')
    ] = False,
    thinking: Annotated[bool, typer.Option("--thinking/--no-thinking", help="The switch of --chat.")] = True,
    plain: Annotated[bool, typer.Option("--plain", help="Control strings such as <|im_end|> stay text.")] = False,
    revision: options.Revision = None,
    offline: options.Offline = False,
) -> None:
    """Show the tokens of a text.

    Examples:

    \b
      qwen3 tokenize builtin "naïve <think>"
      cat article.txt | qwen3 tokenize Qwen/Qwen3-4B --count
      qwen3 tokenize Qwen/Qwen3-4B --chat '[{"role": "user", "content": "Hi"}]'
      qwen3 tokenize Qwen/Qwen3-4B --decode "9707 11 1879"
    """
    options.refuse_text_as_model(model)
    if sum((only_ids, only_count, as_json, decode)) > 1:
        raise typer.BadParameter("--ids, --count, --json and --decode exclude each other")
    if text is None:
        text = options.read_stdin()

    from qwen3.checkpoint import gguf_model
    from qwen3.checkpoint.gguf import GGUFFile
    from qwen3.checkpoint.hub import resolve
    from qwen3.tokenizer import Tokenizer

    path = resolve(model, revision=revision, offline=offline, weights=False)
    tokenizer = gguf_model.tokenizer(GGUFFile(path)) if path.is_file() else Tokenizer.load(path)
    if decode:
        sys.stdout.write(tokenizer.decode(_parse_ids(text)) + "\n")
        return
    ids = _encode_chat(text, tokenizer, path, thinking) if chat else tokenizer.encode(text, control=not plain)
    if only_ids:
        print(*ids)
    elif only_count:
        print(len(ids))
    elif as_json:
        pieces = [_piece(tokenizer, id) for id in ids]
        print(json.dumps({"count": len(ids), "ids": ids, "pieces": pieces}, ensure_ascii=False))
    else:
        control = set(tokenizer.control_ids.values())
        for id in ids:
            print(f"{id:>7}  {_piece(tokenizer, id)!r}{'  control' if id in control else ''}")
        print(f"{len(ids):>7,}  tokens")


def _piece(tokenizer: Tokenizer, id: int) -> str:
    r"""A token's text; bytes that are only a part of a character appear as \xe4."""
    return tokenizer.token_bytes(id).decode("utf-8", "backslashreplace")


def _parse_ids(text: str) -> list[int]:
    words = re.split(r"[\s,]+", text.strip().strip("[]").strip())
    if wrong := [word for word in words if not word.isascii() or not word.isdecimal()]:
        raise ValueError(f"{wrong[0]!r} is not a token id")
    return [int(word) for word in words]


def _encode_chat(text: str, tokenizer: Tokenizer, path: Path, thinking: bool) -> list[int]:
    from qwen3.chat import load_format, render
    from qwen3.checkpoint import gguf_model
    from qwen3.checkpoint.gguf import GGUFFile

    try:
        conversation = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the conversation is not valid JSON: {error}") from None
    tools = None
    if isinstance(conversation, dict):
        tools = conversation.get("tools")
        conversation = conversation.get("messages")
    chat_format = gguf_model.chat_format(GGUFFile(path), tokenizer) if path.is_file() else load_format(path)
    rendered = render(conversation, tools, thinking, format=chat_format)
    return tokenizer.encode_spans(rendered.spans)
