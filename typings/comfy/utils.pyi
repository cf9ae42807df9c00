import torch
from PIL import Image

class ProgressBar:
    def __init__(self, total: int, node_id: str | None = None) -> None: ...
    def update_absolute(
        self,
        value: int,
        total: int | None = None,
        preview: tuple[str, Image.Image, int] | None = None,
    ) -> None: ...

def get_attr(obj: object, attr: str) -> torch.Tensor: ...
