"""Stand-in for torchaudio, which has no build beside the CPU wheel of torch. Tests only."""

from . import functional, transforms

__all__ = ["functional", "transforms"]
__version__ = "0"
