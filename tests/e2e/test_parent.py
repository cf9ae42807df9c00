"""A child process ends when the one that started it closes the pipe or dies, also where Ctrl-C was switched off."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arr_core.common.children import START

CODE = """
import sys, time
from arr_core.common.children import stop_at_eof
try:
    stop_at_eof()
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize(
    "handler", [signal.SIG_DFL, signal.SIG_IGN], ids=["in a terminal", "in the background"]
)
def test_the_end_of_the_pipe_is_ctrl_c(handler):
    child = subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )
    assert child.stdout.readline() == "ready\n"
    child.stdin.close()
    assert child.wait(timeout=20) == 7


def test_a_child_starts_where_python_looks_for_no_module_in_its_folder(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/said.py").write_text("import sys, pack\nprint(__name__, sys.argv[1:])\n")
    done = subprocess.run(
        [sys.executable, "-I", "-c", START, str(tmp_path), "pack.said", "one", "two"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "__main__ ['one', 'two']\n", done.stderr
