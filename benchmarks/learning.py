"""Does it learn? Runs on the embedded world, measured by pixels that no training and no judge ever sees.

    python benchmarks/learning.py main            # base against trained, swapped rewards, a huge KL coefficient
    python benchmarks/learning.py objectives      # rpo and nft at equal judge calls and equal CPU time
    python benchmarks/learning.py noise           # verdicts flipped, a planted position bias
    python benchmarks/learning.py ablation        # one setting at a time

Every run is `python benchmarks/planted.py` in a process of its own with one torch thread; ``--jobs`` of them run side by
side. Results are appended to ``--results`` as JSON lines, so an interrupted table goes on where it stopped, and printed
as Markdown with 95 % Wilson intervals over all images of all seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from arr_core.common.proportions import Proportion
from arr_core.training.events import history, read_events

T2I, EDIT = "miniature", "miniature-edit"
SWAPPED = ["--objective.reward_preferred", "-0.1", "--objective.reward_dispreferred", "1.0"]


def flags(**fields: object) -> list[str]:
    """Command-line words of fields named section__field."""
    return [
        word
        for name, value in fields.items()
        for word in (f"--{name.replace('__', '.')}", str(value))
    ]


# What made rpo learn here: both images from one noise, much noise on the way, and only the transitions that decide the
# composition. The preset itself is nft.
RPO = flags(
    objective__algorithm="rpo",
    rollout__sampler="flow",
    rollout__eta=1.0,
    rollout__shared_noise="true",
    objective__trained_steps="[0,1,2,3]",
)
RPO_OF = {
    T2I: RPO,
    EDIT: [*RPO, *flags(optimizer__learning_rate=5e-4)],
}  # with the preset's 2e-3 rpo collapses on edits
SHORT = flags(run__updates=50)

Row = tuple[str, str, list[str]]  # label, preset, further flags


def tables() -> dict[str, list[Row]]:
    """The rows of each table."""
    return {
        "main": [
            row for task, preset in (("T2I", T2I), ("edit", EDIT)) for row in _main(task, preset)
        ],
        "objectives": [
            (f"{task}: {name}", preset, [*words, *length])
            for task, preset, length in (
                ("T2I", T2I, []),
                ("edit", EDIT, flags(run__updates=150)),
                ("edit", EDIT, []),
            )
            for name, words in (("nft", []), ("rpo, equal judge calls", RPO_OF[preset]))
        ],
        "noise": [
            row for task, preset in (("T2I", T2I), ("edit", EDIT)) for row in _noise(task, preset)
        ],
        "ablation": _ablation(),
    }


def _main(task: str, preset: str) -> list[Row]:
    return [
        (f"{task}: trained", preset, []),
        (
            f"{task}: rewards swapped",
            preset,
            [*SWAPPED, *flags(run__updates=30)],
        ),
        (
            f"{task}: KL coefficient 100",
            preset,
            flags(objective__kl_coefficient=100, run__updates=30),
        ),
    ]


def _noise(task: str, preset: str) -> list[Row]:
    length = (
        flags(run__updates=150) if preset == EDIT else []
    )  # less than the preset's, for the sake of time
    rows = [
        (
            f"{task}: {name}, {share:.0%} of the verdicts flipped",
            preset,
            [*words, *flags(judge__flip_rate=share), *length],
        )
        for name, words in (("nft", []), ("rpo", RPO_OF[preset]))
        for share in (0.2, 0.3)
    ]
    rows.append(
        (
            f"{task}: nft without its slow average, 20% flipped",
            preset,
            [*flags(judge__flip_rate=0.2, objective__nft_decay=0), *length],
        )
    )
    rows += [
        (
            f"{task}: {name}, 4 optimizer steps, 20% flipped",
            preset,
            [*words, *flags(objective__optimizer_steps=4, judge__flip_rate=0.2), *length],
        )
        for name, words in (("nft", []), ("rpo", RPO_OF[preset]))
    ]
    return rows + [
        (
            f"{task}: nft, position bias 40%, {'both orders' if both == 'true' else 'one order'}",
            preset,
            [*flags(judge__position_bias=0.4, judge__both_orders=both), *length],
        )
        for both in ("true", "false")
    ]


def _ablation() -> list[Row]:
    def noisy(sampler: str, eta: float) -> list[str]:
        return flags(rollout__sampler=sampler, rollout__eta=eta)

    rows = [
        ("nft, the preset", []),
        ("nft, 4 steps", flags(rollout__steps=4, validation__steps=8)),
        ("nft, no slow average", flags(objective__nft_decay=0)),
        ("nft, no abstention", flags(judge__profile="eager")),
        ("nft, 4 optimizer steps", flags(objective__optimizer_steps=4)),
        ("rpo, flow 1.0", RPO),
        ("rpo, raw rewards", [*RPO, *flags(objective__advantage="raw")]),
        ("rpo, no abstention", [*RPO, *flags(judge__profile="eager")]),
        ("rpo, noise not shared", [*RPO, *flags(rollout__shared_noise="false")]),
        ("rpo, all transitions but the last", [*RPO, *flags(objective__trained_steps="null")]),
        ("rpo, flow 0.7", [*RPO, *noisy("flow", 0.7)]),
        ("rpo, dance 0.3", [*RPO, *noisy("dance", 0.3)]),
        ("rpo, dance 1.0", [*RPO, *noisy("dance", 1.0)]),
        ("rpo, cps 0.8", [*RPO, *noisy("cps", 0.8)]),
        (
            "rpo, 4 steps",
            [*RPO, *flags(rollout__steps=4, validation__steps=8, objective__trained_steps="[0,1]")],
        ),
    ]
    four_steps = [*RPO, *flags(objective__optimizer_steps=4)]
    rows += [
        (
            f"rpo, clip {clip:g}, 4 optimizer steps",
            [*four_steps, *flags(objective__clip_range=clip)],
        )
        for clip in (0.2, 1e-3, 1e-4)
    ]
    return [(label, T2I, [*words, *SHORT]) for label, words in rows]


def run_one(label: str, preset: str, words: list[str], seed: int, extra: list[str]) -> dict:
    """The result of one training run: measures, judge calls, CPU minutes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "planted.py"),
            preset,
            "--run.output_dir",
            folder,
            "--run.name",
            "run",
            "--run.threads",
            "1",
            "--run.seed",
            str(seed),
            "--run.save_every",
            "100000",
            "--validation.every",
            "100000",
            "--validation.count",
            "64",
            "--validation.images",
            "0",
            *flags(collapse__lost_level=0, collapse__contrast=0),  # what is lost is measured too
            *words,
            *extra,
        ]
        start = time.monotonic()
        judges = Path(folder) / "judges.yaml"
        judges.write_text("eager: {kind: miniature, threshold: 0.5}\n")  # it abstains from nothing
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "ARR_JUDGES": str(judges),
        }
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        error = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(
                f"{label}, seed {seed}: exit status {process.returncode}\n{error[-2000:]}"
            )
        run = history(read_events(Path(folder) / "run" / "events.jsonl"))
    [measure] = run.measures
    return {
        "label": label,
        "preset": preset,
        "flags": words + extra,
        "seed": seed,
        "updates": len(run.updates),
        "base": asdict(measure.base),
        "policy": asdict(measure.policy),
        "pairs": sum(event.pairs for event in run.updates),
        "judge_calls": sum(event.judge_calls for event in run.updates),
        "undecided": sum(event.undecided for event in run.updates),
        "wall_minutes": (time.monotonic() - start) / 60,
        "cpu_minutes": (usage.ru_utime + usage.ru_stime) / 60,
    }


def row(label: str, results: list[dict]) -> str:
    """One line of Markdown for the runs of a label."""

    def pooled(side: str) -> str:
        count = sum(result[side]["count"] for result in results)
        exact = round(sum(result[side]["value"] * result[side]["count"] for result in results))
        return str(Proportion(exact, count))

    def mean(name: str) -> float:
        return sum(result[name] for result in results) / len(results)

    outside = [result["policy"]["outside_change"] for result in results]
    change = f"{sum(outside) / len(outside):.1f}" if outside[0] is not None else "-"
    return (
        f"| {label} | {len(results)} | {pooled('base')} | {pooled('policy')} | {change} | "
        f"{mean('updates'):.0f} | {mean('judge_calls'):.0f} | {mean('undecided') / mean('pairs'):.0%} | "
        f"{mean('cpu_minutes'):.1f} |"
    )


HEADER = (
    "| run | seeds | base | after | change outside | updates | judge calls | undecided | CPU minutes |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=sorted(tables()))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="only rows whose label holds this text")
    parser.add_argument(
        "--results", type=Path, default=None, help="JSON lines; default benchmarks/results.jsonl"
    )
    args, extra = parser.parse_known_args()
    path = args.results or ROOT / "benchmarks" / "results.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = [item for item in tables()[args.table] if args.only in item[0]]
    known = {(result["preset"], result["seed"], tuple(result["flags"])) for result in done}
    todo = [
        (label, preset, words, seed, extra)
        for seed in range(args.seeds)
        for label, preset, words in rows
        if (preset, seed, tuple(words + extra)) not in known
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        for result in pool.map(lambda item: run_one(*item), todo):
            done.append(result)
            with path.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(row(result["label"], [result]), file=sys.stderr, flush=True)
    print(HEADER)
    for label, preset, words in rows:
        results = [
            result
            for result in done
            if (result["preset"], result["flags"]) == (preset, words + extra)
        ]
        if results:
            print(row(label, results))


if __name__ == "__main__":
    main()
