"""Rubric Policy Optimization with Auto-Rubric as Reward: everything that runs without ComfyUI.

The commands are ``python -m arr_core.train``, ``rubric``, ``judge``, ``evaluate``, ``generate`` and ``adapter``.
Importing this package imports none of them, and nothing heavy.
"""

__version__ = "0.1.0"
