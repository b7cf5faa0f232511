"""How much memory the machines that people have offer to a model.

A card's advertised "GB" are GiB, of which error correction and the board's firmware keep a part: the figures for
cards are what the vendor's own tool (nvidia-smi, amd-smi) reports as total. A Mac lets its GPU take two thirds of
the memory up to 36 GB and three quarters above (Metal's recommendedMaxWorkingSetSize). For plain machines the
share is our advice: a quarter of a laptop and a tenth of a server stay with the system and other programs.
`available_bytes` asks the machine that this runs on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Machine:
    """One card or computer. `device` says whose runtime overhead it pays: a GPU's ("cuda") or a process's ("cpu")."""

    name: str
    usable_bytes: int
    device: str


def _card(name: str, total_mib: int) -> Machine:
    return Machine(name, total_mib * MIB, "cuda")


def _share(name: str, gib: int, share: float) -> Machine:
    return Machine(f"{name} {gib} GB", int(gib * GIB * share), "cpu")


MACHINES: tuple[Machine, ...] = (
    _card("RTX 4060 8 GB", 8_188),
    _card("RTX 3060 12 GB", 12_288),
    _card("RTX 4070 12 GB", 12_282),
    _card("RTX 3090 24 GB", 24_576),
    _card("RTX 4090 24 GB", 24_564),
    _card("RTX 5090 32 GB", 32_607),
    _card("A10 24 GB", 23_028),
    _card("L4 24 GB", 23_034),
    _card("L40S 48 GB", 46_068),
    _card("A100 40 GB", 40_960),
    _card("A100 80 GB", 81_920),
    _card("H100 80 GB", 81_559),
    _card("H200 141 GB", 143_771),
    _card("B200 192 GB", 183_359),
    _card("MI300X 192 GB", 196_592),
    *(_share("Apple M", gib, 2 / 3) for gib in (16, 24, 32)),
    *(_share("Apple M", gib, 3 / 4) for gib in (64, 128)),
    *(_share("laptop", gib, 3 / 4) for gib in (8, 16, 32)),
    *(_share("server", gib, 9 / 10) for gib in (64, 128, 256)),
)


PEAK_FLOPS: dict[str, float] = {
    "A10": 125e12,
    "L4": 121e12,
    "L40S": 362e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
    "RTX 5090": 209e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "MI300X": 1307e12,
}
"""Dense bfloat16 multiply-adds with float32 sums, in FLOP a second, as the vendors' data sheets give them (SXM boards;
without sparsity)."""


def peak_flops(card: str) -> float | None:
    """The nominal speed of a card, by any name that contains one of PEAK_FLOPS as a word; None for all others."""
    words = re.sub(r"[^A-Z0-9]+", " ", card.upper()).split()
    known = (name for name in PEAK_FLOPS if set(name.split()) <= set(words))
    name = next(known, None)
    return None if name is None else PEAK_FLOPS[name]


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that this process can still take without pushing anything out.

    On Linux what the kernel says is available, or what the process's control groups leave, if that is less; elsewhere
    our share of all memory, as for a laptop. `root` is where the system's files are.
    """
    meminfo = root / "proc/meminfo"
    if not meminfo.is_file():
        return total_bytes() * 3 // 4
    available = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
    free = int(available[1]) * 1024 if available else total_bytes()
    return max(0, min([free, *_left_by_control_groups(root)]))


def total_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_by_control_groups(root: Path) -> Iterator[int]:
    """What each control group of this process, and each above it, has left of its limit; of either version."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limit, used, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        group = Path(path.lstrip("/"))
        # In a container the own group may be mounted as the root.
        for each in (group, *group.parents):
            folder = root / mount / each
            text = _text(folder / limit)
            if text.isdecimal():
                # Pages of files that nobody uses are given up before anything fails.
                reclaimable = re.search(rf"^{cache} (\d+)", _text(folder / "memory.stat"), re.MULTILINE)
                yield int(text) - int(_text(folder / used) or 0) + (int(reclaimable[1]) if reclaimable else 0)


def _text(file: Path) -> str:
    return file.read_text().strip() if file.is_file() else ""
