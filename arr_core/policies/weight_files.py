"""The weights of one file as ComfyUI and its users keep them, read one tensor at a time in full precision.

A quantised layer says how in ``<layer>.comfy_quant`` (JSON), in the header's ``_quantization_metadata``, or, before
both, by ``scaled_fp8`` in the file. A scale is always applied: read without, an 8-bit weight is wrong by a thousand times.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open

from .base import PolicyError

PREFIXES = ("model.diffusion_model.", "diffusion_model.")
# What stands beside a quantised weight. A scale of the input matters to quantised products only.
_BESIDE = {"comfy_quant", "weight_scale", "weight_scale_2", "scale_weight"}
_IGNORED = {"input_scale", "scale_input"}
_EIGHT_BITS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")  # weight times scale
_PLAIN = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float8_e4m3fn: "float8_e4m3fn",
    torch.float8_e5m2: "float8_e5m2",
}
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


class WeightFile(ABC):
    """The weights in one file. ``shapes`` holds name -> shape, without the prefix and what stands beside a weight."""

    suffix: ClassVar[str]
    shapes: dict[str, tuple[int, ...]]

    def __init__(self, path: Path):
        self.path = path

    @abstractmethod
    def read(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """The weight of this name and shape in float32, or as it is where it is a float of 16 bits. Raises PolicyError."""

    def fault(self, reason: str) -> PolicyError:
        return PolicyError(f"{self.path}: {reason}")


class SafetensorsFile(WeightFile):
    suffix = ".safetensors"

    def __init__(self, path: Path, opened: Any):
        super().__init__(path)
        self._opened = opened
        stored = list(opened.keys())
        self._prefix = next((p for p in PREFIXES if any(n.startswith(p) for n in stored)), "")
        names = [n.removeprefix(self._prefix) for n in stored if n.startswith(self._prefix)]
        self._beside = {name for name in names if name.rpartition(".")[2] in _BESIDE}
        self._header = self._quantised_layers(opened.metadata() or {})
        self.shapes = {
            name: self._shape(name)
            for name in names
            if name not in self._beside
            and name.rpartition(".")[2] not in _IGNORED
            and name not in ("scaled_fp8", "__index_timestep_zero__")
        }

    def read(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        tensor, layer = self._get(name), name.rpartition(".")[0]
        quantisation = self._quantisation(layer) if name.endswith(".weight") else {}
        kind = quantisation.get("format") or _PLAIN.get(tensor.dtype)
        if kind is None:
            raise self.fault(
                f"{name}: expected a known format, got {tensor.dtype} without its name"
            )
        if kind in _EIGHT_BITS and not quantisation.get("convrot"):
            scale = self._scale(layer)
            if scale is None and tensor.dtype == torch.int8:
                raise self.fault(f"{name}: expected a scale beside 8-bit integers, got none")
            tensor = tensor.float() if scale is None else tensor.float() * scale
        elif quantisation:
            tensor = self._by_comfy_kitchen(name, tensor, quantisation, shape)
        return tensor[: shape[0]]  # the blocks of a format may reach beyond

    def _scale(self, layer: str) -> torch.Tensor | None:
        """One number, or one a row [O, 1]."""
        for name in (f"{layer}.weight_scale", f"{layer}.scale_weight"):
            if name in self._beside:
                scale = self._get(name).float()
                return scale.reshape(-1, 1) if scale.numel() > 1 else scale.reshape(())
        return None

    def _by_comfy_kitchen(
        self, name: str, tensor: torch.Tensor, quantisation: dict[str, Any], shape: Sequence[int]
    ) -> torch.Tensor:
        layout_name = {
            "int8_tensorwise": "TensorWiseINT8Layout",
            "nvfp4": "TensorCoreNVFP4Layout",
            "mxfp8": "TensorCoreMXFP8Layout",
        }.get(quantisation["format"])
        if layout_name is None:
            raise self.fault(
                f"{name}: expected fp8, int8, nvfp4 or mxfp8, got the format {quantisation['format']!r}"
            )
        kitchen = _package("comfy_kitchen.tensor", "comfy-kitchen", self)
        layer = name.removesuffix(".weight")
        scale = self._get(f"{layer}.weight_scale")
        if quantisation["format"] == "nvfp4":
            parameters = {
                "scale": self._get(f"{layer}.weight_scale_2"),
                "block_scale": scale.view(torch.float8_e4m3fn),
            }
        elif quantisation["format"] == "mxfp8":
            parameters = {"scale": scale.view(torch.float8_e8m0fnu)}
        else:
            group = int(quantisation.get("convrot_groupsize", 256))
            parameters = {"scale": scale, "convrot": True, "convrot_groupsize": group}
        layout = getattr(kitchen, layout_name)
        layout_parameters = layout.Params(
            **parameters, orig_dtype=torch.float32, orig_shape=tuple(shape)
        )
        return layout.dequantize(tensor, layout_parameters)

    def _quantisation(self, layer: str) -> dict[str, Any]:
        """How a layer is quantised: ``format`` and its parameters; empty where nothing says so."""
        name = f"{layer}.comfy_quant"
        if name not in self._beside:
            return self._header.get(layer, {})
        return self._parsed(name, self._get(name).numpy().tobytes())

    def _quantised_layers(self, header: dict[str, str]) -> dict[str, dict[str, Any]]:
        name = "_quantization_metadata"
        layers = self._parsed(name, header.get(name, "{}")).get("layers", {})
        return {
            layer.removeprefix(self._prefix): value
            for layer, value in layers.items()
            if isinstance(value, dict)
        }

    def _parsed(self, name: str, text: str | bytes) -> dict[str, Any]:
        try:
            value = json.loads(text)
            return {**value, **(value.get("params") or {})}
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise self.fault(f"{name}: expected a JSON object") from None

    def _get(self, name: str) -> torch.Tensor:
        try:
            return self._opened.get_tensor(self._prefix + name)
        except SafetensorError:
            raise self.fault(f"expected {name}, got none") from None

    def _shape(self, name: str) -> tuple[int, ...]:
        stored = self._opened.get_slice(self._prefix + name)
        shape = tuple(stored.get_shape())
        packed = stored.get_dtype() not in {*_FLOATS, "I8"} and len(shape) == 2  # two of 4 bits
        return (shape[0], 2 * shape[1]) if packed else shape


class GGUFFile(WeightFile):
    suffix = ".gguf"

    def __init__(self, path: Path):
        super().__init__(path)
        self._gguf = _package("gguf", "gguf", self)
        try:
            self._tensors = {tensor.name: tensor for tensor in self._gguf.GGUFReader(path).tensors}
        except (
            Exception
        ) as error:  # numpy's and the library's own errors of all kinds: a damaged file
            raise self.fault(f"expected a whole GGUF file; {error}") from None
        self.shapes = {
            name: tuple(int(size) for size in reversed(tensor.shape))
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        tensor = self._tensors[name]
        try:
            values = self._gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise self.fault(
                f"{name}: expected a format that gguf reads, got {tensor.tensor_type.name}"
            ) from None
        return torch.from_numpy(values.copy()).reshape(self.shapes[name])


def _package(module: str, name: str, file: WeightFile) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise file.fault(f"this format needs the package {name}: pip install {name}") from None


@contextlib.contextmanager
def open_weights(path: str | Path) -> Iterator[WeightFile]:
    """The weights of a .safetensors or .gguf file. Raises PolicyError in one line for what is neither, or damaged."""
    path = Path(path)
    if not path.is_file() or path.suffix not in (SafetensorsFile.suffix, GGUFFile.suffix):
        raise PolicyError(f"{path}: expected a .safetensors or .gguf file")
    if path.suffix == GGUFFile.suffix:
        yield GGUFFile(path)
        return
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise PolicyError(f"{path}: expected a whole safetensors file; {error}") from None
    with opened as file:
        yield SafetensorsFile(path, file)
