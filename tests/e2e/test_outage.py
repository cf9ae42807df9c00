"""A judge that answered and then does not: it is waited out, whatever it says meanwhile, and the run goes on as if never."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
import torch
from doubles.openai_server import CLOSED, HANG, OpenAIServer, Reply, brighter, error
from PIL import Image
from safetensors.torch import load_file

from arr_core.judging import Judge, JudgeError, Pair, judge, outage
from arr_core.judging.chat import RequestLimits
from arr_core.judging.profiles import make_client
from arr_core.rubrics import BUILT_IN
from arr_core.training.checkpoint import list_checkpoints
from arr_core.training.events import history, read_events
from arr_core.training.trainer import Trainer

LIGHT, DARK = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")
MOVED = Reply(status=307, body=b"", headers={"Location": "http://127.0.0.1:9/v1"})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(judge, "POLL_S", 0.005)


@pytest.fixture
def box(tmp_path, monkeypatch):
    """``box(server, hours)`` is a judge that waits so long, and the outages that it tells."""
    monkeypatch.setenv("ARR_JUDGES", str(tmp_path / "judges.yaml"))

    def make(server: OpenAIServer, hours: float = 1.0, **fields) -> tuple[Judge, list]:
        profile = {"url": server.url, "model": "m", "retries": 0, **fields}
        (tmp_path / "judges.yaml").write_text(json.dumps({"box": profile}))
        client, told = make_client("box", RequestLimits(0.5, outage_hours=hours)), []
        made = Judge(client, BUILT_IN["t2i"])
        made.on_outage = told.append
        return made, told

    return make


class Failing:
    """Answers ``good`` requests, then fails until it was asked ``bad`` times, then answers again."""

    def __init__(self, fault: Reply, good: int, bad: int):
        self.fault, self.good, self.bad, self.asked = fault, good, bad, 0

    def __call__(self, request):
        self.asked += 1
        return self.fault if self.good < self.asked <= self.good + self.bad else brighter(request)


def compare(it: Judge, prompt: str):
    return it.result(it.submit([Pair(prompt, LIGHT, DARK)]))[0]


@pytest.mark.parametrize(
    "fault, said",
    [
        *((error(status), f"HTTP {status}") for status in (401, 402, 403, 404, 429, 500, 503)),
        (MOVED, "HTTP 307"),
        (error(400, "m is not a multimodal model"), "HTTP 400"),
        (CLOSED, "the connection was closed"),
        (HANG, "no reply within 0.5 s"),
        (Reply(body=b"<html>maintenance</html>"), "no chat completion"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_it_says_once_it_has_answered_is_waited_out(box, fault, said):
    bad = 4 if fault is HANG else 6
    with OpenAIServer(Failing(fault, good=2, bad=bad)) as server:
        it, told = box(server)
        with it:
            assert compare(it, "a cup").preferred == "a"
            assert compare(it, "a mug").preferred == "a"
            assert it.client.outage is None
    assert said in told[-1].reason and told[-1].gives_up - told[-1].since == 3600
    pauses = sorted({round(one.next_try - one.since, 3) for one in told})
    assert len(pauses) > 1 and pauses[-1] > 2 * pauses[0] - 0.01  # they grow
    assert server.calls <= 2 + bad + 1 + 2  # one question a try, not all that wait


def test_it_is_given_up_after_the_hours(box):
    with OpenAIServer(Failing(error(401), good=2, bad=1000)) as server:
        it, _ = box(server, hours=0.3 / 3600)
        with it, pytest.raises(JudgeError, match=r"not answered for .* hours \(HTTP 401"):
            compare(it, "a cup")
            compare(it, "a mug")


@pytest.mark.parametrize("hours", [0.0, 1.0])
def test_a_question_that_alone_fails_is_no_outage(box, hours):
    def answer(request):
        return error(500) if "odd" in request.text else brighter(request)

    with OpenAIServer(answer) as server:
        it, _ = box(server, hours)
        with it:
            assert [compare(it, name).failed for name in ("a cup", "odd", "a mug")] == [0, 1, 0]
    assert server.calls <= 4 + 2 * (1 + 2 * hours)


def test_no_more_requests_start_in_a_minute_than_the_profile_says(box):
    with OpenAIServer() as server:
        it, _ = box(server, requests_per_minute=600)
        start = time.monotonic()
        with it:
            for name in "abcd":
                compare(it, name)
    assert server.calls == 8 and time.monotonic() - start > 0.7


# --- a run ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def trainer(run_config, tmp_path, monkeypatch):
    """``trainer(name, server)`` is a run of four updates with two prompts each and two validations."""
    monkeypatch.setenv("ARR_JUDGES", str(tmp_path / "judges.yaml"))

    def make(name: str, server: OpenAIServer, resume: bool = False, **fields) -> Trainer:
        profile = {"url": server.url, "model": "m", "retries": 0}
        (tmp_path / "judges.yaml").write_text(json.dumps({"box": profile}))
        settings = {
            **{"run.output_dir": tmp_path, "run.name": name, "run.updates": 4},
            **{"run.save_every": 100, "rollout.steps": 2, "rollout.prompts_per_update": 2},
            **{"rollout.micro_batch": 4, "validation.every": 2, "validation.count": 2},
            **{"validation.images": 0, "adapter.rank": 2, "judge.profile": "box"},
        }
        return Trainer(run_config("flux", **{**settings, **fields}), resume=resume)

    return make


def run(trainer: Trainer):
    with contextlib.closing(trainer):
        return trainer.run()


def assert_equal_weights(folder) -> None:
    """The runs ``whole`` and ``waiting`` ended with the same weights, which were trained."""
    whole, waiting = (
        load_file(folder / name / "checkpoints" / "4" / "weights.safetensors")
        for name in ("whole", "waiting")
    )
    assert any(tensor.any() for name, tensor in whole.items() if "lora_B" in name)
    assert all(torch.equal(whole[name], waiting[name]) for name in whole)


# Four questions an update and a validation: 1, 2, validation, 3, 4, validation.
@pytest.mark.parametrize("good, kept", [(5, 1), (9, 2), (16, 3)])
def test_a_run_saves_waits_and_ends_as_if_nothing_had_happened(trainer, tmp_path, good, kept):
    saved = []

    class Watched(Failing):
        def __call__(self, request):
            reply = super().__call__(request)
            if self.asked == self.good + self.bad:
                time.sleep(0.3)  # the run looks, and saves
                saved.extend(list_checkpoints(tmp_path / "waiting" / "checkpoints"))
            return reply

    with OpenAIServer() as server:
        run(trainer("whole", server))
    with OpenAIServer(Watched(error(401, "expired"), good=good, bad=8)) as server:
        assert run(trainer("waiting", server)).update == 4
    assert saved == [kept]
    told = [e for e in read_events(tmp_path / "waiting" / "events.jsonl") if e.event == "outage"]
    assert told and "HTTP 401" in told[0].reason
    assert told[0].text.startswith("the judge does not answer since ")
    assert_equal_weights(tmp_path)


@pytest.mark.parametrize("good, reached", [(5, 1), (9, 2)])
def test_a_stop_ends_the_wait_and_a_resume_loses_nothing(trainer, tmp_path, good, reached):
    with OpenAIServer() as server:
        run(trainer("whole", server))
    with OpenAIServer(Failing(error(503), good=good, bad=10_000)) as server:
        stopped = trainer("waiting", server)
        wait_out = stopped._wait_out

        def request_stop(outage):
            wait_out(outage)
            stopped.stop_requested = True

        stopped.judge.on_outage = request_stop
        outcome = run(stopped)
    assert (outcome.stopped, outcome.update) == (True, reached)
    happened = history(read_events(tmp_path / "waiting" / "events.jsonl"))
    assert happened.state == "stopped"
    with OpenAIServer() as server:
        assert run(trainer("waiting", server, resume=True)).update == 4
    assert_equal_weights(tmp_path)


def test_an_update_that_nobody_judged_gives_its_prompts_back(trainer, tmp_path):
    def prompts(server: OpenAIServer, first: int, last: int) -> set[str]:
        return {request.text.split("prompt", 1)[1][:200] for request in server.requests[first:last]}

    with OpenAIServer(Failing(error(500), good=4, bad=4)) as server:
        fields = {"judge.outage_hours": 0, "validation.every": 100}
        run(trainer("run", server, **fields))
        first, failed, again = (prompts(server, at, at + 4) for at in (0, 4, 8))
    updates = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e.event == "update"]
    assert [event.failures for event in updates] == [0, 2, 0, 0]
    assert failed == again != first
