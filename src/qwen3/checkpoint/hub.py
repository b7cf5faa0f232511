"""From what a user calls a model to the directory that holds it.

A path stays one; 'builtin' is the model inside this package; 'org/name', or an official name alone, is downloaded
through huggingface_hub, which caches under HF_HOME, resumes broken connections, keeps complete files of a broken
download, and obeys HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN.
Pickled weights are never downloaded. It does not look into the files.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from qwen3.checkpoint.safetensors import CheckpointError
from qwen3.config import ConfigError
from qwen3.presets import PRESETS, preset_name

BUILTIN = "builtin"
_BUILTIN_DIRECTORY = Path(__file__).parents[1] / "builtin"

_TEXT_FILES = ["*.json", "*.jinja", "*.tiktoken", "merges.txt"]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    offline: bool = False,
    progress: bool = True,
    weights: bool = True,
) -> Path:
    """The directory of a model, downloaded if need be; or the GGUF file, if that is what the path names.

    Args:
        name_or_path: a local directory or .gguf file, 'builtin', a hub name ('Qwen/Qwen3-4B') or an official name
            alone ('Qwen3-4B').
        revision: branch, tag or commit on the hub; None is the main branch.
        offline: use only what was downloaded before.
        progress: show the download on stderr, if that is a terminal.
        weights: False leaves the weights out, for whoever needs only the tokenizer or the config.

    Raises CheckpointError that says what to do: no such model, no access, no network.
    """
    path = Path(name_or_path).expanduser()
    name = os.fspath(name_or_path)
    if name == BUILTIN:
        if not _BUILTIN_DIRECTORY.is_dir():
            raise CheckpointError("this installation comes without the built-in model: name another one")
        return _BUILTIN_DIRECTORY
    if path.is_file() and path.suffix.lower() != ".gguf":
        raise CheckpointError(f"{name} is a file, but no .gguf file: name the directory of the model")
    if path.exists():
        return path
    return _download(_hub_name(name), revision, offline, progress, weights)


def _hub_name(name: str) -> str:
    """'org/name' of what is not a local path; a name without organisation must be an official one."""
    if _HUB_NAME.fullmatch(name):
        return name
    if "/" in name or "\\" in name or name.startswith("~"):
        raise CheckpointError(f"{name} does not exist")
    try:
        return f"Qwen/{preset_name(name)}"
    except ConfigError:
        raise CheckpointError(f"{name!r} is neither a path nor the name of a model{_similar(name)}") from None


def _similar(name: str) -> str:
    wanted = name.rpartition("/")[2].lower()
    known = {preset.lower(): preset for preset in PRESETS}
    found = difflib.get_close_matches(wanted, known, n=3, cutoff=0.7)
    return f"; did you mean {' or '.join('Qwen/' + known[match] for match in found)}?" if found else ""


def _download(name: str, revision: str | None, offline: bool, progress: bool, weights: bool) -> Path:
    # Not at the top: it takes a third of a second to import, and a local path does not need it.
    from huggingface_hub import constants, errors, snapshot_download
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **(kwargs | {"disable": True}))

    label = f"{name} at revision {revision}" if revision else name
    try:
        directory = snapshot_download(
            name,
            revision=revision,
            # huggingface_hub reads the variable when it is imported, which may be before it is set.
            endpoint=os.environ.get("HF_ENDPOINT"),
            local_files_only=offline,
            allow_patterns=["*.safetensors", *_TEXT_FILES] if weights else _TEXT_FILES,
            ignore_patterns=["*/*"],
            tqdm_class=None if progress else Silent,
        )
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{name} asks for its terms to be accepted: do so on its page, then set HF_TOKEN to your access token"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"the hub has no model {name}, or it is private and HF_TOKEN is not set{_similar(name)}"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{name} has no revision {revision!r}") from None
    except errors.LocalEntryNotFoundError as error:
        if offline or constants.HF_HUB_OFFLINE:
            raise CheckpointError(
                f"{label} is not complete on this machine: run once without offline mode, or name a local directory"
            ) from None
        raise CheckpointError(
            f"the hub could not be reached for {label}: {error.__cause__ or error}. Check the network, or HF_ENDPOINT, "
            "or name a local directory"
        ) from None
    except errors.HFValidationError as error:
        raise CheckpointError(f"{name!r} is not the name of a model: {error}") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "set HF_TOKEN to an access token that may read it" if status in (401, 403) else "try again later"
        raise CheckpointError(f"the hub refused {label} with status {status}: {advice}") from None
    except errors.HTTPError as error:  # The base of the HTTP library's own errors, whichever library it is.
        raise CheckpointError(
            f"the download of {label} was interrupted: {error}. Run it again: files that are complete are kept"
        ) from None
    return Path(directory)
