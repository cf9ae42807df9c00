"""Model families behind one abstract class; ``load_transformer`` reads the single files of ComfyUI's users."""

from .single_file import load_transformer

__all__ = ["load_transformer"]
