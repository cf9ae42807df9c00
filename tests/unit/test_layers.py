"""The rooms of arr_core form layers: each imports only those above it."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "arr_core"

# From the top down. Rooms of one line do not import each other.
LAYERS = [
    {"common"},
    {"config", "data"},
    {"policies", "adapters", "rubrics.document"},
    {"sampling", "judging"},
    {"rubrics", "training", "base_spec"},
    {"sampling_options", "reports", "labeling", "miniature"},
    {"train", "rubric", "judge", "evaluate", "generate", "adapter"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# What reads a rubric is a document of the upper layer; what writes one asks judges.
RUBRIC_DOCUMENTS = {"rubric", "built_in", "provenance"}
# Made only where a profile of this kind is asked for: (file, room).
BY_PROFILE = {("judging/profiles.py", "labeling"), ("judging/profiles.py", "miniature")}


def room(parts: list[str]) -> str:
    if parts[0] == "rubrics":
        writes = len(parts) > 1 and (PACKAGE / "rubrics" / f"{parts[1]}.py").is_file()
        documents = not writes or parts[1] in RUBRIC_DOCUMENTS | {"__init__"}
        return "rubrics.document" if documents else "rubrics"
    return parts[0]


def imports(path: Path):
    """(room of the file, room that it imports) for every relative import outside of TYPE_CHECKING."""
    own = list(path.relative_to(PACKAGE).with_suffix("").parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in typing_only:
            base = own[: len(own) - node.level]
            module = [*base, *(node.module or "").split(".")] if node.module else base
            for alias in node.names:
                target = [*module, alias.name]
                yield room(own), room([part for part in target if part])


def test_rooms_import_only_from_above():
    wrong = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name == "__init__.py":
            continue
        for own, other in imports(path):
            if other in LEVEL and own != other and (name, other) not in BY_PROFILE:
                if LEVEL[other] >= LEVEL[own]:
                    wrong.add(f"{name} -> {other}")
    assert not wrong
