"""The soak holds still when nothing leaks, and notices memory, threads and files that do."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEAKS = """
import sys, threading
sys.path.insert(0, {benchmarks!r})
import soak
kept, end, plain = [], threading.Event(), soak.Work.round

def leaking(self):
    plain(self)
    if self.rounds % 3 == 0:
        kept.append(bytearray(b"x" * 2**19))
        kept.append(open(soak.__file__))
        kept.append(threading.Thread(target=end.wait, daemon=True))
        kept[-1].start()

soak.Work.round = leaking
status = soak.main(sys.argv[1:])
end.set()
for thing in kept:
    if hasattr(thing, "close"):
        thing.close()
sys.exit(status)
"""


def soaked(program, *arguments):
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_short_run_holds_still(tmp_path):
    """A limit of 5 %: in a few seconds Python's own memory has not yet settled to 1 %."""
    program = [str(ROOT / "benchmarks" / "soak.py")]
    done = soaked(program, "--minutes", "0.2", "--warm-up", "4", "--limit", "5", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "soak.json").read_text(encoding="utf-8"))
    samples = results["samples"]
    assert 5 <= len(samples["seconds"]) <= 12
    assert samples["seconds"] == sorted(samples["seconds"])
    assert results["rounds"] * 4 < results["steps"]
    assert min(samples["memory"]) > 50 * 2**20
    assert min(samples["pool"]) > 2**20
    assert min(samples["threads"]) >= 1
    assert min(samples["steps_per_second"]) > 0
    assert (tmp_path / "soak.png").read_bytes()[:4] == b"\x89PNG"
    assert "| resident memory |" in done.stdout


def test_planted_leaks_are_noticed(tmp_path):
    program = ["-c", LEAKS.format(benchmarks=str(ROOT / "benchmarks"))]
    done = soaked(program, "--minutes", "0.15", "--warm-up", "1", "--limit", "2", "--out", str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "grew: memory, threads, handles" in done.stderr
    growth = json.loads((tmp_path / "soak.json").read_text(encoding="utf-8"))["growth"]
    assert {name for name, facts in growth.items() if facts["passed"]} == {"pool"}
    assert min(growth["handles"]["growth"], growth["threads"]["growth"]) >= 1


def test_too_short_a_run_says_so():
    done = soaked([str(ROOT / "benchmarks" / "soak.py")], "--minutes", "0.1")
    assert done.returncode == 2
    assert "--warm-up must be from 0 to 6 s, got 20" in done.stderr


def imported():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import soak
    finally:
        sys.path.pop(0)
    return soak


def test_without_proc(monkeypatch):
    """Other systems: the most memory there has been, Python's threads, and handles that nobody counts."""
    soak = imported()
    there = soak.resident_bytes(), soak.thread_count(0), soak.handle_count()
    monkeypatch.setattr(soak, "status", lambda field: None)
    monkeypatch.setattr(soak.os, "listdir", lambda path: os.stat("/nonexistent/fd"))
    assert there[0] <= soak.resident_bytes() * 1.05 < 100 * there[0]
    assert 1 <= soak.thread_count(100) <= there[1]
    assert soak.handle_count() != soak.handle_count()  # NaN
    samples = [soak.Sample(t, 100.0, 10.0, 1.0, soak.handle_count(), 50.0) for t in range(10)]
    found = soak.growths(samples, 0, 0.01)
    assert (found["handles"]["growth"], found["handles"]["passed"]) == (None, True)
    assert found["threads"]["growth"] == 0


def test_the_table_of_the_page_is_that_of_the_file():
    results = json.loads((ROOT / "benchmarks" / "results" / "soak.json").read_text(encoding="utf-8"))
    assert results["minutes"] == 2
    assert results["machine"]["processor"]
    assert all(facts["passed"] for facts in results["growth"].values())
    assert imported().table(results) in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
