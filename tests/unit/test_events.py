"""The event log on disk, what counts after a resume, and the observers that a terminal and the trackers are."""

import io
import json
import math
import time
from dataclasses import replace

import pytest

from arr_core.config.load import ConfigError
from arr_core.training.events import (
    BothStatistics,
    CheckpointEvent,
    EncodedEvent,
    EventLog,
    FinishedEvent,
    ImageStatistics,
    MeasuredShare,
    MeasureEvent,
    OutageEvent,
    ProgressEvent,
    ResumedEvent,
    RubricName,
    StartedEvent,
    StoppedEvent,
    UpdateEvent,
    ValidationEvent,
    ValidationImage,
    WarningEvent,
    history,
    read_events,
)
from arr_core.training.progress import Progress, duration
from arr_core.training.trackers import Trackers

STARTED = StartedEvent(run="demo", updates=40, rubric=RubricName(name="r", hash="0"))
ENCODED = EncodedEvent(examples=9, seconds=2.0)
WARNING = WarningEvent(message="slow")
HALFWAY = ProgressEvent(stage="sampling", done=4, total=8)
OUTAGE = OutageEvent(
    reason="HTTP 401: expired",
    since="2026-11-25T02:14:09+00:00",
    next_try="2026-11-25T02:22:00+00:00",
    gives_up="2026-11-25T14:14:09+00:00",
)
FINISHED = FinishedEvent(update=40, sentence="It won.", adapter="adapter", report="report.html")
IMAGE = ValidationImage(prompt="p", base="b.png", policy="p.png", preferred="policy", reason="r")
VALIDATION = ValidationEvent(
    update=2, wins=5, losses=2, undecided=1, win_rate=5 / 7, low=0.36, high=0.92, best=True
)


def update(number, **fields):
    values = dict.fromkeys(
        ("sampling_s", "waiting_s", "training_s", "judge_cost", "learning_rate"), 0.0
    )
    counts = dict(pairs=8, decided=6, undecided=2, failures=0, judge_calls=16, judge_tokens=0)
    return UpdateEvent(update=number, seconds=1.0, **{**values, **counts, "kl": 0.001, **fields})


def measure(name="exact", value=0.9):
    def share(value):
        return MeasuredShare(value=value, low=0.1, high=0.95, count=96)

    return MeasureEvent(name=name, unit="share", base=share(0.5), policy=share(value))


def checkpoint(number):
    return CheckpointEvent(update=number, path=f"checkpoints/{number}")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


class TestLog:
    def test_every_kind_is_read_as_it_was_emitted(self, path):
        statistics = ImageStatistics(contrast=0.2, edge_energy=0.1, colour_entropy=3.0)
        events = [
            replace(STARTED, run="é\u2028\n\ud800"),
            ResumedEvent(update=1),
            ENCODED,
            update(2),
            replace(
                VALIDATION,
                images=(IMAGE,),
                statistics=BothStatistics(base=statistics, policy=statistics),
            ),
            HALFWAY,
            OUTAGE,
            checkpoint(2),
            measure(),
            WARNING,
            StoppedEvent(update=2, reason="requested"),
            FINISHED,
        ]
        with EventLog(path) as log:
            for event in events:
                log.emit(event)
        assert read_events(path) == events

    def test_an_event_is_a_line_and_times_are_utc(self, path):
        with EventLog(path) as log:
            log.emit(ResumedEvent(update=3))
            line, rest = path.read_bytes().split(b"\n")
        plain = json.loads(line)
        assert rest == b"" and plain.pop("time").endswith("+00:00")
        assert plain == {"event": "resumed", "update": 3}

    def test_numbers_that_are_not_finite_become_null(self, path):
        with EventLog(path) as log:
            log.emit(update(1, loss=math.nan, kl=-math.inf))
        [read] = read_events(path)
        assert read.loss is None and read.kl is None and read.learning_rate == 0.0

    def test_observers_are_called_once_the_event_is_on_disk_and_closed_if_they_can_be(self, path):
        class Observer(list):
            def __call__(self, event):
                self.append((event.event, len(read_events(path))))

            def close(self):
                self.append("closed")

        observer = Observer()
        with EventLog(path, [observer, print]) as log:
            log.emit(ENCODED)
            log.emit(update(1))
        assert observer == [("encoded", 1), ("update", 2), "closed"]

    @pytest.mark.parametrize(
        "torn", [b"", b'{"event": "upd', b'{"event": "warning", "message": "\xc3', b"[" * 100_000]
    )
    def test_reopening_appends_and_a_torn_last_line_costs_itself_alone(self, path, torn):
        with EventLog(path) as log:
            log.emit(update(1))
        path.write_bytes(path.read_bytes() + torn)
        assert len(read_events(path)) == 1
        with EventLog(path) as log:
            log.emit(update(2))
        assert [event.update for event in read_events(path)] == [1, 2]

    @pytest.mark.parametrize(
        "line",
        [
            "[1]",
            '"x"',
            '{"event": 3}',
            '{"time": "now"}',
            '{"event": "warning"}',
            '{"event": "unknown", "message": "m"}',
            '{"event": "resumed", "update": "a"}',
            '{"event": "resumed", "update": -1}',
            '{"event": "resumed", "update": 1' + 400 * "0" + "}",
            '{"event": "encoded", "examples": 1, "seconds": 1e400}',
        ],
    )
    def test_lines_that_are_no_valid_event_are_skipped(self, path, line):
        path.write_text(f'{line}\n{{"event": "warning", "message": "m"}}\n')
        [read] = read_events(path)
        assert read.message == "m"


class TestHistory:
    @pytest.mark.parametrize(
        "after, waits", [(checkpoint(2), True), (update(3), False), (HALFWAY, False)]
    )
    def test_an_outage_lasts_until_something_is_done(self, after, waits):
        assert (history([STARTED, OUTAGE, after]).outage is OUTAGE) == waits

    def test_a_run_from_start_to_end(self):
        run = history(
            [
                replace(STARTED, updates=2),
                ENCODED,
                update(1),
                update(2),
                VALIDATION,
                checkpoint(2),
                WARNING,
                measure(),
                replace(FINISHED, time="t"),
            ]
        )
        assert (run.update, run.total, run.state, run.last_time) == (2, 2, "finished", "t")
        parts = (run.encoded, run.updates, run.validations, run.checkpoints)
        assert [len(part) for part in parts] == [1, 2, 1, 1]
        assert (len(run.warnings), len(run.measures), run.repeated) == (1, 1, [])

    def test_after_a_resume_only_the_later_ones_count(self):
        run = history(
            [
                *(update(number, loss=1.0) for number in (1, 2, 3)),
                VALIDATION,
                replace(VALIDATION, update=3),
                checkpoint(2),
                ResumedEvent(update=2),
                update(3, loss=2.0),
            ]
        )
        assert [(event.update, event.loss) for event in run.updates] == [(1, 1), (2, 1), (3, 2)]
        assert run.validations == [VALIDATION] and len(run.checkpoints) == 1
        assert [event.update for event in run.repeated] == [3]

    def test_a_resumed_run_is_not_at_its_end_any_more(self):
        run = history([update(5), measure(), FINISHED, STARTED, ResumedEvent(update=5)])
        assert run.state == "open" and run.measures == [] and run.update == 5
        stopped = StoppedEvent(update=1, reason="requested")
        assert history([stopped]).state == "stopped"
        assert history([stopped, STARTED]).state == "open"

    def test_what_is_recorded_again_replaces_the_first(self):
        run = history([measure("a", 0.1), measure("b"), measure("a", 0.2)])
        assert [(event.name, event.policy.value) for event in run.measures] == [
            ("b", 0.9),
            ("a", 0.2),
        ]
        run = history([update(1), update(2, loss=1.0), update(2, loss=2.0)])
        assert [event.loss for event in run.updates] == [None, 2.0]

    def test_progress_is_of_the_moment(self):
        assert history([STARTED, HALFWAY]).progress == HALFWAY
        assert history([STARTED, HALFWAY, update(1)]).progress is None

    def test_nothing_yet(self):
        assert (history([]).update, history([]).total, history([]).state) == (0, None, "open")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(events, stream, seconds=1.0):
    """What a Progress prints to ``output`` of events that come ``seconds`` apart."""
    now, output = [100.0], io.StringIO()
    progress = Progress("runs/demo", stream=stream, output=output, clock=lambda: now[0])
    for event in events:
        progress(event)
        now[0] += seconds
    progress.close()
    return output.getvalue()


UPDATES = [update(number) for number in range(1, 41)]


class TestProgress:
    def test_a_terminal_gets_a_bar_with_the_four_numbers(self):
        stream = Terminal()
        show([STARTED, ENCODED, VALIDATION, *UPDATES[:10]], stream)
        bar = stream.getvalue().split("\r")[-1]
        assert "10/40" in bar and "win rate 71%  undecided 25%  kl 0.001  left 30 s" in bar

    def test_a_resumed_bar_starts_where_the_run_goes_on(self):
        stream = Terminal()
        show([STARTED, ENCODED, ResumedEvent(update=30), UPDATES[30]], stream)
        assert "31/40" in stream.getvalue().split("\r")[-1] and "left 9 s" in stream.getvalue()

    def test_elsewhere_a_line_every_ten_seconds_and_the_last_update(self):
        stream = io.StringIO()
        show([STARTED, *UPDATES], stream)
        lines = [line for line in stream.getvalue().splitlines() if line.startswith("update")]
        assert [line.split("  ")[0] for line in lines] == [
            f"update {number}/40" for number in (1, 11, 21, 31, 40)
        ]

    @pytest.mark.skipif(not hasattr(time, "tzset"), reason="the system's clock cannot be moved")
    def test_an_outage_is_a_line_at_each_try_in_the_clock_of_this_machine(self, monkeypatch):
        monkeypatch.setenv("TZ", "UTC-1")
        time.tzset()
        stream = io.StringIO()
        show([STARTED, OUTAGE, OUTAGE], stream)
        monkeypatch.undo()
        time.tzset()
        assert stream.getvalue().splitlines()[1:] == 2 * [
            "the judge does not answer since 03:14 (HTTP 401: expired); next try at 03:22; gives up at 15:14"
        ]

    def test_progress_within_an_update_is_in_the_bar_and_elsewhere_a_line_a_minute(self):
        stream = Terminal()
        show([STARTED, HALFWAY, UPDATES[0], HALFWAY], stream)
        assert "0/40" in stream.getvalue()
        assert "left 39 s  sampling 4/8" in stream.getvalue().split("\r")[-1]
        lines = io.StringIO()
        show([HALFWAY] * 100, lines)
        assert lines.getvalue().splitlines() == ["sampling 4/8"] * 2

    def test_every_validation_measure_and_warning_gets_a_line(self):
        stream = io.StringIO()
        undecided = replace(VALIDATION, win_rate=None, best=False)
        show([VALIDATION, undecided, measure(), WARNING], stream)
        assert stream.getvalue().splitlines() == [
            "validation after update 2: win rate 71% (36-92), 5 won, 2 lost, 1 undecided, the best so far",
            "validation after update 2: win rate unknown, 5 won, 2 lost, 1 undecided",
            "exact: base 0.5, policy 0.9 share",
            "warning: slow",
        ]

    def test_the_sentence_and_the_files_are_the_output(self):
        lines = show([FINISHED], io.StringIO()).splitlines()
        assert [line.split()[0] for line in lines] == ["It", "adapter", "report"]
        assert "demo" in lines[2] and lines[2].endswith("report.html")

    def test_a_stopped_run_says_how_to_go_on(self):
        stream = io.StringIO()
        show([STARTED, StoppedEvent(update=3, reason="requested")], stream)
        assert "--resume" in stream.getvalue()
        assert "stopped after update 3 of 40: requested" in stream.getvalue()

    def test_a_stream_of_few_letters_does_not_end_the_run(self):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
        show([WarningEvent(message="π")], stream)
        assert stream.buffer.getvalue() == b"warning: ?\n"

    def test_durations(self):
        assert [duration(seconds) for seconds in (9, 187, 7387)] == ["9 s", "3:07", "2:03:07"]


class TestTrackers:
    def test_numbers_reach_tensorboard_under_their_names(self, tmp_path):
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        statistics = ImageStatistics(contrast=0.25, edge_energy=0.1, colour_entropy=3.0)
        validation = replace(
            VALIDATION,
            update=3,
            images=(IMAGE,),
            statistics=BothStatistics(base=statistics, policy=statistics),
        )
        trackers = Trackers(["tensorboard"], tmp_path, "demo")
        with EventLog(tmp_path / "events.jsonl", [trackers]) as log:
            events = (STARTED, ResumedEvent(update=2), update(3, loss=0.5, kl=None), validation)
            for event in (*events, measure("right")):
                log.emit(event)
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        names = set(events.Tags()["scalars"])
        assert names >= {
            "update/loss",
            "validation/win_rate",
            "validation/statistics/policy/contrast",
            "measure/right/base/value",
            "measure/right/policy/value",
        }
        assert names.isdisjoint({"update/update", "update/kl", "validation/best"})
        assert [(scalar.step, scalar.value) for scalar in events.Scalars("update/loss")] == [
            (3, 0.5)
        ]

    def test_a_tracker_that_is_not_installed_is_named_with_the_command(self, tmp_path, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="wandb is not: pip install wandb"):
            Trackers(["wandb"], tmp_path, "demo")
