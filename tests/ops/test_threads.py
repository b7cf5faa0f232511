"""The kernels' threads: how many there are, and that nobody waits for them who need not."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from qwen3.ops import packed


@pytest.mark.parametrize(
    ("value", "said"), [("3", "3"), ("none", "QWEN3_THREADS must be"), ("0", "QWEN3_THREADS must be")]
)
def test_the_environment_sets_the_number_of_threads(value, said):
    program = (
        "from qwen3.ops import packed\n"
        "try:\n    print(packed.num_threads())\n"
        "except ValueError as error:\n    print(error)\n"
    )
    environment = os.environ | {"QWEN3_THREADS": value}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert said in result.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own():
    program = (
        "import os, torch\n"
        "from qwen3.ops import packed\n"
        "packed.set_num_threads(3)\n"
        "weight, x = packed.pack(torch.ones(700, 256)), torch.ones(4, 256)\n"
        "expected = packed.packed_linear(x, weight)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    packed.set_num_threads(2)\n"
        "    os._exit(0 if torch.equal(packed.packed_linear(x, weight), expected) else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "assert torch.equal(packed.packed_linear(x, weight), expected)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's limit of addresses")
def test_threads_that_the_system_does_not_give_are_done_without():
    program = (
        "import resource, torch\n"
        "from pathlib import Path\n"
        "from qwen3.ops import packed\n"
        "packed.set_num_threads(1)\n"
        "weight, x = packed.pack(torch.ones(700, 256)), torch.ones(4, 256)\n"
        "expected = packed.packed_linear(x, weight)\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), -1))\n"
        "packed.set_num_threads(1000)\n"
        "assert packed.num_threads() < 1000\n"
        "assert torch.equal(packed.packed_linear(x, weight), expected)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_who_asks_for_the_number_of_threads_during_a_job_stops_nobody():
    weight, x_MK = packed.pack(torch.ones(2048, 2048)), torch.ones(80, 2048)
    job = threading.Thread(target=lambda: packed.packed_linear(x_MK, weight, instruction_set="generic"))
    job.start()
    time.sleep(0.02)
    threading.Thread(target=packed.num_threads).start()
    turns = 0
    while job.is_alive():
        time.sleep(0.002)
        turns += 1
    assert turns > 20
