"""Which model an adapter belongs to: its family, read from its module names, and its base, read from its record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

Family = Literal["flux", "qwen-image-edit", "unknown"]

_ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
_TIME = r"time_text_embed\.(timestep|guidance|text)_embedder\.linear_[12]"
# The linear layers of FluxTransformer2DModel (19 double, 38 single blocks) and QwenImageTransformer2DModel (60 blocks).
_MODULES: dict[Family, re.Pattern[str]] = {
    "flux": re.compile(
        rf"transformer_blocks\.(\d|1[0-8])\.({_ATTENTION}|(ff|ff_context)\.net\.(0\.proj|2)|norm1(_context)?\.linear)"
        r"|single_transformer_blocks\.([12]?\d|3[0-7])\.(attn\.to_[qkv]|proj_mlp|proj_out|norm\.linear)"
        rf"|x_embedder|context_embedder|norm_out\.linear|proj_out|{_TIME}"
    ),
    "qwen-image-edit": re.compile(
        rf"transformer_blocks\.([1-5]?\d)\.({_ATTENTION}|(img|txt)_mlp\.net\.(0\.proj|2)|(img|txt)_mod\.1)"
        r"|img_in|txt_in|norm_out\.linear|proj_out|time_text_embed\.timestep_embedder\.linear_[12]"
    ),
}
_OWN = re.compile(
    r"single_transformer_blocks\.|transformer_blocks\.\d+\.(ff|ff_context|norm1|norm1_context)\."
    r"|transformer_blocks\.\d+\.(img|txt)_|x_embedder|context_embedder|img_in|txt_in"
)
_WIDTH, _QWEN_BLOCKS = 3072, 60
_TRANSFORMERS: dict[str, Family] = {
    "FluxTransformer2DModel": "flux",
    "QwenImageTransformer2DModel": "qwen-image-edit",
}


def detect_family(input_widths: Mapping[str, int], base: str | None = None) -> Family:
    """The family whose transformer has all these modules (path -> input width), or ``unknown``.

    The two share the names of their attention layers. An adapter of these alone counts as Qwen's when it covers all 60
    blocks at the published width, and otherwise is what its recorded ``base`` says. Qwen-Image, Qwen-Image-Edit and its
    later editions have one set of names: only the base tells them apart.
    """
    admits = families_with(input_widths)
    if len(admits) == 1 and any(_OWN.match(module) for module in input_widths):
        return admits[0]
    if admits == ["qwen-image-edit"] and _covers_qwen(input_widths):
        return "qwen-image-edit"
    told = _family_of_base(base)
    return told if told in admits else "unknown"


def families_with(modules: Iterable[str]) -> list[Family]:
    """The families whose transformers have modules of all these names."""
    modules = list(modules)
    return [
        family
        for family, names in _MODULES.items()
        if all(names.fullmatch(module) for module in modules)
    ]


def family_of_transformer(transformer: object) -> Family:
    """The family of a diffusers transformer, by its class."""
    return _TRANSFORMERS.get(type(transformer).__name__, "unknown")


def base_id(recorded: str | None) -> str | None:
    """The base model as one may show it: a Hub id as it is, a path on somebody's disk by its last part alone."""
    if not recorded:
        return None
    text = "".join(filter(str.isprintable, recorded)).replace("\\", "/").rstrip("/")
    cached = re.search(r"(?:^|/)models--([^/]+?)--([^/]+)", text)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", text) is not None
    return text if is_hub_id else text.rsplit("/", 1)[-1] or None


def base_warning(family: Family, base: str | None, loaded_base: str | None = None) -> str | None:
    """One line on why an adapter of ``family`` and ``base`` may not suit ``loaded_base``, or None when all is well.

    Without ``loaded_base`` it judges the record alone. Names of modules cannot tell: Qwen-Image-Edit-2509 takes an
    adapter of Qwen-Image-Edit without a word.
    """
    told = _family_of_base(base)
    if base and told != "unknown" and family != "unknown" and told != family:
        return f"the recorded base {base} is not of the modules' family, {family}: check where the file comes from"
    if not base:
        warning = "no base model is recorded: make sure it was trained on the model it is used with"
        twins = "; Qwen-Image, Qwen-Image-Edit, -2509 and -2511 all accept it silently"
        return warning if family == "flux" else warning + twins
    if loaded_base and _name(loaded_base) != _name(base):
        return f"trained on {base}, used with {base_id(loaded_base)}: it loads, but its effect there was not trained"
    return None


def _covers_qwen(input_widths: Mapping[str, int]) -> bool:
    blocks = {
        module.split(".")[1] for module in input_widths if module.startswith("transformer_blocks.")
    }
    attention = re.compile(rf"transformer_blocks\.\d+\.{_ATTENTION}")
    widths = {width for module, width in input_widths.items() if attention.fullmatch(module)}
    return len(blocks) == _QWEN_BLOCKS and widths == {_WIDTH}


def _family_of_base(base: str | None) -> Family:
    name = _name(base or "")
    if re.search(r"flux\.?1", name):
        return "flux"
    return "qwen-image-edit" if "qwen-image" in name else "unknown"


def _name(base: str) -> str:
    return (base_id(base) or "").rsplit("/", 1)[-1].lower()
