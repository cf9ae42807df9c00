"""What an update costs beside its model: python benchmarks/step.py [--device cuda] [--algorithm rpo]

1. Floor: the transformer calls of one update, recorded and made again bare (forward, and backward where it was trained).
   The ratio of the update's time to that floor is what sampling, judging, scoring and recording add.
2. Against a loop that samples one image at a time and waits for each verdict, with a judge that takes 0 s and 1 s.

All times come from one process and alternate, so the ratios hold where the machine is noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import diffusers
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from arr_core.config.load import load_config
from arr_core.judging import Judge, Opinion
from arr_core.judging.client import GroupClient
from arr_core.rubrics import BUILT_IN
from arr_core.training.rewards import pair_rewards
from arr_core.training.rollout import sample_pairs
from arr_core.training.trainer import Trainer
from tools.miniature.models import flux_pipeline


class SlowJudge(GroupClient):
    """A judge that takes its time and prefers the first image it sees, in turn."""

    identity = "slow"

    def __init__(self, seconds: float):
        self.seconds = seconds

    async def answer_all(self, questions):
        await asyncio.sleep(self.seconds)
        return [Opinion(i % 2, "in turn") for i, _ in enumerate(questions)]


def synchronize(device: torch.device) -> float:
    """The time, after everything queued has run."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def trainer_for(folder: Path, base: Path, args, seconds: float) -> Trainer:
    words = [
        f"--policy.base={base}",
        f"--policy.height={args.size}",
        f"--policy.width={args.size}",
        f"--run.output_dir={folder}",
        f"--run.name=judge-{seconds:g}",
        f"--objective.algorithm={args.algorithm}",
        f"--policy.device={args.device}",
        f"--policy.dtype={args.dtype}",
        f"--rollout.micro_batch={args.micro_batch}",
        f"--rollout.prompts_per_update={args.prompts}",
        "--objective.kl_coefficient=0.01",
        "--judge.both_orders=false",
        "--rollout.sampler=flow",
        "--rollout.eta=0.7",
    ]
    judge = Judge(SlowJudge(seconds), BUILT_IN["t2i"], both_orders=False)
    trainer = Trainer(load_config("miniature", words), judge=judge)
    trainer.prepare()
    return trainer


def record_calls(trainer: Trainer, update: int) -> list[tuple[dict, bool]]:
    """The keyword inputs of every transformer call of an update, and whether it was trained."""
    calls = []

    def keep(module, args, kwargs):
        calls.append((kwargs, torch.is_grad_enabled()))

    hook = trainer.policy.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    trainer.update(update)
    hook.remove()
    return calls


def replay(trainer: Trainer, calls: list[tuple[dict, bool]]) -> float:
    """Seconds of the bare calls."""
    start = synchronize(trainer.policy.device)
    for kwargs, trained in calls:
        with torch.set_grad_enabled(trained):
            out = trainer.policy.transformer(**kwargs)[0]
        if trained:
            out.float().square().mean().backward()
    return synchronize(trainer.policy.device) - start


def naive_update(trainer: Trainer, update: int) -> float:
    """Seconds of the same work, one image at a time, waiting for every verdict."""
    start = synchronize(trainer.policy.device)
    config, learner = trainer.config, trainer.learner
    one = config.rollout.model_copy(update={"micro_batch": 1, "prompts_per_update": 1})
    samples, verdicts = [], []
    for prompt in trainer._take_prompts():
        for batch in sample_pairs(
            OneByOne(trainer.policy),
            [prompt],
            one,
            seed=0,
            update=update,
            stochastic=config.objective.algorithm == "rpo",
        ):
            samples += batch.samples
            verdicts += trainer.judge.submit(batch.pairs).result()
    learner.config = config.model_copy(update={"rollout": one})
    learner.step(update, samples, pair_rewards(verdicts))
    learner.config = config
    return synchronize(trainer.policy.device) - start


class OneByOne:
    """A policy whose velocity and decoding take one image at a time."""

    def __init__(self, policy):
        self.policy = policy

    def __getattr__(self, name):
        return getattr(self.policy, name)

    def _single(self, batch, at):
        positive = {name: tensor[at : at + 1] for name, tensor in batch.positive.items()}
        return type(batch)(positive, None, batch.size)

    def velocity(self, latents, sigma, batch):
        return torch.cat(
            [
                self.policy.velocity(latents[at : at + 1], sigma, self._single(batch, at))
                for at in range(len(latents))
            ]
        )

    def decode(self, latents, batch):
        return [
            self.policy.decode(latents[at : at + 1], self._single(batch, at))[0]
            for at in range(len(latents))
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--algorithm", default="rpo", choices=["rpo", "nft"])
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    diffusers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        flux_pipeline(
            heads=args.heads, layers=args.layers, single_layers=2 * args.layers
        ).save_pretrained(base)
        ratios, speedups, call_ms = [], {}, []
        trainer = trainer_for(Path(folder), base, args, 0.0)
        calls = record_calls(trainer, 1)
        replay(trainer, calls)
        for update in range(2, 2 + args.repeats):
            start = synchronize(trainer.policy.device)
            trainer.update(update)
            whole = synchronize(trainer.policy.device) - start
            floor = replay(trainer, calls)
            ratios.append(whole / floor)
            call_ms.append(1000 * floor / len(calls))
        for seconds in (0.0, 1.0):
            trainer = trainer if seconds == 0 else trainer_for(Path(folder), base, args, seconds)
            speedups[seconds] = []
            for update in range(10, 10 + args.repeats):
                start = synchronize(trainer.policy.device)
                trainer.update(update)
                ours = synchronize(trainer.policy.device) - start
                speedups[seconds].append(naive_update(trainer, update) / ours)
    print(
        f"{args.algorithm}, {args.prompts} prompts, {args.size} px, {torch.device(args.device).type} {args.dtype}: "
        f"{len(calls)} transformer calls an update, {statistics.median(call_ms):.0f} ms each"
    )
    print(
        f"update / bare transformer calls: {statistics.median(ratios):.3f} (median of {args.repeats})"
    )
    for seconds, values in speedups.items():
        print(
            f"one-at-a-time loop / ours, {seconds:g} s a verdict: {statistics.median(values):.2f}"
        )


if __name__ == "__main__":
    main()
