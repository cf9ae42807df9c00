"""ARR-RPO as a ComfyUI node pack. Importing it loads nothing heavy: the nodes come with ``comfy_entrypoint``."""

import logging

WEB_DIRECTORY = "./nodes/web"


async def comfy_entrypoint():
    """The extension whose nodes ComfyUI registers. A failure is logged in full: ComfyUI itself prints one line."""
    try:
        from .nodes import Extension
    except (ImportError, AttributeError, TypeError):
        logging.getLogger(__name__).exception("ARR-RPO: the nodes could not be loaded")
        raise
    return Extension()
