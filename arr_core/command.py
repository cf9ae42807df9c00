"""How every command ends: its work's status, one line for what cannot be done, or a word when it was interrupted."""
from __future__ import annotations

import sys
from collections.abc import Callable

from .errors import ArrError


def run(work: Callable[[], int], *, stopped: str, status: int = 130) -> int:
    """The exit status of ``work``; 2 where it refuses, with one line on stderr; ``status`` on Ctrl-C, after ``stopped``."""
    try:
        return work()
    except (ArrError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return status
