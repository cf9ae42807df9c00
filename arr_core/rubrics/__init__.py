"""Rubrics: the explicit criteria under which two images are compared."""
from .built_in import BUILT_IN
from .rubric import Rubric, RubricError, Theme, load_rubric

__all__ = ["BUILT_IN", "Rubric", "RubricError", "Theme", "load_rubric"]
