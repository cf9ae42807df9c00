"""A run with several judges: a panel that rewards, and a second, different judge that only looks at validations."""

from __future__ import annotations

import json

import pytest
from doubles.openai_server import OpenAIServer, brighter, brighter_letter, error, verdict
from PIL import ImageStat

from arr_core.training.events import read_events
from arr_core.training.trainer import Trainer


def darker(request) -> str:
    """A judge of another taste: what the first one rewards, this one sees through."""
    first, second = (
        ImageStat.Stat(request.pictures[name].convert("L")).mean for name in ("FIRST", "SECOND")
    )
    return verdict("tie" if first == second else "first" if first < second else "second")


@pytest.fixture
def run(tmp_path, monkeypatch, run_config):
    """``run(profiles, **fields)`` trains for two updates with the user's profiles; the events come back."""
    monkeypatch.setenv("ARR_JUDGES", str(tmp_path / "judges.yaml"))

    def train(profiles: dict, **fields) -> list[dict]:
        (tmp_path / "judges.yaml").write_text(json.dumps(profiles))
        config = run_config(
            "flux",
            **{
                "run.output_dir": tmp_path,
                "run.name": "run",
                "run.updates": 2,
                "run.threads": 1,
                "run.save_every": 2,
                "rollout.prompts_per_update": 4,
                "rollout.micro_batch": 4,
                "rollout.steps": 2,
                "validation.every": 2,
                "validation.count": 3,
                "validation.images": 0,
                "judge.retries": 0,
                **fields,
            },
        )
        Trainer(config).run()
        return read_events(tmp_path / "run" / "events.jsonl")

    return train


def test_a_panel_rewards_and_another_judge_validates(run):
    with (
        OpenAIServer(brighter) as one,
        OpenAIServer(brighter_letter) as two,
        OpenAIServer([error(500)]) as broken,
        OpenAIServer(darker) as other,
    ):
        servers = {"one": one, "two": two, "broken": broken, "other": other}
        profiles = {name: {"url": server.url, "model": name} for name, server in servers.items()}
        profiles["two"]["mode"] = "logits"
        profiles["all"] = {"kind": "panel", "members": ["one", "two", "broken"]}
        events = run(profiles, **{"judge.profile": "all", "validation.judge_profile": "other"})
        validations = [event for event in events if event.event == "validation"]
        updates = [event for event in events if event.event == "update"]
        assert sum(event.decided for event in updates) > 0
        assert (
            one.calls == two.calls == 4 * 2 * len(updates)
        )  # every pair in both orders, and no validation
        assert other.calls == sum(event.judge_calls for event in validations) > 0
        asked = {request.body["model"] for request in other.requests}
    assert asked == {"other"}
