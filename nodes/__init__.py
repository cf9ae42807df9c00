"""The ComfyUI nodes, one a file; relative imports only, because ComfyUI has a ``nodes`` module of its own."""
from comfy_api.latest import ComfyExtension, io

NODES: list[type[io.ComfyNode]] = []


class Extension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
