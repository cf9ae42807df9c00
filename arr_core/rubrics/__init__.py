"""Rubrics: the explicit criteria under which two images are compared.

Here are the documents alone. What writes them is ``rubrics.pipeline`` (from labelled pairs) and ``rubrics.writer`` (from
a description).
"""

from .built_in import BUILT_IN, NO_RUBRIC
from .rubric import Rubric, RubricError, Theme, load_rubric, parse_rubric

__all__ = ["BUILT_IN", "NO_RUBRIC", "Rubric", "RubricError", "Theme", "load_rubric", "parse_rubric"]
