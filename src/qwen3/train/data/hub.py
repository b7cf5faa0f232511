"""Data sets of the hub, copied once as JSONL, so that a build reads files whose hashes can be written down.

`hf://owner/name?config=en&split=train&revision=main`. The revision is resolved to a commit first, and the copy is of
that commit: the same build later reads the same documents.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from qwen3.train.data.errors import DataError
from qwen3.train.data.sources import Source, expand

PREFIX = "hf://"
_OPTIONS = {"config", "split", "revision"}


def local_sources(
    given: Iterable[Source], directory: Path, progress: Callable[[int], None] = lambda documents: None
) -> list[Source]:
    """All sources that those given stand for, those of the hub copied into `directory`."""
    listed = [source for each in given for source in expand(each)]
    return [download(each, directory, progress) if each.location.startswith(PREFIX) else each for each in listed]


def download(source: Source, directory: Path, progress: Callable[[int], None] = lambda documents: None) -> Source:
    """Stream a data set into a file of `directory`, unless it is there; returns the local source."""
    try:
        import datasets
    except ImportError:
        raise ImportError(f"{source.location} needs datasets: pip install 'qwen3[train]'") from None
    parts = urlsplit(source.location)
    name = f"{parts.netloc}{parts.path}"
    options = dict(parse_qsl(parts.query))
    if unknown := options.keys() - _OPTIONS:
        raise DataError(f"{source.location}: unknown {', '.join(unknown)}; there are {', '.join(sorted(_OPTIONS))}")
    split, config = options.get("split", "train"), options.get("config")
    is_local = Path(name).is_dir()
    commit = source.commit if is_local else _commit(name, options.get("revision"))
    stem = "-".join(filter(None, (name.strip("/").replace("/", "--"), config, split, commit[:12])))
    target = directory / f"{stem}.jsonl"
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        rows = datasets.load_dataset(name, config, split=split, revision=commit or None, streaming=True)
        temporary = target.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            for number, row in enumerate(rows, 1):
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                progress(number)
        temporary.replace(target)
    url = source.url or ("" if is_local else f"https://huggingface.co/datasets/{name}")
    return replace(source, location=str(target), name=source.name or name, url=url, commit=commit)


def _commit(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info: Any = HfApi().dataset_info(name, revision=revision)
    except HfHubHTTPError as error:
        raise DataError(f"no data set {name!r} (revision {revision or 'main'}) can be reached: {error}") from None
    return info.sha
