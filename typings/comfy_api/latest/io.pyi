from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

class Hidden(str, Enum):
    unique_id = "UNIQUE_ID"

class HiddenHolder:
    unique_id: str | list[str]

class Input:
    id: str
    tooltip: str | None
    # Every kind takes these; the fields of one kind (min, max, options, multiline, ...) are not told apart here.
    def __init__(
        self, id: str, *, optional: bool = False, tooltip: str | None = None, **options: Any
    ) -> None: ...

class Output:
    def __init__(
        self,
        id: str | None = None,
        *,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> None: ...

_InputType = type[Input]
_OutputType = type[Output]

class ComfyTypeIO:
    Input: _InputType
    Output: _OutputType

class Boolean(ComfyTypeIO): ...
class Combo(ComfyTypeIO): ...
class Float(ComfyTypeIO): ...
class Image(ComfyTypeIO): ...
class Int(ComfyTypeIO): ...
class Model(ComfyTypeIO): ...
class String(ComfyTypeIO): ...

def Custom(io_type: str) -> type[ComfyTypeIO]: ...

class Schema:
    def __init__(
        self,
        node_id: str,
        display_name: str | None = None,
        category: str = "sd",
        inputs: Sequence[Input] | None = None,
        outputs: Sequence[Output] | None = None,
        hidden: Sequence[Hidden] | None = None,
        description: str = "",
        is_input_list: bool = False,
        is_output_node: bool = False,
        **newer: Any,
    ) -> None: ...

class NodeOutput:
    def __init__(self, *args: Any, ui: Mapping[str, Any] | None = None) -> None: ...

class ComfyNode:
    hidden: HiddenHolder
    @classmethod
    def define_schema(cls) -> Schema: ...
