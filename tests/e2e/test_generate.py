"""The command `python -m arr_core.generate`: the same images as the stock pipelines', with their story in the file."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline, QwenImageEditPipeline
from peft import LoraConfig
from PIL import Image

from arr_core import __version__
from arr_core.adapters import extract, load_adapter
from arr_core.config.load import load_config, save_config
from arr_core.config.presets import PRESETS
from arr_core.generate import main
from arr_core.policies.qwen_image_edit import image_token_types

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--height 32 --width 32 --dtype float32 --device cpu"
CUP = "--prompt 'a cup' --steps 1"


@pytest.fixture(scope="module")
def flux(saved_pipeline) -> Path:
    return saved_pipeline("flux")


@pytest.fixture(scope="module")
def qwen(saved_pipeline) -> Path:
    return saved_pipeline("qwen")


@pytest.fixture(scope="module")
def adapters(flux, qwen, tmp_path_factory) -> dict[str, Path]:
    """A folder with a random adapter of each family: ``peft/`` and ``universal.safetensors``."""
    folders = {}
    for family, pipeline in (("flux", flux), ("qwen-image-edit", qwen)):
        folder = folders[family] = tmp_path_factory.mktemp(family)
        preset = PRESETS[family]
        transformer = DiffusionPipeline.from_pretrained(pipeline, text_encoder=None).transformer
        torch.manual_seed(1)
        targets = preset["adapter"]["targets"]
        transformer.add_adapter(
            LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=targets)
        )
        adapter = extract(transformer, base=preset["policy"]["base"])
        adapter.save(folder / "peft")
        adapter.save_universal(folder / "universal.safetensors")
    return folders


def generate(command: str, output: Path) -> dict[str, Image.Image]:
    """The images that the command writes, by name; of a base without settings of its own they are small."""
    assert main([*shlex.split(command), "--output", str(output)]) == 0
    return {path.name: Image.open(path) for path in sorted(output.iterdir())}


def differ(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of two images."""
    a, b = (np.asarray(image.convert("RGB")).astype(int) for image in (a, b))
    return np.abs(a - b).max()


# --- the images


@pytest.mark.parametrize("strength", [0.0, 0.5, -1.0])
@torch.no_grad()
def test_flux_images_are_the_stock_pipelines_at_every_strength(flux, adapters, tmp_path, strength):
    adapter = adapters["flux"]
    made = generate(
        f"{flux} --prompt 'a red circle' --seed 5 --steps 4 --adapter {adapter / 'peft'} --strength {strength} {SMALL}",
        tmp_path / "out",
    )
    stock = FluxPipeline.from_pretrained(flux)
    stock.load_lora_weights(str(adapter), weight_name="universal.safetensors", adapter_name="arr")
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
def test_an_edit_is_the_stock_pipelines(qwen, adapters, source_image, tmp_path, monkeypatch):
    source, adapter = source_image(64, 32), adapters["qwen-image-edit"]
    made = generate(
        f"{qwen} --prompt 'make it red' --source {source} --seed 3 --steps 3 --adapter {adapter / 'peft'} "
        f"--strength 0.5 {SMALL} --width 64",
        tmp_path / "out",
    )
    stock = QwenImageEditPipeline.from_pretrained(qwen)
    stock.load_lora_weights(str(adapter), weight_name="universal.safetensors", adapter_name="arr")
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


@pytest.mark.parametrize("family", ["flux", "qwen-image-edit"])
def test_base_and_adapter_side_by_side(saved_pipeline, adapters, source_image, tmp_path, family):
    edit = f"--source {source_image(48, 32)}" if family != "flux" else ""
    words = f"{saved_pipeline(family.split('-')[0])} --prompt circle {edit} --steps 2 --count 2 --seed 7 {SMALL}"
    folder = adapters[family]
    both = generate(f"{words} --adapter {folder / 'peft'} --compare", tmp_path / "both")
    assert list(both) == [
        f"0001-circle-seed{seed}-{variant}.png"
        for seed in (7, 8)
        for variant in ("adapter", "base")
    ] + ["grid.png"]
    base = generate(words, tmp_path / "base")
    alone = generate(f"{words} --adapter {folder / 'universal.safetensors'}", tmp_path / "alone")
    for seed in (7, 8):
        name = f"0001-circle-seed{seed}"
        assert differ(both[f"{name}-base.png"], base[f"{name}.png"]) == 0
        assert differ(both[f"{name}-adapter.png"], alone[f"{name}.png"]) <= 1
        assert differ(base[f"{name}.png"], alone[f"{name}.png"]) > 0
    assert differ(base["0001-circle-seed7.png"], base["0001-circle-seed8.png"]) > 1


def test_the_batch_changes_no_image(flux, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square and a long tail of words\nthree\n")
    one, many = (
        generate(
            f"{flux} --prompts {prompts} --steps 2 --count 2 {SMALL} --micro-batch {width}",
            tmp_path / str(width),
        )
        for width in (1, 5)
    )
    assert list(one) == list(many) and len(one) == 7
    assert max(differ(one[name], many[name]) for name in one if name != "grid.png") <= 1


def test_edits_of_many_shapes_keep_theirs(saved_pipeline, source_image, tmp_path, monkeypatch):
    monkeypatch.setenv("ARR_IMAGES", str(source_image(64, 64).parent))
    sizes = [(96, 48), (48, 96), (64, 64), (96, 48)]
    lines = [
        json.dumps({"instruction": f"edit {n}", "source_image": str(source_image(*size))})
        for n, size in enumerate(sizes)
    ]
    (tmp_path / "edits.jsonl").write_text("\n".join(lines))
    made = generate(
        f"{saved_pipeline('qwen-plus')} --prompts {tmp_path / 'edits.jsonl'} --steps 1 --micro-batch 2 {SMALL}",
        tmp_path / "out",
    )
    del made["grid.png"]
    assert [image.size for image in made.values()] == [(48, 24), (24, 48), (32, 32), (48, 24)]


def test_guidance_steps_shift_and_cfg_reach_the_sampler(flux, tmp_path):
    flags = ["", "--steps 3", "--shift 1", "--guidance-scale 9", "--true-cfg-scale 4"]
    plain, *others = (
        generate(f"{flux} --prompt circle {SMALL} --steps 2 {words}", tmp_path / str(n))[
            "0001-circle-seed0.png"
        ]
        for n, words in enumerate(flags)
    )
    assert all(differ(plain, image) > 0 for image in others)


# --- a run


@pytest.fixture
def finished_run(saved_pipeline, adapters, tmp_path):
    """``finished_run(preset)`` is the folder that a run on a random pipeline leaves, as far as generation reads it."""

    def folder(preset: str) -> Path:
        run = tmp_path / "runs" / "mine"
        run.mkdir(parents=True)
        base = saved_pipeline("qwen" if preset.endswith("edit") else "flux")
        words = f"--policy.base={base} --validation.count=3 --run.output_dir={run.parent} --run.name=mine"
        config = load_config(preset, words.split())
        save_config(config, run / "config.yaml")
        load_adapter(adapters[config.policy.family] / "peft").save(run / "adapter")
        return run

    return folder


@pytest.mark.parametrize("preset", ["miniature", "miniature-edit"])
def test_a_run_is_compared_with_its_base_on_its_held_out_prompts(finished_run, tmp_path, preset):
    made = generate(f"{finished_run(preset)} --steps 2", tmp_path / "out")
    grid = made.pop("grid.png")
    assert len(made) == 3 * 2
    assert all(
        (image.text["adapter"] == "none") == name.endswith("-base.png")
        for name, image in made.items()
    )
    assert grid.width >= (3 if preset.endswith("edit") else 2) * 160


def test_a_run_takes_other_prompts_and_another_adapter(finished_run, adapters, tmp_path):
    adapter = adapters["flux"] / "universal.safetensors"
    made = generate(
        f"{finished_run('miniature')} {CUP} --no-compare --adapter {adapter}", tmp_path / "out"
    )
    assert list(made) == ["0001-a-cup-seed0.png", "grid.png"]


def test_a_runs_encodings_are_used_again(finished_run, tmp_path, monkeypatch):
    run = finished_run("miniature")
    (run.parent / ".encodings").mkdir()
    generate(f"{run} --steps 1", tmp_path / "out")
    assert len(list((run.parent / ".encodings").iterdir())) == 3
    monkeypatch.setattr(FluxPipeline, "encode_prompt", None)
    generate(f"{run} --steps 1", tmp_path / "again")


# --- what a file says


def test_a_file_says_what_it_was_made_of(flux, adapters, tmp_path):
    folder, prompt = adapters["flux"], "a red circle — 红色的圆"
    made = generate(
        f"{flux} --prompt '{prompt}' --seed 7 --steps 2 --strength 0.8 --adapter {folder / 'peft'} {SMALL}",
        tmp_path / "out",
    )
    text = made["0001-a-red-circle-seed7.png"].text
    assert len(text.pop("encoding")) == 32
    assert text == {
        "prompt": prompt,
        "seed": "7",
        "base": flux.name,
        "strength": "0.8",
        "steps": "2",
        "adapter": load_adapter(folder / "universal.safetensors").content_hash,
        "shift": "3",
        "true_cfg_scale": "1",
        "guidance_scale": "3.5",
        "dtype": "float32",
        "version": f"arr-rpo {__version__}",
    }


def test_no_file_names_a_folder_of_this_machine(qwen, adapters, source_image, tmp_path):
    source, adapter = source_image(32, 32), adapters["qwen-image-edit"] / "peft"
    made = generate(
        f"{qwen} {CUP} --source {source} --compare --adapter {adapter} --true-cfg-scale 2 {SMALL}",
        tmp_path / "out",
    )
    assert len(made) == 3
    for name in made:
        assert str(tmp_path.parent).encode() not in (tmp_path / "out" / name).read_bytes()
    text = made["0001-a-cup-seed0-base.png"].text
    assert text["source"] == source.name and not {"strength", "guidance_scale"} & set(text)
    assert (text["adapter"], text["true_cfg_scale"], text["negative_prompt"]) == ("none", "2", " ")


def test_many_prompts_make_several_grids(flux, tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {n}\n" for n in range(33)))
    made = generate(
        f"{flux} --prompts {tmp_path / 'prompts.txt'} --steps 1 --micro-batch 33 {SMALL}",
        tmp_path / "out",
    )
    assert [name for name in made if name.startswith("grid")] == ["grid-2.png", "grid.png"]
    assert made["grid-2.png"].height < 400 < made["grid.png"].height


# --- as a command


def test_the_command_shows_its_progress_and_what_it_wrote(flux, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "arr_core.generate", flux, *shlex.split(f"{CUP} {SMALL}")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote 1 image and grid.png to {Path('generated', '001')}\n"
    assert "base images: 1 to do" in done.stderr
    made = {path.name for path in (tmp_path / "generated" / "001").iterdir()}
    assert made == {"0001-a-cup-seed0.png", "grid.png"}


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """``refused(command)`` is the one line of the error; nothing may be loaded or written before it."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", load)

    def line(command: str) -> str:
        capsys.readouterr()  # loading bars of fixtures that were made just now
        try:
            status = main([*shlex.split(command), "--output", str(tmp_path / "out")])
        except SystemExit as end:
            status = end.code
        error = capsys.readouterr().err
        assert status == 2 and error.startswith("error: ") and error.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return error

    return line


def test_bad_options_are_one_line_before_any_model_loads(
    refused, flux, qwen, adapters, source_image, tmp_path
):
    source, cup = source_image(32, 32), f"{flux} {CUP}"
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "half.jsonl").write_text('{"prompt": "a \\ud800 cup"}\n')
    for command, said in [
        (f"{flux}", "--prompts: expected prompts, got none"),
        ("", "the following arguments are required: SOURCE"),
        (f"{cup} --prompts x.txt", "expected one of --prompt and --prompts, got both"),
        (f"{flux} --prompt ' '", "expected a text that is not empty"),
        (f"{flux} --prompts {tmp_path}/no.txt", "no such file"),
        (f"{flux} --prompts {tmp_path}/empty.txt", "an empty file"),
        (f"{flux} --prompts {tmp_path}/half.jsonl", "expected text that UTF-8 can write"),
        (f"{cup} --source {source}", "which makes them from text"),
        (f"{qwen} {CUP}", "--prompt: expected --source IMAGE beside it"),
        (f"{qwen} {CUP} --source {tmp_path}/no.png", "no such file"),
        (f"{qwen} {CUP} --source {tmp_path}/bad.png", "no image of these formats"),
        (f"{qwen} --prompts a.jsonl --source {source}", "--source: expected --prompt"),
        (f"{qwen} {CUP} --source {source} --guidance-scale 3", "expected a FLUX base"),
        (f"{cup} --compare", "--compare: expected an --adapter to compare with"),
        (f"{cup} --adapter {tmp_path}/no", "nothing; check the path"),
        (f"{cup} --adapter {adapters['qwen-image-edit']}/peft", "an adapter of flux for"),
        (f"{cup} --height 33", "--height: expected a multiple of 16, got "),
        (f"{cup} --guidance-scale -1", "--guidance-scale: expected greater than or equal to 0"),
        (f"{cup} --device tpu", "--device: expected auto, cpu, mps, cuda"),
        (f"{cup} --device cuda:99", "expected a device of this machine"),
        (f"{cup} --steps 0", "--steps: expected greater than or equal to 1, got "),
        (f"{cup} --steps many", "--steps: expected a valid integer"),
        (f"{cup} --count 0", "argument --count"),
        (f"{cup} --seed -1", "argument --seed"),
        (f"{cup} --seed {2**70}", "argument --seed"),
        (f"{cup} --strength nan", "argument --strength"),
        (f"{cup} --dtype int4", "--dtype: expected 'float32' or 'bfloat16', got "),
        (f"{cup} --stepz 3", "unrecognized arguments: --stepz 3"),
        (f"fluxx {CUP}", "SOURCE: expected a run, one of flux, qwen-image-edit, miniature"),
        (f"{tmp_path}/empty {CUP}", "got one with neither"),
        (f"nobody/nothing {CUP}", "cannot be fetched from the Hugging Face hub"),
    ]:
        assert said in refused(command), (command, said)


def test_a_base_of_another_family_and_a_run_that_is_not_ready(refused, finished_run, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    said = refused(f"{tmp_path} {CUP}")
    assert "expected a base of FLUX or Qwen-Image-Edit" in said
    assert "StableDiffusionPipeline" in said
    (tmp_path / "model_index.json").write_text("{")
    assert "expected JSON" in refused(f"{tmp_path} {CUP}")
    run = finished_run("miniature")
    (run / "adapter").rename(run / "elsewhere")
    assert "expected the adapter that a run writes at its first checkpoint" in refused(str(run))
    (run / "config.yaml").write_text("policy: 3\n")
    assert "config.yaml" in refused(str(run))


def test_nothing_is_overwritten(flux, tmp_path, capsys):
    words, output = f"{flux} {CUP} {SMALL}", tmp_path / "out"
    generate(words, output)
    file = output / "0001-a-cup-seed0.png"
    before = file.read_bytes()
    for folder, said in [
        (output, "expected no such file, got one"),
        (output / "grid.png", "--output: expected a folder, got the file"),
    ]:
        assert main([*shlex.split(words), "--output", str(folder)]) == 2
        assert said in capsys.readouterr().err
    assert file.read_bytes() == before
