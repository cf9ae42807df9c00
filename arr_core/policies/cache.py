"""Encoded examples on disk, one safetensors file each, named by the content of everything that shaped it."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from ..common.files import atomic_write
from ..config.schema import Policy as PolicySettings
from ..data import Example

MEMORY_LIMIT = 1 << 30  # bytes of encodings kept in memory beside the disk


@dataclass(frozen=True)
class Conditioning:
    """What the transformer gets of one example: tensors without a batch dimension, and the image's size in pixels."""

    tensors: dict[str, torch.Tensor]
    size: tuple[int, int]  # height and width

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


def content_key(identity: str, settings: PolicySettings, example: Example) -> str:
    """The name of an example's encoding: base, prompt, source bytes and the settings that matter to encoders."""
    shaped_by = {
        name: getattr(settings, name)
        for name in (
            "height",
            "width",
            "true_cfg_scale",
            "negative_prompt",
            "max_sequence_length",
            "condition_area",
            "dtype",
            "quantization",
        )
    }
    digest = hashlib.sha256(json.dumps([identity, shaped_by, example.prompt], default=str).encode())
    if example.source is not None:
        digest.update(Path(example.source).read_bytes())
    return digest.hexdigest()[:32]


class EncodingCache:
    """A folder of encodings with a bounded memory in front. Files appear whole or not at all."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._memory: OrderedDict[str, Conditioning] = OrderedDict()
        self._bytes = 0

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        """Whether the encoding is there, whole: one that a power cut left half is made again."""
        try:
            with safetensors.safe_open(self._path(key), "pt"):
                return True
        except (OSError, safetensors.SafetensorError):
            return False

    def put(self, key: str, conditioning: Conditioning) -> None:
        """Write a conditioning under its key."""
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in conditioning.tensors.items()
        }
        height, width = conditioning.size
        with atomic_write(self._path(key)) as part:
            try:
                save_file(tensors, part, metadata={"height": f"{height}", "width": f"{width}"})
            except safetensors.SafetensorError as error:  # what the library calls a full disk
                raise OSError(f"{part}: could not be written: {error}") from error

    def get(self, key: str) -> Conditioning:
        """The conditioning behind a key, on the CPU. Raises FileNotFoundError for one never encoded."""
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        with safetensors.safe_open(self._path(key), "pt") as file:
            metadata = file.metadata()
            size = int(metadata["height"]), int(metadata["width"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        conditioning = self._memory[key] = Conditioning(tensors, size)
        self._bytes += conditioning.bytes
        while self._bytes > MEMORY_LIMIT and len(self._memory) > 1:
            self._bytes -= self._memory.popitem(last=False)[1].bytes
        return conditioning
