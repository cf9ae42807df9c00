"""What learns: the adapter's weights with those that live beside them, and the optimizer that moves them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import torch

from ..adapters import Adapter, extract, inject
from ..common import collectives as distributed
from ..common.errors import ArrError
from ..config import TrainConfig
from ..judging import Verdict
from ..policies.base import Policy
from ..sampling import batches
from . import nft, rpo
from .checkpoint import Checkpoint
from .objectives import Statistics, accumulate_nft, accumulate_rpo
from .rollout import Candidate, Group
from .weights import average_into, copy_into, snapshot, swapped

Decided = tuple[Candidate, int]  # a candidate and the side, 0 or 1, that won its pair

BESIDE = ("average", "old", "start_weights")


class LearningError(ArrError, ValueError):
    """Gradients that teach nothing: none at all, or not finite. One line that says why and what to do."""


def decided(group: Group, verdicts: Sequence[Verdict]) -> list[Decided]:
    """The candidates of the decided pairs of a group; the others cost nothing from here on."""
    return [
        (candidate, winner)
        for at, verdict in enumerate(verdicts)
        if (winner := verdict.winner) is not None
        for candidate in group.candidates[2 * at : 2 * at + 2]
    ]


class Learner:
    """The adapter in ``policy``, with its moving averages and its AdamW. Make it once, after the policy is loaded."""

    def __init__(self, config: TrainConfig, policy: Policy, start: Adapter | None):
        self.config, self.policy, objective = config, policy, config.objective
        torch.manual_seed(config.run.seed)
        if start is None:
            self.parameters = policy.add_adapter(config.adapter)
        else:
            inject(start, policy.transformer, dtype=torch.float32)
            self.parameters = policy.adapter_parameters()
        self.start_weights = snapshot(self.parameters) if objective.reference == "start" else None
        self.average = snapshot(self.parameters) if config.adapter.ema_decay else None
        self.old = (
            snapshot(self.parameters)
            if objective.algorithm == "nft" and objective.nft_decay
            else None
        )
        settings = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        self.gradients_checked = False

    # ------------------------------------------------------------------ the update

    def learn(
        self,
        update: int,
        candidates: Sequence[Decided],
        *,
        spare: Candidate | None = None,
        watch: Callable[[int], object] = lambda done: None,
    ) -> tuple[dict[str, float], float]:
        """Means over what was trained, and the gradient norm of the last optimizer step. Raises LearningError.

        The divisor is what the update asked for, not what the judge decided, so fewer verdicts make smaller steps. Of a
        sharded policy ``spare`` is computed with, and counts nothing, where another process has more to train. ``watch``
        hears how many candidates have been trained.
        """
        objective, statistics, norm, done = self.config.objective, Statistics(), 0.0, 0
        parts = objective.optimizer_steps
        divisor = 2 * self.config.rollout.prompts_per_update / parts
        self._set_learning_rate(update)
        for _ in range(objective.epochs):
            for part in range(parts):
                self.optimizer.zero_grad()
                chosen = [item for item in candidates if item[0].pair % parts == part]
                places = batches(
                    self.policy,
                    [candidate.key for candidate, _ in chosen],
                    self.config.rollout.micro_batch,
                )
                chunks = [[chosen[at] for at in chunk] for chunk in places]
                for chunk, own in distributed.in_step(
                    chunks, [(spare, 0)], needed=self.policy.sharded
                ):
                    if own:
                        self.accumulate(update, chunk, divisor, statistics)
                        watch(done := done + len(chunk))
                    else:
                        self.accumulate(update, chunk, math.inf, Statistics())
                norm = self.step(bool(chosen))
        if self.average is not None:
            average_into(self.average, self.parameters, self.config.adapter.ema_decay)
        if self.old is not None:
            average_into(self.old, self.parameters, objective.nft_decay)
        return statistics.means(), norm

    @property
    def learning_rate(self) -> float:
        """The one of the last update."""
        return self.optimizer.param_groups[0]["lr"]

    def _set_learning_rate(self, update: int) -> None:
        settings = self.config.optimizer
        share = min(1.0, update / settings.warmup_updates) if settings.warmup_updates else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * share

    def accumulate(
        self, update: int, chunk: Sequence[Decided], divisor: float, statistics: Statistics
    ) -> None:
        """Add the gradient of one chunk: its share of the batch whose images ``divisor`` counts."""
        objective = self.config.objective
        candidates, winners = [candidate for candidate, _ in chunk], [winner for _, winner in chunk]
        sides = torch.tensor([candidate.side for candidate in candidates])
        rows = torch.arange(len(chunk))
        shared = dict(
            settings=self.config.rollout,
            objective=objective,
            reference=self.reference,
            statistics=statistics,
        )
        if objective.algorithm == "rpo":
            advantages = rpo.advantages(
                winners,
                mode=objective.advantage,
                reward_preferred=objective.reward_preferred,
                reward_dispreferred=objective.reward_dispreferred,
            )
            accumulate_rpo(self.policy, candidates, advantages[rows, sides], divisor, **shared)
        else:
            swapped_rewards = objective.reward_preferred < objective.reward_dispreferred
            optimality = nft.optimality([winner ^ swapped_rewards for winner in winners])
            accumulate_nft(
                self.policy,
                candidates,
                optimality[rows, sides],
                divisor,
                seed=self.config.run.seed,
                update=update,
                old=None if self.old is None else self._old,
                **shared,
            )

    def step(self, decided: bool) -> float:
        """The gradient norm before clipping. Without one decided pair anywhere nothing moves, not even Adam's moments."""
        if not distributed.any_true(decided):
            return 0.0
        distributed.sum_gradients(self.parameters.values())
        self._check_gradients()
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters.values(), self.config.optimizer.max_grad_norm
        )
        if not torch.isfinite(norm):
            raise LearningError(
                "the gradient is not finite; start a new run with a lower optimizer.learning_rate or with "
                "policy.dtype float32, from what was learned: --adapter.start "
                f"{self.config.run.folder / 'adapter'}"
            )
        self.optimizer.step()
        return norm.item()

    def _check_gradients(self) -> None:
        """At the first decided update every lora_B that can have a gradient must have one."""
        if self.gradients_checked:
            return
        self.gradients_checked = True
        still = [
            name
            for name, p in self.parameters.items()
            if "lora_B" in name
            and not self.policy.unreachable(name)
            and (p.grad is None or not p.grad.any())
        ]
        if still:
            raise LearningError(
                f"{len(still)} of the adapter's modules got no gradient at the first update, for example "
                f"{still[0]}; adapter.targets may name modules that do not shape the image"
            )

    # ------------------------------------------------------------------ whose weights compute

    def reference(self) -> contextlib.AbstractContextManager:
        """What the KL term holds on to: the base, or the adapter that the run started from."""
        if self.start_weights is not None:
            return swapped(self.parameters, self.start_weights)
        return self.policy.reference()

    def sampling(self) -> contextlib.AbstractContextManager:
        """nft samples with the policy that it improves upon, the slow average; rpo with the adapter itself."""
        return self._old() if self.old is not None else contextlib.nullcontext()

    def published(self) -> contextlib.AbstractContextManager:
        """The weights that are validated and saved: the moving average where one is kept."""
        return (
            swapped(self.parameters, self.average)
            if self.average is not None
            else contextlib.nullcontext()
        )

    def _old(self) -> contextlib.AbstractContextManager:
        return swapped(self.parameters, self.old)

    def adapter(self) -> Adapter:
        """The published weights as an adapter that can be saved."""
        with self.published():
            return extract(self.policy.transformer, base=self.config.policy.base)

    # ------------------------------------------------------------------ in and out of a checkpoint

    def checkpoint(self, update: int, values: dict) -> Checkpoint:
        """Everything here that a resume needs, with further plain values."""
        tensors = {"adapter": snapshot(self.parameters)}
        tensors |= {name: getattr(self, name) for name in BESIDE if getattr(self, name) is not None}
        generators = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        return Checkpoint(
            update,
            tensors,
            self.optimizer.state_dict(),
            generators,
            {**values, "gradients_checked": self.gradients_checked},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up what ``checkpoint`` saved."""
        copy_into(self.parameters, checkpoint.tensors["adapter"])
        for name in BESIDE:
            if getattr(self, name) is not None:
                copy_into(getattr(self, name), checkpoint.tensors[name])
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.gradients_checked = checkpoint.values["gradients_checked"]
        torch.set_rng_state(checkpoint.generators["cpu"])
        if torch.cuda.is_available() and "cuda" in checkpoint.generators:
            torch.cuda.set_rng_state(checkpoint.generators["cuda"])
