"""Processes and Ray give the bytes that one process gives, and end when they are told to."""

import os
import signal
import subprocess
import sys
import time

import pytest

from qwen3.train.data.build import Job, build
from qwen3.train.data.errors import DataError
from qwen3.train.data.sources import Source
from qwen3.train.data.workers import processes, ray_cluster

from .test_build import content


@pytest.fixture
def job(corpus) -> Job:
    return Job((Source(str(corpus)),), near=0, unit_bytes=20_000)


def test_processes_give_the_same_bytes(job, directory, tokenizer, tmp_path):
    build(job, tokenizer, tmp_path / "out", processes(2))
    assert content(tmp_path / "out") == content(directory)


def test_what_a_worker_refuses_is_told_by_the_build(tokenizer, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 1}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl, record 1: 'text' is not a string"):
        build(Job((Source(str(tmp_path / "a.jsonl")),)), tokenizer, tmp_path / "out", processes(2))


@pytest.mark.slow
def test_ray_gives_the_same_bytes(job, directory, tokenizer, tmp_path):
    ray = pytest.importorskip("ray", reason="the Ray job needs ray[data]")
    pytest.importorskip("ray.data", reason="the Ray job needs ray[data]")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        build(job, tokenizer, tmp_path / "out", ray_cluster())
    finally:
        ray.shutdown()
    assert content(tmp_path / "out") == content(directory)


def test_ray_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'qwen3\[ray\]'"):
        ray_cluster()


def test_workers_end_with_a_killed_parent_and_the_build_goes_on(job, corpus, directory, tokenizer, tmp_path):
    command = [sys.executable, "-m", "qwen3", "data", "build", str(corpus), "--near", "0", "--workers", "2"]
    out = tmp_path / "out"
    run = subprocess.Popen([*command, "--out", str(out)], start_new_session=True)
    until = time.monotonic() + 60
    while not (out / "plan.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    children = _children(run.pid)
    run.kill()
    run.wait()
    while (alive := [pid for pid in children if os.path.exists(f"/proc/{pid}")]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive
    finished = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "390 documents" in finished.stdout


def test_ctrl_c_says_that_the_same_command_goes_on(corpus, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "qwen3", "data", "build", str(corpus), "--near", "0", "--workers", "1"]
    run = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (out / "plan.json").exists() and run.poll() is None:
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)
    assert "the same command goes on" in run.communicate(timeout=60)[1]
    assert run.returncode == 130


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
