"""How fast a checkpoint loads, against reading its bytes and nothing else, and against transformers.

    python benchmarks/load.py path/to/model          any directory
    python benchmarks/load.py Qwen3-0.6B             a preset's shapes with random weights, in a temporary directory

The contenders take turns within one run; the best of their turns counts, because whatever else the machine does only
adds. `--cold` drops the files from the page cache before each turn, so that the disk decides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from qwen3.checkpoint.load import load_model
from qwen3.checkpoint.names import expected_tensors
from qwen3.config import ModelConfig

BLOCK = 16 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory, or a preset's name")
    parser.add_argument("--dtype", help="load as this dtype; the default is the checkpoint's")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the files from the page cache before each turn")
    parser.add_argument("--peer", action="store_true", help="measure transformers, too")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=".") as temporary:
        directory = Path(options.model)
        if not directory.is_dir():
            directory = Path(temporary)
            write_random(ModelConfig.preset(options.model), directory)
        files = sorted(directory.glob("*.safetensors"))
        num_bytes = sum(file.stat().st_size for file in files)

        contenders: dict[str, Callable[[], object]] = {
            "plain read": lambda: read(files),
            "load_model": lambda: load_model(directory, dtype=options.dtype),
        }
        if options.peer:
            from transformers import AutoModelForCausalLM

            dtype = options.dtype or "auto"
            contenders["transformers"] = lambda: AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(options.turns):
            for name, run in contenders.items():
                if options.cold:
                    drop_from_cache(files)
                start = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - start)

        print(
            f"{num_bytes / 1e9:.2f} GB, {'cold' if options.cold else 'warm'} page cache, {platform.machine()}, ",
            end="",
        )
        print(f"{os.cpu_count()} cores, torch {torch.__version__}")
        for name, seconds in best.items():
            ratio = seconds / best["plain read"]
            print(f"{name:13} {seconds:7.2f} s  {num_bytes / seconds / 1e9:6.2f} GB/s  {ratio:5.2f} x plain read")


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
