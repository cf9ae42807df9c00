"""What becomes of an adapter's file when it is given to diffusers or ComfyUI as it is.

Measured with FluxPipeline and QwenImageEditPipeline of diffusers 0.42 (``load_lora_weights``; a test repeats it for
every layout) and with ComfyUI 0.3.64 to 0.30.0. Neither program reads adapter_config.json.
"""

from __future__ import annotations

from .adapter import Adapter

FULL = "full strength"
NOTHING = "nothing is applied, with only a warning"
FAILS = "fails with an error"
UNSET = "wrong: its weights are left unset"
TWICE = "wrong: its scale is applied twice"


def raw_outcomes(adapter: Adapter) -> dict[str, str]:
    """For ``diffusers`` and ``ComfyUI``, what loading the file raw, at strength 1.0, does."""
    prefix, *rest = adapter.layout.split("+")
    extras, partial = frozenset(rest), _partial(adapter)
    if prefix == "universal":
        return {"diffusers": FULL, "ComfyUI": FULL}
    if adapter.family == "unknown":
        return dict.fromkeys(("diffusers", "ComfyUI"), "unknown, as its family is")
    flux = adapter.family == "flux"
    return {
        "diffusers": (_flux_in_diffusers if flux else _qwen_in_diffusers)(prefix, extras, partial),
        "ComfyUI": _in_comfyui(prefix, FULL if "alpha" in extras else partial, flux),
    }


def _flux_in_diffusers(prefix: str, extras: frozenset[str], partial: str) -> str:
    if prefix == "peft" or extras >= {"alpha", "header"}:
        return FAILS
    if prefix != "diffusers":
        return NOTHING
    if "named" in extras:
        return UNSET
    return FULL if extras else partial


def _qwen_in_diffusers(prefix: str, extras: frozenset[str], partial: str) -> str:
    # Alpha tensors and adapter names lead through a conversion that knows no prefix but ``diffusion_model.``.
    converted = prefix == "comfyui" or not extras.isdisjoint({"alpha", "named"})
    if prefix in ("peft", "bare") and not converted:
        return NOTHING
    if converted and (prefix in ("peft", "diffusers") or prefix == "bare" and "header" in extras):
        return FAILS
    if extras >= {"alpha", "header"}:
        return TWICE
    return partial if extras.isdisjoint({"alpha", "header"}) else FULL


def _in_comfyui(prefix: str, strength: str, flux: bool) -> str:
    if prefix == "peft" or prefix == "comfyui" and flux:
        return "nothing is applied, yet the node reports success"
    return f"{strength}; nothing is applied before 0.30" if prefix == "bare" and flux else strength


def _partial(adapter: Adapter) -> str:
    """How much of its strength an adapter has where neither alpha nor configuration is read."""
    fractions = sorted({round(1 / pair.scale, 2) for pair in adapter.modules.values()})
    if fractions == [1.0]:
        return FULL
    return f"{' to '.join(dict.fromkeys((f'{fractions[0]:.2f}', f'{fractions[-1]:.2f}')))} of its strength"
