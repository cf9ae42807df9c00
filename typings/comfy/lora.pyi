import torch

# Of a key: the weight's name, or (the weight's name, (dimension, start, length)) of a part of it.
def model_lora_keys_unet(
    model: torch.nn.Module, key_map: dict = {}
) -> dict[str, str | tuple[str, tuple[int, int, int]]]: ...
