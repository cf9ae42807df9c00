"""What learns: the adapter's weights, the auxiliary weights beside them, and the optimizer that moves them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch

from ..adapters import Adapter, extract, inject
from ..common import collectives
from ..common.progress import ReportProgress, no_progress
from ..config.schema import TrainConfig
from ..policies.base import Policy
from ..sampling import batches
from . import nft, rpo
from .checkpoint import Checkpoint, RunError
from .context import UpdateContext
from .rewards import PairRewards
from .rollout import Sample
from .weights import Tensors, average_into, copy_into, snapshot, swapped, warmed_up


class Learner:
    """The adapter in ``policy`` with its auxiliary weights and its AdamW. Made once, after the policy is loaded.

    Auxiliary weights by name: ``average`` is the moving average that is published, ``old`` the slow average that nft
    samples with, ``start`` what the run began with where that is the KL term's reference.
    """

    def __init__(self, config: TrainConfig, policy: Policy, start: Adapter | None):
        self.config, self.policy, objective = config, policy, config.objective
        torch.manual_seed(config.run.seed)
        if start is None:
            self.parameters = policy.add_adapter(config.adapter)
        else:
            inject(start, policy.transformer)
            self.parameters = policy.adapter_parameters()
        kept = {
            "average": bool(config.adapter.ema_decay),
            "old": objective.algorithm == "nft" and bool(objective.nft_decay),
            "start": objective.reference == "start",
        }
        self.auxiliary = {name: snapshot(self.parameters) for name, keep in kept.items() if keep}
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

    def step(
        self,
        update: int,
        samples: Sequence[Sample],
        rewards: PairRewards,
        report_progress: ReportProgress = no_progress,
    ) -> dict[str, float]:
        """Train on the decided pairs. Returns the means over what all processes trained, grad_norm and learning_rate.

        Samples 2i and 2i + 1 are pair i of ``rewards``. The divisor is the number of images that were sampled, not
        decided, so fewer verdicts make smaller steps. A step that is not finite is left out. Raises RunError for
        gradients that are missing.
        """
        objective, width = self.config.objective, self.config.rollout.micro_batch
        accumulate = (rpo if objective.algorithm == "rpo" else nft).accumulate
        old = self.sampling if "old" in self.auxiliary else None
        parts = objective.optimizer_steps
        divisor = 2 * self.config.rollout.prompts_per_update / parts
        scores = self._scores(rewards.values).flatten()
        decided = rewards.decided.repeat_interleave(2).nonzero().flatten().tolist()
        statistics: list[dict[str, torch.Tensor]] = []
        grad_norm, skipped, done, total = 0.0, 0, 0, len(decided) * objective.epochs
        self._set_learning_rate(update)
        for epoch in range(objective.epochs):
            context = UpdateContext(self.policy, self.config, self.reference, old, update, epoch)
            for part in range(parts):
                self.optimizer.zero_grad()
                chosen = [at for at in decided if samples[at].pair % parts == part]
                groups = batches(self.policy, [samples[at].key for at in chosen], width)
                dummy = partial(accumulate, context, samples[:1], scores[:1], math.inf)
                for places in self.policy.in_step(groups, dummy):
                    batch = [chosen[place] for place in places]
                    statistics.append(
                        accumulate(context, [samples[at] for at in batch], scores[batch], divisor)
                    )
                    report_progress("training", done := done + len(batch), total)
                norm = self._optimizer_step(any_decided=bool(chosen))
                if math.isfinite(norm):
                    grad_norm = norm
                else:
                    skipped += 1
        average = warmed_up(self.config.adapter.ema_decay or 0.0, update)
        decays = {"average": average, "old": objective.nft_decay}
        for name in self.auxiliary.keys() & decays:
            average_into(self.auxiliary[name], self.parameters, decays[name])
        return {
            **_means(statistics),
            "grad_norm": grad_norm,
            "skipped": skipped,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def _scores(self, rewards: torch.Tensor) -> torch.Tensor:
        """What an objective makes of rewards [P, 2]: advantages (rpo) or optimality (nft)."""
        if self.config.objective.algorithm == "rpo":
            return rpo.advantages(rewards, self.config.objective.advantage)
        return nft.optimality(rewards)

    def _set_learning_rate(self, update: int) -> None:
        settings = self.config.optimizer
        share = min(1.0, update / settings.warmup_updates) if settings.warmup_updates else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * share

    def _optimizer_step(self, *, any_decided: bool) -> float:
        """The gradient norm before clipping: 0 without a decided pair in any process, NaN where the gradient,
        or the weights that it would lead to, are not finite. In both cases the weights stay."""
        if not collectives.any_rank(any_decided):
            return 0.0
        collectives.sum_gradients(self.parameters.values())
        self._check_gradients()
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters.values(), self.config.optimizer.max_grad_norm
        )
        if not norm.isfinite():
            return math.nan
        before = snapshot(self.parameters)
        self.optimizer.step()
        if not all(parameter.isfinite().all() for parameter in self.parameters.values()):
            copy_into(self.parameters, before)
            return math.nan
        return norm.item()

    def _check_gradients(self) -> None:
        """At the first update with a decided pair every lora_B that can have a gradient must have one."""
        if self.gradients_checked:
            return
        self.gradients_checked = True
        missing = [
            name
            for name, parameter in self.parameters.items()
            if "lora_B" in name
            and not self.policy.unreachable(name)
            and (parameter.grad is None or not parameter.grad.any())
        ]
        if missing:
            raise RunError(
                f"{len(missing)} of the adapter's modules got no gradient at the first update, for example "
                f"{missing[0]}; adapter.targets may name modules that do not shape the image"
            )

    # ------------------------------------------------------------------ whose weights compute

    def reference(self) -> AbstractContextManager:
        """The reference of the KL term: the base, or the adapter that the run started from."""
        return self._using("start") if "start" in self.auxiliary else self.policy.reference()

    def sampling(self) -> AbstractContextManager:
        """The weights that sample: of nft the policy that it improves upon, of rpo the adapter itself."""
        return self._using("old")

    def published(self) -> AbstractContextManager:
        """The weights that are validated and saved: the moving average where one is kept."""
        return self._using("average")

    def _using(self, name: str) -> AbstractContextManager:
        if name in self.auxiliary:
            return swapped(self.parameters, self.auxiliary[name])
        return contextlib.nullcontext()

    def adapter(self) -> Adapter:
        """The published weights as an adapter that can be saved."""
        with self.published():
            return extract(self.policy.transformer, base=self.config.policy.base)

    # ------------------------------------------------------------------ in and out of a checkpoint

    def checkpoint(self, update: int, values: dict) -> Checkpoint:
        """Everything here that a resume needs, with further plain values."""
        tensors: dict[str, Tensors] = {"adapter": snapshot(self.parameters), **self.auxiliary}
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
        """Continue from what ``checkpoint`` saved."""
        copy_into(self.parameters, checkpoint.tensors["adapter"])
        for name, weights in self.auxiliary.items():
            copy_into(weights, checkpoint.tensors[name])
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.gradients_checked = checkpoint.values["gradients_checked"]
        torch.set_rng_state(checkpoint.generators["cpu"])
        if torch.cuda.is_available() and "cuda" in checkpoint.generators:
            torch.cuda.set_rng_state(checkpoint.generators["cuda"])


def _means(statistics: Sequence[dict[str, torch.Tensor]]) -> dict[str, float]:
    """The means of values [B] over all batches of all processes; empty where nothing was trained."""
    names = statistics[0] if statistics else ()
    own = {name: torch.cat([values[name] for values in statistics]).double() for name in names}
    sums = {name: (values.sum().item(), len(values)) for name, values in own.items()}
    parts = [part for part in collectives.gather(sums) if part]
    return {
        name: sum(part[name][0] for part in parts) / sum(part[name][1] for part in parts)
        for name in (parts[0] if parts else ())
    }
