"""Does a training run survive SIGKILL at any moment? Kills it, goes on, compares with a run that was left alone.

    python benchmarks/kill_safety.py DATA [--kills 20] [--seed 0]

DATA is a data set that `qwen3 data build` made. The run is the pre-training recipe's tiny variant, which here saves
after every step, so that most kills hit a save. Right: each start goes on from a complete checkpoint, the log has every
step once, and the last checkpoint's tensors are bit-equal to those of the run that nobody killed.
"""

import argparse
import json
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from qwen3.train.recipe import Recipe
from qwen3.train.trainer import Trainer

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain.py"


def train(recipe: Recipe, run: Path) -> None:
    for _ in Trainer(recipe, run).run():
        pass


def child(recipe: Recipe, run: Path) -> int:
    """Start the run in a process of its own, which shares what is imported."""
    process = os.fork()
    if process == 0:
        try:
            train(recipe, run)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return process


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    (file,) = (run / f"step_{step}").glob("*.safetensors")
    return load_file(file)


def check(data: Path, kills: int, seed: int) -> dict[str, int | bool]:
    """Counts of what the kills hit, and whether the run ended as it should have."""
    torch.set_num_threads(1)
    recipe = runpy.run_path(str(RECIPE))["recipe"]("0.6B", str(data)).tiny()
    recipe = recipe.each_stage(checkpoint_every=1, evaluate_every=0)
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        began = time.perf_counter()
        _, status = os.waitpid(child(recipe, alone), 0)
        assert status == 0
        whole = time.perf_counter() - began
        found = {"kills": 0, "while saving": 0, "failed starts": 0}
        while found["kills"] < kills:
            process = child(recipe, killed)
            # Two starts in three get past the beginning; a run must come to its end before the kills do.
            time.sleep(whole * draw.uniform(0.05, 0.6))
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            if os.WIFSIGNALED(status):
                found["kills"] += 1
                found["while saving"] += bool(list(killed.glob("step_*.tmp")))
            elif status:
                found["failed starts"] += 1
                break
            else:  # It came to its end: begin anew.
                for path in killed.glob("*"):
                    path.rename(Path(folder) / f"done-{found['kills']}-{path.name}")
        _, status = os.waitpid(child(recipe, killed), 0)
        found["failed starts"] += bool(status)
        steps = [json.loads(line)["step"] for line in (killed / "log.jsonl").read_text().splitlines()]
        ours, theirs = tensors(killed, recipe.steps), tensors(alone, recipe.steps)
        found["each step once"] = steps == list(range(1, recipe.steps + 1))
        found["bit-equal"] = all(torch.equal(ours[name], theirs[name]) for name in theirs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(check(options.data, options.kills, options.seed)))


if __name__ == "__main__":
    main()
