"""LoRA adapters of FLUX.1 and Qwen-Image-Edit: read and check, convert to full strength anywhere, save, apply.

``load_adapter`` reads PEFT folders and every common single file; ``Adapter.save`` writes a PEFT folder and
``Adapter.save_universal`` the file that diffusers and ComfyUI both apply at full strength; ``inject`` and
``extract`` connect an adapter with a diffusers transformer.
"""

from .adapter import Adapter, LoraPair, load_adapter
from .compatibility import raw_outcomes
from .family import base_id, base_warning, detect_family, families_with
from .file import AdapterError
from .matching import extract, inject

__all__ = [
    "Adapter",
    "AdapterError",
    "LoraPair",
    "base_id",
    "base_warning",
    "detect_family",
    "extract",
    "families_with",
    "inject",
    "load_adapter",
    "raw_outcomes",
]
