"""LoRA adapters of FLUX.1 and Qwen-Image-Edit: read and check, convert to full strength anywhere, save, apply.

``load_adapter`` reads PEFT folders and every common single file; ``Adapter.save`` writes a PEFT folder and
``Adapter.save_universal`` the file that diffusers and ComfyUI both apply at full strength; ``match``, ``inject`` and
``extract`` connect an adapter with a diffusers transformer.
"""

from .adapter import Adapter, LoraPair, load_adapter
from .errors import AdapterError
from .family import base_id, base_warning, detect_family, families_with
from .matching import MatchReport, extract, inject, match
from .outcomes import raw_outcomes

__all__ = [
    "Adapter",
    "AdapterError",
    "LoraPair",
    "MatchReport",
    "base_id",
    "base_warning",
    "detect_family",
    "extract",
    "families_with",
    "inject",
    "load_adapter",
    "match",
    "raw_outcomes",
]
