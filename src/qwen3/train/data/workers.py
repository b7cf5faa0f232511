"""Units of a build on several processes of this machine, or on a Ray cluster. The result is the same bytes.

Processes end with the one that started them, killed or not: whatever they had not finished is done again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from qwen3.train.data.build import RunUnits
from qwen3.train.data.unit import build_unit


def processes(count: int) -> RunUnits:
    """Runs units on `count` processes."""
    return partial(_run_on_processes, count)


def _run_on_processes(count: int, directory: Path, indices: list[int]) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(min(count, len(indices)) or 1, context, _prepare) as pool:
        try:
            for future in as_completed([pool.submit(build_unit, directory, index) for index in indices]):
                yield future.result()
        except BrokenProcessPool:
            raise MemoryError("a worker was killed, likely for memory: use fewer --workers or a smaller unit") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            raise


def _prepare() -> None:
    """Leave Ctrl-C to the parent, tokenize on one thread, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def ray_cluster() -> RunUnits:
    """Runs units as a Ray Data job, on the cluster that `ray.init` finds (RAY_ADDRESS), else a local one.

    The directory and the raw files must be on storage that every node sees under the same path.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError("--ray needs Ray Data: pip install 'qwen3[ray]'") from None
    return partial(_run_on_ray, ray)


def _run_on_ray(ray: object, directory: Path, indices: list[int]) -> Iterator[int]:
    if not indices:
        return
    rows = ray.data.from_items([{"unit": index} for index in indices], override_num_blocks=len(indices))
    built = rows.map(_ray_unit(directory.absolute()))
    for row in built.iter_rows():
        yield row["unit"]


def _ray_unit(directory: Path) -> Callable[[dict], dict]:
    def run(row: dict) -> dict:
        return {"unit": build_unit(directory, int(row["unit"]))}

    return run
