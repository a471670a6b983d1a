"""A second start compiles nothing: every kernel comes from the cache that the first start filled."""

import json
import subprocess
import sys
from pathlib import Path

from nnkernels.machine.cache import cache_directory


def start():
    command = [sys.executable, "-W", "error", str(Path(__file__).parent / "second_start.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_second_start_has_no_cache_miss():
    # The directory is that of all tests, so that the first start need not compile what others have compiled.
    # A kernel that cannot be cached, or whose key differs from process to process, misses in every start.
    start()
    second = start()
    assert second["directory"] == str(cache_directory())
    assert second["missed"] == []
    assert second["hits"] > 40
