import torch

class ModelPatcher:
    model: torch.nn.Module
