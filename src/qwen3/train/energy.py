"""Energy of a run, by the best way that the machine has, with the method and its uncertainty beside the figure.

    gpu   NVML's counter of the whole board, of the devices in use
    cpu   RAPL's counters of packages and memory, of the whole machine and so of other programs as well; where they
          cannot be read, the process's CPU seconds times declared watts, which is an estimate and is labelled as one

A counter belongs to the machine: of several processes on one machine, one reads RAPL. A part whose meter is missing or
fails is left out, for the ledger to say that it was not measured: training does not depend on it. Not counted anywhere:
disks, network, power supplies and cooling, for which a declared factor stands. Uncertainties are relative.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
NVML_FUNCTIONS = (
    "nvmlInit_v2",
    "nvmlDeviceGetHandleByUUID",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetTotalEnergyConsumption",
)


@dataclass(frozen=True)
class Grid:
    """Declared, never measured: what a kilowatt hour emits, and what the building adds to the machine's power."""

    grams_per_kwh: float = 473.0
    source: str = "world average of 2024, Ember, Global Electricity Review 2025 (a default; not this site's grid)"
    overhead: float = 1.0
    """Power usage effectiveness: 1.0 counts the machine alone."""


@dataclass(frozen=True, order=True)
class MeterKind:
    """How joules were had: of which `part` of a machine, "cpu" or "gpu", by which method."""

    part: str
    method: str
    uncertainty: float

    @property
    def is_estimate(self) -> bool:
        return self.method.startswith("estimated")


class Meter(Protocol):
    method: str
    uncertainty: float

    def joules(self) -> float:
        """Since the meter was made; never falls. OSError when it can no longer be read."""
        ...


class CpuTime:
    """CPU seconds of this process times declared watts a busy core, its share of memory and board included."""

    uncertainty = 0.5

    def __init__(self, watts_per_core: float = 10.0) -> None:
        if not 0 < watts_per_core < 1000:
            raise ValueError(f"{watts_per_core} watts a core: declare what one busy core draws, e.g. 10")
        self._watts, self._start = watts_per_core, time.process_time()
        self.method = f"estimated: CPU seconds x {watts_per_core:g} W a core (declared)"

    def joules(self) -> float:
        return (time.process_time() - self._start) * self._watts


class Rapl:
    """Running average power limit counters of packages and memory. They wrap, so `joules` must be called at least
    once a minute or so."""

    method = "RAPL counters of packages and memory (whole machine)"
    uncertainty = 0.05

    def __init__(self, root: Path = POWERCAP) -> None:
        self._domains = readable_domains(root)
        self._last = [_number(domain / "energy_uj") for domain in self._domains]
        self._ranges = [_number(domain / "max_energy_range_uj") for domain in self._domains]
        self._microjoules = 0

    def joules(self) -> float:
        for number, domain in enumerate(self._domains):
            now = _number(domain / "energy_uj")
            rise = now - self._last[number]
            self._microjoules += rise if rise >= 0 else rise + self._ranges[number]
            self._last[number] = now
        return self._microjoules / 1e6


def readable_domains(root: Path = POWERCAP) -> list[Path]:
    """Packages, and memory that is not part of one; none twice, and none that this user may not read."""
    found = []
    for domain in sorted(root.glob("intel-rapl:*")):
        try:
            name = (domain / "name").read_text().strip()
            _number(domain / "energy_uj")
        except OSError:
            # The counters are root's alone on most machines.
            continue
        if name.startswith("package") or name == "dram":
            found.append(domain)
    return found


class Nvml:
    """The energy counters of some GPUs since the driver was loaded (Volta and later)."""

    method = "NVML energy counters of the GPU boards"
    uncertainty = 0.05

    def __init__(self, uuids: Sequence[str], library: Any = None) -> None:
        """GPUs by UUID ("GPU-..."): NVML's numbers are not CUDA's, which CUDA_VISIBLE_DEVICES changes.

        OSError where there is no NVIDIA driver, and for a GPU without a counter of its own.
        """
        self._nvml = library or ctypes.CDLL("libnvidia-ml.so.1")
        # A library that is there may still be a stand-in.
        if lacking := [name for name in NVML_FUNCTIONS if not hasattr(self._nvml, name)]:
            raise OSError(f"NVML: its library has no {lacking[0]}: the energy of GPUs cannot be measured")
        self._check(self._nvml.nvmlInit_v2(), "nvmlInit")
        self._handles = []
        for uuid in uuids:
            handle, is_divided, pending = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
            self._check(self._nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)), uuid)
            # Boards that cannot be divided answer with an error.
            self._nvml.nvmlDeviceGetMigMode(handle, ctypes.byref(is_divided), ctypes.byref(pending))
            if is_divided.value:
                raise OSError(f"NVML: {uuid} is divided (MIG), and its counter is of all its parts together")
            self._handles.append(handle)
        self._start = self._millijoules()

    def joules(self) -> float:
        return (self._millijoules() - self._start) / 1e3

    def _millijoules(self) -> int:
        total, value = 0, ctypes.c_ulonglong()
        for handle in self._handles:
            code = self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value))
            self._check(code, "nvmlDeviceGetTotalEnergyConsumption")
            total += value.value
        return total

    def _check(self, code: int, what: str) -> None:
        if code:
            raise OSError(f"NVML: {what} failed with code {code}: this GPU's energy cannot be measured")


def meters(
    gpus: Sequence[str] = (), *, watts_per_core: float = 10.0, reads_machine: bool = True, root: Path = POWERCAP
) -> dict[str, Meter]:
    """What a process reads: "cpu", and "gpu" for the devices that it uses, by UUID, if they have counters. Of several
    processes on one machine, one has `reads_machine`; where RAPL is readable the others leave the CPU to it."""
    found: dict[str, Meter] = {}
    if gpus:
        with suppress(OSError):
            found["gpu"] = Nvml(gpus)
    if not readable_domains(root):
        found["cpu"] = CpuTime(watts_per_core)
    elif reads_machine:
        found["cpu"] = Rapl(root)
    return found


def _number(file: Path) -> int:
    return int(file.read_text())
