import torch

from .model_patcher import ModelPatcher

def load_lora_for_models(
    model: ModelPatcher,
    clip: None,
    lora: dict[str, torch.Tensor],
    strength_model: float,
    strength_clip: float,
) -> tuple[ModelPatcher, None]: ...
