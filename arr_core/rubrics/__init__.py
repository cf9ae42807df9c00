"""Rubrics: the explicit criteria under which two images are compared.

Reading one is light; what writes one (``from_description``, ``from_pairs``) is imported when it is first used.
"""

from typing import TYPE_CHECKING

from .built_in import BUILT_IN, NO_RUBRIC
from .rubric import Rubric, RubricError, Theme, load_rubric

if TYPE_CHECKING:
    from ..data import Exemplar, load_exemplars
    from .describing import from_description, from_description_async
    from .making import Outcome, Step, from_pairs, from_pairs_async

__all__ = [
    "BUILT_IN",
    "NO_RUBRIC",
    "Exemplar",
    "Outcome",
    "Rubric",
    "RubricError",
    "Step",
    "Theme",
    "from_description",
    "from_description_async",
    "from_pairs",
    "from_pairs_async",
    "load_exemplars",
    "load_rubric",
]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .. import data
    from . import describing, making

    return next(
        getattr(module, name) for module in (data, describing, making) if hasattr(module, name)
    )
