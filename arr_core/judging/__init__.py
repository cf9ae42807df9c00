"""Judging two images under a rubric: verdicts, the pairwise judge, its clients and its memory."""

from .judge import Judge, Pair
from .verdict import JudgeError, Opinion, Verdict

__all__ = ["Judge", "JudgeError", "Opinion", "Pair", "Verdict"]
