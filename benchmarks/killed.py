"""A short run, killed in the middle of each of its file operations, and resumed.

    python benchmarks/killed.py                  # every operation, about a second each; --every 7 for a sample

``tests/doubles/kill.c`` stands between the process and the system: it counts every opening for writing, write, sync, rename,
removal and folder, also those of SQLite, torch and safetensors, and kills the process in the n-th one; a write then has
written half. The run is of the miniature: three updates with a checkpoint after each, and two validations. Every process is
forked from one that has the model loaded. After the resume, checkpoint, adapters and settings must equal those of a run
that was never killed, byte for byte, and no temporary file may be left. Prints Markdown; the status is 1 on any exception.
Linux, with a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
FIELDS = {
    "run": {"name": "run", "updates": 3, "save_every": 1, "keep_checkpoints": 2, "threads": 1},
    "data": {"validation_count": 2},
    "rollout": {"steps": 2, "prompts_per_update": 2, "micro_batch": 4},
    "validation": {"every": 2, "count": 2, "steps": 2, "images": 1, "exact_measure": False},
    "adapter": {"rank": 2},
}
PROMPTS = "".join(
    f"a red circle left of a {colour} square\n" for colour in ("blue", "green", "red", "yellow")
)
GOLDEN = 0.618  # its multiples spread the kills over the run from the beginning
LAST = FIELDS["run"]["updates"]


def main() -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="kill at every N-th operation (1)")
    options = parser.parse_args()
    if folder := os.environ.get("ARR_KILLED"):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background
        try:
            return measure(Path(folder), options.every)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="killed-")).resolve()
    library, source = folder / "kill.so", ROOT / "tests" / "doubles" / "kill.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", library, source, "-ldl"], check=True)
    settings = {"LD_PRELOAD": library, "ARR_KILLED": folder, "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def measure(folder: Path, every: int) -> int:
    """The table, printed; 1 where a resumed run was not what it should be."""
    case, whole = folder / "case", folder / "whole"
    train = trainer(folder, case)
    begun = time.monotonic()
    status, operations = train(resume=False, kill_at=0)
    assert status == 0, "the undisturbed run failed"
    case.rename(whole)
    faults: dict[int, list[str]] = {}
    killed = 0
    with contextlib.suppress(KeyboardInterrupt):  # the table is of what was done by then
        for operation in sorted(range(1, operations + 1, every), key=lambda at: at * GOLDEN % 1):
            status, _ = train(resume=False, kill_at=operation)
            killed += status == -9
            started = (case / "run" / "config.yaml").is_file()
            status, _ = train(resume=started, kill_at=0)
            found = [] if status == 0 else [f"the resume ended with status {status}"]
            faults[operation] = [*found, *differences(whole / "run", case / "run")]
            shutil.rmtree(case)
            if faults[operation]:
                print(f"operation {operation}: {'; '.join(faults[operation])}", file=sys.stderr)
    wrong = sum(map(bool, faults.values()))

    def right(*words: str) -> int:
        return sum(
            not any(word in fault for word in words for fault in found) for found in faults.values()
        )

    print("| file operations | kills | killed | resumed exactly | adapters right | exceptions |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {operations} | {len(faults)} | {killed} | {right('checkpoint', 'status')} "
        f"| {right('adapter', 'run.safetensors')} | {wrong} |"
    )
    print(f"\n{time.monotonic() - begun:.0f} s.", file=sys.stderr)
    return 1 if wrong or not faults else 0


def differences(whole: Path, killed: Path) -> Iterator[str]:
    """What is not in a resumed run as in the undisturbed one."""
    for name in (
        f"checkpoints/{LAST - 1}/checksums.json",
        f"checkpoints/{LAST}/checksums.json",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "adapter-best/adapter_model.safetensors",
        "run.safetensors",
        "config.yaml",
        "rubric.json",
    ):
        if not (killed / name).is_file():
            yield f"{name} is missing"
        elif (killed / name).read_bytes() != (whole / name).read_bytes():
            yield f"{name} differs"
    names = [{str(path.relative_to(run)) for path in run.rglob("*")} for run in (whole, killed)]
    for name in sorted(names[0] ^ names[1]):
        yield f"{name} is {'missing' if name in names[0] else 'left over'}"
    events = (killed / "events.jsonl").read_text()
    if (
        events.count('"event": "finished"') < 1
        or "finished" not in (killed / "report.html").read_text()
    ):
        yield "not said to be finished"


def trainer(folder: Path, case: Path):
    """``train(resume, kill_at)`` trains in a fork: its status, and the operations that it made where it was not killed."""
    import torch
    from doubles.client import Scripted, brighter

    from arr_core.config.load import make_config
    from arr_core.judging import Judge
    from arr_core.policies.loading import load_policy
    from arr_core.reports.run import ReportWriter
    from arr_core.rubrics import BUILT_IN
    from arr_core.training import trainer as module
    from arr_core.training.run_setup import load_prompts

    torch.set_num_threads(1)
    data = folder / "prompts.txt"
    data.write_text(PROMPTS)
    fields = {**FIELDS, "run": {**FIELDS["run"], "output_dir": case}}
    fields["data"] = {**FIELDS["data"], "train": data, "validation": None}
    config = make_config("miniature", fields)
    policy = load_policy(config.policy, folder / "encodings")
    policy.encode([example for part in load_prompts(config, None)[:2] for example in part])
    assert policy.pipeline
    module.load_policy = lambda *_: policy  # of the fork, which nobody has trained
    library = ctypes.CDLL(None)

    def train_here(resume: bool, kill_at: int, report: int) -> int:
        library.kill_at(os.fsencode(case), ctypes.c_long(kill_at))
        store = config.run.folder / "verdicts.sqlite"
        config.run.folder.mkdir(parents=True, exist_ok=True)
        judge = Judge(Scripted(brighter), BUILT_IN["t2i"], store=store)
        observers = [ReportWriter(config.run.folder)]
        run = module.Trainer(config, resume=resume, judge=judge, observers=observers)
        with contextlib.closing(run):
            run.run()
        with os.fdopen(report, "w") as pipe:
            print(library.operations(), *sys.modules, file=pipe)
        return 0

    def train(resume: bool, kill_at: int) -> tuple[int, int]:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                status = train_here(resume, kill_at, write)
            except BaseException:  # the parent prints the table; this one's story is the traceback
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        os.close(write)
        with os.fdopen(read) as pipe:
            operations, *modules = pipe.read().split() or ["0"]
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for name in {*modules} - {*sys.modules}:  # imported once, here, and not in every fork
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        return status, int(operations)

    return train


if __name__ == "__main__":
    sys.exit(main())
