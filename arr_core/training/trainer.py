"""The trainer: sample pairs, let the judge choose, score, update the adapter, record; and do it again.

It knows policies, judges, prompts and files through their seams only. Everything that happens leaves through events.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import __version__
from ..adapters import load_adapter
from ..common import collectives as distributed
from ..common.errors import ArrError
from ..config import TrainConfig, changed_fields, config_hash, load_config, save_config
from ..data import PromptOrder, content_hash, load_split
from ..judging import Judge, JudgeError, Pair, Verdict
from ..judging.profiles import default_rubric, make_client
from ..policies.loading import load_policy
from ..reports.run import write_report
from ..rubrics import Rubric, load_rubric
from .checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from .events import (
    CheckpointEvent,
    EncodedEvent,
    Event,
    EventLog,
    FinishedEvent,
    Observer,
    ProgressEvent,
    ResumedEvent,
    RubricName,
    StartedEvent,
    StoppedEvent,
    UpdateEvent,
)
from .learner import Learner, decided
from .rollout import Group, sample_pairs
from .validation import Score, Validation

TOLD_S = 5.0  # least time between two events of progress


class RunError(ArrError, ValueError):
    """A run that cannot start or go on: one line that says why and what to do."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the last update, whether it was stopped on request, and the last score."""

    update: int
    stopped: bool
    score: Score | None
    folder: Path


class Trainer:
    """One run of a configuration. ``Trainer(config).run()`` trains; ``resume=True`` goes on from the newest checkpoint."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        resume: bool = False,
        observers: Sequence[Observer] = (),
        judge: Judge | None = None,
    ):
        """Check everything that can be checked before a model loads. Raises ConfigError, DataError, PolicyError, RunError."""
        self.config, self.folder = config, config.run.folder
        self.rank, self.world = distributed.rank(), distributed.world_size()
        if config.rollout.prompts_per_update % self.world:
            raise RunError(
                f"rollout.prompts_per_update: expected a multiple of the {self.world} processes, "
                f"came {config.rollout.prompts_per_update}"
            )
        if config.policy.sharded and self.world == 1:
            raise RunError(
                "policy.sharded: expected several processes that share the base (accelerate launch -m "
                "arr_core.train ...), came one; policy.quantization nf4 fits a large base on one card"
            )
        self.checkpoint = self._find_checkpoint() if resume else self._check_folder()
        self.train_examples, self.held_out = load_split(
            config.data.train, config.data.validation, config.data.validation_count, config.task
        )
        self.held_out = self.held_out[: config.validation.count]
        self.data_hash = content_hash([*self.train_examples, *self.held_out])
        if self.checkpoint is not None and self.checkpoint.values["data_hash"] != self.data_hash:
            raise RunError(
                f"{config.data.train}: expected the prompts and images that the run {self.folder} began with, found "
                "others; give it those, or start a new run"
            )
        if config.policy.sharded and len(self.held_out) < self.world:
            raise RunError(
                f"validation.count: expected at least one prompt for each of the {self.world} processes that share "
                f"the base, came {len(self.held_out)}"
            )
        self.rubric = judge.rubric if judge else self._rubric(config.judge.profile)
        self.start_adapter = load_adapter(config.adapter.start) if config.adapter.start else None
        self.policy = load_policy(config.policy, config.run.output_dir / ".encodings")
        client = None if judge else self._client(config.judge.profile)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.judge = judge or Judge(
            client,
            self.rubric,
            both_orders=config.judge.both_orders,
            store=self._store(),
        )
        other = config.validation.judge_profile
        self.validation_judge = (
            self.judge
            if other is None
            else Judge(
                self._client(other),
                self._rubric(other),
                both_orders=config.judge.both_orders,
                store=self._store(),
            )
        )
        if self.rank == 0:
            save_config(config, self.folder / "config.yaml")
        self.events = EventLog(self.folder / "events.jsonl", observers) if self.rank == 0 else None
        self.score: Score | None = None
        self.best_margin = -2.0
        self.stop_requested = self.validation_due = False
        self.updates_without_judge = 0
        self.told = time.monotonic()

    def close(self) -> None:
        """End the judges and the event log, with the bar and the trackers that follow it."""
        self.judge.close()
        if self.validation_judge is not self.judge:
            self.validation_judge.close()
        if self.events is not None:
            self.events.close()

    # ------------------------------------------------------------------ before the first update

    def _check_folder(self) -> None:
        if self.rank == 0 and any(
            (self.folder / name).exists() for name in ("events.jsonl", "config.yaml")
        ):
            raise RunError(
                f"{self.folder}: expected a new folder, found another run; go on with it by --resume "
                f"{self.folder}, or choose another --run.name"
            )

    def _find_checkpoint(self) -> Checkpoint | None:
        """None for a run that ended before its first checkpoint: nothing holds it to its settings."""
        if not (self.folder / "config.yaml").is_file():
            raise RunError(
                f"{self.folder}: expected the folder of a run, found no config.yaml in it"
            )
        if not list_checkpoints(self.folder / "checkpoints"):
            return None
        changed = changed_fields(load_config(str(self.folder / "config.yaml")), self.config)
        if changed:
            raise RunError(
                f"{self.folder}: a resumed run keeps its settings; changed here: {', '.join(changed)}; "
                "start a new run for them"
            )
        return load_checkpoint(self.folder / "checkpoints")

    def _rubric(self, profile: str) -> Rubric:
        if self.config.judge.rubric is not None:
            return load_rubric(self.config.judge.rubric, self.config.task)
        return default_rubric(profile, self.config.task)

    def _client(self, profile: str):
        settings = self.config.judge
        return make_client(
            profile,
            timeout_s=settings.timeout_s,
            retries=settings.retries,
            concurrency=settings.concurrency,
        )

    def _store(self) -> Path:
        """Every process has a file of its own: the folder may lie on a network, where SQLite cannot share one."""
        return self.folder / (f"verdicts-{self.rank}.sqlite" if self.rank else "verdicts.sqlite")

    def _prepare(self) -> None:
        """Encode every prompt, add the adapter, make the optimizer, and take up the checkpoint if there is one."""
        config, start = self.config, time.monotonic()
        examples = [*self.train_examples, *self.held_out]
        if (
            self.world > 1
        ):  # each its share; what is then missing lies on the disk of another machine
            self.policy.encode(examples[self.rank :: self.world], self._encoding)
            distributed.gather(None)
        keys = self.policy.encode(examples, self._encoding)
        self.emit(EncodedEvent(examples=len(examples), seconds=time.monotonic() - start))
        self.keys = keys[: len(self.train_examples)]
        self.learner = Learner(config, self.policy, self.start_adapter)
        self.order = PromptOrder(len(self.train_examples), config.run.seed)
        if self.checkpoint is not None:
            self._restore(self.checkpoint)
        self.validation = Validation(
            self.policy,
            self.validation_judge,
            self.held_out,
            config,
        )

    # ------------------------------------------------------------------ the loop

    def run(self) -> Outcome:
        """Train to the last update, or to a stop. Raises JudgeError and RunError; the run can then be resumed."""
        config = self.config
        with self._signals():
            begun = time.monotonic()
            self.emit(
                StartedEvent(
                    run=config.run.name,
                    config_hash=config_hash(config),
                    version=__version__,
                    updates=config.run.updates,
                    prompts=len(self.train_examples),
                    task=config.task,
                    validation_prompts=len(self.held_out),
                    device=str(self.policy.device),
                    algorithm=config.objective.algorithm,
                    rubric=RubricName(name=self.rubric.name, hash=self.rubric.content_hash),
                )
            )
            if self.rank == 0:
                self.rubric.save(self.folder / "rubric.json")
            self._prepare()
            update = 0
            if self.checkpoint is not None:
                update = self.checkpoint.update
                self.emit(ResumedEvent(update=update))
                self.checkpoint = (
                    None  # it has been taken up, and is as large as the adapter and its optimizer
                )
                if self.validation_due:
                    self._try_validate(update)
            saved = update
            while update < config.run.updates and not distributed.any_true(self.stop_requested):
                update += 1
                self._try_update(update)
                last = update == config.run.updates
                if last or update % config.validation.every == 0:
                    self._try_validate(update)
                if last or update % config.run.save_every == 0:
                    self._save(update)
                    saved = update
            stopped = update < config.run.updates
            if stopped and update > saved:
                self._save(update)
            self._end(update, stopped, time.monotonic() - begun)
        return Outcome(update, stopped, self.score, self.folder)

    def _try_update(self, update: int) -> None:
        """One update; where the judge gives up, what was reached is saved first, so that a resume loses nothing."""
        order = self.order.state()
        try:
            self._update(update)
        except JudgeError:
            self.order.restore(order)
            if update > 1:
                self._save(update - 1)
            raise

    def _try_validate(self, update: int) -> None:
        """One validation; where the judge gives up, the update before it is saved first, and a resume asks again."""
        self.validation_due = True
        try:
            self._validate(update)
        except JudgeError:
            self._save(update)
            raise
        self.validation_due = False

    def _update(self, update: int) -> None:
        """One update: sample, judge, score, train, record. Chunks train in the order in which they were sampled."""
        begun = time.monotonic()
        indices, places = self._draw_prompts()
        place_of, groups, done = dict(zip(indices, places, strict=True)), [], 0
        for group in self._sample(update, indices, places):
            groups.append((group, self.judge.submit(self._pairs(group, place_of))))
            self.tell("sampling", done := done + len(group.images), 2 * len(indices))
        sampled = time.monotonic()
        judged = distributed.together(
            lambda: [(group, future.result()) for group, future in groups], JudgeError
        )
        waited = time.monotonic()
        chosen = [item for group, verdicts in judged for item in decided(group, verdicts)]
        total = len(chosen) * self.config.objective.epochs
        statistics, norm = self.learner.learn(
            update,
            chosen,
            spare=groups[0][0].candidates[0],
            watch=lambda done: self.tell("training", done, total),
        )
        verdicts = [
            verdict
            for part in distributed.gather([v for _, verdicts in judged for v in verdicts])
            for verdict in part
        ]
        opinions = [
            opinion
            for verdict in verdicts
            for opinion in verdict.opinions
            if opinion.preferred is not None
        ]
        self._check_judge(verdicts)
        now = time.monotonic()
        self.emit(
            UpdateEvent(
                update=update,
                seconds=now - begun,
                sampling_s=sampled - begun,
                waiting_s=waited - sampled,
                training_s=now - waited,
                pairs=len(verdicts),
                decided=sum(v.decided for v in verdicts),
                undecided=sum(not v.decided for v in verdicts),
                failures=sum(v.failed for v in verdicts),
                first_pick_rate=sum(o.preferred == 0 for o in opinions) / len(opinions)
                if opinions
                else None,
                grad_norm=norm,
                learning_rate=self.learner.learning_rate,
                judge_calls=sum(v.calls for v in verdicts),
                judge_tokens=sum(v.tokens for v in verdicts),
                judge_cost=sum(v.cost for v in verdicts),
                **statistics,
            )
        )

    def _check_judge(self, verdicts: Sequence[Verdict]) -> None:
        """A judge that answers nothing for three updates would train nothing to the end."""
        self.updates_without_judge = (
            self.updates_without_judge + 1 if all(v.failed for v in verdicts) else 0
        )
        if self.updates_without_judge == 3:
            raise JudgeError(
                f"three updates got no answer from the judge ({verdicts[0].reason}); see that it runs, then "
                f"go on with --resume {self.folder}"
            )

    def _draw_prompts(self) -> tuple[list[int], list[int]]:
        """The numbers of this process's pairs within the update, and the places of their prompts."""
        share = self.config.rollout.prompts_per_update // self.world
        first = self.rank * share
        return list(range(first, first + share)), self.order.take(share, self.rank, self.world)

    def _sample(self, update: int, indices: list[int], places: list[int]) -> Iterator[Group]:
        with self.learner.sampling():
            yield from sample_pairs(
                self.policy,
                [self.keys[place] for place in places],
                indices,
                self.config.rollout,
                seed=self.config.run.seed,
                update=update,
                with_noise=self.config.objective.algorithm == "rpo",
            )

    def _pairs(self, group: Group, place_of: dict[int, int]) -> list[Pair]:
        examples = [self.train_examples[place_of[pair]] for pair in group.pairs]
        return [
            Pair(
                example.prompt,
                group.images[2 * at],
                group.images[2 * at + 1],
                self.policy.source_picture(example),
            )
            for at, example in enumerate(examples)
        ]

    # ------------------------------------------------------------------ record

    def emit(self, event: Event) -> None:
        """Record an event; only the first process writes."""
        self.told = time.monotonic()
        if self.events is not None:
            self.events.emit(event)

    def tell(self, stage: str, done: int, total: int) -> None:
        """Say how far this process is within something long; what takes a moment is not told."""
        if time.monotonic() > self.told + TOLD_S:
            self.emit(ProgressEvent(stage=stage, done=done, total=total))

    def _encoding(self, done: int, total: int) -> None:
        self.tell("encoding", done, total)

    def _validate(self, update: int) -> None:
        begun = time.monotonic()
        with self.learner.published():
            self.score, event = self.validation.run(update, self.tell)
        best = self.score.margin > self.best_margin
        if best:
            self.best_margin = self.score.margin
            self._write_adapter("adapter-best")
        self.emit(replace(event, best=best, seconds=time.monotonic() - begun))

    def _write_adapter(self, name: str) -> None:
        if self.rank:
            return
        adapter = self.learner.adapter()
        adapter.save(self.folder / name)
        if name == "adapter":
            adapter.save_universal(self.folder / f"{self.config.run.name}.safetensors")

    def _save(self, update: int) -> None:
        if self.rank:
            return
        score = self.score and [self.score.wins, self.score.losses, self.score.undecided]
        values = {
            "order": self.order.state(),
            "best_margin": self.best_margin,
            "verdicts": len(self.judge.store),
            "config_hash": config_hash(self.config),
            "data_hash": self.data_hash,
            "score": score,
            "validation_due": self.validation_due,
        }
        path = save_checkpoint(
            self.folder / "checkpoints",
            self.learner.checkpoint(update, values),
            self.config.run.keep_checkpoints,
        )
        self._write_adapter("adapter")
        self.emit(CheckpointEvent(update=update, path=path.relative_to(self.folder).as_posix()))
        write_report(self.folder)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.learner.restore(checkpoint)
        self.order.restore(checkpoint.values["order"])
        self.best_margin = checkpoint.values["best_margin"]
        self.score = Score(*checkpoint.values["score"]) if checkpoint.values["score"] else None
        self.validation_due = checkpoint.values["validation_due"]

    def _end(self, update: int, stopped: bool, seconds: float) -> None:
        if stopped:
            self.emit(StoppedEvent(update=update, reason="requested"))
        else:
            self.emit(
                FinishedEvent(
                    update=update,
                    seconds=seconds,
                    adapter="adapter",
                    sentence=self.sentence(),
                    universal=f"{self.config.run.name}.safetensors",
                    report="report.html",
                )
            )
        if self.rank == 0:
            write_report(self.folder)

    def sentence(self) -> str:
        """The held-out gain in words, with its interval."""
        if self.score is None:
            return "No validation was made."
        return f"On held-out prompts {self.score.sentence()}"

    # ------------------------------------------------------------------ signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM ends the run after the update; a second one takes its ordinary course."""

        def ask(number, frame):
            self.stop_requested = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.write(2, b"\nstopping after this update; a second signal stops at once\n")

        before = {}
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            before = {
                number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)
            }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


__all__ = ["JudgeError", "Outcome", "RunError", "Trainer"]
