import torch

from .io import ComfyNode

class PreviewImage:
    def __init__(
        self, image: torch.Tensor, animated: bool = False, cls: type[ComfyNode] | None = None
    ) -> None: ...
    def as_dict(self) -> dict[str, list]: ...
