"""Adapter files on disk: find the one a path means, check it before reading, read it, write it atomically.

Only safetensors and JSON are ever opened; a pickle can run code when it is loaded, and is refused by its suffix.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..common.errors import ArrError
from ..common.files import atomic_write, open_file, read_text

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
PICKLE = "adapter_model.bin"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# What the card says of the two published adapters, by the name of their folder: ComfyUI's download brings the weights alone.
PUBLISHED = {
    "ARR-FLUX.1-dev": {
        "r": 16,
        "lora_alpha": 32,
        "base_model_name_or_path": "black-forest-labs/FLUX.1-dev",
    },
    "ARR-Qwen-Image-Edit": {
        "r": 32,
        "lora_alpha": 64,
        "base_model_name_or_path": "Qwen/Qwen-Image-Edit",
    },
}
MAX_FILE_BYTES = 8 * 2**30
MAX_JSON_BYTES = 4 * 2**20


class AdapterError(ArrError, ValueError):
    """An adapter that cannot be used as it is: one line of what was expected, what it got, and what to do next."""


@dataclass(frozen=True)
class Source:
    """A file as read: its tensors, the strings of its header, and the configuration beside it or in the header."""

    path: Path
    tensors: dict[str, torch.Tensor]
    header: dict[str, str]
    config: Any = None
    config_in_header: bool = False


def read_source(path: Path) -> Source:
    """The adapter that ``path`` names: a file, a PEFT folder, or a folder that holds exactly one PEFT folder."""
    if not path.exists():
        raise AdapterError(
            f"{path}: expected an adapter's folder or .safetensors file, got nothing; check the path"
        )
    folder = _adapter_folder(path) if path.is_dir() else None
    file = _weights_in(folder) if folder else path
    if file.suffix in PICKLES:
        raise AdapterError(
            f"{file}: expected safetensors, got a pickle, which can run code when loaded; "
            "ask its author for a .safetensors file"
        )
    if file.suffix != ".safetensors":
        raise AdapterError(
            f"{file}: expected a .safetensors file, got {file.suffix or 'no suffix'}; "
            "give the adapter's own file or folder"
        )
    tensors, header = _read_tensors(file)
    config_file = file.parent / CONFIG_NAME
    if file.name == WEIGHTS_NAME and config_file.exists():
        _check_inside(config_file)
        return Source(
            file,
            tensors,
            header,
            _parse_json(read_text(config_file, "JSON", AdapterError, MAX_JSON_BYTES), config_file),
        )
    if (config := _config_in(header, file)) is not None:
        return Source(file, tensors, header, config, config_in_header=True)
    published = PUBLISHED.get(file.parent.name) if file.name == WEIGHTS_NAME else None
    return Source(file, tensors, header, published)


def write_tensors(tensors: dict[str, torch.Tensor], file: Path, header: dict[str, str]) -> None:
    """Write a safetensors file atomically. All weights are written here. Raises AdapterError for one that is not finite."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise AdapterError(
                f"{file}: expected finite weights, got infinity or NaN in {name}; it was not written"
            )
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_write(file) as part:
        try:
            save_file(contiguous, part, {"format": "pt", **header})
        except SafetensorError as error:  # a full disk, for example
            raise OSError(f"could not write {file}: {error}") from error
        _sort_header(part)


def _sort_header(file: Path) -> None:
    """Sort the strings in a header in place; the library writes them in another order in every process."""
    with file.open("r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        values = json.loads(opened.read(length))
        values["__metadata__"] = dict(sorted(values["__metadata__"].items()))
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        opened.seek(8)
        opened.write(text.ljust(length))


def _adapter_folder(folder: Path) -> Path:
    """``folder`` itself, or the one folder directly in it that holds an adapter."""
    if any(
        (folder / name).exists() for name in (CONFIG_NAME, WEIGHTS_NAME, DIFFUSERS_NAME, PICKLE)
    ):
        return folder
    inner = sorted(child for child in folder.iterdir() if (child / CONFIG_NAME).exists())
    if not inner:
        raise AdapterError(
            f"{folder}: expected {CONFIG_NAME} and {WEIGHTS_NAME} in it or in one folder of it, got "
            "neither; give the adapter's folder or a .safetensors file"
        )
    if len(inner) > 1:
        raise AdapterError(
            f"{folder}: expected one adapter, got {', '.join(child.name for child in inner)}; "
            f"give one of them, such as {inner[0]}"
        )
    _check_inside(inner[0])
    return inner[0]


def _weights_in(folder: Path) -> Path:
    """The weights of a PEFT folder, else what diffusers saved there."""
    file, has_config = folder / WEIGHTS_NAME, (folder / CONFIG_NAME).exists()
    if not file.exists() and not has_config and (folder / DIFFUSERS_NAME).exists():
        file = folder / DIFFUSERS_NAME
    elif not file.exists():
        pickled = (folder / PICKLE).exists()
        got = f"{PICKLE}, a pickle, which can run code when loaded" if pickled else "none"
        raise AdapterError(
            f"{folder}: expected {WEIGHTS_NAME}, got {got}; get the adapter as safetensors"
        )
    elif not has_config and folder.name not in PUBLISHED:
        raise AdapterError(
            f"{folder}: expected {CONFIG_NAME} beside {WEIGHTS_NAME}, got none: its strength is "
            f"unknown; add it, or give {WEIGHTS_NAME} itself with the alpha it was trained with (--alpha N)"
        )
    _check_inside(file)
    return file


def _check_inside(path: Path) -> None:
    """Refuse a link out of the folder, except from a snapshot of the Hub's cache to the blobs beside it."""
    folder, target = path.parent.resolve(), path.resolve()
    cache = next((parent.parent for parent in folder.parents if parent.name == "snapshots"), None)
    if not target.is_relative_to(folder) and not (cache and target.parent == cache / "blobs"):
        raise AdapterError(
            f"{path}: expected a file of this folder, got a link that leads out of it; "
            "replace the link by a copy"
        )


def _read_tensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with open_file(file, MAX_FILE_BYTES) as opened:
            size = os.fstat(opened.fileno()).st_size
    except OSError as error:
        got = (error.strerror or str(error)).lower()
        raise AdapterError(
            f"{file}: expected an adapter's file, got {got}; give the adapter, not a whole model"
        ) from None
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(
                opened.metadata() or {}
            )
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise AdapterError(
            f"{file}: expected a complete safetensors file, got {size:,} bytes that are not one "
            f"({reason}); download or save it again"
        ) from error


def _config_in(header: dict[str, str], file: Path) -> Any:
    """The configuration that diffusers writes into the header; a pipeline puts ``transformer.`` before its names."""
    text = header.get("lora_adapter_metadata")
    if not text:
        return None
    config = _parse_json(text, file)
    if not isinstance(config, dict):
        return config
    prefix = "transformer."
    return {
        name.removeprefix(prefix): value
        for name, value in config.items()
        if name.startswith(prefix)
    } or config


def _parse_json(text: str, file: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(
            f"{file}: expected JSON, got text that does not parse ({error}); save the adapter again"
        ) from error
