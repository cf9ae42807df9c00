"""A run's configuration: its schema, its presets, and how it is read from YAML and the command line."""

from .load import (
    ConfigError,
    FieldParser,
    changed_fields,
    config_hash,
    load_config,
    make_config,
    parse_flags,
    save_config,
)
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
    "FieldParser",
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
    "load_config",
    "make_config",
    "parse_flags",
    "save_config",
]
