"""A run's configuration: its schema, its presets, and how it is read from YAML and the command line."""

from .load import ConfigError, changed_fields, config_hash, field_help, load_config, save_config
from .presets import PRESETS
from .schema import (
    Adapter,
    Data,
    Judge,
    Objective,
    Optimizer,
    Policy,
    Rollout,
    Run,
    TrainConfig,
    Validation,
)

__all__ = [
    "PRESETS",
    "Adapter",
    "ConfigError",
    "Data",
    "Judge",
    "Objective",
    "Optimizer",
    "Policy",
    "Rollout",
    "Run",
    "TrainConfig",
    "Validation",
    "changed_fields",
    "config_hash",
    "field_help",
    "load_config",
    "save_config",
]
