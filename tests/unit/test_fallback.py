"""The fields of a request: what each refusal of a server leads to."""

from __future__ import annotations

import pytest

from arr_core.judging.chat import RequestOptions
from arr_core.judging.fallback import RequestFields

SCHEMA = {"type": "object", "properties": {}}
OPTIONS = RequestOptions(SCHEMA, temperature=0.7, seed=3, max_tokens=99)


def test_the_best_form_first():
    assert RequestFields().body(OPTIONS) == {
        "max_tokens": 99,
        "temperature": 0.7,
        "seed": 3,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "strict": True, "schema": SCHEMA},
        },
    }
    assert RequestFields().body(RequestOptions(temperature=0.0, max_tokens=1, log_probs=True)) == {
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
    assert RequestFields().fallback(OPTIONS, refusal) == (
        RequestFields(**changed),
        refusal != "bad request",
    )


def test_every_way_down_ends():
    for refusal in ("", "max_tokens", "temperature", "response_format", "seed", "logprobs"):
        form, seen = RequestFields(), []
        while form is not None:
            seen.append(form)
            form, _ = form.fallback(RequestOptions(SCHEMA, 0.7, 3, 99, True), refusal)
        assert len(seen) == len(set(seen)) <= 8
        assert seen[-1] == RequestFields(
            "none", "max_completion_tokens", temperature=False, seed=False, top=5
        )


def test_what_was_not_asked_for_is_not_given_up():
    fields = RequestFields(limit="max_completion_tokens", temperature=False)
    assert fields.fallback(RequestOptions(max_tokens=9), "bad request") == (None, False)


def test_kinds_differ_in_schema_and_log_probs_only():
    one = RequestOptions(SCHEMA, 0.7, 5, 99)
    assert one.kind == RequestOptions(dict(SCHEMA)).kind
    others = RequestOptions(), RequestOptions(log_probs=True)
    assert len({options.kind for options in (one, *others)}) == 3
