"""From one labelled pair to verified criteria: what is asked, in which order, and what ends a pair."""

from __future__ import annotations

import asyncio
import json

import pytest
from doubles.rubric_model import COMPARING, FILLERS, VAGUE, ScriptedChat, answer
from PIL import Image

from arr_core.data import Exemplar, load_exemplars
from arr_core.judging import Judge, Pair
from arr_core.judging.chat import Reply
from arr_core.judging.pairwise import PairwiseClient
from arr_core.judging.store import VerdictStore
from arr_core.judging.verdict import JudgeError
from arr_core.rubrics import NO_RUBRIC
from arr_core.rubrics.prompts import Assignment, comparison, read_criteria, read_themes
from arr_core.rubrics.writer import REFINEMENTS, CachedChat, ChatError, Writer, question_key

DARK, LIGHT = Image.new("RGB", (16, 16), (40, 40, 40)), Image.new("RGB", (16, 16), (200, 200, 200))


def write(prompt: str, chat: ScriptedChat, preferred: int = 0, source=None, **options):
    """The outcome of a pair whose darker picture was preferred."""
    images = (DARK, LIGHT) if preferred == 0 else (LIGHT, DARK)
    task = "edit" if source else "t2i"
    with Judge(PairwiseClient(chat), NO_RUBRIC[task]) as judge:

        async def compare(pair, rubric):
            return (await asyncio.wrap_future(judge.submit([pair], rubric=rubric)))[0]

        writer = Writer(CachedChat(chat, judge.store), compare, Assignment(task, **options))
        return judge.runner.run(writer.criteria_of(Pair(prompt, *images, source), preferred))


def answering(label: str, reply) -> ScriptedChat:
    """A chat that says ``reply`` to every question that shows a picture of that label."""
    return ScriptedChat(
        lambda text, pictures: reply if label in pictures else answer(text, pictures)
    )


def kinds(chat: ScriptedChat) -> list[str]:
    return ["write" if "PREFERRED" in labels else "verify" for _, labels in chat.asked]


# --- generate, verify, refine, discard ------------------------------------------------------------------------------


@pytest.mark.parametrize("preferred", [0, 1])
def test_criteria_that_a_verifier_chooses_by_are_kept(preferred):
    chat = ScriptedChat()
    outcome = write("a cup", chat, preferred)
    assert (outcome.ending, outcome.criteria) == ("kept", ("The picture is dark.", *FILLERS))
    assert kinds(chat) == ["write", "verify", "verify"]


def test_the_verifier_sees_both_orders_and_no_label():
    shown = []

    def said(text, pictures):
        shown.append([(label, image.getpixel((0, 0))[0]) for label, image in pictures.items()])
        return answer(text, pictures)

    chat = ScriptedChat(said)
    write("a cup", chat)
    assert shown[1:] == [[("FIRST", 40), ("SECOND", 200)], [("FIRST", 200), ("SECOND", 40)]]
    for text, _ in chat.asked[1:]:
        assert "PREFERRED" not in text and "liked" not in text and "The picture is dark." in text


@pytest.mark.parametrize("needed", range(1, REFINEMENTS + 1))
def test_criteria_are_refined_with_the_critique_until_they_are_verified(needed):
    chat = ScriptedChat()
    outcome = write(f"a cup, hard {needed}", chat)
    assert (outcome.ending, outcome.criteria[0]) == ("refined", "The picture is dark.")
    assert len(outcome.attempts) == needed + 1
    # The last refinement is verified, too.
    assert kinds(chat) == ["write", "verify", "verify"] * (needed + 1)
    writing = [
        (seed, text)
        for seed, (text, labels) in zip(chat.seeds, chat.asked, strict=True)
        if "PREFERRED" in labels
    ]
    assert [seed for seed, _ in writing] == list(range(needed + 1))  # else replies might repeat
    (_, first), *refining = writing
    assert "did not do" not in first
    for tried, (_, text) in zip(VAGUE, refining, strict=False):
        said = "criterion 1: first: light 40; second: light 200", "chose OTHER", "chose PREFERRED"
        assert all(words in text for words in (tried, *said))
    for attempt in outcome.attempts[:-1]:
        assert attempt.fault.startswith("the verifier could not decide")


def test_a_pair_that_no_refinement_helps_is_discarded_after_the_last_was_verified():
    chat = ScriptedChat()
    outcome = write("a cup, hopeless", chat)
    assert (outcome.ending, outcome.criteria) == ("discarded", ())
    assert kinds(chat) == ["write", "verify", "verify"] * (REFINEMENTS + 1)
    assert "after 5 refinements" in outcome.reason


def test_a_verifier_that_chooses_the_other_image_is_told_apart_from_one_that_is_undecided():
    wrong = json.dumps({"reason": "", "criteria": ["The picture is bright.", *FILLERS]})
    chat = answering("PREFERRED", wrong)
    assert write("a cup", chat).attempts[0].fault == "the verifier chose the other image"


def test_criteria_that_compare_go_back_without_a_verification():
    chat = ScriptedChat()
    outcome = write("comparing cups", chat)
    assert (outcome.ending, outcome.attempts[0].criteria[0]) == ("refined", COMPARING)
    assert kinds(chat) == ["write", "write", "verify", "verify"]
    assert 'Criterion 1 compares ("better")' in chat.asked[1][0]


def test_an_edit_shows_its_source_and_says_so():
    chat = ScriptedChat()
    outcome = write("make it dark", chat, source=LIGHT)
    assert outcome.ending == "kept"
    assert all(labels[0] == "BASE" and len(labels) == 3 for _, labels in chat.asked)
    assert "edit instruction" in chat.asked[0][0] and "never judged" in chat.asked[0][0]


def test_which_picture_the_writer_sees_first_differs_from_prompt_to_prompt():
    chat = ScriptedChat()
    for number in range(12):
        write(f"cup {number}", chat)
    orders = {labels for _, labels in chat.asked if "OTHER" in labels}
    assert orders == {("PREFERRED", "OTHER"), ("OTHER", "PREFERRED")}


def test_language_and_examples_reach_the_writer_and_not_the_verifier():
    chat = ScriptedChat()
    example = Exemplar("a red bus", "the liked bus is red all over", ("The colour is even.",))
    write("a cup", chat, language="zh", examples=[example])
    (writing, _), (verifying, _), *_ = chat.asked
    for words in ("Simplified Chinese", "a red bus", "red all over", "The colour is even."):
        assert words in writing and words not in verifying


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_writer_that_fails_costs_its_pair():
    chat = answering("PREFERRED", Reply(failure="HTTP 500"))
    outcome = write("a cup", chat)
    assert (outcome.ending, outcome.reason) == ("failed", "no criteria: HTTP 500")
    assert len(chat.asked) == 1  # the chat has tried often enough by itself


def test_a_verifier_that_fails_is_no_verification():
    outcome = write("a cup", answering("FIRST", Reply(failure="no reply")))
    assert (outcome.ending, outcome.criteria) == ("failed", ())
    assert outcome.reason == "not verified: no reply"


CUT = Reply(json.dumps({"criteria": ["A.", "B.", "C.", "D.", "It is well l"]}), cut=True)


@pytest.mark.parametrize("reply", ["I would rather not.", CUT])
def test_a_reply_that_is_unreadable_or_cut_is_asked_for_once_more(reply):
    replies = iter([reply, None])
    chat = ScriptedChat(lambda text, pictures: next(replies, None) or answer(text, pictures))
    assert write("a cup", chat).ending == "kept"
    assert chat.seeds[:2] == [0, 1000]
    mute = answering("PREFERRED", "")
    assert write("a cup", mute).reason == "no criteria: no JSON in the reply"
    assert len(mute.asked) == 2


def test_what_can_never_work_is_not_swallowed():
    def refuse(text, pictures):
        raise JudgeError("wrong key")

    with pytest.raises(JudgeError, match="wrong key"):
        write("a cup", ScriptedChat(refuse))


# --- replies --------------------------------------------------------------------------------------------------------

FIVE = ["One.", "Two.", "Three.", "Four.", "Five."]


def criteria(*lines) -> str:
    return json.dumps({"criteria": lines})


@pytest.mark.parametrize(
    "reply",
    [
        f"```json\n{json.dumps({'reason': 'x', 'criteria': FIVE})}\n```",
        f"<think>{{maybe}}</think>Here it is: {criteria(*FIVE)}",
        criteria(*FIVE, "Six."),
        criteria("One.", *FIVE, " "),
        criteria(*FIVE)[:-1] + ",}",
        criteria(7, *FIVE),
        criteria("One.\n", *FIVE[1:]),
    ],
)
def test_five_criteria_are_read_from_what_surrounds_them(reply):
    assert read_criteria(reply) == tuple(FIVE)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "[]",
        "null",
        "{}",
        "no",
        '{"criteria": 5}',
        '{"criteria": null}',
        "<think>{}",
        criteria(*FIVE[:4]),
        criteria(FIVE),
        "{" * 5000,
        criteria(*["One."] * 5),
    ],
)
def test_a_reply_without_five_criteria_is_refused(reply):
    with pytest.raises(ValueError):
        read_criteria(reply)


def test_themes_are_read_without_tips_that_compare():
    entries = [
        {"theme": "Light", "tips": ["It is dark.", "It is better lit.", "It is dark."]},
        {"theme": "Which image is better", "tips": []},
        {"theme": " ", "tips": ["x"]},
        "no",
    ]
    [theme] = read_themes(json.dumps({"themes": entries}))
    assert (theme.theme, theme.tips) == ("Light", ("It is dark.",))


@pytest.mark.parametrize(
    "themes", [[], [{"theme": "a", "tips": []}] * 6, "no", [{"tips": ["a"]}], None]
)
def test_a_reply_without_themes_or_with_too_many_is_refused(themes):
    with pytest.raises(ValueError, match="themes"):
        read_themes(json.dumps({"themes": themes}))


COMPARE = [
    "The cup is better lit.",
    "It matches the prompt more than the other image.",
    "PREFERRED is sharp.",
    "The first image has no seams.",
    "Image 1 is sharp.",
    "It is sharper than the alternative.",
    "Of the two images it is sharper.",
    "比另一张更清晰。",
    "图1没有水印。",
    "另一张图没有手。",
]
DESCRIBE = [
    "The second cup is blue.",
    "The change is as in the BASE image.",
    "Another cup stands behind the first.",
    "Exactly two pictures hang on the wall.",
    "另一张椅子是红色的。",
    "画面中第一张桌子是圆的。",
]


def test_a_comparison_of_candidates_is_recognised():
    assert [line for line in COMPARE + DESCRIBE if comparison(line)] == COMPARE


# --- memory ---------------------------------------------------------------------------------------------------------


def ask(chat: CachedChat, text: str, seed: int = 0):
    return asyncio.run(chat.ask([{"role": "user", "content": text}], {}, json.loads, seed=seed))


def test_a_question_that_was_answered_is_not_asked_again(tmp_path):
    model = ScriptedChat(lambda text, pictures: json.dumps(f"said to {text.strip()}"))
    chat = CachedChat(model, VerdictStore(tmp_path / "store.sqlite"))
    assert ask(chat, "a") == ask(chat, "a") == "said to a"
    assert (chat.calls, chat.cached, chat.tokens, chat.cost) == (1, 1, 10, 0.001)
    again = CachedChat(model, VerdictStore(tmp_path / "store.sqlite"))
    replies = [ask(again, "a"), ask(again, "a", seed=1), ask(again, "b")]
    assert replies == ["said to a", "said to a", "said to b"]
    assert (again.calls, again.cached, len(model.asked)) == (2, 1, 3)


def test_failed_and_unreadable_replies_are_not_kept():
    store = VerdictStore(":memory:")
    for bad in ("no JSON", Reply(failure="HTTP 500")):
        with pytest.raises(ChatError):
            ask(CachedChat(ScriptedChat(lambda text, pictures, bad=bad: bad), store), "a")
    assert ask(CachedChat(ScriptedChat(lambda text, pictures: '"é"'), store), "a") == "é"


def test_model_seed_texts_roles_and_pixels_name_a_question():
    def key(identity="m", seed=0, role="user", text="a", image=DARK):
        content = [{"type": "text", "text": text}, {"type": "image", "image": image}]
        return question_key(identity, [{"role": role, "content": content}], seed)

    keys = {
        key(),
        key(identity="n"),
        key(seed=1),
        key(role="system"),
        key(text="b"),
        key(image=LIGHT),
        key(image=DARK.resize((8, 32))),
    }
    assert len(keys) == 7 and key() == key(image=DARK.copy())


# --- examples -------------------------------------------------------------------------------------------------------


def test_examples_are_read(tmp_path):
    file = tmp_path / "examples.jsonl"
    file.write_text(
        '{"prompt": "a bus", "rationale": " red "}\n'
        '{"query": "b", "source_image": "not-there.png", "rationale": "r", "criteria": ["c", " d\\n"]}\n'
    )
    assert load_exemplars(file) == [Exemplar("a bus", "red"), Exemplar("b", "r", ("c", "d"))]


@pytest.mark.parametrize(
    "record, said",
    [
        ('{"prompt": "a"}', "1: rationale"),
        ('{"prompt": "a", "rationale": 3}', "1: rationale"),
        ('{"prompt": "a", "rationale": "b", "criteria": "c"}', "criteria"),
        ('{"prompt": "a", "rationale": "b", "criteria": [" "]}', "criteria"),
        ('{"rationale": "b"}', "query"),
    ],
)
def test_an_example_that_says_nothing_is_one_line(tmp_path, record, said):
    file = tmp_path / "examples.jsonl"
    file.write_text(record)
    with pytest.raises(ValueError, match=said) as caught:
        load_exemplars(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
