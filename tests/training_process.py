"""One of several training processes: runs the jobs of a JSON file and writes what it saw.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python training_process.py JOBS.json

A job: what `training.changed` makes a recipe of, the layout, the run's directory, the step to stop at, and the step at
which the last process kills itself when it gets there for the first time.
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from training import changed, record_rows

from qwen3.train import distribute
from qwen3.train.layout import Layout
from qwen3.train.trainer import Trainer


def main() -> None:
    torch.compiler.set_stance("force_eager")  # Compiling takes longer than all the rest.
    jobs = Path(sys.argv[1])
    seen = []
    for job in json.loads(jobs.read_text()):
        recipe = changed(job)
        layout = Layout(**job.get("layout", {}))
        trainer = Trainer(recipe, Path(job["run"]), distribute.join(layout))
        rows = record_rows(trainer)
        reports = []
        for report in trainer.run():
            reports.append(asdict(report))
            if report.step == job.get("kill") and dist.get_rank() and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            if report.step == job.get("stop"):
                break
        if trainer.step == recipe.steps:
            trainer.export(Path(job["run"]) / "model")
        # Of the processes that share rows, one says which.
        rows = {} if dist.get_rank() % (layout.tensor * layout.context) else rows
        seen.append({"reports": reports, "rows": rows})
    rank = dist.get_rank()
    jobs.with_suffix(f".{rank}.json").write_text(json.dumps(seen))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
