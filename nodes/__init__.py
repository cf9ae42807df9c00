"""The ComfyUI nodes, one a file; relative imports only, because ComfyUI has a ``nodes`` module of its own.

Importing them loads no library that ComfyUI has not loaded already, and of ``arr_core`` what needs none: a node imports
the rest when it runs, so that the pack costs no start-up time and a missing package is an error on the node alone.
"""

from comfy_api.latest import ComfyExtension, io

from .judge import ARRJudge
from .judge_pair import ARRJudgePair
from .load_adapter import ARRLoadAdapter
from .rubric import ARRRubric
from .rubric_from_pairs import ARRRubricFromPairs
from .rubric_from_prompt import ARRRubricFromPrompt
from .train import ARRTrainRPO
from .win_rate import ARRWinRate

NODES: list[type[io.ComfyNode]] = [
    ARRLoadAdapter,
    ARRRubric,
    ARRRubricFromPrompt,
    ARRRubricFromPairs,
    ARRJudge,
    ARRJudgePair,
    ARRTrainRPO,
    ARRWinRate,
]


class Extension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
