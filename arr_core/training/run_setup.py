"""What is checked and opened before a model loads: processes, the run's folder, prompts, judges, signals."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from ..common import collectives
from ..common.files import check_links
from ..common.lock import TRAINER, locked
from ..config.load import changed_fields, save_config
from ..config.schema import TrainConfig
from ..data import Example, content_hash, load_split
from ..judging import Judge
from ..judging.chat import RequestLimits
from ..judging.profiles import default_rubric, make_client
from ..rubrics import load_rubric
from .checkpoint import Checkpoint, RunError, finish_saves, list_checkpoints, load_checkpoint


def check_processes(config: TrainConfig) -> None:
    """Raises RunError where the work cannot be shared by the processes that there are."""
    world = collectives.world_size()
    if config.rollout.prompts_per_update % world:
        raise RunError(
            f"rollout.prompts_per_update: expected a multiple of the {world} processes, "
            f"got {config.rollout.prompts_per_update}"
        )
    if config.policy.sharded and world == 1:
        raise RunError(
            "policy.sharded: expected several processes that share the base (accelerate launch -m "
            "arr_core.train ...), got one; policy.quantization nf4 fits a large base on one card"
        )


@contextlib.contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """A context in which no other run works in ``folder``. What a killed one left half-written is removed. Raises RunError."""

    def claim() -> None:
        if collectives.rank() == 0:
            check_links(folder, RunError)
            folder.mkdir(parents=True, exist_ok=True)
            if holder := stack.enter_context(locked(folder / TRAINER)):
                raise RunError(
                    f"{folder}: expected a run that no process works on, got one that {holder} trains; stop it or wait "
                    "until it ends, or choose another --run.name"
                )
            for pattern in (".*.part", ".tmp*"):  # ours, and those of safetensors
                for part in folder.rglob(pattern):
                    part.unlink()
            finish_saves(folder / "checkpoints")

    with contextlib.ExitStack() as stack:
        collectives.raise_on_all_ranks(claim, RunError)
        yield


def open_run(config: TrainConfig, resume: bool) -> Checkpoint | None:
    """The checkpoint to resume from. None for a new run, and for one that ended before its first checkpoint.

    Raises RunError for a folder that holds another run, or none to resume, or one of other settings.
    """
    folder = config.run.folder
    if not resume:
        taken = any((folder / name).exists() for name in ("events.jsonl", "config.yaml"))
        if taken and collectives.rank() == 0:
            raise RunError(
                f"{folder}: expected a new folder, got one that holds another run; go on with it by --resume "
                f"{folder}, or choose another --run.name"
            )
        return None
    if not list_checkpoints(folder / "checkpoints"):
        if not (folder / "config.yaml").is_file():
            raise RunError(f"{folder}: expected the folder of a run, got one without config.yaml")
        return None
    checkpoint = load_checkpoint(folder / "checkpoints")
    if changed := changed_fields(_config_of(checkpoint), config):
        raise RunError(
            f"{folder}: a resumed run keeps its settings; changed here: {', '.join(changed)}; "
            "start a new run for them"
        )
    return checkpoint


def rebuild_config(folder: Path) -> None:
    """Write ``config.yaml`` as the newest sound checkpoint has it. Raises RunError."""
    save_config(_config_of(load_checkpoint(folder / "checkpoints")), folder / "config.yaml")


def _config_of(checkpoint: Checkpoint) -> TrainConfig:
    return TrainConfig.model_validate(checkpoint.values["config"])


def load_prompts(
    config: TrainConfig, checkpoint: Checkpoint | None
) -> tuple[list[Example], list[Example], str]:
    """The training and held-out examples, and the hash of their content. Raises DataError and RunError."""
    train, held_out = load_split(
        config.data.train, config.data.validation, config.data.validation_count, config.task
    )
    held_out = held_out[: config.validation.count]
    data_hash = content_hash([*train, *held_out])
    if checkpoint is not None and checkpoint.values["data_hash"] != data_hash:
        raise RunError(
            f"{config.data.train}: expected the prompts and images that the run {config.run.folder} began with, got "
            "others; restore those files, or start a new run"
        )
    if config.policy.sharded and len(held_out) < collectives.world_size():
        raise RunError(
            "validation.count: expected at least one prompt for each of the "
            f"{collectives.world_size()} processes that share the base, got {len(held_out)}"
        )
    return list(train), list(held_out), data_hash


def make_judge(config: TrainConfig, profile: str) -> Judge:
    """The judge of a profile under the run's rubric. Raises JudgeError and RubricError."""
    settings, rank = config.judge, collectives.rank()
    if settings.rubric is not None:
        rubric = load_rubric(settings.rubric, config.task)
    else:
        rubric = default_rubric(profile, config.task)
    limits = RequestLimits(
        settings.timeout_s, settings.retries, settings.concurrency, settings.outage_hours
    )
    client = make_client(profile, limits)
    config.run.folder.mkdir(parents=True, exist_ok=True)
    # A file for each process: the folder may lie on a network, where SQLite cannot share one.
    name = f"verdicts-{rank}.sqlite" if rank else "verdicts.sqlite"
    store = config.run.folder / name
    return Judge(client, rubric, both_orders=settings.both_orders, store=store)


@contextlib.contextmanager
def stop_signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """A context in which the first SIGINT or SIGTERM calls ``request_stop``; a second one acts as usual.

    So does SIGHUP, of a terminal that closes: it comes more than once, and ``nohup`` has it ignored.
    """

    def handle(number, frame):
        request_stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(OSError):  # of a terminal that is gone
            os.write(2, b"\nstopping after this update; a second signal stops at once\n")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {}
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
