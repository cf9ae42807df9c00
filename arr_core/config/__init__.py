"""A run's configuration: ``schema`` (its fields), ``presets``, and ``load`` (from YAML and the command line, and back).

Importing the package loads none of them: ComfyUI's nodes read the presets alone, and building the schema takes time.
"""
