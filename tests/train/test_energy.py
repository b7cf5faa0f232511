"""Energy meters against made-up counters, and the estimate against the clock."""

import ctypes
import time

import pytest

from qwen3.train.energy import CpuTime, Nvml, Rapl, meters


def powercap(root, **domains):
    for path, (name, energy) in domains.items():
        folder = root / path.replace("_", ":").replace("rapl", "intel-rapl")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(name + "\n")
        (folder / "energy_uj").write_text(f"{energy}\n")
        (folder / "max_energy_range_uj").write_text("1000000\n")
    return root


def test_rapl_counts_packages_and_memory_once_and_over_the_wrap(tmp_path):
    # psys holds the packages, core is part of one: neither may count besides.
    domains = {
        "rapl_0": ("package-0", 900_000),
        "rapl_0_0": ("core", 5),
        "rapl_0_1": ("dram", 0),
        "rapl_1": ("psys", 7),
    }
    meter = Rapl(powercap(tmp_path, **domains))
    powercap(tmp_path, rapl_0=("package-0", 100_000), rapl_0_0=("core", 999), rapl_0_1=("dram", 50_000))
    powercap(tmp_path, rapl_1=("psys", 999_999))
    assert meter.joules() == pytest.approx(0.25)
    powercap(tmp_path, rapl_0=("package-0", 400_000))
    assert meter.joules() == pytest.approx(0.55)


class Library:
    """NVML as this package calls it: two boards."""

    millijoules = (1_000_000, 5_000_000)
    code = 0

    def nvmlInit_v2(self):  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):  # noqa: N802
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p))[0] = index + 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, value):  # noqa: N802
        ctypes.cast(value, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.millijoules[handle.value - 1]
        return self.code


def test_nvml_counts_the_devices_in_use_from_the_start():
    library = Library()
    one, both = Nvml([1], library), Nvml([0, 1], library)
    library.millijoules = (1_004_000, 5_002_000)
    assert (one.joules(), both.joules()) == (2.0, 6.0)
    library.code = 3
    with pytest.raises(ValueError, match="cannot be measured"):
        both.joules()


def test_without_counters_the_figure_is_an_estimate_and_says_so(tmp_path):
    (meter,) = meters(root=tmp_path, watts_per_core=20).values()
    start, busy = time.process_time(), meter.joules()
    while time.process_time() - start < 0.05:
        pass
    assert meter.joules() - busy == pytest.approx(20 * 0.05, rel=0.3)
    assert meter.method.startswith("estimated")
    assert meter.uncertainty >= 0.3
    with pytest.raises(ValueError, match="declare"):
        CpuTime(0)


def test_one_process_of_a_machine_reads_its_counters(tmp_path):
    powercap(tmp_path, rapl_0=("package-0", 1))
    assert list(meters(root=tmp_path)) == ["cpu"]
    assert meters(root=tmp_path, reads_machine=False) == {}
