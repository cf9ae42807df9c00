"""The trainer: take prompts, sample pairs, judge, rewards, advantages, learn, record; and do it again.

It knows policies, judges, prompts and files only through their interfaces. Everything that happens leaves as events.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from ..adapters import load_adapter
from ..common import collectives
from ..config.load import save_config
from ..config.schema import TrainConfig
from ..data import PromptOrder
from ..judging import Judge, JudgeError, Verdict
from ..judging.outage import Outage
from ..policies.loading import load_policy
from .checkpoint import Checkpoint, RunError, keep_newest, save_checkpoint
from .collapse import CollapseWatch
from .events import (
    CheckpointEvent,
    EncodedEvent,
    FinishedEvent,
    Observer,
    OutageEvent,
    ResumedEvent,
    StoppedEvent,
    UpdateEvent,
    WarningEvent,
)
from .learner import Learner
from .recorder import Recorder, Timer, started_event
from .rewards import pair_rewards
from .rollout import Prompt, Sample, SampledBatch, sample_pairs
from .run_setup import (
    check_processes,
    claim_folder,
    load_prompts,
    make_judge,
    open_run,
    stop_signals,
)
from .validation import Score, Validation

LONGEST_PAUSE_S = 60.0  # between two attempts to save on a full disk
UPDATES_WITHOUT_JUDGE = 3  # in a row, after which the run ends: it would learn nothing


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
        self.config, self.folder, self.rank = config, config.run.folder, collectives.rank()
        check_processes(config)
        with contextlib.ExitStack() as resources:
            resources.enter_context(claim_folder(self.folder))
            self._open(resume, observers, judge, resources)
            self.resources = resources.pop_all()
        self.score: Score | None = None
        self.best_margin = 0.0  # of the base
        self.watch = CollapseWatch(config.collapse)
        self.collapsed: str | None = None
        self.failure = ""
        self.stop_requested = self.validation_due = False
        self.updates_without_judge = self.reached = self.saved = 0
        self.outage: Outage | None = None
        self.judge.on_outage = self.validation_judge.on_outage = self._wait_out

    def _open(
        self,
        resume: bool,
        observers: Sequence[Observer],
        judge: Judge | None,
        resources: contextlib.ExitStack,
    ) -> None:
        """Open what the run works with. ``resources`` closes it."""
        config = self.config
        self.checkpoint = open_run(config, resume)
        self.train_examples, self.held_out, self.data_hash = load_prompts(config, self.checkpoint)
        self.start_adapter = load_adapter(config.adapter.start) if config.adapter.start else None
        self.policy = load_policy(config.policy, config.run.output_dir / ".encodings")
        self.judge = self.validation_judge = judge or make_judge(config, config.judge.profile)
        resources.callback(self.judge.close)
        if config.validation.judge_profile:
            self.validation_judge = make_judge(config, config.validation.judge_profile)
            resources.callback(self.validation_judge.close)
        if self.rank == 0:
            save_config(config, self.folder / "config.yaml")
        self.recorder = Recorder(self.folder, observers)
        resources.callback(self.recorder.close)
        self.emit, self.report_progress = self.recorder.emit, self.recorder.report_progress

    def close(self) -> None:
        """Close the event log with its observers and the judges, and leave the folder to others."""
        self.resources.close()

    # ------------------------------------------------------------------ the run

    def run(self) -> Outcome:
        """Train to the last update, or to a stop. Raises JudgeError and RunError; the run can then be resumed."""
        config, timer = self.config, Timer()
        with stop_signals(self._request_stop):
            self.emit(
                started_event(
                    config,
                    self.judge.rubric,
                    prompts=len(self.train_examples),
                    validation_prompts=len(self.held_out),
                    device=str(self.policy.device),
                )
            )
            if self.rank == 0:
                self.judge.rubric.save(self.folder / "rubric.json")
            self.prepare()
            try:
                self._resume()
                if self.reached == 0 and self.start_adapter is None:
                    self._save_best()  # the base: what is better must win against it
                while self.reached < config.run.updates and not collectives.any_rank(
                    self.stop_requested or bool(self.collapsed)
                ):
                    self._step(self.reached + 1)
            except JudgeError:
                self._save_reached()
                if not collectives.any_rank(self.stop_requested and self.outage is not None):
                    raise
            except OSError as error:  # such as a full disk while images were written
                self.failure = str(error)
            update = self.reached
            stopped = update < config.run.updates or self.validation_due or self.failure
            if stopped:
                self._save_reached()
        if self.collapsed:
            self.emit(StoppedEvent(update=update, reason=self.collapsed))
            best = self.folder / "adapter-best"
            raise RunError(
                f"the run has collapsed after update {update}: {self.collapsed}; the best adapter is "
                f"{best if best.exists() else config.adapter.start}; start a new run, with a lower "
                "optimizer.learning_rate"
            )
        if stopped:
            self.emit(StoppedEvent(update=update, reason=self.failure or "requested"))
        else:
            self.emit(
                FinishedEvent(
                    update=update,
                    seconds=timer.total,
                    sentence=self._sentence(),
                    adapter="adapter",
                    universal=f"{config.run.name}.safetensors",
                    report="report.html",
                )
            )
        return Outcome(update, bool(stopped), self.score, self.folder)

    def _step(self, update: int) -> None:
        """One update, and the validation and the checkpoint that are due after it."""
        self.update(update)
        self.reached = update
        last = update == self.config.run.updates
        if last or update % self.config.validation.every == 0:
            self._validate(update)
        if last or update % self.config.run.save_every == 0:
            self._save(update)

    def _request_stop(self) -> None:
        self.stop_requested = True

    def prepare(self) -> None:
        """Encode every prompt, add the adapter and make the optimizer."""
        timer, examples = Timer(), [*self.train_examples, *self.held_out]
        world = collectives.world_size()
        if world > 1:  # each its share; what is then missing lies on the disk of another machine
            self.policy.encode(examples[self.rank :: world], self.report_progress)
            collectives.gather(None)
        keys = self.policy.encode(examples, self.report_progress)
        self.emit(EncodedEvent(examples=len(examples), seconds=timer.total))
        count = len(self.train_examples)
        self.keys = keys[:count]
        self.learner = Learner(self.config, self.policy, self.start_adapter)
        self.order = PromptOrder(count, self.config.run.seed)
        self.validation = Validation(
            self.policy,
            self.validation_judge,
            self.held_out,
            self.config,
            self.learner.published,
        )

    def _resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        checkpoint, self.checkpoint = self.checkpoint, None  # it is as large as the optimizer
        if checkpoint is None:
            return
        self.reached = self.saved = checkpoint.update
        values = checkpoint.values
        self.learner.restore(checkpoint)
        self.order.restore(values["order"])
        self.best_margin = values["best_margin"]
        self.watch.streaks = values["streaks"]
        self.score = Score(*values["score"]) if values["score"] else None
        self.emit(ResumedEvent(update=checkpoint.update))
        for damage in checkpoint.damaged:
            self.emit(WarningEvent(message=f"{damage}; going on from the sound one before it"))
        self._publish()  # the process that wrote the checkpoint may have been killed before it did
        if self.rank == 0:
            keep = self.config.run.keep_checkpoints
            keep_newest(self.folder / "checkpoints", checkpoint.update, keep)
        if values["validation_due"]:
            self._validate(checkpoint.update)

    # ------------------------------------------------------------------ the loop

    def update(self, update: int) -> None:
        """One update: take prompts, sample, judge, rewards, advantages (in the learner), learn, record."""
        objective, timer = self.config.objective, Timer()
        prompts = self._take_prompts()
        batches = self._sample_and_submit(update, prompts)
        sampling_s = timer.lap()
        samples, verdicts = self._collect(batches)
        self.outage = None
        waiting_s = timer.lap()
        everyone = [verdict for part in collectives.gather(verdicts) for verdict in part]
        answered = self._answered(everyone)
        rewards = pair_rewards(
            verdicts,
            preferred=objective.reward_preferred,
            dispreferred=objective.reward_dispreferred,
        )
        statistics = self.learner.step(update, samples, rewards, self.report_progress)
        if answered:
            self.order.advance(self.config.rollout.prompts_per_update)
        training_s = timer.lap()
        event = UpdateEvent.of(
            update,
            everyone,
            seconds=timer.total,
            sampling_s=sampling_s,
            waiting_s=waiting_s,
            training_s=training_s,
            **statistics,
        )
        self.emit(event)
        if event.skipped:
            self.emit(WarningEvent(message="a gradient was not finite, and its step was left out"))
        self.collapsed = self.watch.update(event)

    def _take_prompts(self) -> list[Prompt]:
        """This process's prompts of the update."""
        world = collectives.world_size()
        share = self.config.rollout.prompts_per_update // world
        places = self.order.upcoming(share, self.rank, world)
        return [
            Prompt(self.rank * share + at, self.keys[place], self.train_examples[place])
            for at, place in enumerate(places)
        ]

    def _sample_and_submit(
        self, update: int, prompts: Sequence[Prompt]
    ) -> list[tuple[SampledBatch, Future[list[Verdict]]]]:
        """The sampled batches. Each is judged while the next one is sampled."""
        batches, done = [], 0
        with self.learner.sampling():
            for batch in sample_pairs(
                self.policy,
                prompts,
                self.config.rollout,
                seed=self.config.run.seed,
                update=update,
                stochastic=self.config.objective.algorithm == "rpo",
            ):
                batches.append((batch, self.judge.submit(batch.pairs)))
                self.report_progress(
                    "sampling", done := done + len(batch.samples), 2 * len(prompts)
                )
        return batches

    def _collect(
        self,
        batches: Sequence[tuple[SampledBatch, Future[list[Verdict]]]],
    ) -> tuple[list[Sample], list[Verdict]]:
        """Samples and their pairs' verdicts, in the order in which they were sampled. Raises JudgeError."""
        verdicts = collectives.raise_on_all_ranks(
            lambda: [verdict for _, future in batches for verdict in self.judge.result(future)],
            JudgeError,
        )
        return [sample for batch, _ in batches for sample in batch.samples], verdicts

    def _answered(self, verdicts: Sequence[Verdict]) -> bool:
        """Whether any pair of an update was answered; prompts of which none was are taken again."""
        failed = all(verdict.failed for verdict in verdicts)
        self.updates_without_judge = self.updates_without_judge + 1 if failed else 0
        if self.updates_without_judge == UPDATES_WITHOUT_JUDGE:
            raise JudgeError(
                f"three updates got no answer from the judge ({verdicts[0].reason}); see that it runs, then "
                f"go on with --resume {self.folder}"
            )
        return not failed

    def _wait_out(self, outage: Outage) -> None:
        """Save what was reached and say that the judge is waited for. Raises JudgeError where a stop is requested."""
        if outage != self.outage:
            if self.outage is None:
                self._save_reached()
            self.outage = outage
            times = (outage.since, outage.next_try, outage.gives_up)
            since, next_try, gives_up = (
                datetime.fromtimestamp(time, timezone.utc).isoformat(timespec="seconds")
                for time in times
            )
            self.emit(
                OutageEvent(reason=outage.reason, since=since, next_try=next_try, gives_up=gives_up)
            )
        if self.stop_requested:
            raise JudgeError("stopped while the judge did not answer")

    # ------------------------------------------------------------------ validate and save

    def _validate(self, update: int) -> None:
        """One validation. Where the judge gives up in it, a resume asks again."""
        self.validation_due, begun = True, time.monotonic()
        self.score, event = self.validation.run(update, self.report_progress)
        self.validation_due, self.outage = False, None
        best = self.score.margin > self.best_margin
        if best:
            self.best_margin = self.score.margin
            self._save_best()
        self.collapsed = self.collapsed or self.watch.validation(event)
        self.emit(replace(event, best=best, seconds=time.monotonic() - begun))

    def _save_best(self) -> None:
        if self.rank == 0:
            self.learner.adapter().save(self.folder / "adapter-best")

    def _save_reached(self) -> None:
        """Save the last whole update, unless its state is saved."""
        if self.saved < self.reached:
            self._save(self.reached)

    def _save(self, update: int) -> None:
        """Write a checkpoint, and then the adapter as it is now. Where the disk is full, wait for room."""
        self.saved = update
        if self.rank:
            return
        score = self.score and [self.score.wins, self.score.losses, self.score.undecided]
        values = {
            "order": self.order.state(),
            "best_margin": self.best_margin,
            "streaks": self.watch.streaks,
            "config": self.config.model_dump(mode="json"),
            "data_hash": self.data_hash,
            "score": score,
            "validation_due": self.validation_due,
        }
        checkpoint = self.learner.checkpoint(update, values)
        folder, keep, pause = self.folder / "checkpoints", self.config.run.keep_checkpoints, 1.0
        while True:
            try:
                path = save_checkpoint(folder, checkpoint, keep)
                self._publish()
                break
            except OSError as error:
                message = f"{error}; make room: the run waits until it can save"
                self.emit(WarningEvent(message=message))
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        self.emit(CheckpointEvent(update=update, path=path.relative_to(self.folder).as_posix()))

    def _publish(self) -> None:
        """Write the adapter of the newest checkpoint, whose state is the learner's, in both of its forms."""
        if self.rank == 0:
            adapter = self.learner.adapter()
            adapter.save(self.folder / "adapter")
            adapter.save_universal(self.folder / f"{self.config.run.name}.safetensors")

    def _sentence(self) -> str:
        """The held-out gain in words, with its interval."""
        if self.score is None:
            return "No validation was made."
        return f"On held-out prompts {self.score.sentence()}"


__all__ = ["Checkpoint", "JudgeError", "Outcome", "RunError", "Trainer"]
