"""A process that was started by another one ends with it: its standard input is the thread that ties them together."""
from __future__ import annotations

import _thread
import os
import threading

UNTIL_EOF = "--until-eof"


def stop_at_eof() -> None:
    """Ask this process to stop, as Ctrl-C does, once its standard input ends.

    Whoever started it holds the other end of a pipe. Closing it asks for a stop, on every system; and when that process is
    killed, the system closes it.
    """
    def watch() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:  # there never was a standard input
            return
        _thread.interrupt_main()

    threading.Thread(target=watch, name="parent", daemon=True).start()
