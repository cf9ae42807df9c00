"""Files that would hold up, fill or mislead their reader are refused in one line, and so is any content that is none."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import zlib
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arr_core import adapter as adapter_command
from arr_core.adapters import AdapterError, load_adapter
from arr_core.adapters.scale import read_record
from arr_core.common.errors import ArrError
from arr_core.common.files import check_links, write_text
from arr_core.common.images import image_fault
from arr_core.config.load import ConfigError, load_config
from arr_core.data import DataError, load_examples, load_exemplars, load_pairs
from arr_core.judging.profiles import Profile, load_profile
from arr_core.judging.store import Entry, VerdictStore
from arr_core.judging.verdict import Finding, JudgeError, Opinion
from arr_core.rubrics import RubricError, load_rubric

few = settings(max_examples=60, derandomize=True, deadline=None, database=None)
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")


def profiles(path: Path) -> Profile:
    os.environ["ARR_JUDGES"] = str(path)
    return load_profile("mine")


READERS = {
    ".yaml": (lambda path: load_config(str(path)), ConfigError),
    ".judges": (profiles, JudgeError),
    ".txt": (lambda path: load_rubric(path, "t2i"), RubricError),
    ".json": (load_rubric, RubricError),
    ".jsonl": (load_pairs, DataError),
    ".safetensors": (load_adapter, AdapterError),
}
each_reader = pytest.mark.parametrize("suffix", READERS)


@pytest.fixture(autouse=True)
def no_judges(monkeypatch):
    monkeypatch.setenv("ARR_JUDGES", "none")


def refusal(suffix: str, path: Path) -> str:
    """The one line with which the reader of these files refuses this one."""
    read, error = READERS[suffix]
    with pytest.raises(error) as caught:
        read(path)
    said = str(caught.value)
    assert "expected" in said and "\n" not in said and len(said) < 1500
    return said


@posix
@each_reader
def test_what_is_no_file_holds_up_no_reader(suffix, tmp_path):
    pipe, device, huge = (tmp_path / f"{name}{suffix}" for name in ("pipe", "device", "huge"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    with huge.open("wb") as file:
        file.truncate(2**40)
    for path, said in (
        (pipe, "a pipe or device"),
        (device, "a pipe or device"),
        (huge, "1,099,511,627,776 bytes, more"),
    ):
        assert said in refusal(suffix, path)


@posix
def test_what_is_no_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="expected a file to write"):
        write_text(tmp_path / "pipe", "a")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1


@posix
def test_an_image_that_is_no_file_or_fills_the_memory_is_at_fault(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    size = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", size), (b"IDAT", b"none"))
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert image_fault(tmp_path / "pipe") == "a pipe or device, which is no file"
    assert image_fault(tmp_path / "bomb.png") == "10000x10000 pixels, more than 67,108,864"
    Image.new("L", (16 * 200 + 1, 16)).save(tmp_path / "wide.png")
    assert image_fault(tmp_path / "wide.png") == "3201x16 pixels, one side 200 times the other"
    assert image_fault(tmp_path / "a\0b") == "a name that no file can have"


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
        + "".join(
            f"{b}: &{b} [{', '.join(9 * ['*' + a])}]\n"
            for a, b in zip("abcdef", "bcdefg", strict=True)
        ),
        "run: &a [*a]",
        "run: &a {name: *a}",
        "run: &a {<<: *a}",
        "[" * 50_000,
        f"run: {{seed: {'9' * 5000}}}",
        f"run: {{seed: 0x{'f' * 20_000}}}",
        "? {a: b}\n: c",
        "? [a, b]\n: c",
        'run: {output_dir: "a\\0b"}',
        "run: !!python/object/apply:os.system ['true']",
        "run: !!binary '////'",
        "run: 2026-99-99",
        "run: !!set {a, b}",
        "preset: miniature\nrun: {output_dir: '~nobody-here/x'}",
        'preset: miniature\nrun: {output_dir: "a\\0b"}',
        "run: {name: a, name: b}",
        "box: {url: 'http://box/v1', model: m, extra: {since: 2024-01-01}}",
    ],
)
@pytest.mark.parametrize("suffix", [".yaml", ".judges"])
def test_yaml_is_bounded_before_it_is_built(suffix, text, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    refusal(suffix, tmp_path / "a.yaml")


def test_aliases_and_merges_of_an_ordinary_size_are_read(tmp_path):
    (tmp_path / "a").write_text("a: &a {url: 'http://a', model: m}\nmine: {<<: *a, votes: 3}\n")
    assert profiles(tmp_path / "a").votes == 3


KEY = "sk-a-key-that-nobody-may-see"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a/v1",
        "a.com/v1",
        "http://a:99999/v1",
        "http://a:port",
        "http://a:0",
        "http://a:-1",
    ]
    + [
        "http://",
        "http:///v1",
        f"http://me:{KEY}@a/v1",
        f"http://a/v1?key={KEY}",
        "http://a b/v1",
        "http://[::1",
        KEY,
    ]
    + [
        "http://a\r\nX: y",
        "http://a/\0",
        "http://...",
        "http://" + "h" * 300,
        "http://-a",
        "http://a/v1#b",
    ],
)
def test_a_judge_has_an_address(url):
    fault = Profile(url=url, model="m").fault()
    assert fault.startswith("url: expected http:// or https://") and KEY not in fault


@pytest.mark.parametrize(
    "url",
    [
        "http://gpu_box:8000/v1",
        "https://api.openai.com/v1",
        "http://[::1]:80",
        "HTTP://10.0.0.1./a/b-c/",
    ],
)
def test_an_address_of_a_judge(url):
    assert Profile(url=url, model="m").fault() == ""


def test_convert_overwrites_nothing(tmp_path, capsys):
    (tmp_path / "out.safetensors").symlink_to("elsewhere")
    import torch
    from safetensors.torch import save_file

    part = "transformer.transformer_blocks.0.attn.to_q.lora"
    save_file(
        {f"{part}_A.weight": torch.ones(2, 64), f"{part}_B.weight": torch.ones(64, 2)},
        tmp_path / "in.safetensors",
    )
    words = ["convert", str(tmp_path / "in.safetensors"), "--alpha", "2", "--output"]
    for name in ("in.safetensors", "out.safetensors"):
        assert adapter_command.main([*words, str(tmp_path / name)]) == 2
        assert "expected a new file" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("word", ["a\0b", "a\ud800b"])
def test_a_word_that_no_system_can_write_is_refused(word, capsys):
    with pytest.raises(SystemExit) as end:
        adapter_command.main(["inspect", word])
    assert end.value.code == 2 and "without NUL" in capsys.readouterr().err


# ------------------------------------------------------------------ any content at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = {
    ".yaml": [
        "run",
        "policy",
        "data",
        "preset",
        "judge",
        "name",
        "train",
        "base",
        "steps",
        "rollout",
    ],
    ".judges": ["mine", "kind", "url", "model", "members", "extra", "votes", "port"],
    ".json": ["name", "task", "criteria", "themes", "theme", "tips", "provenance"],
    ".jsonl": ["query", "prompt", "response", "images", "source_image", "label_rank"],
    ".safetensors": [
        "r",
        "lora_alpha",
        "rank_pattern",
        "dtype",
        "shape",
        "data_offsets",
        "__metadata__",
    ],
}


@st.composite
def documents(draw, suffix: str) -> bytes:
    """Bytes that may be a file of this kind: its fields with any values, or what is torn from it."""
    names = st.sampled_from(FIELDS.get(suffix, ["a"]))
    values = json_values | st.dictionaries(
        names, json_values | st.dictionaries(names, json_values), max_size=5
    )
    content = json.dumps(draw(st.dictionaries(names, values, max_size=5))).encode()
    if suffix == ".safetensors":
        content = (
            struct.pack("<Q", len(content) + draw(st.sampled_from([0, 0, 1, 2**40]))) + content
        )
    cut = draw(st.integers(0, len(content)) | st.just(len(content)))
    return content[:cut] + draw(st.just(b"") | st.binary(max_size=9))


@pytest.mark.parametrize("suffix", READERS)
def test_any_content_is_read_or_refused_in_one_line(suffix, tmp_path):
    @few
    @given(documents(suffix))
    def check(content):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        for read in (
            READERS[suffix][0],
            *((lambda p: load_examples(p, "t2i"), load_exemplars) if suffix == ".jsonl" else ()),
        ):
            try:
                read(path)
            except ArrError as error:
                said = str(error)
                assert "\n" not in said and ("expected" in said or "unknown field" in said)

    check()


# ------------------------------------------------------------------ verdict stores


def damaged(path: Path, change: str, content: bytes = b"") -> VerdictStore:
    """A store with a verdict, an opinion and a rubric, after ``change``."""
    store = VerdictStore(path)
    opinion = Opinion(0, "why", (Finding("1", "seen"),), 0.5)
    store.put({"key": opinion})
    store.put_verdicts([Entry("p", b"a", b"b", None, "r", "j", "a", "why", (opinion, opinion))])
    store.put_rubric("r", "name", "1. text")
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change, {"content": content} if ":" in change else {})
    return VerdictStore(path)


def read_all(store: VerdictStore) -> None:
    with contextlib.closing(store):
        list(store.entries()), store.get(["key"]), store.rubrics(), store.thumbnails([b"a"])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE verdicts SET opinions = 'text'",
        "UPDATE verdicts SET prompt = x'ff00'",
        "UPDATE verdicts SET image_a = 5",
        "UPDATE verdicts SET preferred = 'both'",
        "UPDATE verdicts SET time = x'00'",
        "UPDATE opinions SET content = 5",
        "UPDATE rubrics SET text = x'ff'",
        "ALTER TABLE verdicts ADD COLUMN extra TEXT",
        "ALTER TABLE verdicts DROP COLUMN time",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER t BEFORE INSERT ON verdicts BEGIN SELECT 1; END",
    ],
)
def test_a_store_whose_rows_are_damaged_is_refused(change, tmp_path):
    with pytest.raises(JudgeError, match="move the file away"):
        read_all(damaged(tmp_path / "a.sqlite", change))


def test_what_is_packed_in_a_store_is_opinions_or_refused(tmp_path):
    bomb = zlib.compress(b" " * 2**27, 1)
    with pytest.raises(JudgeError, match="a damaged reply or opinion"):
        read_all(damaged(tmp_path / "bomb.sqlite", "UPDATE opinions SET content = :content", bomb))
    sound = json.dumps(asdict(Opinion(0, findings=(Finding("1", "seen"),))))

    @few
    @given(
        st.sampled_from(sorted(asdict(Opinion(0)))).flatmap(
            lambda name: json_values.map(lambda value: {**json.loads(sound), name: value})
        )
        | json_values
    )
    def check(content):
        try:
            opinion = Opinion.load(content)
        except (ValueError, TypeError, LookupError, AttributeError):
            return
        assert (
            isinstance(opinion.reason, str)
            and opinion.cost + opinion.latency_s + opinion.calls is not None
        )

    check()


# ------------------------------------------------------------------ what lies elsewhere


@pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
@pytest.mark.parametrize("way", ["../outside.png", "link.png", "absolute"])
def test_a_picture_outside_the_data_files_folder_needs_leave(way, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in ("outside.png", "data/inside.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    (tmp_path / "data/link.png").symlink_to("../outside.png")
    way = str(tmp_path / "outside.png") if way == "absolute" else way
    record = {"query": "q", "response": [way, "inside.png"], "label_rank": [1, 2]}
    (tmp_path / "data/pairs.jsonl").write_text(json.dumps(record))
    with pytest.raises(
        DataError, match="response: expected an image in the folder of the data file"
    ):
        load_pairs(tmp_path / "data/pairs.jsonl")
    monkeypatch.setenv("ARR_IMAGES", f"/nowhere{os.pathsep}{tmp_path}")
    assert len(load_pairs(tmp_path / "data/pairs.jsonl")) == 1


@pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
def test_a_link_that_leads_out_of_a_run_is_refused(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/samples").symlink_to("checkpoints")
    check_links(tmp_path / "run", ConfigError)
    (tmp_path / "run/adapter").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="adapter: expected a file or folder of its own"):
        check_links(tmp_path / "run", ConfigError)


@pytest.mark.parametrize("pattern", ["((a|b)+)+$", "(.*.*)*x", "a*b*c*d*e", "a" * 1001])
def test_a_pattern_that_may_never_end_is_refused(pattern):
    record = read_record({"r": 4, "lora_alpha": 4, "rank_pattern": {pattern: 8}})
    with pytest.raises(AdapterError, match="expected short patterns"):
        record.rank_of("transformer_blocks.0.attn.to_q")


def test_a_pattern_with_a_number_too_large_is_refused():
    record = read_record({"r": 4, "lora_alpha": 4, "rank_pattern": {"a{99999999999}": 8}})
    with pytest.raises(AdapterError, match="expected repeats of a usual number"):
        record.rank_of("transformer_blocks.0.attn.to_q")
