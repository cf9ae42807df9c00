"""The event log on disk, what counts after a resume, and the observers that a terminal and the trackers are."""

import io
import json
import math
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch

from arr_core.config import ConfigError
from arr_core.training.events import EventLog, history, read_events
from arr_core.training.progress import Progress, duration
from arr_core.training.trackers import Trackers


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def event(kind, **fields):
    return {"event": kind, **fields}


class TestLog:
    def test_an_event_is_a_line_and_is_there_at_once(self, path):
        log = EventLog(path)
        log.emit("update", update=1, loss=0.5)
        line, rest = path.read_bytes().split(b"\n")
        assert (
            rest == b""
            and {"event": "update", "update": 1, "loss": 0.5}.items() <= json.loads(line).items()
        )
        log.close()

    def test_times_are_utc(self, path):
        with EventLog(path) as log:
            assert log.emit("warning", message="x")["time"].endswith("+00:00")

    def test_what_is_read_is_what_was_emitted(self, path):
        with EventLog(path) as log:
            written = [
                log.emit("started", run="é\u2028\n\ud800", rubric={"name": "r"}),
                log.emit("stopped", update=3),
            ]
        assert read_events(path) == written

    def test_numbers_that_are_not_finite_become_null(self, path):
        with EventLog(path) as log:
            log.emit(
                "update",
                update=1,
                loss=math.nan,
                kl=-math.inf,
                statistics={"base": [np.float32("inf"), 1.0]},
            )
        [read] = read_events(path)
        assert (
            read["loss"] is None
            and read["kl"] is None
            and read["statistics"] == {"base": [None, 1.0]}
        )

    def test_numbers_of_numpy_and_torch_and_paths_are_plain(self, path):
        with EventLog(path) as log:
            log.emit(
                "checkpoint",
                update=np.int64(2),
                path=PurePosixPath("checkpoints/2"),
                loss=torch.tensor(0.5),
            )
        assert {"update": 2, "path": "checkpoints/2", "loss": 0.5}.items() <= read_events(path)[
            0
        ].items()

    def test_what_json_does_not_hold_is_refused_and_nothing_is_written(self, path):
        with EventLog(path) as log, pytest.raises(TypeError, match="came object"):
            log.emit("warning", message=object())
        assert path.read_bytes() == b""

    def test_observers_hear_of_an_event_that_is_on_disk(self, path):
        seen = []
        with EventLog(
            path, [lambda heard: seen.append((heard["event"], len(read_events(path))))]
        ) as log:
            log.emit("encoded", examples=1, seconds=0.1)
            log.emit("update", update=1)
        assert seen == [("encoded", 1), ("update", 2)]

    def test_reopening_appends(self, path):
        for update in (1, 2):
            with EventLog(path) as log:
                log.emit("update", update=update)
        assert [read["update"] for read in read_events(path)] == [1, 2]

    @pytest.mark.parametrize(
        "torn", [b'{"event": "upd', b'{"event": "warning", "message": "\xc3', b"[" * 100_000]
    )
    def test_a_torn_last_line_costs_itself_alone(self, path, torn):
        with EventLog(path) as log:
            log.emit("update", update=1)
        path.write_bytes(path.read_bytes() + torn)
        assert len(read_events(path)) == 1
        with EventLog(path) as log:
            log.emit("update", update=2)
        assert [read["update"] for read in read_events(path)] == [1, 2]

    def test_lines_that_are_no_events_are_passed_over(self, path):
        path.write_text('[1]\n\n"x"\n{"event": 3}\n{"time": "now"}\n{"event": "warning"}\n')
        assert read_events(path) == [{"event": "warning"}]

    def test_close_closes_observers_that_can_be_closed(self, path):
        class Observer:
            closed = False

            def __call__(self, event): ...

            def close(self):
                self.closed = True

        observer = Observer()
        EventLog(path, [observer, print]).close()
        assert observer.closed


class TestHistory:
    def test_a_run_from_start_to_end(self):
        run = history(
            [
                event("started", updates=2),
                event("encoded"),
                event("update", update=1),
                event("update", update=2),
                event("validation", update=2),
                event("checkpoint", update=2),
                event("warning", message="w"),
                event("measure", name="m"),
                event("finished", update=2, time="t"),
            ]
        )
        assert (run.update, run.total, run.state, run.last_time) == (2, 2, "finished", "t")
        assert [
            len(part)
            for part in (
                run.encoded,
                run.updates,
                run.validations,
                run.checkpoints,
                run.warnings,
                run.measures,
                run.repeated,
            )
        ] == [1, 2, 1, 1, 1, 1, 0]

    def test_after_a_resume_only_the_later_ones_count(self):
        run = history(
            [
                *(event("update", update=update, loss="old") for update in (1, 2, 3)),
                event("validation", update=2),
                event("validation", update=3),
                event("checkpoint", update=2),
                event("resumed", update=2),
                event("update", update=3, loss="new"),
            ]
        )
        assert [(update["update"], update["loss"]) for update in run.updates] == [
            (1, "old"),
            (2, "old"),
            (3, "new"),
        ]
        assert [validation["update"] for validation in run.validations] == [2] and len(
            run.checkpoints
        ) == 1
        assert [update["loss"] for update in run.repeated] == ["old"]

    def test_a_resumed_run_is_not_at_its_end_any_more(self):
        ended = [event("update", update=5), event("measure", name="m"), event("finished", update=5)]
        run = history([*ended, event("started", updates=9), event("resumed", update=5)])
        assert run.state == "open" and run.measures == [] and run.update == 5
        assert history([event("stopped", update=1)]).state == "stopped"
        assert history([event("stopped", update=1), event("started", updates=9)]).state == "open"

    def test_a_measure_made_again_replaces_the_first(self):
        run = history(
            [
                event("measure", name=name, policy=value)
                for name, value in (("a", 1), ("b", 3), ("a", 2))
            ]
        )
        assert [(measure["name"], measure["policy"]) for measure in run.measures] == [
            ("b", 3),
            ("a", 2),
        ]

    def test_an_update_recorded_twice_without_a_resume_counts_once(self):
        run = history(
            [
                event("update", update=1),
                event("update", update=2),
                event("update", update=2, loss=1),
            ]
        )
        assert [update.get("loss") for update in run.updates] == [None, 1]

    def test_progress_is_of_the_moment(self):
        half = event("progress", stage="sampling", done=4, total=8)
        assert history([event("started", updates=2), half]).progress == half
        assert (
            history([event("started", updates=2), half, event("update", update=1)]).progress is None
        )

    def test_nothing_yet(self):
        assert (history([]).update, history([]).total, history([]).state) == (0, None, "open")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(events, stream, seconds=1.0):
    """What a Progress prints to ``output`` of events that come ``seconds`` apart."""
    now, output = [100.0], io.StringIO()
    progress = Progress("runs/demo", stream=stream, output=output, clock=lambda: now[0])
    for each in events:
        progress(each)
        now[0] += seconds
    progress.close()
    return output.getvalue()


UPDATES = [
    event("update", update=update, seconds=1.0, pairs=8, undecided=2, kl=0.001)
    for update in range(1, 41)
]
VALIDATION = event(
    "validation",
    update=2,
    wins=5,
    losses=2,
    undecided=1,
    win_rate=5 / 7,
    low=0.36,
    high=0.92,
    best=True,
)


class TestProgress:
    def test_a_terminal_gets_a_bar_with_the_four_numbers(self):
        stream = Terminal()
        show(
            [
                event("started", updates=40),
                event("encoded", examples=9, seconds=2),
                VALIDATION,
                *UPDATES[:10],
            ],
            stream,
        )
        bar = stream.getvalue().split("\r")[-1]
        assert "10/40" in bar and "win rate 71%  undecided 25%  kl 0.001  left 30 s" in bar

    def test_a_resumed_bar_starts_where_the_run_goes_on(self):
        stream = Terminal()
        beginning = [
            event("started", updates=40),
            event("encoded", examples=9),
            event("resumed", update=30),
        ]
        show([*beginning, UPDATES[30]], stream)
        assert "31/40" in stream.getvalue().split("\r")[-1] and "left 9 s" in stream.getvalue()

    def test_elsewhere_a_line_every_ten_seconds_and_the_last_update(self):
        stream = io.StringIO()
        show([event("started", updates=40), *UPDATES], stream)
        lines = [
            line.split("  ")[0]
            for line in stream.getvalue().splitlines()
            if line.startswith("update")
        ]
        assert lines == [
            "update 1/40",
            "update 11/40",
            "update 21/40",
            "update 31/40",
            "update 40/40",
        ]

    def test_within_an_update_the_bar_says_how_far_it_is_and_elsewhere_a_line_a_minute(self):
        part = event("progress", stage="sampling", done=4, total=8)
        stream = Terminal()
        show([event("started", updates=40), part, UPDATES[0], part], stream)
        assert (
            "0/40" in stream.getvalue()
            and "left 39 s  sampling 4/8" in stream.getvalue().split("\r")[-1]
        )
        lines = io.StringIO()
        show([part] * 100, lines)
        assert lines.getvalue().splitlines() == ["sampling 4/8"] * 2

    def test_every_validation_and_warning_gets_a_line(self):
        stream = io.StringIO()
        show(
            [
                VALIDATION,
                {**VALIDATION, "win_rate": None, "best": False},
                event("warning", message="slow"),
            ],
            stream,
        )
        assert stream.getvalue().splitlines() == [
            "validation after update 2: win rate 71% (36-92), 5 won, 2 lost, 1 undecided, the best so far",
            "validation after update 2: win rate unknown, 5 won, 2 lost, 1 undecided",
            "warning: slow",
        ]

    def test_the_sentence_and_the_files_are_the_output(self):
        finished = event(
            "finished", update=40, sentence="It won.", adapter="adapter", report="report.html"
        )
        lines = show([finished], io.StringIO()).splitlines()
        assert lines[0] == "It won." and [line.split()[0] for line in lines[1:]] == [
            "adapter",
            "report",
        ]
        assert "demo" in lines[2] and lines[2].endswith("report.html")

    def test_a_stopped_run_says_how_to_go_on(self):
        stream = io.StringIO()
        show([event("started", updates=40), event("stopped", update=3, reason="requested")], stream)
        assert (
            "--resume" in stream.getvalue() and "stopped after update 3 of 40" in stream.getvalue()
        )

    def test_a_stream_of_few_letters_does_not_end_the_run(self):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
        show([event("warning", message="π")], stream)
        assert stream.buffer.getvalue() == b"warning: ?\n"

    def test_events_that_it_does_not_know_are_nothing_to_it(self):
        assert show([event("say"), event("checkpoint", update=1)], io.StringIO()) == ""

    def test_durations(self):
        assert [duration(seconds) for seconds in (9, 187, 7387)] == ["9 s", "3:07", "2:03:07"]


class TestTrackers:
    def test_numbers_reach_tensorboard_under_their_names(self, tmp_path):
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        with EventLog(
            tmp_path / "events.jsonl", [Trackers(["tensorboard"], tmp_path, "demo")]
        ) as log:
            log.emit("started", updates=4)
            log.emit("resumed", update=2)
            log.emit("update", update=3, loss=0.5, kl=None)
            log.emit(
                "validation",
                update=3,
                win_rate=0.75,
                best=True,
                images=[],
                statistics={"policy": {"contrast": 0.25}},
            )
            log.emit(
                "measure", name="right", unit="share", base={"value": 0.5}, policy={"value": 0.9}
            )
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        assert set(events.Tags()["scalars"]) == {
            "update/loss",
            "validation/win_rate",
            "validation/statistics/policy/contrast",
            "measure/right/base/value",
            "measure/right/policy/value",
        }
        assert [(scalar.step, scalar.value) for scalar in events.Scalars("update/loss")] == [
            (3, 0.5)
        ]

    def test_a_tracker_that_is_not_installed_is_named_with_the_command(self, tmp_path, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="wandb is not: pip install wandb"):
            Trackers(["wandb"], tmp_path, "demo")
