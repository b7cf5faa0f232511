"""This system beside llama.cpp, OpenVINO GenAI, onnxruntime-genai and transformers: one run, taking turns.

    python benchmarks/peers.py --llama-bench PATH --sizes 0.6b 4b --cache /tmp/peers --out docs/peers

Every contender runs in its own process, one after the other, and all of them again in each round; medians count.
Weights are random, of the true shapes: llama.cpp and OpenVINO load one GGUF file, which is written to the cache folder
together with what the others need (4B: 2.4 GB, and 8 GB for onnxruntime-genai and transformers). What is not installed
is skipped and said so. Writes OUT.md, OUT.json and the chart OUT.svg.

llama-bench comes with llama.cpp's sources, which are in the source package of llama-cpp-python:
    pip download --no-binary :all: --no-deps llama-cpp-python
    tar xf llama_cpp_python-*.tar.gz && cd llama_cpp_python-*/vendor/llama.cpp
    cmake -B build -DCMAKE_BUILD_TYPE=Release && cmake --build build --target llama-bench
The Python peers may live in an environment of their own (--python), in which:
    pip install openvino-genai onnxruntime-genai onnx-ir transformers torch
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import peers_chart
import peers_worker

HERE = Path(__file__).parent


class Test(NamedTuple):
    """Tokens a second of a prompt that is read, or of tokens that are drawn, with `depth` tokens before them."""

    phase: str
    tokens: int
    depth: int

    def __str__(self) -> str:
        return f"{self.phase} {self.tokens:,}" + (f" at depth {self.depth:,}" if self.depth else "")


TESTS = {
    "prefill-512": Test("prefill", 512, 0),
    "prefill-4096": Test("prefill", 4096, 0),
    "decode": Test("decode", 128, 0),
    "decode-4096": Test("decode", 128, 4096),
}


@dataclass
class Contender:
    """An engine with one form of the weights; `measure` gives the tokens a second of each test."""

    name: str
    bits: int
    measure: Callable[[Sequence[Test]], dict[Test, float]]
    speeds: dict[Test, list[float]] = field(default_factory=dict)
    failure: str | None = None

    def run(self, tests: Sequence[Test]) -> None:
        """One round; a contender that fails is out."""
        try:
            measured = self.measure(tests)
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or "").strip().splitlines() or [f"exit code {error.returncode}"]
            self.failure = lines[-1]
            return
        for test, speed in measured.items():
            self.speeds.setdefault(test, []).append(speed)
            print(f"  {self.name}: {test}: {speed:.2f} tokens/s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["0.6b", "4b"], help="presets; 30b-a3b for GGUF engines only")
    parser.add_argument("--mixes", nargs="+", default=["q4_0"], help="GGUF files: q4_0, q4_0-pure, q4_k_m, q8_0")
    parser.add_argument(
        "--own",
        choices=["random", "file"],
        default="random",
        help="what this system loads: its own random weights, or the GGUF files",
    )
    parser.add_argument("--tests", nargs="+", choices=TESTS, default=list(TESTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the Python peers")
    parser.add_argument("--skip", nargs="+", default=[], choices=["openvino", "onnxruntime", "transformers"])
    parser.add_argument("--cache", type=Path, required=True, help="folder for the weights; kept")
    parser.add_argument("--out", type=Path, required=True, help="path and beginning of the names of the results")
    options = parser.parse_args()
    os.environ.update(QWEN3_THREADS=str(options.threads), OMP_NUM_THREADS=str(options.threads))
    options.cache.mkdir(parents=True, exist_ok=True)

    tests = [TESTS[name] for name in options.tests]
    skipped = absent_peers(options)
    results: dict[str, list[Contender]] = {}
    for size in options.sizes:
        results[size] = list(contenders(size, options, skipped))
        for i in range(options.rounds):
            print(f"{size}, round {i + 1} of {options.rounds}", file=sys.stderr)
            for contender in results[size]:
                if contender.failure is None:
                    contender.run(tests)
            write(options, results, tests, skipped)
    print(Path(f"{options.out}.md").read_text())


# ---- Contenders -----------------------------------------------------------------------------------------------


def absent_peers(options: argparse.Namespace) -> dict[str, str]:
    """Why each peer that does not take part does not."""
    absent = dict.fromkeys(options.skip, "left out by --skip")
    if options.llama_bench is None:
        absent["llama.cpp"] = "no --llama-bench"
    elif not options.llama_bench.is_file():
        absent["llama.cpp"] = f"{options.llama_bench} is no file"
    for name, modules in peers_worker.NEEDED_MODULES.items():
        code = f"import {', '.join(modules)}"
        if name not in absent and subprocess.run([options.python, "-c", code], capture_output=True).returncode:
            absent[name] = f"not installed in {options.python}"
    return absent


def contenders(size: str, options: argparse.Namespace, skipped: Mapping[str, str]) -> Iterator[Contender]:
    files = {mix: options.cache / f"{size}-{mix}.gguf" for mix in options.mixes}
    for mix, file in files.items():
        once(file, [sys.executable, HERE / "random_gguf.py", size, mix])
    if options.own == "file":
        for mix, file in files.items():
            yield Contender(f"qwen3 {mix.upper()}", bits_of(mix), lambda tests, f=file: own(tests, str(f)))
    else:
        for bits in sorted({bits_of(mix) for mix in files}):
            arguments = ("--random", size, "--weights", f"int{bits}")
            yield Contender(f"qwen3 int{bits}", bits, lambda tests, a=arguments: own(tests, *a))
    for mix, file in files.items():
        if "llama.cpp" not in skipped:
            llama = LlamaBench(options.llama_bench, file, options.threads)
            yield Contender(f"llama.cpp {mix.upper()}", bits_of(mix), llama)
    if size == "30b-a3b":
        return
    for mix, file in files.items():
        if "openvino" not in skipped:
            yield Contender(f"OpenVINO GenAI {mix.upper()}", bits_of(mix), Worker("openvino", file, options))
    directory = options.cache / f"{size}-bf16"
    if {"onnxruntime", "transformers"} - skipped.keys():
        once(directory, [sys.executable, HERE / "peers_worker.py", "write-directory", size])
    if "onnxruntime" not in skipped:
        exported = options.cache / f"{size}-onnx-int4"
        builder = [options.python, "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu", "-i", directory]
        once(exported, [*builder, "-o"], "--extra_options", "int4_block_size=32", "int4_accuracy_level=4")
        yield Contender("onnxruntime-genai int4", 4, Worker("onnxruntime", exported, options))
    if "transformers" not in skipped:
        yield Contender("transformers bf16", 16, Worker("transformers", directory, options))


def bits_of(mix: str) -> int:
    return 8 if mix == "q8_0" else 4


def once(path: Path, command: Sequence[object], *more: str) -> None:
    """Have `command PATH more` make what is not in the cache; a half-made path never looks whole."""
    if not path.exists():
        print(f"making {path}", file=sys.stderr)
        partial = path.with_name(f"partial-{path.name}")
        try:
            output([*command, partial, *more])
        except subprocess.CalledProcessError as error:
            sys.exit(f"{error.stderr}\nmaking {path} failed; remove {partial}, or leave that engine out with --skip")
        partial.rename(path)


def output(command: Iterable[object]) -> str:
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout


def by_depth(tests: Sequence[Test]) -> Iterator[tuple[int, list[Test], int]]:
    """Tests that one call measures: the depth, prefills, and the length of the decode, 0 for none."""
    for depth, group in groupby(sorted(tests, key=lambda test: test.depth), key=lambda test: test.depth):
        same = list(group)
        yield (
            depth,
            [test for test in same if test.phase == "prefill"],
            sum(t.tokens for t in same if t.phase == "decode"),
        )


def own(tests: Sequence[Test], *model: str) -> dict[Test, float]:
    speeds = {}
    for depth, prefills, generate in by_depth(tests):
        lengths = ",".join(str(test.tokens) for test in prefills) or "0"
        command = [sys.executable, "-m", "qwen3", "bench", *model, "--prompt", lengths, "--generate", generate]
        report = json.loads(output([*command, "--depth", depth, "--repeat", 1, "--json"]))
        for entry in report["measurements"]:
            test = Test(entry["phase"], entry["tokens"], entry["depth"])
            speeds[test] = entry["tokens_per_second"]["median"]
    return speeds


class LlamaBench:
    """Remembers for each test which setting of flash attention was the faster in the first round."""

    def __init__(self, program: Path, file: Path, threads: int) -> None:
        self._command = [program, "-m", file, "-t", threads, "-r", 1, "-o", "json"]
        self._flash: dict[Test, int] = {}

    def __call__(self, tests: Sequence[Test]) -> dict[Test, float]:
        speeds: dict[Test, float] = {}
        for flash in (0, 1):
            wanted = [test for test in tests if self._flash.get(test, flash) == flash]
            for test, speed in self._measure(wanted, flash).items():
                if speed > speeds.get(test, 0):
                    speeds[test] = speed
                    self._flash[test] = flash
        return speeds

    def _measure(self, tests: Sequence[Test], flash: int) -> dict[Test, float]:
        speeds = {}
        for depth, prefills, generate in by_depth(tests):
            lengths = ",".join(str(test.tokens) for test in prefills) or "0"
            for entry in json.loads(output([*self._command, "-p", lengths, "-n", generate, "-d", depth, "-fa", flash])):
                phase, tokens = ("prefill", entry["n_prompt"]) if entry["n_prompt"] else ("decode", entry["n_gen"])
                speeds[Test(phase, tokens, entry["n_depth"])] = entry["avg_ts"]
        return speeds


@dataclass(frozen=True)
class Worker:
    """A Python peer in a process of its own interpreter: see `peers_worker`."""

    engine: str
    path: Path
    options: argparse.Namespace

    def __call__(self, tests: Sequence[Test]) -> dict[Test, float]:
        script = HERE / "peers_worker.py"
        command = [self.options.python, script, self.engine, self.path, self.options.threads, json.dumps(tests)]
        # The last line: libraries print.
        return dict(zip(tests, json.loads(output(command).splitlines()[-1]), strict=True))


# ---- Results --------------------------------------------------------------------------------------------------


def write(
    options: argparse.Namespace,
    results: Mapping[str, Sequence[Contender]],
    tests: Sequence[Test],
    skipped: Mapping[str, str],
) -> None:
    """All of it, anew after each round: an interrupted run leaves what it has."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rounds = f"medians of {options.rounds} rounds" if options.rounds > 1 else "one round"
    machine = f"{cpu_name()}, {options.threads} threads; {rounds}; random weights"
    medians = {
        size: {each.name: {str(test): statistics.median(s) for test, s in each.speeds.items()} for each in row}
        for size, row in results.items()
    }
    report = {
        "machine": machine,
        "rounds": options.rounds,
        "skipped": dict(skipped),
        "failed": {f"{size}, {c.name}": c.failure for size, row in results.items() for c in row if c.failure},
        "tokens_per_second": {
            size: {each.name: {str(test): speeds for test, speeds in each.speeds.items()} for each in row}
            for size, row in results.items()
        },
        "medians": medians,
    }
    Path(f"{options.out}.json").write_text(json.dumps(report, indent=2) + "\n")
    Path(f"{options.out}.md").write_text(markdown(report, results, tests))
    Path(f"{options.out}.svg").write_text(peers_chart.svg(medians, [str(test) for test in tests], machine))


def markdown(report: Mapping, results: Mapping[str, Sequence[Contender]], tests: Sequence[Test]) -> str:
    """Tokens a second, and in brackets how many times as fast this system is in the same number of bits."""
    lines = [f"Tokens a second: {report['machine']}. In brackets: how many times that is qwen3 (of as many bits).", ""]
    lines += ["| | " + " | ".join(map(str, tests)) + " |", "|---|" + "---|" * len(tests)]
    for size, row in results.items():
        medians = report["medians"][size]
        ours = {each.bits: medians[each.name] for each in row if each.name.startswith("qwen3 ")}
        for each in row:
            cells = []
            for test in map(str, tests):
                speed, best = medians[each.name].get(test), ours.get(each.bits, ours[min(ours)]).get(test)
                is_peer = speed and best and not each.name.startswith("qwen3 ")
                ratio = f" ({best / speed:.2f})" if is_peer else ""
                cells.append(f"{speed:,.1f}{ratio}" if speed else "-")
            lines.append(f"| {size.upper()}, {each.name} | " + " | ".join(cells) + " |")
    lines += [""] + [f"Skipped: {name}: {reason}." for name, reason in report["skipped"].items()]
    lines += [f"Failed: {name}: {reason}" for name, reason in report["failed"].items()]
    return "\n".join(lines).rstrip() + "\n"


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
