"""The client of OpenAI-compatible servers over real HTTP: what it sends, and that no failure becomes a reward."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import random
import socket
import sqlite3
import time

import pytest
from doubles.openai_server import CLOSED, HANG, OpenAIServer, Reply, brighter, error, verdict
from PIL import Image, ImageChops

from arr_core.judging import Judge, JudgeError, Pair
from arr_core.judging.chat import RequestLimits
from arr_core.judging.openai_client import OpenAIChat
from arr_core.judging.pairwise import PairwiseClient
from arr_core.judging.profiles import Profile, make_client
from arr_core.rubrics import BUILT_IN, Rubric

KEY = "sk-a-key-that-nobody-may-see"
LIGHT, DARK = Image.new("RGB", (32, 32), (200, 200, 200)), Image.new("RGB", (32, 32), (50, 50, 50))


def judge(
    server: OpenAIServer,
    *,
    rubric: Rubric = BUILT_IN["t2i"],
    store=":memory:",
    both_orders: bool = True,
    **settings,
) -> Judge:
    limits = {
        name: settings.pop(name)
        for name in ("timeout_s", "retries", "concurrency", "outage_hours")
        if name in settings
    }
    chat = OpenAIChat(
        Profile(url=server.url, model="m", **settings),
        RequestLimits(**{"timeout_s": 10.0, "retries": 0, **limits}),
        api_key=KEY,
    )
    return Judge(
        PairwiseClient(chat),
        rubric,
        store=store,
        both_orders=both_orders,
    )


def pairs(count: int) -> list[Pair]:
    return [Pair(f"prompt {number}", LIGHT, DARK) for number in range(count)]


# --- what is asked ------------------------------------------------------------------------------------------------


def test_a_server_decides_by_what_it_sees():
    with OpenAIServer(brighter) as server, judge(server) as it:
        there, back = it.compare("a cup", LIGHT, DARK), it.compare("a cup", DARK, LIGHT)
        assert (there.preferred, back.preferred) == ("a", "b")
        assert it.compare("a cup", LIGHT, LIGHT).preferred is None
        assert (
            server.calls == 3
        )  # both orders of the pair, remembered on the way back; one order of the equal one
    assert there.tokens == 14 and there.latency_s > 0
    assert there.reason == "as scripted"
    (finding,) = there.findings
    assert finding.seen == "first: seen in the first; second: seen in the second"


def test_prompt_rubric_and_pictures_reach_the_judge():
    rubric = Rubric(name="cups", task="t2i", criteria=("Two cups — 两个杯子.", 'Both are "matt".'))
    with (
        OpenAIServer(brighter) as server,
        judge(server, rubric=rubric, max_tokens=99, temperature=0.5) as it,
    ):
        it.compare("two cups\non wood", LIGHT, DARK)
        for request in server.requests:
            assert "two cups\non wood" in request.text
            assert '1. Two cups — 两个杯子.\n2. Both are "matt".' in request.text
            assert set(request.pictures) == {"FIRST", "SECOND"}
            assert {
                name: request.body[name] for name in ("model", "max_tokens", "temperature")
            } == {"model": "m", "max_tokens": 99, "temperature": 0.5}
            form = request.body["response_format"]["json_schema"]["schema"]["properties"]
            assert list(form) == ["findings", "reason", "preferred"]  # reasons before the verdict
        shown = [request.pictures for request in server.requests]
    assert sorted(picture["FIRST"].getpixel((0, 0))[0] for picture in shown) == [50, 200]
    assert all(
        ImageChops.difference(picture["FIRST"], picture["SECOND"]).getbbox() for picture in shown
    )


def test_the_source_of_an_edit_is_shown_as_base_and_never_ranked():
    source = Image.new("RGB", (64, 32), (1, 2, 3))
    with OpenAIServer(brighter) as server, judge(server, rubric=BUILT_IN["edit"]) as it:
        assert it.compare("make it brighter", DARK, LIGHT, source).preferred == "b"
    for request in server.requests:
        assert list(request.pictures) == ["BASE", "FIRST", "SECOND"]
        assert request.pictures["BASE"].size == (64, 32) and request.pictures["BASE"].getpixel(
            (9, 9)
        ) == (1, 2, 3)
        assert "never ranked" in request.text and "edit instruction" in request.text


def test_a_large_picture_is_made_smaller_for_the_judge():
    with OpenAIServer(brighter) as server, judge(server) as it:
        it.compare(
            "a cup", Image.new("RGB", (3000, 1500), "white"), Image.new("RGBA", (20, 20), "black")
        )
    sizes = {picture.size for request in server.requests for picture in request.pictures.values()}
    assert sizes == {(1024, 512), (20, 20)}


def test_a_judge_that_always_says_first_decides_nothing_over_http():
    with OpenAIServer([verdict("first")]) as server, judge(server) as it:
        verdicts = it.submit(pairs(10)).result()
        assert server.calls == 20
    assert not any(v.decided or v.failed for v in verdicts)
    assert sum(one.preferred == 0 for v in verdicts for one in v.opinions) == 20


# --- replies (method.md, section 5) -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        "",
        None,
        verdict("first")[:-20],
        [{"type": "image"}, 7],
        7,
        {"preferred": "first"},
    ],
    ids=lambda reply: repr(reply)[:25],
)
def test_a_reply_that_says_nothing_credits_nobody(reply):
    with OpenAIServer([Reply(reply)]) as server, judge(server) as it:
        said = it.compare("a cup", LIGHT, DARK)
        assert (said.preferred, said.winner, said.failed, len(it.store)) == (None, None, True, 0)


@pytest.mark.parametrize(
    "wrap", ["```json\n{}\n```", "First I look.\n\n{}", "<think>Hm: [1, 2]</think>{}", "{}"]
)
def test_a_reply_in_wrapping_is_read(wrap):
    with (
        OpenAIServer(lambda request: wrap.replace("{}", brighter(request))) as server,
        judge(server) as it,
    ):
        assert it.compare("a cup", LIGHT, DARK).preferred == "a"


def test_the_references_rank_list_is_a_verdict():
    with OpenAIServer(
        lambda request: "[1, 2]" if '"first"' in brighter(request)[-20:] else "[2, 1]"
    ) as server:
        with judge(server) as it:
            assert it.compare("a cup", DARK, LIGHT).preferred == "b"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"{not json"),
        Reply(body=b""),
        Reply(body=b"\xff\xfe\x00"),
        Reply(body=b"[" * 100_000),
        Reply(body=b"[1]"),
        Reply(body=b"null"),
        Reply(body=b'"first"'),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"choices": [null]}'),
        Reply(body=b'{"choices": "first"}'),
        Reply(body=b'{"choices": [{"message": "first"}], "usage": 3}'),
        Reply(body=b'{"choices": [{"message": {"content": null}}], "usage": {}}'),
        Reply(body=b'{"error": {"message": "no"}}'),
        Reply(verdict("first"), cut=True),
        CLOSED,
        Reply(body=b"<html>first</html>", headers={"Content-Type": "text/html"}),
    ],
    ids=range(16),
)
def test_a_body_that_is_no_completion_is_a_failure(reply):
    with OpenAIServer([reply]) as server, judge(server) as it:
        said = it.compare("a cup", LIGHT, DARK)
        assert (said.preferred, said.failed, said.tokens, len(it.store)) == (None, True, 0, 0)


def test_a_usage_that_is_no_number_costs_no_verdict():
    with OpenAIServer(lambda request: Reply(brighter(request), tokens="many")) as server:
        with judge(server, price_per_million_tokens=1.0) as it:
            said = it.compare("a cup", LIGHT, DARK)
    assert (said.preferred, said.tokens, said.cost) == ("a", 0, 0.0)


def test_a_reply_cut_off_at_the_limit_says_so():
    body = b'{"choices": [{"finish_reason": "length", "message": {"role": "assistant", "content": "I see"}}]}'
    with OpenAIServer([Reply(body=body)]) as server, judge(server, max_tokens=77) as it:
        assert it.compare("a cup", LIGHT, DARK).reason == (
            "no verdict: a reply without a verdict, cut off; the profile's max_tokens may be too small; asked once more: a reply without a "
            "verdict, cut off; the profile's max_tokens may be too small"
        )


# --- faults of a server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault, said",
    [
        (error(500), "HTTP 500"),
        (error(503), "HTTP 503"),
        (error(429), "HTTP 429"),
        (error(400), "HTTP 400"),
        (error(422), "HTTP 422"),
        (error(418), "HTTP 418"),
        (Reply(status=500, body=b""), "HTTP 500"),
        (CLOSED, "the connection was closed or refused"),
    ],
)
def test_a_fault_that_stays_is_a_failure(fault, said):
    with OpenAIServer([fault]) as server, judge(server) as it:
        verdict_ = it.compare("a cup", LIGHT, DARK)
        assert verdict_.reason.startswith(f"no verdict: {said}")
        assert (verdict_.preferred, len(it.store)) == (None, 0)


@pytest.mark.parametrize("fault", [error(429, Retry_After="0.05"), error(500), error(503), CLOSED])
def test_a_fault_that_passes_is_tried_again(fault):
    replies = [fault, fault, verdict("first")]
    with OpenAIServer(replies) as server, judge(server, retries=3, both_orders=False) as it:
        assert it.compare("a cup", LIGHT, DARK).preferred == "a"
        assert server.calls == 3


def test_retry_after_is_obeyed():
    with OpenAIServer([error(429, Retry_After="1"), verdict("first")]) as server:
        with judge(server, retries=1, both_orders=False) as it:
            start = time.monotonic()
            assert it.compare("a cup", LIGHT, DARK).preferred == "a"
            assert 0.9 < time.monotonic() - start < 3


@pytest.mark.parametrize(
    "fault", [HANG, Reply(verdict("first"), drip_s=30)], ids=["silent", "dripping"]
)
def test_a_server_that_does_not_come_to_an_end_is_left(fault):
    with OpenAIServer([fault]) as server, judge(server, timeout_s=0.3, retries=1) as it:
        start = time.monotonic()
        assert it.compare("a cup", LIGHT, DARK).reason == "no verdict: no reply within 0.3 s"
        assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "server, said",
    [
        (dict(key="another"), "refuses the key (HTTP 401)"),
        (
            dict(answer=[error(403, "not in your country")]),
            "refuses the key (HTTP 403) (Error code: 403",
        ),
        (dict(answer=[error(402)]), "the account is out of credit"),
        (
            dict(model="another"),
            "knows no model 'm' (HTTP 404); correct the profile's model or url",
        ),
    ],
)
def test_what_no_retry_mends_stops_at_once_with_advice(server, said):
    with OpenAIServer(**server) as server, judge(server, retries=3, outage_hours=1) as it:
        start = time.monotonic()
        with pytest.raises(JudgeError) as caught:
            it.compare("a cup", LIGHT, DARK)
        assert time.monotonic() - start < 2
        assert server.calls <= 2  # the two orders, each once
        assert str(caught.value).startswith(f"the judge at {server.url} ") and said in str(
            caught.value
        )


def test_a_spent_account_is_no_server_that_is_busy():
    with OpenAIServer([error(429, "insufficient_quota")]) as server, judge(server) as it:
        with pytest.raises(JudgeError, match="out of credit"):
            it.compare("a cup", LIGHT, DARK)
    with (
        OpenAIServer(
            [error(429, "You exceeded your current quota of requests a minute")]
        ) as server,
        judge(server) as it,
    ):
        assert it.compare("a cup", LIGHT, DARK).failed


def test_no_server_at_all_stops_with_advice():
    with OpenAIServer() as server:
        pass
    with (
        judge(server, retries=1) as it,
        pytest.raises(JudgeError, match="no judge answers at .*; start the server"),
    ):
        it.compare("a cup", LIGHT, DARK)


def test_a_refusal_of_one_question_is_not_one_of_the_key_once_others_were_answered():
    def answer(request):
        return (
            error(403, "your input was flagged") if "flagged" in request.text else brighter(request)
        )

    with OpenAIServer(answer) as server, judge(server) as it:
        assert it.compare("a cup", LIGHT, DARK).preferred == "a"
        assert it.compare("flagged", LIGHT, DARK).failed
        assert it.compare("a mug", LIGHT, DARK).preferred == "a"


@pytest.mark.parametrize(
    "message",
    [
        {
            "content": [
                {"type": "text", "text": verdict("first")[:9]},
                {"type": "text", "text": verdict("first")[9:]},
            ]
        },
        {"content": None, "reasoning_content": verdict("first")},
    ],
    ids=["parts", "filed under thoughts"],
)
def test_a_reply_is_found_where_servers_put_it(message):
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    with OpenAIServer([Reply(body=body)]) as server, judge(server, both_orders=False) as it:
        assert it.compare("a cup", LIGHT, DARK).preferred == "a"


def test_what_the_package_reads_from_the_environment_reaches_no_server(monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: mine")
    with OpenAIServer(brighter) as server, judge(server) as it:
        it.compare("a cup", LIGHT, DARK)
        assert not any(
            "mine" in value for request in server.requests for value in request.headers.values()
        )


def test_one_refusal_that_says_nothing_of_the_form_leaves_the_form_as_it_is():
    refusals = [error(400, "failed to load image")]

    def answer(request):
        return refusals.pop() if refusals else brighter(request)

    with OpenAIServer(answer) as server, judge(server, both_orders=False) as it:
        for prompt in ("one", "two", "three"):
            assert it.compare(prompt, LIGHT, DARK).preferred == "a"
        kinds = [request.body["response_format"]["type"] for request in server.requests]
    assert kinds == ["json_schema", "json_object", "json_schema", "json_schema"]


# --- memory, secrets, concurrency ---------------------------------------------------------------------------------


def test_the_same_question_costs_no_second_call_and_a_failure_is_asked_again(tmp_path):
    with OpenAIServer([error(500), error(500), verdict("first"), verdict("second")]) as server:
        with judge(server, store=tmp_path / "store") as it:
            assert it.compare("a cup", LIGHT, DARK).failed
            assert it.compare("a cup", LIGHT, DARK).preferred in ("a", "b")
            assert server.calls == 4
        with judge(server, store=tmp_path / "store") as it:
            assert it.compare("a cup", LIGHT, DARK).calls == 0
            assert server.calls == 4


def test_the_key_is_sent_and_shown_nowhere(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("ARR_JUDGES", str(tmp_path / "judges.yaml"))

    def echo(request):
        return f"You sent {request.headers['Authorization']}. {brighter(request)}"

    said = []
    for answer, settings in (
        (echo, {"key": KEY}),
        ([error(500, KEY)], {}),
        (brighter, {"key": "another"}),
    ):
        with OpenAIServer(answer, **settings) as server:
            (tmp_path / "judges.yaml").write_text(
                f"box: {{url: '{server.url}', model: m, key_variable: MY_KEY}}"
            )
            with Judge(
                make_client("box", RequestLimits(retries=0)),
                BUILT_IN["t2i"],
                store=tmp_path / "store",
            ) as it:
                try:
                    said.append(it.compare(f"prompt {len(said)}", LIGHT, DARK))
                except JudgeError as fault:
                    said.append(fault)
                said.append(it.client.identity)
            sent = [request.headers.get("Authorization") for request in server.requests]
            assert sent and set(sent) == {f"Bearer {KEY}"}
    assert said[0].preferred == "a" and said[2].failed and isinstance(said[4], JudgeError)
    rows = sqlite3.connect(tmp_path / "store").execute("SELECT * FROM opinions").fetchall()
    assert len(rows) == 2
    assert KEY not in repr(
        [said, [v.opinions for v in said if hasattr(v, "opinions")], str(said[4]), rows]
    )
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("store*"))
    assert KEY not in "".join(capfd.readouterr())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "this machine", "elsewhere.invalid"])
def test_a_proxy_hears_nothing_of_a_judge_on_this_machine(monkeypatch, host):
    if host == "this machine":
        host = "box.test"
        monkeypatch.setattr(socket, "gethostname", lambda: "Box.test")
        monkeypatch.setattr(socket, "getaddrinfo", resolved(socket.getaddrinfo, "box.test"))
    with OpenAIServer() as proxy, OpenAIServer() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        server.url = server.url.replace("127.0.0.1", host)
        with judge(server, both_orders=False) as it, contextlib.suppress(JudgeError):
            it.compare("a cup", LIGHT, DARK)
    assert (server.calls, proxy.calls) == ((0, 1) if "invalid" in host else (1, 0))


def resolved(lookup, name: str):
    """getaddrinfo for which ``name`` is this machine."""
    return lambda host, *more, **fields: lookup(
        "127.0.0.1" if host in (name, name.encode()) else host, *more, **fields
    )


def test_a_password_in_the_url_is_not_shown():
    with OpenAIServer([error(403)]) as server:
        plain = server.url
        server.url = plain.replace("http://", f"http://user:{KEY}@")
        with judge(server) as it, pytest.raises(JudgeError) as caught:
            it.compare("a cup", LIGHT, DARK)
    assert f"the judge at {plain} refuses" in str(caught.value)


def test_a_password_in_the_url_is_sent_and_not_logged(caplog):
    with OpenAIServer([error(500), verdict("first")]) as server:
        plain = server.url
        server.url = plain.replace("http://", "http://user:pass%40word@")
        with caplog.at_level(logging.INFO), judge(server, retries=1, both_orders=False) as it:
            assert it.compare("a cup", LIGHT, DARK).preferred == "a"
    sent = base64.b64encode(b"user:pass@word").decode()
    assert [request.headers["Authorization"] for request in server.requests] == [
        f"Basic {sent}"
    ] * 2
    assert not any(word in caplog.text for word in ("127.0.0.1", "pass%40word", "pass@word", sent))


def test_no_more_questions_are_in_flight_than_allowed():
    with OpenAIServer(lambda request: Reply(brighter(request), delay_s=0.02)) as server:
        with judge(server, concurrency=3) as it:
            assert all(v.decided for v in it.submit(pairs(10)).result())
    assert server.most_in_flight == 3


def test_two_thousand_random_replies_and_faults_never_become_a_reward():
    """What each reply is worth is known; a pair is decided exactly where both of its orders name one image."""
    dice = random.Random(0)
    good = {0: verdict("first"), 1: verdict("second")}
    bad = [
        "",
        "[1,1]",
        "[0,1]",
        "[]",
        verdict("tie"),
        verdict("first")[:30],
        verdict("third"),
        None,
        "<think>[1, 2]",
        error(500),
        error(429),
        error(400),
        error(503),
        CLOSED,
        Reply(body=b"{"),
        Reply(body=b"[]"),
        Reply(verdict("first"), cut=True),
        Reply(body=b'{"choices": [null]}'),
    ]
    script = [dice.choice([0, 1, dice.choice(bad)]) for _ in range(2000)]

    def answer(request):
        first = request.pictures["FIRST"].getpixel((0, 0))[0] == 200
        number = int(request.text.split("prompt number ")[1].split()[0])
        reply = script[2 * number + (not first)]
        return good.get(reply, reply) if isinstance(reply, int) else reply

    asked = [Pair(f"prompt number {number} ", LIGHT, DARK) for number in range(1000)]
    with OpenAIServer(answer) as server, judge(server, concurrency=32) as it:
        verdicts = it.submit(asked).result(timeout=240)
    for number, said in enumerate(verdicts):
        there, back = script[2 * number : 2 * number + 2]
        expected = (
            {(0, 1): "a", (1, 0): "b"}.get((there, back))
            if type(there) is type(back) is int
            else None
        )
        assert said.preferred == expected, (number, there, back, said)
        assert said.failed or all(
            opinion.preferred is not None or opinion.reply == verdict("tie")
            for opinion in said.opinions
        )
    assert 150 < sum(said.decided for said in verdicts) < 350
