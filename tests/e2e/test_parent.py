"""A child process ends when the one that started it closes the pipe or dies, also where Ctrl-C was switched off."""
from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys, time
from arr_core.parent import stop_at_eof
stop_at_eof()
print("ready", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN], ids=["in a terminal", "in the background"])
def test_the_end_of_the_pipe_is_ctrl_c(handler):
    child = subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             cwd=Path(__file__).resolve().parents[2], preexec_fn=lambda: signal.signal(signal.SIGINT, handler))
    assert child.stdout.readline() == "ready\n"
    child.stdin.close()
    assert child.wait(timeout=20) == 7
