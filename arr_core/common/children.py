"""A process that was started by another one ends with it: its standard input is the thread that ties them together."""

from __future__ import annotations

import _thread
import os
import signal
import threading

UNTIL_EOF = "--until-eof"
# A child's command is [python, "-c", START, folder, module, *words]: as -m in that folder, but for an embedded Python too
# (ComfyUI for Windows), which looks for no module in the working folder.
START = "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), None, '__main__', True)"


def stop_at_eof() -> None:
    """Ask this process to stop, as Ctrl-C does, once its standard input ends.

    Whoever started it holds the other end of a pipe. Closing it asks for a stop, on every system; and when that process is
    killed, the system closes it.
    """

    main = threading.get_ident()

    def watch() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:  # there never was a standard input
            return
        if hasattr(
            signal, "pthread_kill"
        ):  # it ends waiting too, where interrupt_main only ends working
            signal.pthread_kill(main, signal.SIGINT)
        else:
            _thread.interrupt_main()

    # A server that was started in the background ignores Ctrl-C, and so would its children: they would outlive it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=watch, name="parent", daemon=True).start()
