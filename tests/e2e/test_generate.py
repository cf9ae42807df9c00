"""The command `python -m arr_core.generate`: the same images as the stock pipelines', with their story in the file."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, QwenImageEditPipeline
from PIL import Image

from arr_core import __version__
from arr_core.adapters import extract, load_adapter
from arr_core.config import PRESETS, load_config, save_config
from arr_core.data import open_image
from arr_core.generate import main, slug
from arr_core.policies.qwen_image_edit import image_token_types
from arr_core.reports.grid import Row, draw_grid, shown_size
from arr_core.sampling import scaled

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--height", "32", "--width", "32", "--dtype", "float32", "--device", "cpu"]
FAMILIES = {"flux": "flux", "qwen": "qwen-image-edit", "qwen-plus": "qwen-image-edit"}


@pytest.fixture(scope="session")
def adapters(saved_pipeline, tmp_path_factory):
    """``adapters(name)`` is a folder with a random adapter of a pipeline: ``peft/`` and ``universal.safetensors``."""
    from diffusers import DiffusionPipeline
    from peft import LoraConfig

    folders = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(f"{name}-adapter")
            transformer = DiffusionPipeline.from_pretrained(
                saved_pipeline(name), text_encoder=None
            ).transformer
            torch.manual_seed(1)
            transformer.add_adapter(
                LoraConfig(
                    r=4,
                    lora_alpha=8,
                    init_lora_weights=False,
                    target_modules=PRESETS[FAMILIES[name]]["adapter"]["targets"],
                )
            )
            adapter = extract(transformer, base=PRESETS[FAMILIES[name]]["policy"]["base"])
            adapter.save(folders[name] / "peft")
            adapter.save_universal(folders[name] / "universal.safetensors")
        return folders[name]

    return folder


def generate(*words, output: Path) -> dict[str, Image.Image]:
    """The pictures that the command writes, by name."""
    assert main([*map(str, words), "--output", str(output)]) == 0
    return {path.name: Image.open(path) for path in sorted(output.iterdir())}


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def differ(a: Image.Image, b: Image.Image) -> float:
    return np.abs(pixels(a) - pixels(b)).max()


# --- the images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, -1.0])
@torch.no_grad()
def test_flux_images_are_the_stock_pipelines_at_every_strength(
    saved_pipeline, adapters, tmp_path, strength
):
    made = generate(
        saved_pipeline("flux"),
        "--prompt",
        "a red circle",
        "--seed",
        5,
        "--steps",
        4,
        "--strength",
        strength,
        "--adapter",
        adapters("flux") / "peft",
        *SMALL,
        output=tmp_path / "out",
    )
    stock = FluxPipeline.from_pretrained(saved_pipeline("flux"))
    stock.load_lora_weights(
        str(adapters("flux")), weight_name="universal.safetensors", adapter_name="arr"
    )
    stock.set_adapters("arr", strength)
    image = stock(
        "a red circle",
        height=32,
        width=32,
        num_inference_steps=4,
        guidance_scale=3.5,
        generator=torch.Generator().manual_seed(5),
    ).images[0]
    assert differ(made["0001-a-red-circle-seed5.png"], image) <= 1


@torch.no_grad()
def test_an_edit_is_the_stock_pipelines(
    saved_pipeline, adapters, source_image, tmp_path, monkeypatch
):
    source = source_image(64, 32)
    made = generate(
        saved_pipeline("qwen"),
        "--prompt",
        "make it red",
        "--source",
        source,
        "--seed",
        3,
        "--steps",
        3,
        "--adapter",
        adapters("qwen") / "peft",
        "--strength",
        0.5,
        *SMALL,
        "--width",
        64,
        output=tmp_path / "out",
    )
    stock = QwenImageEditPipeline.from_pretrained(saved_pipeline("qwen"))
    stock.load_lora_weights(
        str(adapters("qwen")), weight_name="universal.safetensors", adapter_name="arr"
    )
    stock.set_adapters("arr", 0.5)
    module = importlib.import_module(QwenImageEditPipeline.__module__)
    dimensions = module.calculate_dimensions  # always of 1024 x 1024 pixels
    monkeypatch.setattr(module, "calculate_dimensions", lambda _, ratio: dimensions(64 * 32, ratio))
    with image_token_types(stock.text_encoder):
        image = stock(
            Image.open(source),
            "make it red",
            height=32,
            width=64,
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(3),
        ).images[0]
    assert differ(made["0001-make-it-red-seed3.png"], image) <= 1


def test_strength_scales_what_the_adapter_adds(adapters):
    adapter = load_adapter(adapters("flux") / "peft")
    half = scaled(adapter, 0.5)
    for module, pair in adapter.modules.items():
        assert half.modules[module].scale == pair.scale / 2
        assert half.modules[module].B is pair.B


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_base_and_adapter_side_by_side(saved_pipeline, adapters, source_image, tmp_path, name):
    edit = [] if name == "flux" else ["--source", source_image(48, 32)]
    words = [
        saved_pipeline(name),
        "--prompt",
        "a red circle",
        *edit,
        "--steps",
        2,
        "--count",
        2,
        "--seed",
        7,
        *SMALL,
    ]
    both = generate(
        *words, "--adapter", adapters(name) / "peft", "--compare", output=tmp_path / "both"
    )
    assert list(both) == [
        f"0001-a-red-circle-seed{seed}-{variant}.png"
        for seed in (7, 8)
        for variant in ("adapter", "base")
    ] + ["grid.png"]
    base = generate(*words, output=tmp_path / "base")
    alone = generate(
        *words, "--adapter", adapters(name) / "universal.safetensors", output=tmp_path / "alone"
    )
    for seed in (7, 8):
        plain = f"0001-a-red-circle-seed{seed}.png"
        assert differ(both[f"0001-a-red-circle-seed{seed}-base.png"], base[plain]) == 0
        assert differ(both[f"0001-a-red-circle-seed{seed}-adapter.png"], alone[plain]) <= 1
        assert differ(base[plain], alone[plain]) > 0
    assert differ(base["0001-a-red-circle-seed7.png"], base["0001-a-red-circle-seed8.png"]) > 1


def test_the_batch_changes_no_image(saved_pipeline, tmp_path):
    (tmp_path / "prompts.txt").write_text(
        "a red circle\na blue square and a long tail of words\nthree\n"
    )
    words = [
        saved_pipeline("flux"),
        "--prompts",
        tmp_path / "prompts.txt",
        "--steps",
        2,
        "--count",
        2,
        *SMALL,
    ]
    one = generate(*words, "--micro-batch", 1, output=tmp_path / "one")
    many = generate(*words, "--micro-batch", 5, output=tmp_path / "many")
    assert list(one) == list(many) and len(one) == 7
    assert max(differ(one[name], many[name]) for name in one if name != "grid.png") <= 1


def test_edits_of_many_shapes_keep_theirs(saved_pipeline, source_image, tmp_path):
    lines = [
        {"instruction": f"edit {n}", "source_image": str(source_image(*size))}
        for n, size in enumerate([(96, 48), (48, 96), (64, 64), (96, 48)])
    ]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = generate(
        saved_pipeline("qwen-plus"),
        "--prompts",
        tmp_path / "edits.jsonl",
        "--steps",
        1,
        "--micro-batch",
        2,
        *SMALL,
        output=tmp_path / "out",
    )
    sizes = [image.size for name, image in made.items() if name != "grid.png"]
    assert sizes == [(48, 24), (24, 48), (32, 32), (48, 24)]


def test_guidance_steps_shift_and_cfg_reach_the_sampler(saved_pipeline, tmp_path):
    words = [saved_pipeline("flux"), "--prompt", "a red circle", *SMALL]
    settings = {
        "plain": ["--steps", 2],
        "steps": ["--steps", 3],
        "shift": ["--steps", 2, "--shift", 1],
        "guidance": ["--steps", 2, "--guidance-scale", 9],
        "cfg": ["--steps", 2, "--true-cfg-scale", 4],
    }
    made = {
        name: generate(*words, *flags, output=tmp_path / name)["0001-a-red-circle-seed0.png"]
        for name, flags in settings.items()
    }
    assert all(differ(made["plain"], image) > 0 for name, image in made.items() if name != "plain")


# --- a run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished_run(saved_pipeline, adapters, tmp_path):
    """``finished_run(name)`` is the folder that a run on a random pipeline leaves, as far as generation reads it."""

    def folder(name: str) -> Path:
        run = tmp_path / "runs" / "mine"
        run.mkdir(parents=True)
        preset = "miniature" if name == "flux" else "miniature-edit"
        flags = {
            "policy.base": saved_pipeline(name),
            "validation.count": 3,
            "run.output_dir": run.parent,
            "run.name": "mine",
        }
        config = load_config(preset, [f"--{field}={value}" for field, value in flags.items()])
        save_config(config, run / "config.yaml")
        load_adapter(adapters(name) / "peft").save(run / "adapter")
        return run

    return folder


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_a_run_is_compared_with_its_base_on_its_held_out_prompts(finished_run, tmp_path, name):
    made = generate(finished_run(name), "--steps", 2, output=tmp_path / "out")
    assert len(made) == 3 * 2 + 1
    assert {
        image.text["adapter"] == "none"
        for file, image in made.items()
        if file.endswith("-base.png")
    } == {True}
    columns = 2 if name == "flux" else 3
    assert made["grid.png"].width >= columns * 160


def test_a_run_takes_other_prompts_and_another_adapter(finished_run, adapters, tmp_path):
    run = finished_run("flux")
    made = generate(
        run,
        "--prompt",
        "a blue square",
        "--no-compare",
        "--steps",
        2,
        "--adapter",
        adapters("flux") / "universal.safetensors",
        output=tmp_path / "out",
    )
    assert list(made) == ["0001-a-blue-square-seed0.png", "grid.png"]


def test_a_runs_encodings_are_used_again(finished_run, tmp_path, monkeypatch):
    run = finished_run("flux")
    (run.parent / ".encodings").mkdir()
    generate(run, "--steps", 1, output=tmp_path / "out")
    kept = {path.name for path in (run.parent / ".encodings").iterdir()}
    assert len(kept) == 3
    monkeypatch.setattr(FluxPipeline, "encode_prompt", None)
    generate(run, "--steps", 1, output=tmp_path / "again")


# --- what a file says ---------------------------------------------------------------------------------------------


def test_a_file_says_what_it_was_made_of(saved_pipeline, adapters, tmp_path):
    prompt = "a red circle — 红色的圆"
    made = generate(
        saved_pipeline("flux"),
        "--prompt",
        prompt,
        "--seed",
        7,
        "--steps",
        2,
        "--strength",
        0.8,
        "--adapter",
        adapters("flux") / "peft",
        *SMALL,
        output=tmp_path / "out",
    )
    text = made["0001-a-red-circle-seed7.png"].text
    assert text == {
        "prompt": prompt,
        "seed": "7",
        "base": saved_pipeline("flux").name,
        "strength": "0.8",
        "steps": "2",
        "adapter": load_adapter(adapters("flux") / "universal.safetensors").content_hash,
        "shift": "3",
        "true_cfg_scale": "1",
        "guidance_scale": "3.5",
        "dtype": "float32",
        "version": f"arr-rpo {__version__}",
        "encoding": text["encoding"],
    }


def test_no_file_names_a_folder_of_this_machine(saved_pipeline, adapters, source_image, tmp_path):
    generate(
        saved_pipeline("qwen"),
        "--prompt",
        "make it red",
        "--source",
        source_image(32, 32),
        "--steps",
        1,
        *SMALL,
        "--compare",
        "--adapter",
        adapters("qwen") / "peft",
        "--true-cfg-scale",
        2,
        output=tmp_path / "out",
    )
    files = list((tmp_path / "out").iterdir())
    assert len(files) == 3
    for path in files:
        assert str(tmp_path.parent).encode() not in path.read_bytes()
    text = Image.open(tmp_path / "out" / "0001-make-it-red-seed0-base.png").text
    assert text["source"] == source_image(32, 32).name
    assert text["adapter"] == "none" and "strength" not in text and "guidance_scale" not in text
    assert (text["true_cfg_scale"], text["negative_prompt"]) == ("2", " ")


@pytest.mark.parametrize(
    "prompt, name",
    [
        ("A red/blue \\ circle: *?", "a-red-blue-circle"),
        ("../../etc/passwd", "etc-passwd"),
        ("红色的圆", "image"),
        ("Äpfel & Öl", "apfel-ol"),
        ("", "image"),
        ("x" * 100, "x" * 40),
        ("CON", "con"),
        ("a" * 30 + " " + "b" * 30, "a" * 30),
    ],
)
def test_a_file_name_is_safe(prompt, name):
    assert slug(prompt) == name


# --- the grid -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, shown",
    [
        ((32, 32), (160, 160)),
        ((64, 48), (256, 192)),
        ((512, 512), (512, 512)),
        ((1024, 768), (512, 384)),
        ((160, 160), (160, 160)),
        ((24, 48), (168, 336)),
    ],
)
def test_small_pictures_are_enlarged_and_large_ones_made_smaller(size, shown):
    assert shown_size(size) == shown


def test_a_small_picture_is_enlarged_without_blurring():
    board = Image.fromarray((np.indices((32, 32)).sum(0) % 2 * 255).astype("uint8")).convert("RGB")
    grid = draw_grid([Row("", [lambda: board])], ["a"], "")
    x, y = next(
        (x, y)
        for y in range(grid.height)
        for x in range(grid.width)
        if grid.getpixel((x, y)) == (0, 0, 0)
    )
    cell = grid.crop((x, y, x + 160, y + 160)).resize((32, 32), Image.Resampling.NEAREST)
    assert differ(cell, board) == 0


def test_any_caption_fits():
    for caption in (
        "x" * 20_000,
        "word " * 5_000,
        "红色的圆" * 500,
        "\n\t",
        "\u202eright to left",
        "\U0001f600",
    ):
        grid = draw_grid(
            [Row(caption, [lambda: Image.new("RGB", (32, 32))])] * 2, ["a long title " * 9], caption
        )
        assert grid.width == 2 * 160 + 24
        assert grid.height < 900


def test_many_prompts_make_several_grids(saved_pipeline, tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {n}\n" for n in range(33)))
    made = generate(
        saved_pipeline("flux"),
        "--prompts",
        tmp_path / "prompts.txt",
        "--steps",
        1,
        "--micro-batch",
        33,
        *SMALL,
        output=tmp_path / "out",
    )
    assert [name for name in made if name.startswith("grid")] == ["grid-2.png", "grid.png"]
    assert made["grid-2.png"].height < 300 < made["grid.png"].height


# --- as a command -------------------------------------------------------------------------------------------------


def test_the_command_shows_its_progress_and_what_it_wrote(saved_pipeline, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "arr_core.generate",
            saved_pipeline("flux"),
            "--prompt",
            "a cup",
            "--steps",
            "1",
            *SMALL,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote 1 image and grid.png to {Path('generated', '001')}\n"
    assert "base images: 1 to do" in done.stderr
    assert {path.name for path in (tmp_path / "generated" / "001").iterdir()} == {
        "0001-a-cup-seed0.png",
        "grid.png",
    }


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """``refused(*words)`` is the one line of the error; nothing may be loaded or written before it."""
    import diffusers

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    for pipeline in (
        diffusers.FluxPipeline,
        diffusers.QwenImageEditPipeline,
        diffusers.QwenImageEditPlusPipeline,
    ):
        monkeypatch.setattr(pipeline, "from_pretrained", load)

    def line(*words) -> str:
        capsys.readouterr()  # loading bars of fixtures that were made just now
        try:
            status = main([*map(str, words), "--output", str(tmp_path / "out")])
        except SystemExit as end:
            status = end.code
        error = capsys.readouterr().err
        assert status == 2
        assert error.startswith("error: ") and error.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return error

    return line


def test_bad_options_are_one_line_before_any_model_loads(
    refused, saved_pipeline, adapters, source_image, tmp_path
):
    flux, qwen, prompt = saved_pipeline("flux"), saved_pipeline("qwen"), ["--prompt", "a cup"]
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "half.jsonl").write_text('{"prompt": "a \\ud800 cup"}\n')
    for words, said in [
        ([flux], "--prompts: expected prompts, got none"),
        ([], "the following arguments are required: SOURCE"),
        ([flux, *prompt, "--prompts", "x.txt"], "expected one of --prompt and --prompts, got both"),
        ([flux, "--prompt", " "], "--prompt: expected a text that is not empty"),
        ([flux, "--prompts", tmp_path / "no.txt"], "there is no such file"),
        (
            [flux, "--prompts", tmp_path / "empty.txt"],
            "an empty file",
        ),
        ([flux, "--prompts", tmp_path / "half.jsonl"], "expected text that UTF-8 can write"),
        ([flux, *prompt, "--source", source_image(32, 32)], "which makes them from text"),
        ([qwen, *prompt], "--prompt: expected --source IMAGE beside it"),
        ([qwen, *prompt, "--source", tmp_path / "no.png"], "got no such file"),
        ([qwen, *prompt, "--source", tmp_path / "bad.png"], "got no image of these formats"),
        (
            [
                qwen,
                "--prompts",
                "miniature:data/prompts_heldout.txt",
                "--source",
                source_image(32, 32),
            ],
            "--source: expected --prompt",
        ),
        (
            [qwen, *prompt, "--source", source_image(32, 32), "--guidance-scale", 3],
            "expected a FLUX base",
        ),
        ([flux, *prompt, "--compare"], "--compare: expected an --adapter to compare with"),
        ([flux, *prompt, "--adapter", tmp_path / "no"], "nothing; check the path"),
        (
            [flux, *prompt, "--adapter", adapters("qwen") / "peft"],
            "expected an adapter of flux for",
        ),
        ([flux, *prompt, "--height", 33], "--height: expected a multiple of 16, got"),
        (
            [flux, *prompt, "--guidance-scale", -1],
            "--guidance-scale: expected greater than or equal to 0, got",
        ),
        ([flux, *prompt, "--device", "tpu"], "--device: expected auto, cpu, mps, cuda"),
        (
            [flux, *prompt, "--device", "cuda:99"],
            "expected a device of this machine",
        ),
        ([flux, *prompt, "--steps", 0], "--steps: expected greater than or equal to 1"),
        (
            [flux, *prompt, "--steps", "many"],
            "--steps: expected a valid integer",
        ),
        ([flux, *prompt, "--count", 0], "argument --count"),
        ([flux, *prompt, "--seed", -1], "argument --seed"),
        ([flux, *prompt, "--seed", 2**70], "argument --seed"),
        ([flux, *prompt, "--strength", "nan"], "argument --strength"),
        ([flux, *prompt, "--dtype", "int4"], "--dtype: expected 'float32' or 'bfloat16', got"),
        ([flux, *prompt, "--stepz", 3], "unrecognized arguments: --stepz 3"),
        (["fluxx", *prompt], "SOURCE: expected a run, one of flux, qwen-image-edit, miniature"),
        ([tmp_path / "empty", *prompt], "got one with neither"),
    ]:
        assert said in refused(*words), (words, said)


def test_a_base_of_another_family_and_a_run_that_is_not_ready(refused, finished_run, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    said = refused(tmp_path, "--prompt", "a cup")
    assert (
        "expected a base of FLUX or Qwen-Image-Edit" in said and "StableDiffusionPipeline" in said
    )
    (tmp_path / "model_index.json").write_text("{")
    assert "expected JSON" in refused(tmp_path, "--prompt", "a cup")
    run = finished_run("flux")
    (run / "adapter").rename(run / "elsewhere")
    assert "expected the adapter that a run writes at its first checkpoint" in refused(run)
    (run / "config.yaml").write_text("policy: 3\n")
    assert "config.yaml" in refused(run)


def test_a_base_that_is_not_on_this_machine(refused):
    assert "cannot be fetched from the Hugging Face hub" in refused(
        "nobody/nothing", "--prompt", "a cup"
    )


def test_nothing_is_overwritten(saved_pipeline, tmp_path, capsys):
    words = [saved_pipeline("flux"), "--prompt", "a cup", "--steps", 1, *SMALL]
    before = generate(*words, output=tmp_path / "out")["0001-a-cup-seed0.png"].copy()
    assert main([*map(str, words), "--seed", "0", "--output", str(tmp_path / "out")]) == 2
    assert "expected no such file, got one" in capsys.readouterr().err
    assert main([*map(str, words), "--output", str(tmp_path / "out" / "grid.png")]) == 2
    assert "--output: expected a folder, got the file" in capsys.readouterr().err
    assert differ(before, open_image(tmp_path / "out" / "0001-a-cup-seed0.png")) == 0
