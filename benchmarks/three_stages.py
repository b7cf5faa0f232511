"""What each of the three stages of a run taught: losses on held-out text, sums and keys before and after it.

    python recipes/builtin.py CORPUS
    python benchmarks/three_stages.py [RUN] [--data DATASET] [--sums N] [--keys N]

Reads the checkpoints at the ends of the stages of recipes/builtin.py, and the ledger for the time. A line of JSON a
stage: the float32 loss on the stage's own held-out data before and after it, in nats a token, and what the model then
answers greedily, to the same questions after each.
"""

import argparse
import json
import runpy
import tempfile
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from safetensors.torch import load_file

from qwen3 import LLM
from qwen3.train import ledger
from qwen3.train.trainer import Trainer

RECIPES = Path(__file__).parents[1] / "recipes"


def weights(run: Path, step: int) -> dict:
    """The float32 parameters of a checkpoint that one process wrote."""
    (file,) = (run / f"step_{step}").glob("*.safetensors")
    return {
        name.removeprefix("parameter."): tensor for name, tensor in load_file(file).items() if name.startswith("param")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/builtin"))
    parser.add_argument("--data", default="data/builtin", help="the data set; empty: conversations alone")
    parser.add_argument("--sums", type=int, default=200)
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--tiny", action="store_true", help="the run is of the recipe's tiny variant")
    options = parser.parse_args()
    recipe = runpy.run_path(str(RECIPES / "builtin.py"))["recipe"](options.data)
    recipe = replace(recipe.tiny() if options.tiny else recipe, bfloat16=False)
    tests = runpy.run_path(str(RECIPES / "evaluate_builtin.py"))
    totals = ledger.read(options.run)
    whole = {"minutes": totals.used.device_hours * 60, "tokens": totals.kept.tokens}
    print(json.dumps(whole | {"hardware": totals.attempts[-1].hardware}), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(recipe, Path(scratch) / "run")
        for number, (stage, end) in enumerate(
            zip(recipe.stages, accumulate(each.steps for each in recipe.stages), strict=True)
        ):
            before = trainer.evaluate(number)
            trainer.model.load_state_dict(weights(options.run, end))
            found = {"stage": stage.name, "loss before": before, "loss after": trainer.evaluate(number)}
            trainer.step = end
            model = Path(scratch) / stage.name
            trainer.export(model)
            llm = LLM(model, weights="auto")
            found["keys found"] = {n: tests["passkeys"](llm, options.keys, n) for n in tests["LENGTHS"]}
            found["sums"] = tests["evaluate"](llm, options.sums, greedy=True)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
