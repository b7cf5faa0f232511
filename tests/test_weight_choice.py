"""The rule behind `--weights auto` on made-up machines, and what a machine says that it has free."""

from dataclasses import replace
from pathlib import Path

import pytest

from qwen3.hardware import available_bytes
from qwen3.memory import estimate
from qwen3.presets import PRESETS
from qwen3.weight_choice import MemoryShortageError, check_file_fits, choose_weights, needed_bytes

GB = 10**9
SMALL = replace(PRESETS["Qwen3-0.6B"], num_hidden_layers=2, dtype="float32")


def config(size: str):
    return PRESETS[f"Qwen3-{size}"]


@pytest.mark.parametrize(
    ("size", "free_gb", "name"),
    [
        ("0.6B", 4, "int8"),
        ("1.7B", 4, "int4"),
        ("4B", 4, "int4"),
        ("4B", 6, "int4"),  # int8 would fit, but leave next to nothing
        ("4B", 8, "int8"),
        ("4B", 64, "int8"),  # bfloat16 would fit, and be slower
        ("8B", 8, "int4"),
        ("8B", 16, "int8"),
        ("32B", 24, "int4"),
        ("30B-A3B", 24, "int4"),
        ("30B-A3B", 64, "int8"),
    ],
)
def test_auto_takes_int8_where_it_leaves_room_and_else_int4(size, free_gb, name):
    choice = choose_weights(config(size), "auto", free_gb * GB)
    assert choice.name == name
    assert choice.line.startswith(f"weights: {name}, ")
    assert "--weights bf16" in choice.line


def test_the_line_says_what_and_why_in_figures():
    assert choose_weights(config("4B"), "auto", 16 * GB).line == (
        "weights: int8, 4.3 GB, in place of bf16's 8.0 GB, to be faster; --weights bf16 keeps 16 bits"
    )
    assert choose_weights(config("4B"), "auto", 6 * GB).line == (
        "weights: int4, 2.4 GB, because int8 would take 5.9 GB of the 6.0 GB free, with 8,192 tokens; "
        "--weights bf16 would need 8.4 GB"
    )


@pytest.mark.parametrize(
    "stays", [SMALL, replace(config("4B"), intermediate_size=9_720), replace(config("4B"), head_dim=120)]
)
def test_small_models_and_shapes_that_kernels_cannot_take_stay_as_stored_without_a_word(stays):
    choice = choose_weights(stays, "auto", 64 * GB)
    assert (choice.name, choice.line) == (stays.dtype, "")


@pytest.mark.parametrize(("weights", "name"), [(None, "bfloat16"), ("int8", "int8"), ("int4", "int4")])
def test_what_was_asked_for_by_name_is_what_one_gets(weights, name):
    assert choose_weights(config("0.6B"), weights, 64 * GB).name == name


@pytest.mark.parametrize(
    ("size", "weights", "free_gb", "message"),
    [
        ("4B", None, 6, r"in bf16 need 8\.4 GB, but 6\.0 GB of memory are free: take weights int8, which need 4\.7 GB"),
        ("4B", None, 4, r"take weights int4, which need 2\.8 GB"),
        ("4B", "int8", 4, r"in int8 need 4\.7 GB, but 4\.0 GB .*: take weights int4"),
        ("8B", "auto", 4, r"in int4 need 5\.\d GB, but 4\.0 GB .*: take a smaller model; .* 5\.\d GB, in int4"),
        ("32B", "int4", 16, r"in int4 need .*: take a smaller model"),
    ],
)
def test_what_cannot_fit_is_refused_with_its_numbers_and_what_would(size, weights, free_gb, message):
    with pytest.raises(MemoryShortageError, match=message):
        choose_weights(config(size), weights, free_gb * GB)


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_the_choice_turns_at_the_calculators_figures(weights):
    needed = needed_bytes(config("4B"), weights)
    asked = None if weights == "bf16" else weights
    assert choose_weights(config("4B"), asked, needed)
    with pytest.raises(MemoryShortageError):
        choose_weights(config("4B"), asked, needed - 1)
    comfortable = estimate(config("4B"), weights="int8", context=8_192, chunk=512).total
    assert choose_weights(config("4B"), "auto", comfortable * 4 // 3 + 1).name == "int8"
    assert choose_weights(config("4B"), "auto", comfortable * 4 // 3 - 1).name == "int4"


# ---- What is free ---------------------------------------------------------------------------------------------


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 16000 kB\nMemAvailable:    9000 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = "sys/fs/cgroup/memory/"
V2 = "sys/fs/cgroup/"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 9_216_000),
        # Version 2, mounted as the own group's root, as in a container.
        (
            {"proc/self/cgroup": "0::/\n", V2 + "memory.max": "4096000\n", V2 + "memory.current": "2048000"},
            2_048_000,
        ),
        # Pages of files that nobody uses count as free.
        (
            {
                "proc/self/cgroup": "0::/\n",
                V2 + "memory.max": "4096000",
                V2 + "memory.current": "2048000",
                V2 + "memory.stat": "anon 5\nactive_file 7\ninactive_file 1024000\n",
            },
            3_072_000,
        ),
        # A limit on a group above; none on the own.
        (
            {
                "proc/self/cgroup": "0::/user/job\n",
                V2 + "user/job/memory.max": "max\n",
                V2 + "user/memory.max": "1024000",
                V2 + "user/memory.current": "512000",
            },
            512_000,
        ),
        # A limit beyond the machine's memory, and a group that uses more than its limit.
        ({"proc/self/cgroup": "0::/\n", V2 + "memory.max": "99999999999"}, 9_216_000),
        ({"proc/self/cgroup": "0::/\n", V2 + "memory.max": "1000", V2 + "memory.current": "2000"}, 0),
        # Version 1, with "no limit" as a large number above.
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/job\n0::/\n",
                V1 + "memory.limit_in_bytes": "9223372036854771712",
                V1 + "job/memory.limit_in_bytes": "4096000",
                V1 + "job/memory.usage_in_bytes": "3072000",
                V1 + "job/memory.stat": "inactive_file 9\ntotal_inactive_file 512000\n",
            },
            1_536_000,
        ),
    ],
)
def test_free_memory_is_what_the_kernel_and_the_control_groups_leave(tmp_path, files, free):
    assert available_bytes(machine(tmp_path, files)) == free


def test_this_machine_has_some_memory_free():
    assert available_bytes() > 0


@pytest.mark.parametrize(
    ("dtype", "size_gb", "own_gb", "free_gb", "message"),
    [
        (None, 4.3, 4.3, 4, r"weights need 4\.7 GB, but 4\.0 GB .* at most 7\.\d bits a weight \(this one has 8\.6\)"),
        (None, 2.3, 2.3, 2, r"weights need 2\.7 GB, but 2\.0 GB of memory are free: take a smaller model"),
        ("bfloat16", 8.0, 2.3, 6, r"in bf16 need 8\.4 GB, but 6\.0 GB .*: at its own precision.* need 2\.7 GB"),
    ],
)
def test_a_file_that_cannot_fit_is_refused_with_its_numbers_and_what_would(dtype, size_gb, own_gb, free_gb, message):
    sizes = int(size_gb * GB), int(own_gb * GB)
    with pytest.raises(MemoryShortageError, match=message):
        check_file_fits(config("4B"), dtype, *sizes, free_gb * GB)
    check_file_fits(config("4B"), dtype, *sizes, 9 * GB)
