"""Train an adapter: python -m arr_core.train CONFIG_OR_PRESET [--section.field value ...] [--resume RUN_DIR]

CONFIG_OR_PRESET is a YAML file or one of the presets: miniature, miniature-edit (the embedded world, minutes on a CPU),
flux, qwen-image-edit (the published settings), recommended, recommended-edit. Exit status: 0 done; 2 bad input; 3 stopped
on request, to be continued with --resume. With --until-eof it stops, as with Ctrl-C, when its standard input ends: for a
program that starts it, whose end then ends it too.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .common.children import UNTIL_EOF, stop_at_eof
from .common.command import run
from .config import ConfigError, TrainConfig, field_help, load_config

USAGE = "usage: python -m arr_core.train CONFIG_OR_PRESET [--section.field value ...] | --resume RUN_DIR [...] | --help"


def parse(words: Sequence[str]) -> tuple[TrainConfig, bool]:
    """The configuration that the command line asks for, and whether it goes on with a run. Raises ConfigError."""
    words = list(words)
    resume = None
    if "--resume" in words:
        at = words.index("--resume")
        if at + 1 >= len(words):
            raise ConfigError("--resume: expected the folder of a run after it")
        resume = Path(words[at + 1])
        del words[at : at + 2]
    source = words.pop(0) if words and not words[0].startswith("--") else None
    if source is None and resume is None:
        raise ConfigError(f"expected a preset or a YAML file; {USAGE}")
    if resume is not None:
        if not (resume / "config.yaml").is_file():
            raise ConfigError(
                f"--resume: expected the folder of a run, found no {resume / 'config.yaml'}"
            )
        words += [
            "--run.output_dir",
            str(resume.resolve().parent),
            "--run.name",
            resume.resolve().name,
        ]
        source = source or str(resume / "config.yaml")
    return load_config(source, words), resume is not None


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    if UNTIL_EOF in words:
        words.remove(UNTIL_EOF)
        stop_at_eof()
    if "--help" in words or "-h" in words:
        print(__doc__, "Fields, with the values of the preset flux:", field_help(), sep="\n")
        return 0
    return run(
        lambda: _train(*parse(words)),
        stopped="stopped at once; go on with --resume from the last checkpoint",
    )


def _train(config: TrainConfig, resume: bool) -> int:
    from .training.progress import Progress
    from .training.trackers import Trackers
    from .training.trainer import Trainer

    _set_threads(config.run.threads)
    _start_processes()
    observers = [Progress(config.run.folder)]
    if config.run.trackers:
        observers.append(Trackers(config.run.trackers, config.run.folder, config.run.name))
    trainer = Trainer(config, resume=resume, observers=observers)
    with contextlib.closing(trainer):
        outcome = trainer.run()
        if config.validation.exact_measure and not outcome.stopped:
            from .miniature.measure import report_measure

            with trainer.learner.published():
                report_measure(trainer)
    return 3 if outcome.stopped else 0


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _start_processes() -> None:
    """Join the other processes where ``accelerate launch`` or ``torchrun`` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import accelerate
        import torch

        accelerate.PartialState(cpu=not torch.cuda.is_available())


if __name__ == "__main__":
    sys.exit(main())
