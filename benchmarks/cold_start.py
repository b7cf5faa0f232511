"""A cold start on a GGUF file: time to the first token and peak memory of a process, beside llama.cpp's.

Processes alternate, the file is in the page cache. Time runs from the start of the process: here to its first output,
in llama.cpp to the end of llama-bench on 8 tokens of prompt and 1 answered, which prints nothing earlier. Peak memory
is the kernel's (ru_maxrss), which counts pages of a mapped file too.

    python benchmarks/cold_start.py FILE [--llama-bench PATH] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from qwen3.hardware import MIB
from qwen3.ops import packed


@dataclass(frozen=True)
class Start:
    seconds: float  # to the first output
    peak_bytes: int


def start(command: list[str], *, until_end: bool = False) -> Start:
    """Run `command` to its end."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.read(1)
    seconds = time.perf_counter() - begin
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if until_end:
        seconds = time.perf_counter() - begin
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"it failed: {' '.join(command)}")
    return Start(seconds, usage.ru_maxrss * 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--llama-bench")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    question = ["generate", options.file, "--raw", "--max-tokens", "1", "The capital of France is"]
    forms = {"qwen3": [sys.executable, "-m", "qwen3", *question]}
    if options.llama_bench:
        threads = str(packed.num_threads())
        forms["llama.cpp"] = [options.llama_bench, "-m", options.file, "-p", "8", "-n", "1", "-r", "1", "-t", threads]
    forms["Python with torch alone"] = [sys.executable, "-c", "import torch; print(torch.zeros(1))"]
    starts: dict[str, list[Start]] = {name: [] for name in forms}
    for _ in range(options.rounds):
        for name, command in forms.items():
            starts[name].append(start(command, until_end=name == "llama.cpp"))
    for name, all_starts in starts.items():
        seconds = statistics.median(each.seconds for each in all_starts)
        peak = statistics.median(each.peak_bytes for each in all_starts)
        print(f"{name:24} {seconds:6.2f} s  {peak / MIB:7.0f} MiB")


if __name__ == "__main__":
    main()
