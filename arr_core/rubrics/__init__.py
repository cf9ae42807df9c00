"""Rubrics: the explicit criteria under which two images are compared."""
from .rubric import BUILT_IN, Rubric, RubricError, load_rubric

__all__ = ["BUILT_IN", "Rubric", "RubricError", "load_rubric"]
