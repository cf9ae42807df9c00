"""The trainer: sample pairs, let the judge choose, score, update the adapter, record; and do it again.

It knows policies, judges, prompts and files through their seams only. Everything that happens leaves through events.
"""
from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import __version__
from ..adapters import extract, inject, load_adapter
from ..config import TrainConfig, changed_fields, config_hash, load_config, save_config
from ..data import PromptOrder, load_split, open_image
from ..judging import Judge, JudgeError, Pair, Verdict
from ..judging.profiles import make_client
from ..policies.loading import load_policy
from ..rubrics import BUILT_IN, Rubric, load_rubric
from . import distributed, nft, rpo
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .events import EventLog
from .objectives import Statistics, accumulate_nft, accumulate_rpo
from .report import write_report
from .rollout import Candidate, Group, sample_pairs
from .validation import Score, Validation
from .weights import average_into, copy_into, snapshot, swapped


class RunError(ValueError):
    """A run that cannot start or go on: one line that says why and what to do."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the last update, whether it was stopped on request, and the last score."""

    update: int
    stopped: bool
    score: Score | None
    folder: Path


@dataclass
class Judged:
    """A group of pairs and its verdicts, which may still be on their way."""

    group: Group
    verdicts: Sequence[Verdict]


class Trainer:
    """One run of a configuration. ``Trainer(config).run()`` trains; ``resume=True`` goes on from the newest checkpoint."""

    def __init__(self, config: TrainConfig, *, resume: bool = False, observers: Sequence[Callable[[dict], None]] = (),
                 judge: Judge | None = None):
        """Check everything that can be checked before a model loads. Raises ConfigError, DataError, PolicyError, RunError."""
        self.config, self.folder = config, config.run.folder
        self.rank, self.world = distributed.rank(), distributed.world_size()
        if config.rollout.prompts_per_update % self.world:
            raise RunError(f"rollout.prompts_per_update: expected a multiple of the {self.world} processes, "
                           f"came {config.rollout.prompts_per_update}")
        self.checkpoint = self._find_checkpoint() if resume else self._check_folder()
        self.train_examples, self.held_out = load_split(
            config.data.train, config.data.validation, config.data.validation_count, config.task)
        self.held_out = self.held_out[:config.validation.count]
        self.rubric = self._rubric()
        self.start_adapter = load_adapter(config.adapter.start) if config.adapter.start else None
        self.policy = load_policy(config.policy, config.run.output_dir / ".encodings")
        client = None if judge else self._client(config.judge.profile)
        if self.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not resume:
                save_config(config, self.folder / "config.yaml")
        self.judge = judge or Judge(client, self.rubric, both_orders=config.judge.both_orders, store=self._store(),
                                    flip_rate=config.judge.flip_rate, position_bias=config.judge.position_bias)
        other = config.validation.judge_profile
        self.validation_judge = self.judge if other is None else Judge(self._client(other), self.rubric)
        self.events = EventLog(self.folder / "events.jsonl", observers) if self.rank == 0 else None
        self.score: Score | None = None
        self.best_margin = -2.0
        self.stop_requested = False
        self.updates_without_judge = 0

    def close(self) -> None:
        """End the judges and the event log, with the bar and the trackers that follow it."""
        self.judge.close()
        if self.validation_judge is not self.judge:
            self.validation_judge.close()
        if self.events is not None:
            self.events.close()

    # ------------------------------------------------------------------ before the first update

    def _check_folder(self) -> None:
        if self.rank == 0 and any((self.folder / name).exists() for name in ("events.jsonl", "config.yaml")):
            raise RunError(f"{self.folder}: expected a new folder, found another run; go on with it by --resume "
                           f"{self.folder}, or choose another --run.name")

    def _find_checkpoint(self) -> Checkpoint:
        if not (self.folder / "config.yaml").is_file():
            raise RunError(f"{self.folder}: expected the folder of a run, found no config.yaml in it")
        changed = changed_fields(load_config(str(self.folder / "config.yaml")), self.config)
        if changed:
            raise RunError(f"{self.folder}: a resumed run keeps its settings; changed here: {', '.join(changed)}; "
                           "start a new run for them")
        return load_checkpoint(self.folder / "checkpoints")

    def _rubric(self) -> Rubric:
        if self.config.judge.rubric is not None:
            return load_rubric(self.config.judge.rubric, self.config.task)
        small = "miniature " if self.config.judge.profile == "miniature" else ""
        return BUILT_IN[small + self.config.task]

    def _client(self, profile: str):
        settings = self.config.judge
        return make_client(profile, timeout_s=settings.timeout_s, retries=settings.retries,
                           concurrency=settings.concurrency)

    def _store(self) -> Path | str:
        return self.folder / "verdicts.sqlite" if self.rank == 0 else ":memory:"

    def _prepare(self) -> None:
        """Encode every prompt, add the adapter, make the optimizer, and take up the checkpoint if there is one."""
        config, start = self.config, time.monotonic()
        examples = [*self.train_examples, *self.held_out]
        keys = self.policy.encode(examples)
        self.emit("encoded", examples=len(examples), seconds=time.monotonic() - start)
        self.keys, held_out_keys = keys[:len(self.train_examples)], keys[len(self.train_examples):]
        self.sources = [open_image(example.source) if example.source else None for example in self.train_examples]
        torch.manual_seed(config.run.seed)
        if self.start_adapter is None:
            self.parameters = self.policy.add_adapter(config.adapter)
        else:
            inject(self.start_adapter, self.policy.transformer, dtype=torch.float32)
            self.parameters = self.policy.adapter_parameters()
        self.start_weights = snapshot(self.parameters) if config.objective.reference == "start" else None
        self.average = snapshot(self.parameters) if config.adapter.ema_decay else None
        self.old = snapshot(self.parameters) if config.objective.algorithm == "nft" and config.objective.nft_decay else None
        settings = config.optimizer
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=settings.learning_rate, betas=settings.betas,
                                           eps=settings.eps, weight_decay=settings.weight_decay)
        self.order = PromptOrder(len(self.train_examples), config.run.seed)
        self.gradients_checked = False
        if self.checkpoint is not None:
            self._restore(self.checkpoint)
        self.validation = Validation(self.policy, self.validation_judge, self.held_out, held_out_keys, config,
                                     self.folder / "samples")

    # ------------------------------------------------------------------ the loop

    def run(self) -> Outcome:
        """Train to the last update, or to a stop. Raises JudgeError and RunError; the run can then be resumed."""
        config = self.config
        with self._signals():
            begun = time.monotonic()
            self.emit("started", run=config.run.name, config_hash=config_hash(config), version=__version__,
                      updates=config.run.updates, prompts=len(self.train_examples), task=config.task,
                      validation_prompts=len(self.held_out), device=str(self.policy.device),
                      algorithm=config.objective.algorithm,
                      rubric={"name": self.rubric.name, "hash": self.rubric.content_hash})
            if self.rank == 0:
                self.rubric.save(self.folder / "rubric.json")
            self._prepare()
            update = 0
            if self.checkpoint is not None:
                update = self.checkpoint.update
                self.emit("resumed", update=update)
            while update < config.run.updates and not distributed.any_true(self.stop_requested):
                update += 1
                self._try_update(update)
                last = update == config.run.updates
                if last or update % config.validation.every == 0:
                    self._try_validate(update)
                if last or update % config.run.save_every == 0 or self.stop_requested:
                    self._save(update)
            stopped = update < config.run.updates
            if stopped and update % config.run.save_every:
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
        """One validation; where the judge gives up, the update before it is saved first."""
        try:
            self._validate(update)
        except JudgeError:
            self._save(update)
            raise

    def _update(self, update: int) -> None:
        """One update: sample, judge, score, train, record. Chunks train in the order in which they were sampled."""
        begun = time.monotonic()
        self._set_learning_rate(update)
        indices, places = self._draw_prompts()
        groups = [(group, self.judge.submit(self._pairs(group, dict(zip(indices, places, strict=True)))))
                  for group in self._sample(update, indices, places)]
        sampled = time.monotonic()
        judged = [Judged(group, future.result()) for group, future in groups]
        waited = time.monotonic()
        statistics, norm = self._train(update, judged)
        verdicts = [verdict for part in distributed.gather([v for j in judged for v in j.verdicts]) for verdict in part]
        opinions = [opinion for verdict in verdicts for opinion in verdict.opinions if opinion.preferred is not None]
        self._check_judge(verdicts)
        now = time.monotonic()
        self.emit("update", update=update, seconds=now - begun, sampling_s=sampled - begun, waiting_s=waited - sampled,
                  training_s=now - waited, pairs=len(verdicts), decided=sum(v.decided for v in verdicts),
                  undecided=sum(not v.decided for v in verdicts), failures=sum(v.failed for v in verdicts),
                  first_pick_rate=sum(o.preferred == 0 for o in opinions) / len(opinions) if opinions else None,
                  grad_norm=norm, learning_rate=self.optimizer.param_groups[0]["lr"],
                  judge_calls=sum(v.calls for v in verdicts), judge_tokens=sum(v.tokens for v in verdicts),
                  judge_cost=sum(v.cost for v in verdicts), **statistics)

    def _check_judge(self, verdicts: Sequence[Verdict]) -> None:
        """A judge that answers nothing for three updates would train nothing to the end."""
        self.updates_without_judge = self.updates_without_judge + 1 if all(v.failed for v in verdicts) else 0
        if self.updates_without_judge == 3:
            raise JudgeError(f"three updates got no answer from the judge ({verdicts[0].reason}); see that it runs, then "
                             f"go on with --resume {self.folder}")

    def _draw_prompts(self) -> tuple[list[int], list[int]]:
        """The numbers of this process's pairs within the update, and the places of their prompts."""
        share = self.config.rollout.prompts_per_update // self.world
        first = self.rank * share
        return list(range(first, first + share)), self.order.take(share, self.rank, self.world)

    def _sample(self, update: int, indices: list[int], places: list[int]) -> Iterator[Group]:
        with self._sampling_weights():
            yield from sample_pairs(self.policy, [self.keys[place] for place in places], indices, self.config.rollout,
                                    seed=self.config.run.seed, update=update,
                                    with_noise=self.config.objective.algorithm == "rpo")

    def _pairs(self, group: Group, place_of: dict[int, int]) -> list[Pair]:
        return [Pair(self.train_examples[place_of[pair]].prompt, group.images[2 * at], group.images[2 * at + 1],
                     self.sources[place_of[pair]]) for at, pair in enumerate(group.pairs)]

    def _train(self, update: int, judged: list[Judged]) -> tuple[dict, float]:
        """Means over what was trained and the gradient norm of the last optimizer step."""
        objective, statistics, norm = self.config.objective, Statistics(), 0.0
        parts = objective.optimizer_steps
        divisor = 2 * self.config.rollout.prompts_per_update / parts
        decided = [(candidate, winner) for j in judged for at, verdict in enumerate(j.verdicts)
                   if (winner := verdict.winner) is not None for candidate in j.group.candidates[2 * at:2 * at + 2]]
        for _ in range(objective.epochs):
            for part in range(parts):
                self.optimizer.zero_grad()
                chosen = [item for item in decided if item[0].pair % parts == part]
                for chunk in self._chunks(chosen):
                    self._accumulate(update, chunk, divisor, statistics)
                norm = self._step(bool(chosen))
        if self.average is not None:
            average_into(self.average, self.parameters, self.config.adapter.ema_decay)
        if self.old is not None:
            average_into(self.old, self.parameters, objective.nft_decay)
        return statistics.means(), norm

    def _chunks(self, decided: list[tuple[Candidate, int]]) -> Iterator[list[tuple[Candidate, int]]]:
        """Decided candidates of one size, ``micro_batch`` at a time: undecided pairs cost nothing."""
        by_size: dict[tuple[int, int], list] = {}
        for item in decided:
            by_size.setdefault(self.policy.size(item[0].key), []).append(item)
        width = self.config.rollout.micro_batch
        for items in by_size.values():
            yield from (items[at:at + width] for at in range(0, len(items), width))

    def _accumulate(self, update: int, chunk: list[tuple[Candidate, int]], divisor: float, statistics) -> None:
        config = self.config
        objective = config.objective
        candidates = [candidate for candidate, _ in chunk]
        pick = torch.tensor([candidate.side for candidate in candidates])
        rows = torch.arange(len(chunk))
        shared = dict(settings=config.rollout, objective=objective, reference=self._reference, statistics=statistics)
        if objective.algorithm == "rpo":
            advantages = rpo.advantages([winner for _, winner in chunk], mode=objective.advantage,
                                        reward_preferred=objective.reward_preferred,
                                        reward_dispreferred=objective.reward_dispreferred)
            accumulate_rpo(self.policy, candidates, advantages[rows, pick], divisor, **shared)
            return
        swapped_rewards = objective.reward_preferred < objective.reward_dispreferred
        optimality = nft.optimality([winner ^ swapped_rewards for _, winner in chunk])
        accumulate_nft(self.policy, candidates, optimality[rows, pick], divisor, seed=config.run.seed, update=update,
                       old=None if self.old is None else self._old, **shared)

    def _step(self, decided: bool) -> float:
        """The gradient norm before clipping. Without one decided pair anywhere nothing moves, not even Adam's moments."""
        if not distributed.any_true(decided):
            return 0.0
        distributed.sum_gradients(self.parameters.values())
        self._check_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.optimizer.max_grad_norm)
        if not torch.isfinite(norm):
            raise RunError("the gradient is not finite; lower optimizer.learning_rate or use policy.dtype float32, and "
                           f"resume from the last checkpoint: --resume {self.folder}")
        self.optimizer.step()
        return norm.item()

    def _check_gradients(self) -> None:
        """At the first decided update every lora_B that can have a gradient must have one."""
        if self.gradients_checked:
            return
        self.gradients_checked = True
        still = [name for name, p in self.parameters.items() if "lora_B" in name and not self.policy.unreachable(name)
                 and (p.grad is None or not p.grad.any())]
        if still:
            raise RunError(f"{len(still)} of the adapter's modules got no gradient at the first update, for example "
                           f"{still[0]}; adapter.targets may name modules that do not shape the image")

    # ------------------------------------------------------------------ weights

    def _reference(self) -> contextlib.AbstractContextManager:
        if self.start_weights is not None:
            return swapped(self.parameters, self.start_weights)
        return self.policy.reference()

    def _old(self) -> contextlib.AbstractContextManager:
        return swapped(self.parameters, self.old)

    def _sampling_weights(self) -> contextlib.AbstractContextManager:
        """nft samples with the policy that it improves upon, the slow average; rpo with the adapter itself."""
        return self._old() if self.old is not None else contextlib.nullcontext()

    def _published_weights(self) -> contextlib.AbstractContextManager:
        """The weights that are validated and saved: the moving average where one is kept."""
        return swapped(self.parameters, self.average) if self.average is not None else contextlib.nullcontext()

    def _set_learning_rate(self, update: int) -> None:
        settings = self.config.optimizer
        share = min(1.0, update / settings.warmup_updates) if settings.warmup_updates else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * share

    # ------------------------------------------------------------------ record

    def emit(self, kind: str, **fields) -> None:
        """Record an event; only the first process writes."""
        if self.events is not None:
            self.events.emit(kind, **fields)

    def _validate(self, update: int) -> None:
        begun = time.monotonic()
        with self._published_weights():
            self.score, fields = self.validation.run(update)
        best = self.score.margin > self.best_margin
        if best:
            self.best_margin = self.score.margin
            self._write_adapter("adapter-best")
        self.emit("validation", best=best, seconds=time.monotonic() - begun, **fields)

    def _write_adapter(self, name: str) -> None:
        if self.rank:
            return
        with self._published_weights():
            adapter = extract(self.policy.transformer, base=self.config.policy.base)
        adapter.save(self.folder / name)
        if name == "adapter":
            adapter.save_universal(self.folder / f"{self.config.run.name}.safetensors")

    def _save(self, update: int) -> None:
        if self.rank:
            return
        tensors = {"adapter": snapshot(self.parameters)}
        for name in ("average", "old", "start_weights"):
            if getattr(self, name) is not None:
                tensors[name] = getattr(self, name)
        generators = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        score = self.score and [self.score.wins, self.score.losses, self.score.undecided]
        values = {"order": self.order.state(), "best_margin": self.best_margin, "verdicts": len(self.judge.store),
                  "config_hash": config_hash(self.config), "gradients_checked": self.gradients_checked, "score": score}
        path = save_checkpoint(self.folder / "checkpoints",
                               Checkpoint(update, tensors, self.optimizer.state_dict(), generators, values),
                               self.config.run.keep_checkpoints)
        self._write_adapter("adapter")
        self.emit("checkpoint", update=update, path=path.relative_to(self.folder).as_posix())
        write_report(self.folder)

    def _restore(self, checkpoint: Checkpoint) -> None:
        copy_into(self.parameters, checkpoint.tensors["adapter"])
        for name in ("average", "old", "start_weights"):
            weights = getattr(self, name)
            if weights is not None:
                copy_into(weights, checkpoint.tensors[name])
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.order.restore(checkpoint.values["order"])
        self.best_margin, self.gradients_checked = (checkpoint.values[name] for name in ("best_margin", "gradients_checked"))
        self.score = Score(*checkpoint.values["score"]) if checkpoint.values["score"] else None
        torch.set_rng_state(checkpoint.generators["cpu"])
        if torch.cuda.is_available() and "cuda" in checkpoint.generators:
            torch.cuda.set_rng_state(checkpoint.generators["cuda"])

    def _end(self, update: int, stopped: bool, seconds: float) -> None:
        if stopped:
            self.emit("stopped", update=update, reason="requested")
        else:
            self.emit("finished", update=update, seconds=seconds, adapter="adapter", sentence=self.sentence(),
                      universal=f"{self.config.run.name}.safetensors", report="report.html")
        if self.rank == 0:
            write_report(self.folder)

    def sentence(self) -> str:
        """The held-out gain in words, with its interval."""
        if self.score is None:
            return "No validation was made."
        pairs = self.score.wins + self.score.losses + self.score.undecided
        if self.score.win_rate is None:
            return f"On {pairs} held-out prompts the judge decided no pair between the adapter and the base."
        low, high = self.score.interval
        return (f"On {pairs} held-out prompts the adapter beats the base in {self.score.win_rate:.0%} of the decided pairs "
                f"(95 % interval {low:.0%} to {high:.0%}; {self.score.undecided} undecided).")

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
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


__all__ = ["JudgeError", "Outcome", "RunError", "Trainer"]
