"""Judge profiles: where they are read from, what a mistake in them says, and that no key is ever shown."""
from __future__ import annotations

from pathlib import Path

import pytest

from arr_core.judging.profiles import Profile, load_profile, make_client, profiles_file
from arr_core.judging.verdict import JudgeError

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
    judges('box: {url: "http://gpu-box:8000/v1", model: "Qwen/Qwen3-VL-8B-Instruct"}\n'
           "hosted: {url: 'https://api.openai.com/v1', model: gpt-5-mini, key_variable: MY_KEY, max_tokens: 2048}\n")
    assert load_profile("box") == Profile(url="http://gpu-box:8000/v1", model="Qwen/Qwen3-VL-8B-Instruct")
    assert load_profile("hosted").key_variable == "MY_KEY"


def test_the_embedded_judge_needs_no_file(judges):
    assert load_profile("miniature").kind == "miniature"


def test_the_file_is_in_the_users_configuration_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("ARR_JUDGES", raising=False)
    for variable in ("XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert profiles_file() == tmp_path / "arr-rpo" / "judges.yaml"
    assert "expected one of human, miniature, came 'local'; describe it in" in fault("local")


def test_an_unknown_profile_names_the_known_ones_and_the_file(judges):
    path = judges("box: {url: 'http://box/v1', model: m}\nother: {url: 'http://other/v1', model: m}\n7: {model: m}")
    said = fault("bx")
    assert said.startswith("judge.profile: expected one of 7, box, human, miniature, other, came 'bx'; describe it in ")
    assert str(path) in said and "bx: {url:" in said


@pytest.mark.parametrize("text, said", [
    ("box: {url: u", "it is no YAML in UTF-8"),
    (f"box: [\n{KEY}: :\n", "it is no YAML in UTF-8, see line 2"),
    (b"box: \xff\xfe", "it is no YAML in UTF-8"),
    ("- box", "it holds a list"),
    (KEY, "it holds a str"),
    (f"box: {{url: u, model: m, key: {KEY}}}", "box: key: Extra inputs are not permitted; the fields are kind, url"),
    (f"box: {KEY}", "box: it: Input should be a valid dictionary"),
    (f"box: {{url: [{KEY}], model: m}}", "box: url: Input should be a valid string"),
    ("box: {url: u, model: m, max_tokens: 1}", "box: max_tokens: Input should be greater than or equal to 16"),
    ("box: {url: 'http://box/v1'}", "box: expected url and model"),
    ("box: {kind: other}", "box: kind: Input should be 'openai', 'local', 'panel', 'human' or 'miniature'"),
])
def test_a_mistake_in_the_file_is_one_line_without_its_content(judges, text, said):
    path = judges(text)
    message = fault("box")
    assert message.startswith(str(path)) and said in message


def test_an_empty_file_has_no_profiles(judges):
    judges("")
    assert "expected one of human, miniature" in fault("box")


def test_a_file_that_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setenv("ARR_JUDGES", str(tmp_path))
    assert "it cannot be read" in fault("box")


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
    client = make_client("box", timeout_s=5, retries=1, concurrency=2)
    assert client.chat._clients[0].api_key == KEY
    assert KEY not in client.identity and KEY not in repr(load_profile("box"))


def test_a_server_without_a_key_gets_none_of_the_users(judges, monkeypatch):
    judges("box: {url: 'http://box/v1', model: m}")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    client = make_client("box")
    assert client.chat._clients[0].api_key == "none"
    assert str(client.chat._clients[0].base_url) == "http://box/v1/"
