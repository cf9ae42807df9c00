"""What the nodes use of comfy_api.latest. ComfyUI cannot be imported where types are checked."""

from . import io as io
from . import ui as ui

class ComfyExtension:
    async def get_node_list(self) -> list[type[io.ComfyNode]]: ...
