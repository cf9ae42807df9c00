"""Data files: every format of the reference, one line for every fault, and an order that resumes exactly."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arr_core import data
from arr_core.common.images import image_fault, open_image
from arr_core.common.paths import ResourceError, resource
from arr_core.data import (
    DataError,
    Example,
    PreferencePair,
    PromptOrder,
    load_examples,
    load_pairs,
    load_split,
)

EDIT = {"source_image": "a.png", "prompt": "x"}
PAIR = {"query": "x", "images": ["a.png", "b.jpg"], "label_rank": [1, 2]}


@pytest.fixture
def folder(tmp_path):
    """A folder with images a.png, b.jpg and c.webp of 48 x 32 pixels."""
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.new("RGB", (48, 32), "teal").save(tmp_path / name)
    return tmp_path


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def write_lines(folder: Path, *records) -> Path:
    return write(folder, "data.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def fault(load, path, *arguments) -> str:
    """The one line of the error, without the folder's name."""
    with pytest.raises(DataError) as caught:
        load(path, *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{Path(path).parent}/", "")


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, prompts",
    [
        ("a cat\na dog\n", ["a cat", "a dog"]),
        ("a cat\r\na dog\r\n", ["a cat", "a dog"]),
        ("\n  a cat  \n\n\ta dog", ["a cat", "a dog"]),
        ("a cat\na cat\n", ["a cat", "a cat"]),
        ("# is a prompt too\n", ["# is a prompt too"]),
        ("\ufeffÄpfel, 苹果\n", ["Äpfel, 苹果"]),
        ("one\u2028prompt\n", ["one\u2028prompt"]),
    ],
)
def test_a_text_file_holds_one_prompt_a_line(tmp_path, text, prompts):
    path = write(tmp_path, "prompts.txt", text)
    assert load_examples(path, "t2i") == [Example(prompt) for prompt in prompts]


@pytest.mark.parametrize("alias", ["query", "prompt", "instruction"])
def test_json_prompts_go_by_every_alias_and_keep_their_tags(tmp_path, alias):
    [example] = load_examples(
        write_lines(tmp_path, {alias: " a cat ", "kind": "animal", "source_image": None}), "t2i"
    )
    assert (example.prompt, example.source, example.tags) == ("a cat", None, {"kind": "animal"})


@pytest.mark.parametrize(
    "name, text",
    [
        ("p.jsonl", '\ufeff{"prompt": "a"}\r\n\r\n{"prompt": "b"}'),
        ("p.jsonl", '"a"\n"b"\n'),
        ("p.json", '[{"prompt": "a"}, {"prompt": "b"}]'),
        ("p.json", '["a",\n"b"]'),
        ("P.JSON", '["a", "b"]'),
        ("prompts", "a\nb"),
    ],
)
def test_the_same_prompts_in_every_format(tmp_path, name, text):
    assert load_examples(write(tmp_path, name, text), "t2i") == [Example("a"), Example("b")]


# --- edits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alias", ["source_image", "base_image", "original_image", "input_image", "reference_image"]
)
def test_an_edit_has_a_source_beside_its_file(folder, alias):
    path = write_lines(folder, {alias: "a.png", "instruction": "make it red"})
    assert load_examples(path, "edit") == [Example("make it red", folder / "a.png")]


def test_a_path_may_be_absolute_or_lead_elsewhere_with_leave(folder, monkeypatch):
    monkeypatch.setenv("ARR_IMAGES", str(folder))
    (folder / "lists").mkdir()
    sources = "../a.png", str(folder / "b.jpg")
    path = write_lines(folder / "lists", *[EDIT | {"source_image": name} for name in sources])
    first, second = (example.source.resolve() for example in load_examples(path, "edit"))
    assert (first, second) == (folder / "a.png", folder / "b.jpg")


def test_an_edit_without_a_source_is_refused(folder):
    path = write_lines(folder, EDIT, {"prompt": "y"})
    assert fault(load_examples, path, "edit") == (
        "data.jsonl:2: source_image: expected one of source_image, base_image, original_image, input_image, "
        "reference_image, got only prompt"
    )
    path = write(folder, "p.txt", "make it red")
    assert ":1: source_image: expected" in fault(load_examples, path, "edit")


def test_edits_are_not_taken_for_prompts(folder):
    path = write_lines(folder, EDIT)
    assert fault(load_examples, path, "t2i") == (
        'data.jsonl:1: source_image: expected no source image, since this policy makes images from text, got "a.png"'
    )


# --- preference pairs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["response", "responses", "images", "image_paths"])
@pytest.mark.parametrize("rank, preferred", [([1, 2], 0), ([2, 1], 1)])
def test_a_pair_prefers_the_image_of_rank_one(folder, alias, rank, preferred):
    path = write_lines(folder, {"query": "a cat", alias: ["a.png", "b.jpg"], "label_rank": rank})
    assert load_pairs(path) == [
        PreferencePair("a cat", (folder / "a.png", folder / "b.jpg"), preferred)
    ]


@pytest.mark.parametrize("alias", ["edited_images", "target_images", "output_images", "response"])
def test_a_pair_of_edits_has_a_source(folder, alias):
    record = {"query": "x", "source_image": "c.webp", alias: PAIR["images"], "label_rank": [2, 1]}
    path = write(folder, "pairs.json", json.dumps([record]))
    assert load_pairs(path) == [
        PreferencePair("x", (folder / "a.png", folder / "b.jpg"), 1, folder / "c.webp")
    ]


def test_the_other_keys_of_a_pair_are_its_tags(folder):
    tags = {"kind": "count", "tags": ["hard"]}
    (pair,) = load_pairs(write_lines(folder, PAIR | tags | {"image_paths": None}))
    assert pair.tags == tags
    assert pair == PreferencePair("x", (folder / "a.png", folder / "b.jpg"), 0)


def test_pairs_that_are_still_to_be_labelled_need_no_rank_and_show_none(folder):
    path = write_lines(folder, PAIR, {"query": "x", "images": ["a.png", "b.jpg"]})
    assert [pair.preferred for pair in load_pairs(path, labelled=False)] == [None, None]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"label_rank": [1, 1]},
            "label_rank: expected [1, 2] or [2, 1], where 1 is the better image, got [1, 1]",
        ),
        (
            {"label_rank": [0, 1]},
            "label_rank: expected [1, 2] or [2, 1], where 1 is the better image, got [0, 1]",
        ),
        (
            {"label_rank": None},
            "label_rank: expected [1, 2] or [2, 1], where 1 is the better image, got null",
        ),
        (
            {"images": ["a.png"]},
            'images: expected a list of two different image paths, got ["a.png"]',
        ),
        ({"images": "a.png"}, 'images: expected a list of two different image paths, got "a.png"'),
        (
            {"images": ["a.png", "a.png"]},
            'images: expected a list of two different image paths, got ["a.png", "a.png"]',
        ),
        ({"images": ["a.png", 3]}, "images: expected the path of an image, got 3"),
        (
            {"images": None},
            "response: expected one of response, responses, images, image_paths, "
            "got only query, label_rank",
        ),
        ({"query": "  "}, 'query: expected a text that is not empty, got "  "'),
        (
            {"prompt": "another"},
            "query: expected one of query, prompt, instruction, got query and prompt, which differ",
        ),
    ],
)
def test_a_bad_pair_is_named_by_line_and_field(folder, change, message):
    assert fault(load_pairs, write_lines(folder, PAIR, PAIR | change)) == f"data.jsonl:2: {message}"


# --- images -------------------------------------------------------------------------------------------------------


def cut_off(path: Path) -> Path:
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-400])
    return path


@pytest.mark.parametrize(
    "make, got",
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b""), "no image of these formats"),
        (lambda path: path.write_text("<svg/>"), "no image of these formats"),
        (lambda path: Image.new("RGB", (64, 15)).save(path, "PNG"), "64x15 pixels"),
        (lambda path: Image.new("RGB", (64, 64)).save(path, "GIF"), "no image of these formats"),
    ],
    ids=["missing", "folder", "empty", "text", "small", "format"],
)
def test_an_image_that_cannot_be_used_is_named_by_line_and_path(folder, make, got):
    make(folder / "x.png")
    path = write_lines(folder, EDIT, EDIT | {"source_image": "x.png"})
    assert fault(load_examples, path, "edit") == (
        "data.jsonl:2: source_image: expected an image (PNG, JPEG, WEBP, BMP, TIFF) of at least 16 pixels a side, "
        f"got {got}: x.png"
    )


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.bmp", "x.tiff"])
def test_an_image_that_was_cut_off_is_found_before_training(folder, name):
    cut_off(folder / name)
    message = fault(load_examples, write_lines(folder, EDIT | {"source_image": name}), "edit")
    assert message.startswith("data.jsonl:1: source_image: expected an image")
    assert message.endswith(f": {name}")


def test_an_image_is_checked_once(folder, monkeypatch):
    checked = []
    monkeypatch.setattr(data, "image_fault", checked.append)
    load_examples(write_lines(folder, EDIT, EDIT, EDIT), "edit")
    assert checked == [folder / "a.png"]


def test_images_open_upright_on_white(tmp_path):
    turned = Image.new("RGB", (20, 40))
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation: a quarter turn
    turned.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (20, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_image(tmp_path / "turned.jpg").size == (40, 20)
    assert open_image(tmp_path / "clear.png").getcolors() == [(800, (255, 255, 255))]


def test_sixteen_bits_become_eight(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for name in ("ramp.png", "ramp.tiff"):
        Image.fromarray(ramp).save(tmp_path / name)
        grey = np.asarray(open_image(tmp_path / name))[..., 0]
        assert (grey.min(), grey.max()) == (0, 255) and abs(grey.mean() - 127.5) < 1


def test_an_image_whose_camera_speaks_nonsense_is_opened_unturned_and_one_of_fractions_is_refused(
    tmp_path,
):
    for name in ("odd.png", "odd.webp", "odd.jpg"):
        Image.new("RGB", (20, 40)).save(tmp_path / name, exif=b"garbage")
        assert image_fault(tmp_path / name) is None and open_image(tmp_path / name).size == (20, 40)
    Image.fromarray(np.ones((32, 32), dtype=np.float32)).save(tmp_path / "fractions.tiff")
    assert "fractions" in image_fault(tmp_path / "fractions.tiff")


def test_examples_are_named_by_their_text_and_the_bytes_of_their_sources(folder):
    first, same, turned = (Example("x", folder / name) for name in ("a.png", "a.png", "b.jpg"))
    assert data.content_hash([first, Example("y")]) == data.content_hash([same, Example("y")])
    others = ([first], [turned], [Example("x")], [Example("y"), first], [first, Example("y")])
    assert len({data.content_hash(part) for part in others}) == 5


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("p.txt", "", "p.txt: expected at least one record, got an empty file"),
        ("p.txt", "\n \n", "p.txt: expected at least one record, got an empty file"),
        ("p.jsonl", "\n", "p.jsonl: expected at least one record, got an empty file"),
        ("p.json", "", "p.json: expected at least one record, got an empty file"),
        ("p.json", "[]", "p.json: expected at least one record, got an empty file"),
        ("p.csv", "a,b", "p.csv: expected a .txt, .jsonl or .json file, got .csv"),
        (
            "p.txt",
            'a\n{"prompt": "b"}',
            "p.txt:2: expected a prompt, got a JSON object; name the file .jsonl",
        ),
        (
            "p.jsonl",
            '{"prompt": "a"}\n{"prompt": ',
            "p.jsonl:2: expected one JSON object a line: Expecting value",
        ),
        ("p.jsonl", '{"prompt": "a"}\n\n3\n', "p.jsonl:3: expected an object or a text, got 3"),
        (
            "p.jsonl",
            '{"prompt": "a \\ud83d face"}',
            "p.jsonl:1: prompt: expected text that UTF-8 can write, got a lone surrogate (\\ud800 to \\udfff)",
        ),
        (
            "p.jsonl",
            '{"prompt": 3}',
            "p.jsonl:1: prompt: expected a text that is not empty, got 3",
        ),
        (
            "p.jsonl",
            '{"promt": "a"}',
            "p.jsonl:1: query: expected one of query, prompt, instruction, got only promt",
        ),
        (
            "p.json",
            '["a",\n\n {"prompt":\n ""}]',
            'p.json:3: prompt: expected a text that is not empty, got ""',
        ),
        (
            "p.json",
            '{"prompt": "a"}',
            'p.json: expected a JSON list of objects, got {"prompt": "a"}',
        ),
        (
            "p.json",
            '{"prompt": "a"}\n{"prompt": "b"}',
            "p.json:2: expected a JSON list: Extra data; name a file with one object a line .jsonl",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, text, message):
    assert fault(load_examples, write(tmp_path, name, text), "t2i") == message


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "p.txt").write_bytes("äöü".encode("utf-16"))
    for name, got in {
        "none.txt": "no such file or directory",
        "folder": "is a directory",
        "p.txt": "bytes at offset 0 that are not UTF-8",
    }.items():
        message = fault(load_examples, tmp_path / name, "t2i")
        assert message == f"{name}: expected a data file, got {got}"


def test_a_file_of_the_package_goes_by_its_room():
    assert load_examples("miniature:data/prompts_heldout.txt", "t2i")[0].source is None
    assert load_examples("miniature:data/edits_heldout.jsonl", "edit")[0].source.is_file()
    assert "no such file" in fault(load_examples, "miniature:data/none.txt", "t2i")


@pytest.mark.parametrize("name", ["miniature:../data.py", "miniature:/etc/passwd"])
def test_a_resource_stays_inside_of_its_room(name):
    with pytest.raises(ResourceError, match="expected a path inside of miniature"):
        resource(name)


@pytest.mark.parametrize("name", ["nowhere:x", "C:/x", "miniature", "my file.txt", "a:b:c", ":x"])
def test_other_names_are_no_resources(name):
    assert resource(name) is None


# --- holding out --------------------------------------------------------------------------------------------------


def test_without_a_validation_file_the_end_is_held_out(tmp_path):
    path = write(tmp_path, "p.txt", "a\nb\nc\nd\n")
    assert load_split(path, None, 1, "t2i") == ([*map(Example, "abc")], [Example("d")])


def test_nothing_held_out_is_trained_on(tmp_path):
    path = write(tmp_path, "p.txt", "a\nb\na\n")
    assert load_split(path, None, 1, "t2i") == ([Example("b")], [Example("a")])
    held = write(tmp_path, "held.txt", "b\nz\n")
    assert load_split(path, held, 64, "t2i") == ([*map(Example, "aa")], [*map(Example, "bz")])


@pytest.mark.parametrize("same_file", [True, False])
def test_a_run_that_has_nothing_left_to_train_on_is_refused(tmp_path, same_file):
    path = write(tmp_path, "p.txt", "a\nb\n")
    assert fault(load_split, path, path if same_file else None, 64, "t2i").startswith(
        "p.txt: expected examples beside the 2 that are held out, got none"
    )


# --- order --------------------------------------------------------------------------------------------------------


def take(order: PromptOrder, n: int, rank: int = 0, world: int = 1) -> list[int]:
    places = order.upcoming(n, rank, world)
    order.advance(n * world)
    return places


def test_every_epoch_takes_every_prompt_once_in_another_order():
    order = PromptOrder(20, seed=0)
    first, second = take(order, 20), take(order, 20)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second and first != list(range(20))


def test_the_order_is_the_seeds():
    assert PromptOrder(5, seed=0).upcoming(5) == [0, 1, 4, 3, 2]
    assert PromptOrder(50, seed=1).upcoming(50) != PromptOrder(50, seed=2).upcoming(50)


def test_how_much_is_taken_at_once_does_not_matter():
    one, other = PromptOrder(7, seed=3), PromptOrder(7, seed=3)
    assert [take(one, 1)[0] for _ in range(30)] == take(other, 11) + take(other, 0) + take(
        other, 19
    )


@pytest.mark.parametrize("before", [0, 3, 7, 20])
def test_a_restored_order_continues_exactly(before):
    order = PromptOrder(7, seed=3)
    order.advance(before)
    resumed = PromptOrder(7, seed=3)
    resumed.restore(json.loads(json.dumps(order.state())))
    assert resumed.upcoming(15) == order.upcoming(15)


def test_an_order_of_other_prompts_is_not_restored():
    saved = PromptOrder(7, seed=4).state()
    for order, reason in (
        (PromptOrder(8, seed=4), "count 7 as when the run was saved, got 8"),
        (PromptOrder(7, seed=3), "seed 4 as when the run was saved, got 3"),
    ):
        with pytest.raises(DataError, match=f"prompt order: expected {reason}"):
            order.restore(saved)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_what_one_process_would_take(world):
    alone = PromptOrder(11, seed=0)
    ranks = [PromptOrder(11, seed=0) for _ in range(world)]
    for _ in range(5):
        shards = [take(order, 4, rank, world) for rank, order in enumerate(ranks)]
        assert sum(shards, []) == take(alone, 4 * world)
    assert len({str(order.state()) for order in [alone, *ranks]}) == 1
