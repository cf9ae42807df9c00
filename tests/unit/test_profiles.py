"""Judge profiles: where they are read from, what a mistake in them says, and that no key is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from arr_core.judging.panel import Panel
from arr_core.judging.profiles import (
    Profile,
    default_rubric,
    load_profile,
    make_chat,
    make_client,
    profiles_file,
)
from arr_core.judging.verdict import JudgeError
from arr_core.rubrics import BUILT_IN

KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture
def judges(tmp_path, monkeypatch):
    """``judges(text)`` makes the user's file of profiles say ``text``."""
    path = tmp_path / "my judges.yaml"
    monkeypatch.setenv("ARR_JUDGES", str(path))

    def write(text: str | bytes) -> Path:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def fault(name: str, call=load_profile) -> str:
    with pytest.raises(JudgeError) as caught:
        call(name)
    assert "\n" not in str(caught.value) and KEY not in str(caught.value)
    return str(caught.value)


def test_a_profile_says_where_a_judge_is(judges):
    judges(
        'box: {url: "http://gpu-box:8000/v1", model: "Qwen/Qwen3-VL-8B-Instruct"}\n'
        "hosted: {url: 'https://api.openai.com/v1', model: gpt-5-mini, key_variable: MY_KEY, max_tokens: 2048}\n"
    )
    assert load_profile("box") == Profile(
        url="http://gpu-box:8000/v1", model="Qwen/Qwen3-VL-8B-Instruct"
    )
    assert load_profile("hosted").key_variable == "MY_KEY"


def test_the_embedded_judge_needs_no_file(judges):
    assert load_profile("miniature").kind == "miniature"


def test_the_file_is_in_the_users_configuration_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("ARR_JUDGES", raising=False)
    for variable in ("XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert profiles_file() == tmp_path / "arr-rpo" / "judges.yaml"
    assert "expected one of human, miniature, got 'local'; describe it in" in fault("local")


def test_an_unknown_profile_names_the_known_ones_and_the_file(judges):
    path = judges(
        "box: {url: 'http://box/v1', model: m}\nother: {url: 'http://other/v1', model: m}\n7: {model: m}"
    )
    said = fault("bx")
    assert said.startswith(
        "judge.profile: expected one of 7, box, human, miniature, other, got 'bx'; describe it in "
    )
    assert str(path) in said and "bx: {url:" in said


@pytest.mark.parametrize(
    "text, said",
    [
        ("box: {url: u", "judges.yaml:1: expected judge profiles in YAML"),
        (f"box: [\n{KEY}: :\n", "judges.yaml:2: expected judge profiles in YAML"),
        (b"box: \xff\xfe", "got bytes at offset 5 that are not UTF-8"),
        ("- box", "it holds a list"),
        (KEY, "it holds a str"),
        (
            f"box: {{url: 'http://u', model: m, key: {KEY}}}",
            "box: key: unknown field; did you mean key_variable?; the fields are kind, url",
        ),
        (f"box: {KEY}", "box: expected a valid dictionary"),
        (f"box: {{url: [{KEY}], model: m}}", "box: url: expected a valid string"),
        (
            "box: {url: 'http://u', model: m, max_tokens: 1}",
            "box: max_tokens: expected greater than or equal to 16",
        ),
        ("box: {url: 'http://box/v1'}", "box: expected url and model"),
        (
            "box: {kind: other}",
            "box: kind: expected 'openai', 'local', 'panel', 'human' or 'miniature'",
        ),
    ],
)
def test_a_mistake_in_the_file_is_one_line_without_its_content(judges, text, said):
    path = judges(text)
    message = fault("box")
    assert message.startswith(str(path)) and said in message


def test_a_faulty_profile_spoils_no_other(judges):
    judges("box: {url: 'http://box/v1', model: m}\nbad: {max_tokens: 1}\nworse: 7")
    assert load_profile("box").model == "m"
    assert "bad: max_tokens: expected greater" in fault("bad")
    assert "worse: expected a valid dictionary" in fault("worse")
    assert "expected one of bad, box, human, miniature, worse" in fault("lost")


@pytest.mark.parametrize(
    "key",
    [KEY, "AIzaSyB0q4", "hf_AbCdEf", "4f9c1d22aa", "e3b0c44298fc1c149afbf4c8", "my key", "a:b"],
)
def test_a_key_in_place_of_its_variable_is_refused_and_not_shown(judges, key):
    judges(f"box: {{url: 'http://box/v1', model: m, key_variable: '{key}'}}")
    said = fault("box")
    assert "key_variable: expected the name of an environment variable" in said and key not in said


def test_a_variable_that_is_set_may_have_any_name(judges, monkeypatch):
    monkeypatch.setenv("hf_token_of_account_2", KEY)
    judges("box: {url: 'http://box/v1', model: m, key_variable: hf_token_of_account_2}")
    assert make_client("box").chat._pools[0].client.api_key == KEY


def test_an_empty_file_has_no_profiles(judges):
    judges("")
    assert "expected one of human, miniature" in fault("box")


def test_a_file_that_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setenv("ARR_JUDGES", str(tmp_path))
    assert "got is a directory" in fault("box")


def test_the_key_comes_from_the_variable_that_the_profile_names(judges, monkeypatch):
    judges("box: {url: 'http://box/v1', model: m, key_variable: MY_KEY}")
    monkeypatch.delenv("MY_KEY", raising=False)
    assert "environment variable MY_KEY, which is not set" in fault("box", make_client)
    monkeypatch.setenv("MY_KEY", "")
    assert "environment variable MY_KEY, which is not set" in fault("box", make_client)
    for bad in (f"{KEY}\nX-Other: 1", f"{KEY}é"):
        monkeypatch.setenv("MY_KEY", bad)
        assert "environment variable MY_KEY, which holds no key" in fault("box", make_client)
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    client = make_client("box")
    assert client.chat._pools[0].client.api_key == KEY
    assert KEY not in client.identity and KEY not in repr(load_profile("box"))


def test_a_server_without_a_key_gets_none_of_the_users(judges, monkeypatch):
    judges("box: {url: 'http://box/v1', model: m}")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    client = make_client("box")
    assert client.chat._pools[0].client.api_key == "none"
    assert str(client.chat._pools[0].client.base_url) == "http://box/v1/"


@pytest.mark.parametrize(
    "text, said",
    [
        ("box: {kind: local}", "box: expected model, a folder or a name on the hub"),
        (
            "box: {kind: panel}",
            "box: expected members, the names of two different profiles or more",
        ),
        ("box: {kind: panel, members: [one]}", "box: expected members, the names of two"),
        ("box: {kind: panel, members: [one, one]}", "box: expected members, the names of two"),
        (
            "box: {url: 'http://u', model: m, mode: logits, votes: 3}",
            "box: votes are for mode reasons",
        ),
        (
            "box: {url: 'http://u', model: m, threshold: 0.7}",
            "box: a threshold needs a confidence: votes of 2 or more, or mode logits",
        ),
        (
            "box: {url: 'http://u', model: m, max_cost: 3}",
            "box: max_cost needs price_per_million_tokens",
        ),
    ],
)
def test_fields_that_do_not_fit_together_say_what_is_expected(judges, text, said):
    path = judges(text)
    assert fault("box").startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    "fields, name",
    [
        ("votes: 3", "votes=3"),
        ("mode: logits, threshold: 0.7", "threshold=0.7"),
        ("max_side: 512", "max_side=512"),
        ("temperature: 0.3", "temperature=0.3"),
        ("max_tokens: 99", "max_tokens=99"),
        ("chat_template: {enable_thinking: false}", "extra="),
        ("extra: {top_p: 0.5}", "extra="),
    ],
)
def test_what_may_change_an_answer_is_in_the_name_of_the_judge(judges, fields, name):
    judges(
        f"box: {{url: 'http://box/v1', model: m, {fields}}}\nplain: {{url: 'http://box/v1', model: m}}"
    )
    assert name in make_client("box").identity and name not in make_client("plain").identity


def test_what_changes_no_answer_is_not(judges):
    judges(
        "box: {url: 'http://box/v1', model: m, max_calls: 3, price_per_million_tokens: 2, max_cost: 1}"
    )
    before = make_client("box").identity, make_chat("box").identity
    judges("box: {url: 'http://elsewhere/v1', model: m}")
    assert before == (make_client("box").identity, make_chat("box").identity)


def test_two_servers_that_call_what_they_serve_alike_are_two_judges(judges):
    judges(
        "one: {url: 'http://box:8080/v1', model: default}\ntwo: {url: 'http://box:1234/v1', model: default}"
    )
    assert make_client("one").identity != make_client("two").identity


def test_a_person_is_no_member_of_a_panel(judges):
    judges("one: {url: 'http://box/v1', model: m}\nboth: {kind: panel, members: [one, human]}")
    with pytest.raises(JudgeError, match="a person sees each pair once"):
        make_client("both")


def test_settings_of_the_chat_template_and_more_fields_go_into_the_body(judges):
    judges(
        "box: {url: 'http://box/v1', model: m, chat_template: {enable_thinking: false}, extra: {top_p: 0.5}}"
    )
    assert make_chat("box").profile.extra_fields == {
        "chat_template_kwargs": {"enable_thinking": False},
        "top_p": 0.5,
    }


def test_votes_are_drawn_at_the_profiles_temperature_or_a_useful_one(judges):
    judges(
        "box: {url: 'http://box/v1', model: m, votes: 3}\nhot: {url: 'http://box/v1', model: m, votes: 3, temperature: 1}"
    )
    assert (make_client("box").temperature, make_client("hot").temperature) == (0.7, 1.0)


def test_a_panel_is_made_of_its_members(judges):
    judges(
        "one: {url: 'http://one/v1', model: m}\ntwo: {url: 'http://two/v1', model: n, mode: logits}\n"
        "all: {kind: panel, members: [one, two], rule: unanimous}\n"
        "twice: {kind: panel, members: [one, all]}\nlost: {kind: panel, members: [one, three]}"
    )
    panel = make_client("all")
    assert (type(panel), panel.rule, len(panel.members)) == (Panel, "unanimous", 2)
    assert (
        panel.identity
        == f"panel:unanimous:[{make_client('one').identity}, {make_client('two').identity}]"
    )
    assert "twice: all is a panel; expected the names of single judges" in fault(
        "twice", make_client
    )
    assert "got 'three'" in fault("lost", make_client)


@pytest.mark.parametrize("name", ["miniature", "human", "all"])
def test_a_judge_that_writes_no_text_is_no_chat(judges, name):
    judges("one: {url: 'http://one/v1', model: m}\nall: {kind: panel, members: [one, miniature]}")
    assert "which writes no text; name a profile of kind openai or local" in fault(name, make_chat)


def test_a_local_profile_loads_nothing_before_it_is_asked(judges):
    judges(
        "here: {kind: local, model: /no/such/folder, device: 'cuda:1', dtype: float16, batch_size: 3, max_side: 99}"
    )
    chat = make_chat("here")
    assert (chat.name, chat.profile) == ("/no/such/folder", load_profile("here"))
    assert make_client("here").identity.startswith("local:/no/such/folder:float16:")


def test_every_field_says_what_it_is_for():
    assert all(field.description for field in Profile.model_fields.values())


def test_the_default_rubric_is_the_built_in_one_or_the_judges_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ARR_JUDGES", str(tmp_path / "judges.yaml"))
    (tmp_path / "judges.yaml").write_text(
        "own: {kind: miniature, threshold: 0.5}\nbox: {url: 'http://127.0.0.1:1/v1', model: m}"
    )
    assert default_rubric("box", "edit") is BUILT_IN["edit"]
    for name in ("own", "miniature"):
        assert [default_rubric(name, task).name for task in ("t2i", "edit")] == [
            "miniature",
            "miniature edits",
        ]
