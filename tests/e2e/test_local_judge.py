"""Judges in this process: small real vision-language models on real photographs, alone, in batches, and behind HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import threading
import weakref
from dataclasses import replace

import pytest
from doubles import vision_models
from doubles.openai_server import OpenAIServer, Reply
from doubles.vision_models import RUBRIC, photographs, veiled
from PIL import Image

from arr_core.judging import Judge, JudgeError, Pair
from arr_core.judging.chat import RequestOptions
from arr_core.judging.local import LocalChat
from arr_core.judging.logits import LogitsClient
from arr_core.judging.openai_client import OpenAIChat
from arr_core.judging.pairwise import PairwiseClient
from arr_core.judging.profiles import Profile, make_client
from arr_core.judging.verdict import combine


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """``saved(name)`` is the folder of a model; ``taught`` saw the first eight photographs, and never the others."""
    folders = {}

    def folder(name: str):
        if name not in folders:
            path = tmp_path_factory.mktemp(name)
            folders[name] = (
                vision_models.taught(path, list(photographs().values())[:8])
                if name == "taught"
                else getattr(vision_models, name)(path)
            )
        return folders[name]

    return folder


@pytest.fixture(scope="module")
def chat(saved):
    """``chat(name, **settings)`` is a local chat with a saved model."""
    made = []

    def local(name: str = "qwen2_5_vl", **settings) -> LocalChat:
        made.append(local_chat(saved(name), **settings))
        return made[-1]

    yield local
    for each in made:
        asyncio.run(each.close())


def local_chat(folder, device="cpu", **settings) -> LocalChat:
    profile = Profile(kind="local", model=str(folder), device=device)
    return LocalChat(profile.model_copy(update=settings))  # fewer tokens than a user may ask for


def question(text: str, *images: Image.Image) -> list[dict]:
    return [
        {"role": "system", "content": "You compare."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": text},
                *({"type": "image", "image": i} for i in images),
            ],
        },
    ]


def ask(chat, *questions, **settings):
    async def all_of_them():
        return await asyncio.gather(
            *(chat.complete(each, RequestOptions(**settings)) for each in questions)
        )

    return asyncio.run(all_of_them())


A, B, C = list(photographs().values())[:3]


# --- a judge that was taught ---------------------------------------------------------------------------------------------


def test_a_taught_model_judges_photographs_that_it_never_saw(chat):
    """In both places, and by calibrated probabilities where words would disagree."""
    unseen = list(photographs().values())[8:]
    pairs = [
        Pair("a picture", *pair)
        for image in unseen
        for pair in ((image, veiled(image)), (veiled(image), image))
    ]
    with Judge(LogitsClient(chat("taught")), RUBRIC) as judge:
        verdicts = judge.submit(pairs).result()
        seen = [
            judge.compare("a picture", image, veiled(image))
            for image in list(photographs().values())[:8]
        ]
    assert [verdict.preferred for verdict in verdicts] == ["a", "b"] * 3
    assert [verdict.preferred for verdict in seen] == ["a"] * 8
    by_words = [
        combine(tuple(replace(o, log_odds=None) for o in verdict.opinions))
        for verdict in verdicts + seen
    ]
    assert sum(not verdict.decided for verdict in by_words) >= 1  # what the calibration is for


def test_the_same_model_behind_an_openai_compatible_server_says_the_same(chat):
    """The server decodes what was sent and asks the same model: messages, pictures and probabilities survive the way."""
    model = chat("taught")

    def answer(request):
        messages = [
            {
                **message,
                "content": message["content"]
                if isinstance(message["content"], str)
                else [
                    {
                        "type": "image",
                        "image": Image.open(
                            io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))
                        ),
                    }
                    if part["type"] == "image_url"
                    else part
                    for part in message["content"]
                ],
            }
            for message in request.body["messages"]
        ]
        log_probs = bool(request.body.get("logprobs"))
        reply = asyncio.run(
            model.complete(
                messages,
                RequestOptions(log_probs=log_probs, max_tokens=request.body["max_tokens"]),
            )
        )
        best = dict(
            sorted(reply.log_probs.items(), key=lambda item: -item[1])[
                : request.body.get("top_logprobs", 0)
            ]
        )
        return Reply(
            reply.text,
            top=best or None,
            tokens=reply.tokens,
            finish="length" if reply.cut else "stop",
        )

    pairs = [Pair("a picture", image, veiled(image)) for image in (A, B, C)]
    with OpenAIServer(answer) as server:
        for client in (LogitsClient, PairwiseClient):
            remote = OpenAIChat(Profile(url=server.url, model="taught", max_tokens=16))
            said = []
            for it in (client(chat("taught", max_tokens=16)), client(remote)):
                with Judge(it, RUBRIC) as judge:
                    said.append(judge.submit(pairs).result())
            for here, there in zip(*said, strict=True):
                assert (here.preferred, here.tokens) == (there.preferred, there.tokens)
                for one, other in zip(here.opinions, there.opinions, strict=True):
                    assert (one.reply, one.reason) == (other.reply, other.reason)
                if client is LogitsClient:
                    assert here.preferred == "a" and here.log_odds == pytest.approx(
                        there.log_odds, abs=1e-3
                    )
                else:  # nobody taught it to write: what it writes is no verdict
                    assert here.failed and here.preferred is None


# --- every model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava"])
def test_a_batch_says_what_each_question_says_alone(chat, name):
    """Other lengths, other numbers of pictures, other sizes; padding and positions must not matter."""
    questions = [
        question("which", A, B),
        question("a much longer question: which one is better", A),
        question("which of these", A.resize((84, 56)), B, C),
        question("no picture at all"),
        question("which", B, A),
    ]
    if name == "llava":
        questions.pop(2)  # it crops every picture to one size
    one_by_one = chat(name, batch_size=1)
    for settings in (
        {"log_probs": True},
        {"max_tokens": 6},
        {"max_tokens": 6, "temperature": 1.0, "seed": 5},
    ):
        together = ask(chat(name, batch_size=8), *questions, **settings)
        alone = [ask(one_by_one, each, **settings)[0] for each in questions]
        for several, single in zip(together, alone, strict=True):
            assert (several.text, several.tokens, several.cut) == (
                single.text,
                single.tokens,
                single.cut,
            )
            assert several.log_probs == {
                token: pytest.approx(value, abs=1e-4) for token, value in single.log_probs.items()
            }


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava"])
def test_log_probabilities_are_those_of_the_first_token_and_depend_on_the_pictures(chat, name):
    there, back = ask(chat(name), question("which", A, B), question("which", B, A), log_probs=True)
    for reply in (there, back):
        assert {"A", "B"} <= set(reply.log_probs)
        assert max(reply.log_probs.values()) <= 0
        letters = {
            token: value for token, value in reply.log_probs.items() if "\ufffd" not in token
        }  # no halves of some
        assert reply.text in (
            max(letters, key=letters.get),
            "",
            "\ufffd",
        )  # a special token is not shown
        assert sum(map(math.exp, reply.log_probs.values())) == pytest.approx(1, abs=1e-3)
    assert abs(there.log_probs["A"] - back.log_probs["A"]) > 1e-6


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_image_tokens_have_their_places_in_height_and_width(chat, saved, name):
    """transformers 5 counts them in one dimension, in silence, unless it is told which tokens are an image's."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = (
        AutoModelForImageTextToText.from_pretrained(saved(name)),
        AutoProcessor.from_pretrained(saved(name)),
    )
    text = processor.apply_chat_template(
        question("which", A, B), add_generation_prompt=True, tokenize=False
    )
    inputs = processor(text=[text], images=[A, B], return_tensors="pt")
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    with torch.no_grad():
        right = model(**inputs).logits[0, -1].log_softmax(-1)
        inputs["mm_token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        wrong = model(**inputs).logits[0, -1].log_softmax(-1)
    (said,) = ask(chat(name), question("which", A, B), log_probs=True)
    texts = {token: processor.tokenizer.decode([token]) for token in range(256, len(right))}
    token = max(
        texts, key=lambda token: abs(right[token] - wrong[token]) * (texts[token] in said.log_probs)
    )
    difference = abs(right[token] - wrong[token]).item()
    assert difference > 1e-4  # or this test would see nothing
    assert said.log_probs[texts[token]] == pytest.approx(right[token].item(), abs=difference / 10)


def test_equal_seeds_draw_equal_replies_and_others_differ(chat):
    model = chat(max_tokens=12)
    drawn = [
        ask(model, question("which", A, B), temperature=1.0, seed=seed)[0].text
        for seed in (1, 2, 3, 1)
    ]
    assert drawn[0] == drawn[3] and len(set(drawn)) == 3
    assert (
        ask(model, question("which", A, B))[0].text
        == ask(model, question("which", A, B), temperature=0.0, seed=4)[0].text
    )


def test_a_reply_is_drawn_without_the_randomness_of_others(chat):
    """The judge answers beside a training, whose noise must stay what its seed made it."""
    import torch

    before, model = torch.get_rng_state(), chat(max_tokens=12)
    drawn = {ask(model, question("which", A, B), temperature=1.0)[0].text for _ in range(3)}
    assert len(drawn) > 1 and torch.equal(torch.get_rng_state(), before)


def test_drawn_tokens_are_as_frequent_as_they_are_likely(chat):
    model = chat(batch_size=64)
    (expected,) = ask(model, question("which", A), log_probs=True)
    drawn = [
        reply.text
        for reply in ask(model, *[question("which", A)] * 400, temperature=1.0, max_tokens=1)
    ]
    likely = sorted(expected.log_probs, key=expected.log_probs.get)[
        -1
    ]  # all the bytes that are no letter by themselves
    assert 0.1 < math.exp(expected.log_probs[likely]) < 0.9
    assert drawn.count(likely) / 400 == pytest.approx(
        math.exp(expected.log_probs[likely]), abs=0.08
    )
    cold = [
        reply.text
        for reply in ask(model, *[question("which", A)] * 8, temperature=1e-4, max_tokens=1)
    ]
    assert set(cold) == {ask(model, question("which", A), max_tokens=1)[0].text}


def test_what_waits_goes_through_the_model_together(chat, monkeypatch):
    model, sizes = chat(batch_size=4), []
    answer = LocalChat._answer
    monkeypatch.setattr(
        LocalChat, "_answer", lambda self, asked: (sizes.append(len(asked)), answer(self, asked))[1]
    )
    ask(model, *[question(f"number {number}", A) for number in range(10)], log_probs=True)
    assert sum(sizes) == 10 and max(sizes) == 4 and len(sizes) <= 4


def test_a_batch_too_large_for_the_memory_is_halved(chat, monkeypatch):
    import torch

    model, held = chat(batch_size=8), []
    replies = LocalChat._replies

    def limited(self, asked):
        assert all(
            made() is None for made in held
        )  # what did not fit is gone before the halves are tried
        tensor = torch.zeros(len(asked))
        held.append(weakref.ref(tensor))
        if len(asked) > 2 or any(
            "huge" in each.messages[1]["content"][0]["text"] for each in asked
        ):
            raise torch.OutOfMemoryError("out of memory")
        return replies(self, asked)

    monkeypatch.setattr(LocalChat, "_replies", limited)
    said = ask(
        model, *[question(text, A) for text in ("one", "two", "huge", "four", "five")], max_tokens=2
    )
    assert [bool(reply.failure) for reply in said] == [False, False, True, False, False]
    assert "lower the profile's max_side" in said[2].failure
    assert len(held) == 5  # batches of 5, 2, 3, the huge one alone, 2


def test_a_reply_that_reaches_its_limit_is_cut_and_pictures_are_made_smaller(chat):
    large = A.resize((560, 560))
    whole, small = (
        ask(chat(max_tokens=3, max_side=side), question("which", large))[0] for side in (560, 56)
    )
    assert whole.cut and small.cut and whole.tokens > small.tokens + 300


# --- what cannot be loaded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, said",
    [
        (
            dict(folder="/no/such/folder"),
            "expected a folder or a hub name of a vision-language model",
        ),
        (dict(device="cuda:7"), "cannot be moved to the device 'cuda:7'"),
    ],
)
def test_what_cannot_be_loaded_says_so_once_in_one_line(saved, settings, said):
    model = local_chat(**{"folder": saved("qwen2_5_vl"), **settings})
    with pytest.raises(JudgeError) as caught:
        ask(model, question("which", A))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(JudgeError, match="the local judge"):
        ask(model, question("which", A))


@pytest.mark.parametrize(
    "device, rank, chosen",
    [
        ("auto", None, "cuda:0"),
        ("auto", 1, "cuda:1"),
        ("cuda", 3, "cuda:1"),
        ("cuda:0", 1, "cuda:0"),
        ("cuda:2", 1, "cuda:2"),
    ],
)
def test_each_process_has_its_judge_on_its_own_card(saved, monkeypatch, device, rank, chosen):
    """Two cards that are only said to be there; loading onto them fails, and says where to."""
    import torch

    chosen_by = []

    def set_device(card):
        chosen_by.append((card, threading.current_thread().name))
        raise RuntimeError("invalid device ordinal")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", str(rank))
    model = local_chat(saved("qwen2_5_vl"), device=device)
    with pytest.raises(
        JudgeError, match=f"cannot be moved to the device '{chosen}': invalid device ordinal"
    ):
        ask(model, question("which", A))
    asyncio.run(model.close())
    assert chosen_by == [(chosen, "local judge")]


def test_a_model_that_only_reads_is_refused(tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tools.miniature.tokenizers import qwen_tokenizer

    tokenizer = qwen_tokenizer()
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(JudgeError, match="vision-language model"):
        ask(local_chat(tmp_path), question("which"))


def test_a_profile_makes_the_judge_and_closing_it_ends_its_thread(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("ARR_JUDGES", str(tmp_path / "judges.yaml"))
    (tmp_path / "judges.yaml").write_text(
        json.dumps(
            {
                "here": {
                    "kind": "local",
                    "model": str(saved("taught")),
                    "device": "cpu",
                    "mode": "logits",
                    "batch_size": 2,
                    "max_calls": 2,
                    "max_side": 56,
                }
            }
        )
    )
    before = _threads()
    with Judge(make_client("here"), RUBRIC) as judge:
        assert judge.compare("a picture", A, veiled(A)).preferred == "a"
        assert _threads() == before + 1
        with pytest.raises(JudgeError, match="'here' has spent 2 of its max_calls"):
            judge.compare("a picture", B, veiled(B))
    assert _threads() == before


def test_a_closed_chat_lets_its_model_go_and_loads_it_again_when_asked(saved):
    model = local_chat(saved("qwen2_5_vl"), max_tokens=2)
    for _ in range(2):
        ask(model, question("which", A))
        loaded = weakref.ref(model._model)

        async def close_twice():
            await asyncio.gather(
                model.close(), model.close()
            )  # as members of a panel with one chat do

        asyncio.run(close_twice())
        assert loaded() is None


def _threads() -> int:
    return sum(thread.name == "local judge" for thread in threading.enumerate())
