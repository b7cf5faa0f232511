"""How much memory the machines that people have offer to a model.

A card's advertised "GB" are GiB, of which error correction and the board's firmware keep a part: the figures for
cards are what the vendor's own tool (nvidia-smi, amd-smi) reports as total. A Mac lets its GPU take two thirds of
the memory up to 36 GB and three quarters above (Metal's recommendedMaxWorkingSetSize). For plain machines the
share is our advice: a quarter of a laptop and a tenth of a server stay with the system and other programs.
"""

from __future__ import annotations

from dataclasses import dataclass

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
