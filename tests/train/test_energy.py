"""Energy meters against made-up counters, and the estimate against the clock."""

import ctypes
import time
from types import SimpleNamespace

import pytest

from qwen3.train.energy import NVML_FUNCTIONS, CpuTime, Nvml, Rapl, meters


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
    """NVML as this package calls it: two boards, of which CUDA may see any in any order."""

    uuids = (b"GPU-a", b"GPU-b")

    def __init__(self, is_divided=False, **codes):
        self.millijoules, self.is_divided, self.codes = [1_000_000, 5_000_000], is_divided, codes

    def nvmlInit_v2(self):  # noqa: N802
        return self.codes.get("init", 0)

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):  # noqa: N802
        if uuid not in self.uuids:
            return 6
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p))[0] = self.uuids.index(uuid) + 1
        return 0

    def nvmlDeviceGetMigMode(self, handle, current, pending):  # noqa: N802
        ctypes.cast(current, ctypes.POINTER(ctypes.c_uint))[0] = self.is_divided
        return 0 if self.is_divided else 3

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, value):  # noqa: N802
        ctypes.cast(value, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.millijoules[handle.value - 1]
        return self.codes.get("energy", 0)


def test_nvml_counts_the_devices_in_use_from_the_start():
    library = Library()
    one, both = Nvml(["GPU-b"], library), Nvml(["GPU-a", "GPU-b"], library)
    library.millijoules = [1_004_000, 5_002_000]
    assert (one.joules(), both.joules()) == (2.0, 6.0)
    library.codes["energy"] = 15
    with pytest.raises(OSError, match="cannot be measured"):
        both.joules()


@pytest.mark.parametrize(
    "library",
    [None, object(), Library(init=9), Library(energy=3), Library(is_divided=True)],
    ids=["no library", "a stand-in", "no driver", "no counter", "MIG"],
)
def test_a_gpu_without_a_counter_of_its_own_is_left_out(library, tmp_path, monkeypatch):
    def load(name):
        if library is None:
            raise OSError(f"{name}: cannot open shared object file")
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert list(meters(["GPU-a"], root=tmp_path)) == ["cpu"]


@pytest.mark.parametrize("name", NVML_FUNCTIONS)
def test_a_library_that_lacks_a_function_is_no_meter(name, tmp_path, monkeypatch):
    functions = {each: getattr(Library(), each) for each in NVML_FUNCTIONS if each != name}
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(**functions))
    assert list(meters(["GPU-a"], root=tmp_path)) == ["cpu"]


def test_a_mistake_in_the_meter_itself_is_not_taken_for_a_missing_one(tmp_path, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.delattr(Nvml, "_millijoules")
    with pytest.raises(AttributeError, match="_millijoules"):
        meters(["GPU-a"], root=tmp_path)


def test_a_gpu_that_the_driver_does_not_know_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    assert list(meters(["GPU-c"], root=tmp_path)) == ["cpu"]
    assert list(meters(["GPU-b"], root=tmp_path)) == ["gpu", "cpu"]


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
