"""A run's ledger: totals over kills and resumes, several processes, and what was changed behind its back."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import ledgers
import pytest
from ledgers import MACHINE, Steady, begin, work

from qwen3.train import ledger
from qwen3.train.energy import MeterKind
from qwen3.train.ledger import Hardware, LedgerError, Parent

MADE_UP = MeterKind("cpu", "made up", 0.1)


def test_a_run_in_one_go(tmp_path):
    book = begin(tmp_path, 0, parent=Parent("somewhere", 7, "d" * 64))
    work(book, 0, 3)
    work(book, 3, 5, stage="reasoning", tokens=50)
    book.close()
    totals = ledger.read(tmp_path)
    assert (totals.steps, totals.recorded_steps) == (5, 5)
    assert [(s.name, s.first, s.last, s.tokens) for s in totals.stages] == [
        ("general", 0, 3, 300),
        ("reasoning", 3, 5, 100),
    ]
    assert totals.used == totals.kept
    assert (totals.kept.tokens, totals.kept.trained_tokens, totals.kept.flops) == (400, 395, 5000)
    # Five steps and the end.
    assert totals.kept.joules == {MADE_UP: 60.0}
    assert totals.kept.core_hours == pytest.approx(4 * totals.kept.device_hours)
    assert totals.parent.digest == "d" * 64
    assert totals.attempts[0].ended
    assert totals.model["hidden_size"] == 1024
    assert len(totals.attempts[0].code["sha256"]) == 64


def test_steps_done_again_count_once_as_tokens_and_twice_as_work(tmp_path):
    work(begin(tmp_path, 0), 0, 7)
    work(begin(tmp_path, 5), 5, 6)
    book = begin(tmp_path, 5)
    work(book, 5, 10)
    book.close()
    totals = ledger.read(tmp_path)
    assert totals.kept.tokens == 1000
    assert totals.kept.flops == 10_000
    assert totals.repeated.flops == 3_000
    assert totals.used.joules[MADE_UP] == 10 * (7 + 1 + 5 + 1)
    assert [(a.first, a.last, a.ended) for a in totals.attempts] == [(0, 5, False), (5, 5, False), (5, 10, True)]
    assert totals.stages[0].tokens == 1000


def test_a_resume_from_an_older_checkpoint_takes_later_attempts_back(tmp_path):
    work(begin(tmp_path, 0), 0, 6)
    work(begin(tmp_path, 4), 4, 8)
    work(begin(tmp_path, 2), 2, 3)
    totals = ledger.read(tmp_path)
    assert totals.kept.tokens == 300
    assert [(a.first, a.last) for a in totals.attempts] == [(0, 2), (4, 2), (2, 3)]


def test_processes_add_up_at_changing_world_sizes(tmp_path):
    first = begin(tmp_path, 0)
    second = begin(tmp_path, 0, rank=1, attempt=first.attempt)
    for book in (first, second):
        work(book, 0, 4)
    work(begin(tmp_path, 2), 2, 4)
    totals = ledger.read(tmp_path)
    assert totals.kept.tokens == 2 * 200 + 200
    # What rank 1 did of steps 3 and 4 is taken back although it did not come again.
    assert totals.repeated.tokens == 2 * 200
    assert [a.processes for a in totals.attempts] == [2, 1]
    with pytest.raises(LedgerError, match="broadcast"):
        begin(tmp_path, 4, rank=1)


def test_gpus_are_the_devices_where_there_are_some(tmp_path):
    book = begin(tmp_path, 0, hardware=Hardware("a processor", 4, 2**34, ("a GPU", "a GPU")))
    work(book, 0, 1)
    totals = ledger.read(tmp_path)
    assert totals.kept.core_hours == pytest.approx(2 * totals.kept.device_hours)


def test_joules_stay_with_the_meter_that_read_them(tmp_path):
    """A run moves from a machine without RAPL to two, of which the second lacks it too."""
    estimate, rapl = ("estimated: made up", 0.5), ("RAPL", 0.05)
    work(begin(tmp_path, 0, meters={"cpu": Steady(5, *estimate)}), 0, 2)
    first = begin(tmp_path, 2, meters={"cpu": Steady(7, *rapl)})
    second = begin(tmp_path, 2, rank=1, attempt=first.attempt, meters={"cpu": Steady(3, *estimate)})
    for book in (first, second):
        work(book, 2, 3)
    # What the third rank read is of an attempt that the first process knows nothing of.
    work(begin(tmp_path, 2, rank=2, attempt="lost", meters={"cpu": Steady(1, *rapl)}), 2, 3)
    totals = ledger.read(tmp_path)
    assert totals.kept.joules == {MeterKind("cpu", *estimate): 5 + 5 + 3, MeterKind("cpu", *rapl): 7}
    assert totals.repeated.joules == {MeterKind("cpu", *rapl): 1}


def test_devices_without_a_meter_are_not_measured_and_nothing_is_said_of_processes_without_any(tmp_path):
    machine = Hardware("a processor", 4, 2**34, ("a GPU", "a GPU"))
    first = begin(tmp_path, 0, hardware=machine)
    second = begin(tmp_path, 0, rank=1, attempt=first.attempt, hardware=Hardware("a processor", 0, 2**34), meters={})
    for book in (first, second):
        work(book, 0, 2)
    kept = ledger.read(tmp_path).kept
    assert kept.unmeasured_hours == {"gpu": pytest.approx(kept.device_hours)}
    assert kept.joules == {MADE_UP: 20}


def test_a_meter_that_fails_ends_the_measuring_and_not_the_run(tmp_path):
    book = begin(tmp_path, 0, hardware=MACHINE, meters={"cpu": Steady(fails_after=2)})
    work(book, 0, 5)
    book.close()
    lines = list(ledger._lines(tmp_path / "ledger" / "rank_0.jsonl"))[1:]
    assert [line["joules"] for line in lines] == [{"cpu": 10}, {"cpu": 10}, {}, {}, {}, {}]
    totals = ledger.read(tmp_path)
    assert totals.kept.joules == {MADE_UP: 20}
    assert totals.kept.unmeasured_hours == {"cpu": pytest.approx(sum(line["seconds"] for line in lines[2:]) / 3600)}


def test_skipped_steps_saw_their_tokens_and_trained_on_none(tmp_path):
    book = begin(tmp_path, 0)
    work(book, 0, 3)
    work(book, 3, 5, skipped="loss is nan")
    totals = ledger.read(tmp_path)
    assert (totals.kept.tokens, totals.kept.trained_tokens, totals.kept.skipped_steps) == (500, 3 * 99, 2)
    assert totals.stages[0].trained_tokens == 3 * 99
    assert totals.knows_skips
    with pytest.raises(AssertionError):
        book.record(6, stage="general", tokens=1, trained_tokens=1, flops=1, skipped="loss is nan")


def test_a_ledger_without_skips_is_read_and_does_not_know_them(tmp_path):
    """As the built-in model's is."""
    work(begin(tmp_path, 0), 0, 2)
    path = tmp_path / "ledger" / "rank_0.jsonl"
    path.write_text(path.read_text().replace(', "skipped": ""', ""))
    totals = ledger.read(tmp_path)
    assert totals.kept.tokens == 200
    assert not totals.knows_skips


KILLED = """
import sys, pathlib
sys.path.insert(0, sys.argv[2])
from ledgers import begin
book = begin(pathlib.Path(sys.argv[1]), int(sys.argv[3]))
step = int(sys.argv[3])
while True:
    step += 1
    book.record(step, stage="general", tokens=100, trained_tokens=99, flops=1000)
    print(step, flush=True)
"""


def test_a_killed_process_leaves_a_ledger_that_goes_on(tmp_path):
    start = 0
    for _ in range(3):
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(ledgers.__file__).parent), str(start)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while int(process.stdout.readline()) < start + 5:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        start += 3
    totals = ledger.read(tmp_path)
    assert totals.kept.tokens == 100 * totals.steps
    assert totals.recorded_steps == totals.steps >= 11
    assert totals.used.tokens > totals.kept.tokens


def test_half_a_line_is_cut_off_at_the_next_start(tmp_path):
    work(begin(tmp_path, 0), 0, 2)
    path = tmp_path / "ledger" / "rank_0.jsonl"
    with path.open("a") as file:
        file.write('{"kind": "step", "st')
    assert ledger.read(tmp_path).kept.tokens == 200
    work(begin(tmp_path, 2), 2, 3)
    assert ledger.read(tmp_path).kept.tokens == 300


def test_a_changed_line_is_found(tmp_path):
    book = begin(tmp_path, 0)
    work(book, 0, 2)
    book.close()
    path = tmp_path / "ledger" / "rank_0.jsonl"
    path.write_text(path.read_text().replace('"flops": 1000', '"flops": 1'))
    with pytest.raises(LedgerError, match=r"was changed: line 4"):
        ledger.read(tmp_path)


def test_what_is_refused(tmp_path):
    with pytest.raises(LedgerError, match="no ledger"):
        ledger.read(tmp_path)
    book = begin(tmp_path, 0)
    with pytest.raises(LedgerError, match="recorded once"):
        book.record(2, stage="general", tokens=1, trained_tokens=1, flops=1)
    with pytest.raises(LedgerError, match="another recipe"):
        begin(tmp_path, 0, recipe_sha256="s" * 64)
    path = tmp_path / "ledger" / "rank_0.jsonl"
    path.write_text(path.read_text() + json.dumps({"kind": "note"}) + "\n")
    with pytest.raises(LedgerError, match="line 2"):
        ledger.read(tmp_path)
