"""The one error of this package."""

from __future__ import annotations

from ..common.errors import ArrError


class AdapterError(ArrError, ValueError):
    """An adapter that cannot be used as it is: one line of what was expected, what came, and what to do next."""
