"""Hostile inputs against the commands: ``python benchmarks/hostile_inputs.py`` prints the table of ``docs/results.md``.

Each input goes to the real ``main`` of a command, in a forked process with a folder of its own. It is *refused* where
the status is 2 and standard error holds one line. Everything else that may happen is counted by itself: *accepted* (status
0, or 1 of a rubric that is not kept), a *traceback* (any other end, also of memory), a *hang* (no end within 10 seconds), a
*write outside* of the folder, as Python's audit events tell it, and a *key shown* on the terminal or in a new file.
``--show`` prints what each input got.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.dont_write_bytecode = True

LIMIT_S = 10.0
MEMORY = 8 * 2**30  # of address space, most of it torch's own
KEY = "sk-live-0123456789abcdefKEY"
COLUMNS = ("refused", "accepted", "traceback", "hang", "write outside", "key shown")
RUN = ["train", "miniature", "--run.updates", "1", "--run.output_dir", "runs"]
RUN += ["--rollout.prompts_per_update", "1", "--run.threads", "1"]
RUBRIC_PAIRS = "rubric pairs pairs.jsonl --task t2i --judge m --output r.json".split()


@dataclass(frozen=True)
class Case:
    """One input: the command's words, and what makes its files in the current folder."""

    what: str
    words: list[str]
    prepare: Callable[[], object] = lambda: None
    env: dict[str, str] = field(default_factory=dict)


# ------------------------------------------------------------------ files that nobody should open


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(200 * 2**30)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


NOISE = random.Random(0).randbytes(4096)
FILES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": Path.mkdir,
    "an empty file": _bytes(b""),
    "a named pipe": os.mkfifo,
    "a link to a pipe": _link("pipe"),
    "an endless device": _link("/dev/zero"),
    "a socket": _socket,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": _link("gone"),
    "200 GiB of zeros": _sparse,
    "random bytes": _bytes(NOISE),
    "NUL bytes": _bytes(b"\0" * 5000),
    "UTF-16": _bytes("prompt: x\n".encode("utf-16")),
    "100,000 brackets": _bytes(b"[" * 100_000),
    "100,000 braces": _bytes(b'{"a":' * 100_000),
    "a number of 5,000 digits": _bytes(b"9" * 5000),
    "an object with a number of 5,000 digits": _bytes(
        b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}"
    ),
    "a list of NaN": _bytes(b"[NaN, Infinity, -Infinity, 1e999]"),
    "a lone surrogate": _bytes(b'{"prompt": "\\ud800", "query": "\\udfff", "name": "\\ud800"}'),
    "one long line": _bytes(b"x" * 3_000_000),
}
NAMES = {
    "a name with NUL": "a\0b",
    "a name of 300 letters": "n" * 300,
    "a lone surrogate": "a\udcff\ud800b",
}
# The words that lead each reader to a file, and the file's suffix.
READERS: list[tuple[str, list[str], str]] = [
    ("a configuration", ["train", "FILE", "--data.train", "p.txt"], ".yaml"),
    ("prompts", [*RUN, "--data.train", "FILE"], ".jsonl"),
    ("a rubric", [*RUN, "--judge.rubric", "FILE"], ".json"),
    ("profiles", [*RUN, "--judge.profile", "mine"], "ARR_JUDGES"),
    ("a run's configuration", ["train", "--resume", "run"], "run/config.yaml"),
    ("prompts", ["generate", "miniature", "--steps", "1", "--prompts", "FILE"], ".json"),
    ("an adapter", ["generate", "miniature", "--prompt", "x", "--adapter", "FILE"], ".safetensors"),
    ("a run's configuration", ["generate", "run", "--prompt", "x"], "run/config.yaml"),
    ("a pipeline", ["generate", "base", "--prompt", "x"], "base/model_index.json"),
    ("a source image", ["generate", "miniature-edit", "--prompt", "x", "--source", "FILE"], ".png"),
    (
        "an adapter",
        ["evaluate", "miniature", "--prompts", "p.txt", "--adapter", "FILE"],
        ".safetensors",
    ),
    ("pairs", ["judge", "evaluate", "FILE", "--judge", "miniature"], ".jsonl"),
    (
        "a store",
        ["judge", "evaluate", "pairs.jsonl", "--judge", "miniature", "--store", "FILE"],
        ".sqlite",
    ),
    ("a store", ["judge", "show", "FILE"], ".sqlite"),
    ("a run's store", ["judge", "show", "run"], "run/verdicts.sqlite"),
    ("pairs", ["judge", "label", "FILE"], ".json"),
    ("labels", ["judge", "label", "pairs.jsonl", "--output", "FILE"], ".jsonl"),
    ("a prompt file", ["judge", "label", "images"], "images/a/prompt.txt"),
    (
        "pairs",
        ["rubric", "pairs", "FILE", "--task", "t2i", "--judge", "m", "--output", "r.json"],
        ".jsonl",
    ),
    ("a description", ["rubric", "describe", "FILE", "--task", "t2i", "--judge", "m"], ".txt"),
    ("a rubric", ["rubric", "show", "FILE", "--task", "t2i"], ".txt"),
    ("a rubric", ["rubric", "show", "FILE"], ".json"),
    ("an adapter", ["adapter", "inspect", "FILE"], ".safetensors"),
    ("an adapter's configuration", ["adapter", "inspect", "lora"], "lora/adapter_config.json"),
    ("an adapter", ["adapter", "convert", "FILE"], ".safetensors"),
]


def of_files() -> Iterator[Case]:
    """Every reader with every file that nobody should open."""
    for reader, words, place in READERS:
        for kind, make in FILES.items():
            env, name = {}, f"input{place}" if place.startswith(".") else place
            if place == "ARR_JUDGES":
                env, name = {"ARR_JUDGES": "judges.yaml"}, "judges.yaml"

            def prepare(make=make, name=name):
                path = Path(name)
                path.parent.mkdir(exist_ok=True, parents=True)
                if name.startswith("lora"):
                    write_adapter(Path("lora/adapter_model.safetensors"))
                if name.startswith("images"):
                    for at in range(2):
                        picture(path.with_name(f"{at}.png"), at)
                make(path)

            yield Case(
                f"{reader}: {kind}", [name if w == "FILE" else w for w in words], prepare, env
            )
        if "FILE" in words:
            for kind, name in NAMES.items():
                yield Case(f"{reader}: {kind}", [name if w == "FILE" else w for w in words])


# ------------------------------------------------------------------ what a file may say


def write(name: str, content: object) -> Callable[[], object]:
    """What writes text, or JSON, to a file of the folder."""
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda: Path(name).write_text(text, encoding="utf-8")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "aliases that explode": BOMB,
    "a list that holds itself": "run: &a [*a]\n",
    "a mapping that holds itself": "run: &a {name: *a}\n",
    "a merge with itself": "run: &a\n  <<: *a\n",
    "a merge that is no mapping": "run:\n  <<: 5\n",
    "a merge of merges": "a: &a {x: 1}\n"
    + "".join(f"k{i}: &k{i} {{<<: [*a, *a, *a]}}\n" for i in range(2000)),
    "a Python object": "run: !!python/object/apply:os.system ['touch /tmp/pwned']\n",
    "a mapping as a key": "? {a: b}\n: c\n",
    "a list as a key": "run:\n  ? [a, b]\n  : c\n",
    "a key of 5,000 digits": f"{'9' * 5000}: 1\n",
    "a date that is none": "run: 2026-99-99\n",
    "base 60 of 5,000 digits": f"run: {{seed: {'1:' * 4000}1}}\n",
    "an integer of 20,000 hex digits": f"run: {{seed: 0x{'f' * 20_000}}}\n",
    "nesting of 5,000 in blocks": "".join(" " * i + "a:\n" for i in range(3000)),
    "two documents": "run: {name: a}\n---\nrun: {name: b}\n",
    "a binary value": "run: {name: !!binary '////'}\n",
    "a bad tag": "run: !!int 'x'\n",
    "a set": "run: !!set {a, b}\n",
    "a NaN": "run: {updates: .nan, seed: .inf}\n",
    "a number as a section": "1: 2\nnull: 3\n",
    "null": "run: null\npolicy: ~\n",
    "a name that climbs": "preset: miniature\nrun: {name: ../../escaped, updates: 1}\n",
    "a name with NUL": 'preset: miniature\nrun: {name: "a\\0b", updates: 1}\n',
    "a folder with NUL": 'preset: miniature\nrun: {output_dir: "a\\0b", updates: 1}\n',
    "prompts with NUL": 'preset: miniature\ndata: {train: "a\\0b"}\nrun: {updates: 1}\n',
    "a rubric with NUL": 'preset: miniature\njudge: {rubric: "a\\0b"}\nrun: {updates: 1}\n',
    "a base with NUL": 'preset: miniature\npolicy: {base: "a\\0b"}\nrun: {updates: 1}\n',
    "a home that nobody has": "preset: miniature\nrun: {output_dir: '~nobody-here/x', updates: 1}\n",
    "a preset that is a list": "preset: [a, b]\n",
    "a preset that is a mapping": "preset: {a: b}\n",
    "steps without end": "preset: miniature\nrollout: {steps: 1e400}\n",
    "a key": f"judge: {{api_key: {KEY}}}\n",
}
URLS = {
    "a file": "file:///etc/passwd",
    "ftp": "ftp://example.com/v1",
    "no scheme": "example.com/v1",
    "a port too large": "http://127.0.0.1:99999/v1",
    "a port in words": "http://127.0.0.1:port/v1",
    "port 0": "http://127.0.0.1:0/v1",
    "a negative port": "http://127.0.0.1:-1/v1",
    "no host": "http:///v1",
    "a name and a key": f"https://me:{KEY}@127.0.0.1:9/v1",
    "a key in the question": f"http://127.0.0.1:9/v1?key={KEY}",
    "a space": "http://127.0.0.1 :9/v1",
    "a line break": '"http://127.0.0.1:9/v1\\r\\nX: y"',
    "NUL": '"http://127.0.0.1:9/\\0v1"',
    "an open bracket": "'http://[::1/v1'",
    "a gopher": "gopher://127.0.0.1/",
    "javascript": "javascript:alert(1)",
    "nothing but a scheme": "'http://'",
    "a host of dots": "http://.../v1",
    "a host of 300 letters": f"http://{'h' * 300}/v1",
    "letters of another script": "http://bücher\u2044example/v1",
    "a number": "17",
    "a list": "[a, b]",
}
PROFILES = {
    **{f"URL: {what}": f"mine: {{url: {url}, model: m}}\n" for what, url in URLS.items()},
    "a key as a field": f"mine: {{url: 'http://127.0.0.1:9/v1', model: m, api_key: {KEY}}}\n",
    "a key as the variable": f"mine: {{url: 'http://127.0.0.1:9/v1', model: m, key_variable: {KEY}}}\n",
    "a key as the URL": f"mine: {{url: {KEY}, model: m}}\n",
    "a key for the profiles": f"{KEY}\n",
    "a key in broken YAML": f"mine: {{key: {KEY}: {KEY}\n",
    "a variable with NUL": 'mine: {url: "http://127.0.0.1:9/v1", model: m, key_variable: "a\\0b"}\n',
    "a variable with =": "mine: {url: 'http://127.0.0.1:9/v1', model: m, key_variable: 'a=b'}\n",
    "a panel of itself": "mine: {kind: panel, members: [mine, mine2]}\nmine2: {kind: panel, members: [mine, x]}\n",
    "a panel of nobody": "mine: {kind: panel, members: [gone, nobody]}\n",
    "a model with NUL": 'mine: {kind: local, model: "a\\0b"}\n',
    "a model that is a device": "mine: {kind: local, model: /dev/zero}\n",
    "tokens of 5,000 digits": f"mine: {{url: 'http://127.0.0.1:9/v1', model: m, max_tokens: {'9' * 5000}}}\n",
    "extra that holds itself": "mine: {url: 'http://127.0.0.1:9/v1', model: m, extra: &a {a: *a}}\n",
    "a port of the page": "mine: {kind: human, port: 70000}\n",
}
RECORDS = {
    "a link out by its path": {"query": "a", "response": ["../../../../etc/passwd", "1.png"]},
    "an absolute image": {"query": "a", "response": ["/dev/zero", "1.png"]},
    "a pipe as an image": {"query": "a", "response": ["pipe", "1.png"]},
    "a terminal as an image": {"query": "a", "response": ["/dev/tty", "1.png"]},
    "an image with NUL": {"query": "a", "response": ["a\0b", "1.png"]},
    "an image of 5,000 letters": {"query": "a", "response": ["n" * 5000, "1.png"]},
    "an image with a surrogate": {"query": "a", "response": ["a\ud800", "1.png"]},
    "an image at a URL": {"query": "a", "response": ["http://127.0.0.1:9/a.png", "1.png"]},
    "a home as an image": {"query": "a", "response": ["~/a.png", "1.png"]},
    "a folder as an image": {"query": "a", "response": [".", "1.png"]},
    "images that are numbers": {"query": "a", "response": [1, 2]},
    "one image twice": {"query": "a", "response": ["0.png", "0.png"]},
    "ranks that are words": {
        "query": "a",
        "response": ["0.png", "1.png"],
        "label_rank": ["1", "2"],
    },
    "ranks that are true": {"query": "a", "response": ["0.png", "1.png"], "label_rank": {"a": 1}},
    "a query that is a list": {"query": ["a"], "response": ["0.png", "1.png"]},
    "a pixel bomb": {"query": "a", "response": ["bomb.png", "1.png"]},
    "a bomb of BMP": {"query": "a", "response": ["bomb.bmp", "1.png"]},
    "a bomb of text": {"query": "a", "response": ["text.png", "1.png"]},
    "a picture outside": {"query": "a", "response": ["../neighbour.png", "1.png"]},
    "a link to a picture outside": {"query": "a", "response": ["link.png", "1.png"]},
    "an SVG": {"query": "a", "response": ["image.svg", "1.png"]},
    "a torn PNG": {"query": "a", "response": ["torn.png", "1.png"]},
    "a picture of no pixels": {"query": "a", "response": ["none.png", "1.png"]},
    "deep tags": {"query": "a", "response": ["0.png", "1.png"], "label_rank": [1, 2], "t": None},
}


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it has so many pixels; it holds none but those of ``chunks``."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in (head, *chunks, (b"IEND", b"")))


def picture(path: Path, shade: int = 0) -> None:
    from PIL import Image

    Image.new("RGB", (32, 32), (shade, 90, 120)).save(path)


def pictures() -> None:
    """The pictures that the records name."""
    picture(Path("0.png"), 0)
    picture(Path("1.png"), 200)
    picture(Path("../neighbour.png"), 50)
    Path("link.png").symlink_to("../neighbour.png")
    black = zlib.compress(b"\0" * (3 * 12_000 + 1) * 12_000, 9)
    Path("bomb.png").write_bytes(png(12_000, 12_000, (b"IDAT", black)))
    Path("bomb.bmp").write_bytes(
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    Path("text.png").write_bytes(
        png(32, 32, (b"zTXt", b"a\0\0" + zlib.compress(b"x" * 200_000_000, 9)), (b"IDAT", b""))
    )
    Path("image.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    Path("torn.png").write_bytes(Path("0.png").read_bytes()[:60])
    Path("none.png").write_bytes(png(0, 0, (b"IDAT", b"")))


def good_pairs() -> None:
    if not os.path.lexists("pipe"):
        os.mkfifo("pipe")
    for at in range(2):
        picture(Path(f"{at}.png"), 200 * at)
    record = {"query": "a red circle", "response": ["0.png", "1.png"], "label_rank": [1, 2]}
    Path("pairs.jsonl").write_text(json.dumps(record) + "\n")
    Path("p.txt").write_text("a red circle\n")


def of_contents() -> Iterator[Case]:
    """YAML, profiles, rubrics, records and pictures whose content is hostile."""
    train = ["train", "c.yaml", "--run.output_dir", "runs", "--run.updates", "1"]
    for what, text in YAML.items():
        words = train[:2] if "output_dir" in text else train
        yield Case(f"a configuration: {what}", words, write("c.yaml", text))
        if "preset" not in text:
            env = {"ARR_JUDGES": "judges.yaml"}
            words = ["judge", "evaluate", "pairs.jsonl", "--judge", "mine"]
            yield Case(f"profiles: {what}", words, write("judges.yaml", text), env)
    for what, text in PROFILES.items():
        words = ["judge", "evaluate", "pairs.jsonl", "--judge", "mine", "--timeout", "1"]
        yield Case(
            f"profiles: {what}", words, write("judges.yaml", text), {"ARR_JUDGES": "judges.yaml"}
        )
    for what, record in RECORDS.items():
        record = {"label_rank": [1, 2], **record}
        text = json.dumps(record).replace("null", "[" * 5000 + "]" * 5000)

        def prepare(text=text):
            pictures()
            Path("pairs.jsonl").write_text(text + "\n")

        yield Case(
            f"pairs: {what}", ["judge", "evaluate", "pairs.jsonl", "--judge", "miniature"], prepare
        )
        if "label_rank" not in RECORDS[what]:
            yield Case(f"pairs: {what}", RUBRIC_PAIRS, prepare)
    for what, content in RUBRICS.items():
        yield Case(f"a rubric: {what}", ["rubric", "show", "r.json"], write("r.json", content))


RUBRICS = {
    "no form": {"name": "a", "task": "t2i"},
    "both forms": {"name": "a", "task": "t2i", "criteria": ["a"], "themes": [{"theme": "b"}]},
    "another task": {"name": "a", "task": "video", "criteria": ["a"]},
    "criteria that are numbers": {"name": "a", "task": "t2i", "criteria": [1, 2]},
    "a criterion that is empty": {"name": "a", "task": "t2i", "criteria": ["  "]},
    "a name that is a list": {"name": [], "task": "t2i", "criteria": ["a"]},
    "an unknown field": {"name": "a", "task": "t2i", "criteria": ["a"], KEY[:6]: 1},
    "a surrogate": '{"name": "a", "task": "t2i", "criteria": ["\\ud800"]}',
    "a provenance that is deep": '{"name": "a", "task": "t2i", "criteria": ["a"], "provenance": {"a": '
    + "[" * 900
    + "]" * 900
    + "}}",
    "a provenance with escapes": {"name": "\x1b[2J", "task": "t2i", "criteria": ["\x1b]0;x\x07"]},
    "a provenance of a number": '{"name": "a", "task": "t2i", "criteria": ["a"], "provenance": {"a": 1e999}}',
    "a provenance that is a list": {
        "name": "a",
        "task": "t2i",
        "criteria": ["a"],
        "provenance": [1],
    },
}


# ------------------------------------------------------------------ adapters


def tensors(head: object, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    """The bytes of a safetensors file with this header."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def write_adapter(path: Path, name: str = "base_model.model.{}", **parts: object) -> None:
    import torch
    from safetensors.torch import save_file

    path.parent.mkdir(exist_ok=True, parents=True)
    module = name.format("transformer_blocks.0.attn.to_q")
    save_file(
        {
            f"{module}.lora_A.weight": torch.ones(4, 32),
            f"{module}.lora_B.weight": torch.ones(32, 4),
        },
        path,
    )


A = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
HEADERS = {
    "a header without end": tensors(b"", length=2**63 - 1),
    "a header of 2 ** 64 - 1": tensors(b"", length=2**64 - 1),
    "a header that is longer than the file": tensors(b"{}", length=500),
    "a header that is a list": tensors([]),
    "a header that is NaN": tensors(b"NaN"),
    "a header of brackets": tensors(b'{"a":' * 50_000),
    "a header that is not UTF-8": tensors(b"\xff\xfe{}"),
    "offsets below zero": tensors({A: {"dtype": "F32", "shape": [4, 4], "data_offsets": [-64, 0]}}),
    "offsets that cross": tensors({A: {"dtype": "F32", "shape": [4, 4], "data_offsets": [64, 0]}}),
    "offsets outside": tensors({A: {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 2**40]}}),
    "a shape that overflows": tensors(
        {A: {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 64]}}
    ),
    "a shape of 5,000 digits": tensors(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,64]}}'
    ),
    "a shape of zeros": tensors(
        {A: {"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]}}, b""
    ),
    "a shape of 10,000 ones": tensors(
        {A: {"dtype": "F32", "shape": [1] * 10_000, "data_offsets": [0, 4]}}, b"\0" * 4
    ),
    "another dtype": tensors({A: {"dtype": "F128", "shape": [4, 4], "data_offsets": [0, 64]}}),
    "numbers that are whole": tensors(
        {A: {"dtype": "I32", "shape": [4, 4], "data_offsets": [0, 64]}}
    ),
    "numbers of 4 bits": tensors({A: {"dtype": "F4", "shape": [16, 8], "data_offsets": [0, 64]}}),
    "numbers of 8 bits": tensors(
        {A: {"dtype": "F8_E4M3", "shape": [8, 8], "data_offsets": [0, 64]}}
    ),
    "one name twice": tensors(b'{"a":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]},"a":1}'),
    "a name of 100,000 letters": tensors(
        {"lora." * 20_000: {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}
    ),
    "a name that climbs": tensors(
        {"../" + A: {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}
    ),
    "a name with a surrogate": tensors(
        b'{"\\ud800":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]}}'
    ),
    "a name with escapes": tensors(
        {"\x1b[2J\n\r": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}
    ),
    "metadata that is deep": tensors(
        {"__metadata__": {"lora_adapter_metadata": "[" * 100_000}}, b""
    ),
    "metadata that is a number": tensors({"__metadata__": {"arr_scale": 1}}, b""),
    "metadata that is a list": tensors({"__metadata__": []}, b""),
    "numbers of NaN": tensors(
        {A: {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}, b"\xff" * 64
    ),
    "no tensor": tensors({}, b""),
}
CONFIGS = {
    "a rank of 5,000 digits": '{"r": ' + "9" * 5000 + ', "lora_alpha": 4}',
    "a rank of 300 digits": '{"r": ' + "9" * 300 + ', "lora_alpha": 4}',
    "an alpha of 400 digits": '{"r": 4, "lora_alpha": ' + "9" * 400 + "}",
    "an alpha without end": '{"r": 4, "lora_alpha": 1e999}',
    "an alpha near the end": '{"r": 4, "lora_alpha": 1e308}',
    "an alpha of NaN": '{"r": 4, "lora_alpha": NaN}',
    "a rank below zero": '{"r": -4, "lora_alpha": 4}',
    "a pattern that explodes": '{"r": 4, "lora_alpha": 4, "rank_pattern": {"(.*.*)*(.*.*)*(.*.*)*(.*.*)*x": 4}}',
    "a pattern that never ends": '{"r": 4, "lora_alpha": 4, "rank_pattern": {"((a|[a-z_.0-9])+)+$y": 4}}',
    "a pattern that is none": '{"r": 4, "lora_alpha": 4, "rank_pattern": {"(": 4}}',
    "a pattern that is too large": '{"r": 4, "lora_alpha": 4, "rank_pattern": {"a{99999999999}": 4}}',
    "a pattern that is deep": '{"r": 4, "lora_alpha": 4, "rank_pattern": {"'
    + "(" * 5000
    + ")" * 5000
    + '": 4}}',
    "a pattern with a surrogate": '{"r": 4, "lora_alpha": 4, "rank_pattern": {"\\ud800": 4}}',
    "a base that is a path": '{"r": 4, "lora_alpha": 4, "base_model_name_or_path": "/etc/pass\\u0000wd"}',
    "a base of 100,000 letters": '{"r": 4, "lora_alpha": 4, "base_model_name_or_path": "'
    + "b" * 100_000
    + '"}',
    "a start that is hostile": '{"r": 4, "lora_alpha": 4, "init_lora_weights": "pissa\\u001b[2J"}',
    "code": '{"r": 4, "lora_alpha": 4, "auto_mapping": {"base_model_class": "os.system"}}',
}


def of_adapters() -> Iterator[Case]:
    """Hostile headers and configurations, and conversions onto what must stay."""
    for what, content in HEADERS.items():
        for action in ("inspect", "convert"):
            words = ["adapter", action, "a.safetensors", "--alpha", "4"]
            yield Case(
                f"an adapter: {what}",
                words,
                lambda content=content: Path("a.safetensors").write_bytes(content),
            )
    for what, text in CONFIGS.items():

        def prepare(text=text):
            write_adapter(Path("lora/adapter_model.safetensors"))
            Path("lora/adapter_config.json").write_text(text)

        yield Case(f"an adapter's configuration: {what}", ["adapter", "inspect", "lora"], prepare)

    def folder():
        write_adapter(Path("lora/adapter_model.safetensors"))
        Path("lora/adapter_config.json").write_text('{"r": 4, "lora_alpha": 4}')
        Path("hard.safetensors").hardlink_to("lora/adapter_model.safetensors")
        Path("soft.safetensors").symlink_to("lora/adapter_model.safetensors")
        Path("out.safetensors").symlink_to("../outside.safetensors")
        os.mkfifo("pipe.safetensors")

    own = {
        "its own weights": "lora/adapter_model.safetensors",
        "a way around to its own weights": "lora/../lora/adapter_model.safetensors",
        "a link to its own weights": "soft.safetensors",
        "a second name of its own weights": "hard.safetensors",
        "a link that leads out": "out.safetensors",
        "a pipe": "pipe.safetensors",
        "a folder that is none": "lora/adapter_config.json/x.safetensors",
        "NUL": "a\0b.safetensors",
        "a pickle": "x.bin",
        "a name of 300 letters": "n" * 300 + ".safetensors",
    }
    for what, output in own.items():
        yield Case(
            f"convert onto {what}", ["adapter", "convert", "lora", "--output", output], folder
        )
    for number in ("nan", "inf", "1e999", "0", "9" * 5000, "x", "-0", "１", ""):
        yield Case(
            f"an alpha of {number[:9]}", ["adapter", "inspect", "lora", f"--alpha={number}"], folder
        )
    for base in ("a\0b", "/dev/zero", "\ud800", "x" * 5000, "\x1b[2J", "../.."):
        yield Case(f"a base {base[:9]!a}", ["adapter", "inspect", "lora", f"--base={base}"], folder)


# ------------------------------------------------------------------ stores, folders, options


def store(*changes: str, **blobs: bytes) -> Callable[[], object]:
    """What makes a sound store with one verdict and then changes it."""

    def make():
        from arr_core.judging.store import Entry, Opinion, VerdictStore

        good_pairs()
        Path("run").mkdir(exist_ok=True)
        kept = VerdictStore("run/verdicts.sqlite")
        kept.put_verdicts(
            [Entry("p", b"a", b"b", None, "r", "j", "a", "why", (Opinion(0, "why"),) * 2)]
        )
        kept.put_rubric("r", "name", "1. text")
        kept.put_thumbnails({b"a": b"RIFF", b"b": png(32, 32)})
        kept.close()
        with contextlib.closing(sqlite3.connect("run/verdicts.sqlite")) as connection:
            for change in changes:
                connection.execute(change, blobs if ":" in change else {})
            connection.commit()

    return make


STORES = {
    "opinions that are no zlib": store("UPDATE verdicts SET opinions = x'00ff'"),
    "opinions that are text": store("UPDATE verdicts SET opinions = 'text'"),
    "opinions that are a number": store("UPDATE verdicts SET opinions = 5"),
    "opinions that explode": store(
        "UPDATE verdicts SET opinions = :b", b=zlib.compress(b" " * 2_000_000_000, 1)
    ),
    "opinions that are no JSON": store("UPDATE verdicts SET opinions = :b", b=zlib.compress(b"{")),
    "opinions that are no UTF-8": store(
        "UPDATE verdicts SET opinions = :b", b=zlib.compress(b"\xff")
    ),
    "opinions that are deep": store(
        "UPDATE verdicts SET opinions = :b", b=zlib.compress(b"[" * 100_000)
    ),
    "opinions that are numbers": store(
        "UPDATE verdicts SET opinions = :b", b=zlib.compress(b"[1, 2]")
    ),
    "opinions with other fields": store(
        "UPDATE verdicts SET opinions = :b", b=zlib.compress(b'[{"x": 1}]')
    ),
    "opinions of a list": store(
        "UPDATE verdicts SET opinions = :b", b=zlib.compress(b'[{"preferred": []}]')
    ),
    "findings of numbers": store(
        "UPDATE verdicts SET opinions = :b",
        b=zlib.compress(b'[{"preferred": "a", "confidence": "x", "findings": [1]}]'),
    ),
    "numbers of 5,000 digits": store(
        "UPDATE verdicts SET opinions = :b",
        b=zlib.compress(b'[{"latency_s": ' + b"9" * 5000 + b"}]"),
    ),
    "a prompt that is bytes": store("UPDATE verdicts SET prompt = x'ff00'"),
    "a prompt that is no UTF-8": store("UPDATE verdicts SET prompt = CAST(x'ff' AS TEXT)"),
    "images that are numbers": store("UPDATE verdicts SET image_a = 5, image_b = 1.5"),
    "a preference that is another": store("UPDATE verdicts SET preferred = 'both'"),
    "a preference that is bytes": store("UPDATE verdicts SET preferred = x'ff'"),
    "a time that is a number": store("UPDATE verdicts SET time = 5"),
    "a thumbnail that is text": store("UPDATE thumbnails SET webp = 'text'"),
    "a thumbnail that is a script": store(
        "UPDATE thumbnails SET webp = :b", b=b"<script>alert(1)</script>"
    ),
    "a prompt that is a script": store("UPDATE verdicts SET prompt = '</script><script>alert(1)'"),
    "a rubric that is bytes": store("UPDATE rubrics SET text = x'ff', name = x'00'"),
    "no table of verdicts": store("DROP TABLE verdicts"),
    "no table of rubrics": store("DROP TABLE rubrics"),
    "another column": store("ALTER TABLE verdicts ADD COLUMN extra TEXT"),
    "a column less": store("ALTER TABLE verdicts DROP COLUMN time"),
    "another version": store("PRAGMA user_version = 99"),
    "a version below zero": store("PRAGMA user_version = -1"),
    "a view without end": store(
        "DROP TABLE verdicts",
        "CREATE VIEW verdicts AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x, x, x, "
        "x, x, x, x, x, x, x, x FROM n",
    ),
    "a trigger": store(
        "CREATE TRIGGER t BEFORE INSERT ON verdicts BEGIN SELECT RAISE(ABORT, 'no'); END"
    ),
}


def of_stores() -> Iterator[Case]:
    for what, prepare in STORES.items():
        yield Case(f"a store: {what}", ["judge", "show", "run"], prepare)
    for what in list(STORES)[:14:2] + list(STORES)[22:]:
        words = [
            "judge",
            "evaluate",
            "pairs.jsonl",
            "--judge",
            "miniature",
            "--store",
            "run/verdicts.sqlite",
        ]
        yield Case(f"a store: {what}", words, STORES[what])
    cut = "run/verdicts.sqlite"

    def damaged(change: Callable[[bytes], bytes]) -> Callable[[], object]:
        def make():
            store()()
            Path(cut).write_bytes(change(Path(cut).read_bytes()))

        return make

    halves = {
        "its first half": lambda content: content[: len(content) // 2],
        "its header alone": lambda content: content[:100],
        "pages of noise": lambda content: content[:4096] + NOISE * 4,
        "a header of noise": lambda content: content[:16] + NOISE[:84] + content[100:],
    }
    for what, change in halves.items():
        yield Case(f"a store: {what}", ["judge", "show", "run"], damaged(change))


NUMBERS = {
    "5,000 digits": "9" * 5000,
    "400 digits": "9" * 400,
    "NaN": "nan",
    "infinity": "inf",
    "below zero": "-1",
    "letters": "x",
    "an underscore": "1_0_",
    "nothing": "",
    "1e400": "1e400",
    "NUL": "1\0",
}
OPTIONS: list[list[str]] = [
    [*RUN, "--run.seed"],
    [*RUN, "--run.save_every"],
    [*RUN, "--rollout.steps"],
    [*RUN, "--optimizer.learning_rate"],
    [*RUN, "--policy.width"],
    ["generate", "miniature", "--prompt", "x", "--seed"],
    ["generate", "miniature", "--prompt", "x", "--steps"],
    ["generate", "miniature", "--prompt", "x", "--width"],
    ["generate", "miniature", "--prompt", "x", "--strength"],
    ["evaluate", "miniature", "--prompts", "p.txt", "--adapter", "a.safetensors", "--limit"],
    ["judge", "evaluate", "pairs.jsonl", "--judge", "mine", "--timeout"],
    ["judge", "evaluate", "pairs.jsonl", "--judge", "mine", "--concurrency"],
    ["judge", "show", "run", "--last"],
    ["judge", "label", "pairs.jsonl", "--port"],
    [*RUBRIC_PAIRS, "--held-out"],
]


def of_options() -> Iterator[Case]:
    """Numbers that are none, outputs that lead out, and folders that are links."""
    for words in OPTIONS:
        for what, number in NUMBERS.items():
            if (words[-1], what) not in ACCEPTED:
                yield Case(f"{words[-1]}: {what}", [*words[:-1], f"{words[-1]}={number}"], store())

    def links(name: str) -> Callable[[], object]:
        def make():
            good_pairs()
            Path("../outside").mkdir()
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).symlink_to(Path("../outside").resolve())

        return make

    for name in ("samples", "checkpoints", "adapter", "adapter-best", ".encodings"):
        yield Case(f"a link as {name} of a run", RUN, links(f"runs/run/{name}"))
    for name in (
        "report.html",
        "config.yaml",
        "events.jsonl",
        "rubric.json",
        "verdicts.sqlite",
        "run.safetensors",
    ):
        yield Case(f"a link as {name} of a run", RUN, links(f"runs/run/{name}"))
    image = ["generate", "miniature", "--prompt", "x", "--steps", "1", "--output"]
    yield Case(
        "a link as samples of an evaluation",
        [
            *(
                "evaluate",
                "miniature",
                "--prompts",
                "p.txt",
                "--adapter",
                "none.safetensors",
                "--output",
                "e",
            )
        ],
        links("e/samples"),
    )
    for what, output in {
        "a file": "p.txt",
        "a pipe": "pipe",
        "NUL": "a\0b",
        "300 letters": "n" * 300,
    }.items():
        yield Case(f"output: {what}", [*image, output], good_pairs)
        yield Case(f"output: {what}", ["rubric", "show", "t2i", "--output", output], good_pairs)
        yield Case(
            f"output: {what}", ["judge", "label", "pairs.jsonl", "--output", output], good_pairs
        )
        yield Case(f"output: {what}", ["judge", "show", "run", "--output", output], store())


# What a person may well say: it is no hostile input.
ACCEPTED = {("--last", "below zero")}


def all_cases() -> list[Case]:
    return [*of_files(), *of_contents(), *of_adapters(), *of_stores(), *of_options()]


# ------------------------------------------------------------------ one input, one process


def _watch(root: Path, outside: Path) -> None:
    """Notes every path outside of ``root`` that this process opens for writing, makes, moves or removes."""
    temporary = os.path.realpath(tempfile.gettempdir())

    def note(path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            place = os.path.realpath(os.path.abspath(os.fsdecode(path)))
            allowed = (
                str(root),
                temporary + "/torchinductor",
                "/dev/null",
                "/dev/full",
                "/dev/tty",
                "/proc/",
            )
            if not place.startswith(allowed):
                with open(os.open(outside, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a") as file:
                    file.write(f"{place}\n")

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            writing = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writing and path != str(outside) and not isinstance(path, int):
                note(path)
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"):
            note(arguments[0])
        elif event in ("os.rename", "os.link", "os.symlink"):
            note(arguments[1])
        elif event == "sqlite3.connect" and arguments[0] != ":memory:":
            note(arguments[0])

    sys.addaudithook(hook)


def _child(case: Case, root: Path, outside: Path) -> None:
    folder = root / "work"
    folder.mkdir(parents=True)
    for descriptor, name in ((0, os.devnull), (1, root / "stdout"), (2, root / "stderr")):
        mode = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(name, mode, 0o600), descriptor)
    os.chdir(folder)
    os.environ |= {"HOME": str(root), "XDG_CONFIG_HOME": str(root), "ARR_KEY": KEY, **case.env}
    good_pairs()
    case.prepare()
    (root / "before").write_text("\n".join(map(str, files(root))))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**32, 2**32))
    _watch(root / "work", outside)
    try:
        status = importlib.import_module(f"arr_core.{case.words[0]}").main(case.words[1:])
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if stat.S_ISREG(path.lstat().st_mode)]


def outcome(case: Case, root: Path) -> tuple[set[str], str]:
    """(what of COLUMNS happened, what was printed)."""
    process, end = os.fork(), time.monotonic() + LIMIT_S
    if process == 0:
        try:
            _child(case, root, root.parent / "outside.log")
        finally:
            traceback.print_exc()
            os._exit(71)
    while (ended := os.waitpid(process, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.005)
        if not (root / "before").exists():  # its files are still made
            end = time.monotonic() + LIMIT_S
    if hang := ended[0] == 0:
        os.kill(process, signal.SIGKILL)
        ended = os.waitpid(process, 0)
    status = os.waitstatus_to_exitcode(ended[1])
    printed = (root / "stdout").read_bytes() + (root / "stderr").read_bytes()
    text = (root / "stderr").read_text("utf-8", "replace")
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    found = set()
    if hang and "open http://" in text:  # a person is waited for
        found.add("accepted")
    elif hang:
        found.add("hang")
    elif "Traceback (most" in text or status not in (0, 1, 2):
        found.add("traceback")
    elif status == 2 and len(lines) == 1:
        found.add("refused")
    elif status == 2:
        found.add("traceback")
    else:
        found.add("accepted")
    log = root.parent / "outside.log"
    if log.exists():
        found.add("write outside")
        text += log.read_text()
        log.unlink()
    before = (
        set((root / "before").read_text().splitlines()) if (root / "before").exists() else set()
    )
    new = [
        path
        for path in files(root / "work")
        if str(path) not in before and path.stat().st_size < 2**24
    ]
    if KEY.encode() in printed or any(KEY.encode() in path.read_bytes() for path in new):
        found.add("key shown")
    return found, f"status {status}: {text.strip()[-700:]}"


def table(counts: dict[str, Counter[str]]) -> str:
    rows = [["command", "inputs", *(f"{name}s" if name == "hang" else name for name in COLUMNS)]]
    for command, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        rows.append([command, *(f"{count[name]}" for name in ("inputs", *COLUMNS))])
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def measure(cases: list[Case], show: bool = False) -> dict[str, Counter[str]]:
    """How often each outcome was met, by command."""
    for module in ("train", "generate", "evaluate", "judge", "rubric", "adapter"):
        importlib.import_module(f"arr_core.{module}")
    for module in (
        "adapters",
        "judging.profiles",
        "training.trainer",
        "reports.verdicts",
        "miniature.judge",
    ):
        importlib.import_module(f"arr_core.{module}")
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration  # noqa: F401 to be warm

    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as parent:
        for at, case in enumerate(cases):
            root = Path(parent).resolve() / f"{at}"
            root.mkdir()
            found, text = outcome(case, root)
            command = (
                " ".join(case.words[:2])
                if case.words[0] in ("judge", "rubric", "adapter")
                else case.words[0]
            )
            counts.setdefault(command, Counter()).update(["inputs", *found])
            if show or found != {"refused"}:
                print(
                    f"{at} {sorted(found)} {command}: {case.what}\n    {text}",
                    file=sys.stderr,
                    flush=True,
                )
            shutil.rmtree(root, ignore_errors=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile inputs against the commands.")
    parser.add_argument("--show", action="store_true", help="print what each input got")
    parser.add_argument("--only", default="", metavar="WORDS", help="inputs whose name has these")
    options = parser.parse_args()
    counts = measure([case for case in all_cases() if options.only in case.what], options.show)
    print(table(counts))
    total = sum(counts.values(), Counter())
    return int(any(total[name] for name in COLUMNS[2:]))


if __name__ == "__main__":
    sys.exit(main())
