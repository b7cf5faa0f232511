"""How fast a checkpoint loads and how much memory that takes, against reading its bytes, and against transformers.

    python benchmarks/load.py path/to/model          any directory
    python benchmarks/load.py Qwen3-0.6B             a preset's shapes with random weights, in a temporary directory

As stored, packed into int8 and int4 while it is read, and packed weights from the cache on disk. The contenders take
turns within one run, each turn in a process of its own; the best of their turns counts, because whatever else the
machine does only adds. The peak is the process's most memory above what it had before loading, the result what it had
after. `--cold` drops the files from the page cache before each turn, so that the disk decides.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from qwen3.checkpoint.load import load_model
from qwen3.checkpoint.names import expected_tensors
from qwen3.checkpoint.packed_cache import load_cached
from qwen3.config import ModelConfig
from qwen3.model.transforms import PACKINGS
from qwen3.ops import packed

BLOCK = 16 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory, or a preset's name")
    parser.add_argument("--dtype", help="load as this dtype; the default is the checkpoint's")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="these contenders, after a plain read")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the files from the page cache before each turn")
    parser.add_argument("--peer", action="store_true", help="measure transformers, too")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=".") as temporary:
        directory = Path(options.model)
        if not directory.is_dir():
            directory = Path(temporary) / "model"
            directory.mkdir()
            write_random(ModelConfig.preset(options.model), directory)
        files = sorted(directory.glob("*.safetensors"))
        num_bytes = sum(file.stat().st_size for file in files)
        os.environ["QWEN3_CACHE"] = str(Path(temporary) / "cache")

        names = options.only or [name for name in CONTENDERS if name != "transformers" or options.peer]
        best: dict[str, Turn] = {}
        for number in range(options.turns + any("cached" in name for name in names)):
            for name in dict.fromkeys(["plain read", *names]):
                if options.cold:
                    drop_from_cache(files)
                # Processes that are started anew: what earlier turns left in the allocator must not hide a peak.
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    turn = pool.apply(measure, (name, directory, options.dtype))
                # The first turn of the cached ones makes the file.
                if number > 0 or "cached" not in name:
                    best[name] = min(best.get(name, turn), turn)

        print(
            f"{num_bytes / 1e9:.2f} GB, {'cold' if options.cold else 'warm'} page cache, {platform.machine()}, ",
            end="",
        )
        print(f"{os.cpu_count()} cores, torch {torch.__version__}")
        for name, turn in best.items():
            ratio = turn.seconds / best["plain read"].seconds
            print(
                f"{name:13} {turn.seconds:7.2f} s  {num_bytes / turn.seconds / 1e9:6.2f} GB/s  {ratio:6.2f} x plain"
                f"  peak {turn.peak / 1e6:7,.0f} MB  result {turn.result / 1e6:7,.0f} MB"
            )


@dataclass(frozen=True, order=True)
class Turn:
    """Seconds, and bytes of memory above those before: at most, and at the end."""

    seconds: float
    peak: int
    result: int


def measure(name: str, directory: Path, dtype: str | None) -> Turn:
    run = CONTENDERS[name]
    if name == "transformers":
        import transformers  # noqa: F401  (its import is not its loading)
    packed.num_threads()  # starts the threads
    # From here on, the peak is counted anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    start = time.perf_counter()
    model = run(directory, dtype)
    seconds = time.perf_counter() - start
    turn = Turn(seconds, memory("VmHWM") - before, memory("VmRSS") - before)
    del model
    return turn


def memory(field: str) -> int:
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def load_transformers(directory: Path, dtype: str | None) -> object:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype or "auto")


CONTENDERS: dict[str, Callable[[Path, str | None], object]] = {
    "plain read": lambda directory, _: read(sorted(directory.glob("*.safetensors"))),
    "as stored": lambda directory, dtype: load_model(directory, dtype=dtype),
    "int8": lambda directory, _: load_model(directory, packing=PACKINGS["int8"]),
    "int4": lambda directory, _: load_model(directory, packing=PACKINGS["int4"]),
    "int8, cached": lambda directory, _: load_cached(directory, PACKINGS["int8"]),
    "int4, cached": lambda directory, _: load_cached(directory, PACKINGS["int4"]),
    "transformers": load_transformers,
}


def read(files: list[Path]) -> None:
    """Every byte once, into one block of memory that is used again and again."""
    block = bytearray(BLOCK)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(block):
                pass


def drop_from_cache(files: list[Path]) -> None:
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_random(config: ModelConfig, directory: Path) -> None:
    """A bfloat16 checkpoint of small random weights, written block by block without ever holding the model."""
    replace(config, dtype="bfloat16").save(directory)
    header, end = {}, 0
    for name, shape in expected_tensors(config).items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = torch.randn(BLOCK // 2, generator=torch.Generator().manual_seed(0)).mul(0.02).bfloat16()
    block = noise.view(torch.uint8).numpy().tobytes()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for begin in range(0, end, BLOCK):
            file.write(block[: end - begin])
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
