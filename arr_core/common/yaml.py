"""YAML that people wrote: what it says is bounded before it is built."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from .errors import ArrError
from .files import read_text

MAX_BYTES = 2**20
MAX_NODES = 100_000  # with every alias written out


class _Loader(yaml.SafeLoader):
    """YAML in which a key may stand once, as YAML demands; SafeLoader would take the last."""

    def get_single_node(self):
        node = super().get_single_node()
        if node is not None and _count(node, {}) > MAX_NODES:
            raise yaml.constructor.ConstructorError(
                problem=f"aliases that make more than {MAX_NODES:,} values",
                problem_mark=node.start_mark,
            )
        return node

    def construct_mapping(self, node, deep=False):
        seen: dict[Any, Any] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and seen.setdefault(key.value, key) is not key:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} stands there twice", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


def read_yaml(
    path: Path, expected: str, error_class: type[ArrError], *, secret: bool = False
) -> Any:
    """What a YAML file says. Raises ``error_class`` in one line, which repeats nothing of a ``secret`` file."""
    text = read_text(path, expected, error_class, MAX_BYTES)
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        mark, problem = None, "nested too deeply"
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    place = f":{mark.line + 1}" if mark else ""
    raise error_class(f"{path}{place}: expected {expected}" + f": {problem[:200]}" * (not secret))


def _count(node: yaml.Node, counts: dict[int, float]) -> float:
    """How many values a node makes. One that holds itself makes infinitely many."""
    if id(node) not in counts:
        counts[id(node)] = math.inf  # until its parts are counted
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        counts[id(node)] = 1 + sum(_count(part, counts) for part in parts)
    return counts[id(node)]
