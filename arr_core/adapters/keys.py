"""The names of an adapter's tensors: which module each belongs to, which part it plays, and the layout of the file.

=============  =======================================================  ============================================
layout         a name in it                                             written by
=============  =======================================================  ============================================
``peft``       ``base_model.model.<module>.lora_A.weight``              ``PeftModel.save_pretrained``
``diffusers``  ``transformer.<module>.lora_A.weight``                   ``save_lora_weights``, trainers, ``convert``
``comfyui``    ``diffusion_model.<module>.lora_A.weight``               trainers that follow ComfyUI's prefix
``bare``       ``<module>.lora_A.weight``                               ``save_lora_adapter`` of a transformer
=============  =======================================================  ============================================

Each may carry the adapter's name (``lora_A.default.weight``: ``+named``) and scalars ``<module>.alpha`` (``+alpha``).
``<module>`` is the path in the diffusers transformer, such as ``transformer_blocks.0.attn.to_q``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .file import AdapterError

LAYOUTS = {"base_model.model.": "peft", "transformer.": "diffusers", "diffusion_model.": "comfyui"}
_PART = re.compile(r"((?:\w+\.)+)(?:lora_([AB])(\.(?!weight$)[\w-]+)?\.weight|alpha)", re.ASCII)
_REFUSED = (
    (r"lora_magnitude_vector|dora_scale", "a DoRA magnitude", "retrain with use_dora=False"),
    (r"\.bias$|lora_bias", "a trained bias", "retrain with bias='none' and lora_bias=False"),
    (r"hada_", "a LoHa factor", "train a LoRA instead"),
    (r"lokr_", "a LoKr factor", "train a LoRA instead"),
    (r"lora_embedding_", "an embedding's LoRA", "leave embeddings out of target_modules"),
    (
        r"^(text_encoder|lora_te)",
        "a text encoder's LoRA",
        "split it off: only the transformer's LoRA is read",
    ),
    (
        r"lora_(down|up|unet)",
        "a Kohya name",
        "convert it with diffusers (load_lora_weights, save_lora_weights) first",
    ),
    (
        r"^(?!.*lora).*\.weight$",
        "a whole trained weight (modules_to_save)",
        "retrain without modules_to_save",
    ),
)


class Keys(NamedTuple):
    """The layout, and for each module the name in the file of its parts ``A``, ``B`` and, where present, ``alpha``."""

    layout: str
    modules: dict[str, dict[str, str]]


def parse_keys(keys: Iterable[str]) -> Keys:
    """The layout and the modules of a file that holds ``keys``.

    Raises AdapterError for anything but complete LoRA pairs in one layout.
    """
    layouts: dict[str, str] = {}
    extras: set[str] = set()
    modules: dict[str, dict[str, str]] = {}
    for key in keys:
        module, part, extra = _read(key)
        extras.add(extra)
        layouts.setdefault(_layout(key), key)
        parts = modules.setdefault(module, {})
        if part in parts:
            raise AdapterError(
                f"expected one adapter, got {parts[part]} and {key} for the same module; "
                "save one adapter to a file"
            )
        parts[part] = key
    _check_complete(modules, layouts)
    return Keys("".join((*layouts, *sorted(extras))), modules)


def _read(key: str) -> tuple[str, str, str]:
    """The module path, the part (``A``, ``B`` or ``alpha``) and what is beside the plain layout in a tensor's name."""
    for pattern, what, advice in _REFUSED:
        if re.search(pattern, key):
            raise AdapterError(f"expected plain LoRA pairs, got {what}, {key!a}; {advice}")
    match = _PART.fullmatch(key)
    if match is None:
        raise AdapterError(
            f"expected names like <module>.lora_A.weight, got {key[:200]!a}; "
            "give the LoRA of a diffusers transformer"
        )
    module = match[1].rstrip(".")
    while prefix := next((p for p in LAYOUTS if module.startswith(p)), ""):
        module = module.removeprefix(prefix)
    return module, match[2] or "alpha", "+named" * bool(match[3]) if match[2] else "+alpha"


def _layout(key: str) -> str:
    return next((layout for prefix, layout in LAYOUTS.items() if key.startswith(prefix)), "bare")


def _check_complete(modules: dict[str, dict[str, str]], layouts: dict[str, str]) -> None:
    if not modules:
        raise AdapterError("expected LoRA pairs, got no tensor at all; save the adapter again")
    if len(layouts) > 1:
        raise AdapterError(
            f"expected one prefix for all names, got {' and '.join(layouts.values())}; "
            "rename them alike"
        )
    for module, parts in modules.items():
        if not {"A", "B"} <= parts.keys():
            raise AdapterError(
                f"expected lora_A and lora_B of {module}, got only {' and '.join(parts.values())}; "
                "the file is incomplete: save or download it again"
            )
