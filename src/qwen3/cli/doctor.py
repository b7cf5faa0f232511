"""`qwen3 doctor`: is this installation whole, what does this machine offer, and what runs where."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import typer

from qwen3 import __version__
from qwen3.cli import options
from qwen3.cli.report import print_sections, readable_bytes
from qwen3.hardware import available_bytes, total_bytes

_ENVIRONMENT = """
    HF_HOME HF_HUB_CACHE HF_ENDPOINT HF_HUB_OFFLINE OMP_NUM_THREADS CUDA_VISIBLE_DEVICES QWEN3_CACHE QWEN3_DEBUG
""".split()


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `fix` is not None where it is broken."""

    section: str
    name: str
    value: str
    fix: str | None = None


def doctor(as_json: options.Json = False) -> None:
    """Check this installation and this machine.

    Prints what was found, then a verdict. The exit code is 1 where something is broken, and the fix is printed.

    Examples:

    \b
      qwen3 doctor
      qwen3 doctor --json > report.json
    """
    findings = [finding for look in (_python, _torch, _native, _operations, _machine, _models) for finding in look()]
    broken = [finding for finding in findings if finding.fix is not None]
    if as_json:
        print(json.dumps({"healthy": not broken, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        sections: dict[str, list[tuple[str, str]]] = {}
        for finding in findings:
            mark = "BROKEN: " if finding.fix else ""
            sections.setdefault(finding.section, []).append((finding.name, mark + finding.value))
        print_sections(sections)
        print()
        for finding in broken:
            print(f"{finding.name}: {finding.fix}")
        print(f"{len(broken)} broken." if broken else "Everything needed works.")
    if broken:
        raise typer.Exit(1)


def _python() -> Iterator[Finding]:
    yield Finding("Installation", "qwen3", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("Installation", "python", f"{platform.python_version()} in {sys.prefix}")
    try:
        requirements = metadata.requires("qwen3") or []
    except metadata.PackageNotFoundError:
        yield Finding("Installation", "package", "not installed", "run `pip install -e .` in the source tree")
        return
    absent: dict[str, list[str]] = {}
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)[0]
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            absent.setdefault(extra[1] if extra else "", []).append(name)
    for name in absent.pop("", []):
        yield Finding("Installation", name, "not installed", f"run `pip install {name}`")
    for extra, names in absent.items():
        yield Finding("Installation", f"optional [{extra}]", f"without {', '.join(names)}")


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("Installation", "torch", f"does not load: {error}", "run `pip install --force-reinstall torch`")
        return
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    fix = None if version >= (2, 11) else "run `pip install --upgrade 'torch>=2.11'`"
    yield Finding("Installation", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads", fix)
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        yield Finding("Machine", f"cuda:{i}", f"{card.name}, {readable_bytes(card.total_memory)}")


def _native() -> Iterator[Finding]:
    rebuild = "run `pip install -e .` in the source tree; it needs a C++17 compiler"
    try:
        from qwen3.ops import native
    except (ImportError, OSError) as error:
        yield Finding("Installation", "C++ kernels", f"do not load: {error}", rebuild)
        return
    wrong = [name for name in native.available_instruction_sets() if not _multiplies(name)]
    fix = f"{', '.join(wrong)} computes wrong products: {rebuild}" if wrong else None
    yield Finding("Installation", "C++ kernels", f"{native.instruction_set()} is the fastest that runs here", fix)
    yield Finding("Machine", "CPU features", " ".join(native.cpu_features()) or "none that kernels use")


def _multiplies(instruction_set: str) -> bool:
    """Whether products with packed weights are right, of integers that 4 or 8 bits and the sums hold exactly."""
    import torch

    from qwen3.ops import packed

    mixed_NK = (5 * torch.arange(20.0)[:, None] + 7 * torch.arange(64.0)) % 32
    bytes_NK = 8 * mixed_NK - 121  # up to 127 in each 32 columns, so that a scale is 1
    x_MK = bytes_NK[:3]
    for bits, weight_NK in ((4, mixed_NK % 16 - 8), (8, bytes_NK)):
        y_MN = packed.packed_linear(x_MK, packed.pack(weight_NK, bits), instruction_set=instruction_set)
        if not torch.equal(y_MN, x_MK @ weight_NK.T):
            return False
    return True


def _operations() -> Iterator[Finding]:
    try:
        from qwen3.ops import IMPLEMENTATIONS
    except (ImportError, OSError):
        return  # said above, of torch
    for form in dict.fromkeys(IMPLEMENTATIONS.values()):
        names = [name for name, each in IMPLEMENTATIONS.items() if each == form]
        yield Finding("Operations", form, ", ".join(names))


def _machine() -> Iterator[Finding]:
    yield Finding("Machine", "system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("Machine", "cores", f"{allowed} for this process, {os.cpu_count()} in all")
    memory = f"{readable_bytes(available_bytes())} available, {readable_bytes(total_bytes())} in all"
    yield Finding("Machine", "memory", memory)


def _models() -> Iterator[Finding]:
    from qwen3.checkpoint.hub import resolve
    from qwen3.checkpoint.safetensors import SafetensorsFile

    try:
        file = SafetensorsFile(resolve("builtin") / "model.safetensors")
        yield Finding("Models", "builtin", readable_bytes(file.path.stat().st_size))
    except (ValueError, OSError) as error:
        yield Finding("Models", "builtin", str(error), "install the package again")
    try:
        from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE
    except ImportError:
        return  # said above, of the installation
    cache = Path(HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = readable_bytes(shutil.disk_usage(existing).free)
    yield Finding("Models", "downloads", f"{cache}, {free} free{', offline' if HF_HUB_OFFLINE else ''}")
    for name in _ENVIRONMENT:
        if name in os.environ:
            yield Finding("Models" if name.startswith("HF_") else "Machine", name, os.environ[name])
