"""Train an adapter: python -m arr_core.train CONFIG_OR_PRESET [--section.field value ...] [--resume RUN_DIR]"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .common.children import UNTIL_EOF, stop_at_eof
from .common.command import run
from .config.load import ConfigError, FieldParser, make_config, parse_flags
from .config.presets import PRESETS
from .config.schema import TrainConfig


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    words = sys.argv[1:] if words is None else words
    if UNTIL_EOF in words:
        stop_at_eof()
    return run(
        lambda: _train(*parse(words)),
        stopped="stopped at once; go on with --resume from the last checkpoint",
    )


def parse(words: Sequence[str]) -> tuple[TrainConfig, bool]:
    """The configuration that the command line asks for, and whether it goes on with a run. Raises ConfigError."""
    options, fields = parse_flags(words, _parser())
    source, folder = options.source, options.resume
    if folder is not None:
        saved = folder / "config.yaml"
        if not (saved.is_file() and saved.stat().st_size) and (folder / "checkpoints").is_dir():
            from .training.run_setup import rebuild_config  # it takes torch

            rebuild_config(folder)
        if not saved.is_file():
            raise ConfigError(f"--resume: expected the folder of a run, got one without {saved}")
        source = source or str(saved)
        place = {"output_dir": folder.resolve().parent, "name": folder.resolve().name}
        fields = {**fields, "run": {**fields.get("run", {}), **place}}
    if source is None:
        raise ConfigError("expected a preset or a YAML file, got nothing; see --help")
    return make_config(source, fields), folder is not None


def _parser() -> FieldParser:
    parser = FieldParser(
        prog="python -m arr_core.train",
        usage="%(prog)s CONFIG_OR_PRESET [--section.field value ...] | --resume RUN_DIR [...]",
        description="Train an adapter.",
        epilog="Exit status: 0 done; 2 bad input; 3 stopped on request, to be continued with --resume.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        nargs="?",
        metavar="CONFIG_OR_PRESET",
        help=f"a YAML file, or a preset, which sets the fields marked as required: {', '.join(PRESETS)}; "
        "miniature and miniature-edit train the embedded models, in minutes on a CPU",
    )
    parser.add_argument(
        "--resume", type=Path, metavar="RUN_DIR", help="continue this run from its last checkpoint"
    )
    parser.add_argument(
        UNTIL_EOF,
        action="store_true",
        help="stop, as on Ctrl-C, when standard input ends: for a program that starts this one",
    )
    return parser


def _train(config: TrainConfig, resume: bool) -> int:
    import accelerate
    import torch

    from .reports.run import ReportWriter
    from .training.progress import Progress
    from .training.trackers import Trackers
    from .training.trainer import Trainer

    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    # ``accelerate launch`` and ``torchrun`` start several processes.
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        accelerate.PartialState(cpu=not torch.cuda.is_available())
    observers = [Progress(config.run.folder), ReportWriter(config.run.folder)]
    if config.run.trackers:
        observers.append(Trackers(config.run.trackers, config.run.folder, config.run.name))
    with contextlib.closing(Trainer(config, resume=resume, observers=observers)) as trainer:
        outcome = trainer.run()
        if config.validation.exact_measure and not outcome.stopped:
            from .miniature.measure import report_measure

            with trainer.learner.published():
                report_measure(trainer)
    return 3 if outcome.stopped else 0


if __name__ == "__main__":
    sys.exit(main())
