"""The form of a request: what each refusal of a server leads to."""

from __future__ import annotations

import pytest

from arr_core.judging.forms import Form, Wishes

SCHEMA = {"type": "object", "properties": {}}
WISHES = Wishes(temperature=0.7, max_tokens=99, schema=SCHEMA, seed=3)


def test_the_best_form_first():
    assert Form().fields(WISHES) == {
        "max_tokens": 99,
        "temperature": 0.7,
        "seed": 3,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "strict": True, "schema": SCHEMA},
        },
    }
    assert Form().fields(Wishes(0.0, 1, log_probs=True)) == {
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": 20,
    }


@pytest.mark.parametrize(
    "refusal, changed",
    [
        # OpenAI's reasoning models
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            {"limit": "max_completion_tokens"},
        ),
        (
            "Unsupported value: 'temperature' does not support 0.7 with this model.",
            {"temperature": False},
        ),
        # DeepSeek, vLLM with an old guided decoding backend, a server without seeds
        ("This response_format type is unavailable now", {"format": "json_object"}),
        ("Failed to compile the grammar of the guided decoding", {"format": "json_object"}),
        ("unknown field: seed", {"seed": False}),
        ("bad request", {"format": "json_object"}),
    ],
)
def test_a_refusal_changes_what_it_names(refusal, changed):
    assert Form().weaker(WISHES, refusal) == (Form(**changed), refusal != "bad request")


def test_every_way_down_ends():
    for refusal in ("", "max_tokens", "temperature", "response_format", "seed", "logprobs"):
        form, seen = Form(), []
        while form is not None:
            seen.append(form)
            form, _ = form.weaker(Wishes(0.7, 99, SCHEMA, 3, True), refusal)
        assert len(seen) == len(set(seen)) <= 8
        assert seen[-1] == Form(
            "none", "max_completion_tokens", temperature=False, seed=False, top=5
        )


def test_what_was_not_asked_for_is_not_given_up():
    assert (
        Form(limit="max_completion_tokens", temperature=False).weaker(
            Wishes(0.0, 9), "bad request"
        )[0]
        is None
    )


def test_kinds_differ_in_schema_and_log_probs_only():
    assert Wishes(0.0, 9, SCHEMA).kind == Wishes(0.7, 99, dict(SCHEMA), 5).kind
    assert (
        len({Wishes(0.0, 9, SCHEMA).kind, Wishes(0.0, 9).kind, Wishes(0.0, 9, log_probs=True).kind})
        == 3
    )
