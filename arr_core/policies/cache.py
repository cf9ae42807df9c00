"""Encoded examples on disk, one safetensors file each, named by the content of everything that shaped it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from pathlib import Path

import safetensors
from safetensors.torch import save_file

MEMORY_LIMIT = 1 << 30  # bytes of encodings kept in memory beside the disk


def content_key(identity: str, settings, example) -> str:
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
        self._memory: OrderedDict = OrderedDict()
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

    def put(self, key: str, conditioning) -> None:
        """Write a conditioning under its key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self._path(key).with_suffix(f".{os.getpid()}.partial")
        try:
            save_file(
                {
                    name: tensor.detach().cpu().contiguous()
                    for name, tensor in conditioning.tensors.items()
                },
                partial,
                metadata={"height": str(conditioning.height), "width": str(conditioning.width)},
            )
            partial.replace(self._path(key))
        except safetensors.SafetensorError as error:  # what the library calls a full disk
            raise OSError(f"{partial}: could not be written: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def get(self, key: str):
        """The conditioning behind a key, on the CPU. Raises FileNotFoundError for one never encoded."""
        from .base import Conditioning

        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        with safetensors.safe_open(self._path(key), "pt") as file:
            size = {name: int(value) for name, value in file.metadata().items()}
            conditioning = Conditioning(
                {name: file.get_tensor(name) for name in file.keys()}, **size
            )
        self._memory[key] = conditioning
        self._bytes += _size(conditioning)
        while self._bytes > MEMORY_LIMIT and len(self._memory) > 1:
            self._bytes -= _size(self._memory.popitem(last=False)[1])
        return conditioning


def _size(conditioning) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in conditioning.tensors.values())
