"""Writes a run's ledger while it runs: one process's lines of one attempt, as `ledger` describes and reads them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qwen3.config import ModelConfig
from qwen3.hardware import total_bytes
from qwen3.strict_json import parse_object
from qwen3.train.code_version import code_version
from qwen3.train.energy import Meter
from qwen3.train.ledger import FOLDER, Hardware, LedgerError, Parent, whole_lines


def this_machine(gpus: tuple[str, ...] = (), *, has_cores: bool = True) -> Hardware:
    """The machine that this runs on, with the names of the GPUs in use; cores are those this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processor = named[1] if named else platform.processor() or platform.machine()
    return Hardware(processor, cores if has_cores else 0, total_bytes(), gpus)


def _program() -> str:
    """What was called: `python -m qwen3` is the command qwen3."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


class LedgerWriter:
    """One process's record of one attempt; made after the checkpoint was loaded, written to after every step."""

    def __init__(
        self,
        run: Path,
        step: int,
        *,
        name: str,
        software: str,
        recipe_sha256: str,
        config: ModelConfig,
        meters: Mapping[str, Meter],
        hardware: Hardware | None = None,
        parent: Parent | None = None,
        rank: int = 0,
        attempt: str | None = None,
        began: float | None = None,
        is_continued: bool = False,
    ) -> None:
        """Begin an attempt of the run in the directory `run` at `step`. Ranks but the first are given `attempt`, which
        all of them share. `began` is when, by `time.monotonic`, if not now; the meters were made then. LedgerError if
        the directory holds another recipe's ledger, unless it `is_continued`: its checkpoint goes on with a new end."""
        if rank and attempt is None:
            raise LedgerError(f"rank {rank} needs the name of the attempt that rank 0 chose: broadcast it")
        self.attempt = attempt or uuid.uuid4().hex
        self._step, self._meters = step, dict(meters)
        path = run / FOLDER / f"rank_{rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        before = whole_lines(path)
        if before:
            first = parse_object(before.splitlines()[0])
            then = (first.get("recipe_sha256"), (first.get("parent") or {}).get("digest"))
            if not is_continued and then != (recipe_sha256, parent.digest if parent else None):
                raise LedgerError(f"{path} is of another recipe: choose another directory for this run")
        with path.open("ab") as file:
            # What a kill left of a line.
            file.truncate(len(before))
        self._file, self._digest = path.open("ab"), hashlib.sha256(before)
        self._clock = time.monotonic() if began is None else began
        self._joules = dict.fromkeys(self._meters, 0.0)
        self._write(
            {
                "kind": "start",
                "attempt": self.attempt,
                "step": step,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "name": name,
                "recipe_sha256": recipe_sha256,
                "code": {"software": software, **code_version()},
                "command": shlex.join([_program(), *sys.argv[1:]]),
                "model": config.to_dict(),
                "hardware": asdict(hardware or this_machine()),
                "meters": {
                    each: {"method": meter.method, "uncertainty": meter.uncertainty}
                    for each, meter in self._meters.items()
                },
                "parent": asdict(parent) if parent else None,
                "before": self._digest.hexdigest(),
            }
        )

    def record(self, step: int, *, stage: str, tokens: int, trained_tokens: int, flops: int, skipped: str = "") -> None:
        """Step number `step` (from 1) is done. Time and energy are all since the last line, evaluations and saves
        included. `skipped` is why it left the weights alone, if it did: then it trained on no token."""
        assert not (skipped and trained_tokens)
        if step != self._step + 1:
            raise LedgerError(f"step {step} after step {self._step}: every step is recorded once")
        self._step = step
        counts = {"tokens": tokens, "trained_tokens": trained_tokens, "flops": flops}
        self._write({"kind": "step", "step": step, "stage": stage, **counts, "skipped": skipped, **self._since()})

    def close(self) -> None:
        """The attempt ended well; counts what came after its last step."""
        self._write({"kind": "end", "step": self._step, **self._since(), "before": self._digest.hexdigest()})
        self._file.close()

    def _since(self) -> dict[str, Any]:
        now, used = time.monotonic(), {}
        for part, meter in list(self._meters.items()):
            try:
                joules = meter.joules()
            except OSError:
                # For good: what it would say later could not be told from what it missed.
                del self._meters[part]
                continue
            used[part] = round(joules - self._joules[part], 3)
            self._joules[part] = joules
        seconds = round(now - self._clock, 6)
        self._clock = now
        return {"seconds": seconds, "joules": used}

    def _write(self, line: Mapping[str, Any]) -> None:
        data = (json.dumps(line) + "\n").encode()
        self._file.write(data)
        self._file.flush()
        self._digest.update(data)
