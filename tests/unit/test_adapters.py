"""An adapter acts everywhere exactly as it did in training, or is refused with a reason."""

from __future__ import annotations

import json
import math
import pickle
import re

import diffusers
import pytest
import torch
from diffusers import FluxPipeline, QwenImageEditPipeline
from packaging.version import Version
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_transformers import ATTENTION, BASES, TARGETS, output, random_adapter, tiny_transformer

from arr_core import adapter as command
from arr_core.adapters import (
    Adapter,
    AdapterError,
    base_id,
    base_warning,
    compatibility,
    detect_family,
    extract,
    inject,
    load_adapter,
    raw_outcomes,
)
from arr_core.adapters import (
    file as files,
)

FAMILIES = ("flux", "qwen-image-edit")
CONFIGS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"to_q": 2, r".*to_out\.0": 6, "to_add_out": 6},
        "alpha_pattern": {"attn.to_k": 3, "to_add_out": 5.5},
    },
    "patterns with rslora": {
        "use_rslora": True,
        "rank_pattern": {"to_q": 2},
        "alpha_pattern": {"to_v": 1},
    },
}
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def plain(family, tmp_path_factory):
    """A PEFT folder with scale 2, like the published ones, for the tiny transformer of ``family``."""
    folder = tmp_path_factory.mktemp("plain") / f"ARR-{family}"
    return saved(random_adapter(tiny_transformer(family), TARGETS[family]), folder, BASES[family])


@pytest.fixture(scope="module")
def adapter(plain):
    return load_adapter(plain)


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def trained(family, request):
    """The tiny transformer of ``family`` with a random adapter, as PEFT trains it."""
    return random_adapter(tiny_transformer(family), TARGETS[family], **request.param)


@pytest.fixture(scope="module")
def folder(trained, family, tmp_path_factory):
    return saved(trained, tmp_path_factory.mktemp("peft"), BASES[family])


def refused(path, reason: str, **options) -> None:
    with pytest.raises(AdapterError, match=reason) as caught:
        load_adapter(path, **options)
    assert "\n" not in str(caught.value)


def saved(model: PeftModel, folder, base=None):
    """``folder``, after PEFT has saved its adapter there, with ``base`` recorded as PEFT records it."""
    model.save_pretrained(folder)
    config = json.loads((folder / files.CONFIG_NAME).read_text())
    (folder / files.CONFIG_NAME).write_text(json.dumps({**config, "base_model_name_or_path": base}))
    return folder


def pipeline(transformer):
    """The stock pipeline of the transformer's family with nothing else in it."""
    parts = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer"))
    if type(transformer).__name__.startswith("Flux"):
        return FluxPipeline(**parts, text_encoder_2=None, tokenizer_2=None, transformer=transformer)
    return QwenImageEditPipeline(**parts, processor=None, transformer=transformer)


def through_diffusers(family, file) -> torch.Tensor:
    """The output of the tiny transformer after ``pipe.load_lora_weights`` has been given the file."""
    transformer = tiny_transformer(family)
    pipeline(transformer).load_lora_weights(str(file.parent), weight_name=file.name)
    return output(transformer)


def identity(adapter) -> tuple:
    return adapter.content_hash, adapter.base, adapter.use_rslora


def strengths(adapter) -> dict[str, tuple]:
    return {module: (p.rank, p.alpha, p.scale) for module, p in adapter.modules.items()}


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def relaid(
    folder,
    file,
    prefix: str,
    alpha: float | None = None,
    infix: str = "",
    header: dict | None = None,
):
    """``file``, after the pairs of a PEFT folder have been written there in another layout."""
    tensors = {}
    for name, tensor in load_file(folder / files.WEIGHTS_NAME).items():
        module, part = name.removeprefix("base_model.model.").split(".lora_")
        tensors[f"{prefix}{module}.lora_{part[0]}{infix}.weight"] = tensor
        if alpha is not None:
            tensors[f"{prefix}{module}.alpha"] = torch.tensor(alpha)
    save_file(tensors, file, {"format": "pt", **(header or {})})
    return file


def header_of(folder, prefix: str) -> dict[str, str]:
    """The header in which diffusers keeps a PEFT configuration."""
    config = json.loads((folder / files.CONFIG_NAME).read_text())
    return {
        "lora_adapter_metadata": json.dumps(
            {prefix + name: value for name, value in config.items()}
        )
    }


# ---- strength: PEFT itself, on the model it trained, is the oracle


def test_a_universal_file_in_diffusers_acts_as_peft_did(family, trained, folder, tmp_path):
    universal = load_adapter(folder).save_universal(tmp_path / "universal.safetensors")
    raw = relaid(folder, tmp_path / "raw.safetensors", "transformer.")

    assert distance(through_diffusers(family, universal), output(trained)) < TOLERANCE
    assert distance(output(tiny_transformer(family)), output(trained)) > 1e-2
    assert distance(through_diffusers(family, raw), output(trained)) > 1e-2


def test_an_injected_adapter_acts_as_peft_did_and_comes_out_unchanged(family, trained, folder):
    adapter, transformer = load_adapter(folder), tiny_transformer(family)

    inject(adapter, transformer)

    assert distance(output(transformer), output(trained)) < TOLERANCE
    trainable = [name for name, part in transformer.named_parameters() if part.requires_grad]
    assert len(trainable) == 2 * len(adapter.modules) and all(".lora_" in n for n in trainable)
    taken = extract(transformer, base="org/model")
    assert identity(taken) == (adapter.content_hash, "org/model", adapter.use_rslora)


def test_a_saved_folder_is_read_back_by_peft_and_by_us(family, trained, folder, tmp_path):
    adapter = load_adapter(folder)

    ours = adapter.save(tmp_path / "ours")

    again = load_adapter(ours)
    assert identity(again) == (adapter.content_hash, BASES[family], adapter.use_rslora)
    assert strengths(again) == strengths(adapter)
    loaded = PeftModel.from_pretrained(tiny_transformer(family), ours)
    assert distance(output(loaded), output(trained)) < TOLERANCE


def test_a_saved_folder_names_a_top_level_module_without_its_namesakes(tmp_path):
    trained = random_adapter(
        tiny_transformer("flux"), r"proj_out|transformer_blocks\.0\.attn\.to_q"
    )
    adapter = load_adapter(saved(trained, tmp_path / "peft"))

    again = PeftModel.from_pretrained(tiny_transformer("flux"), adapter.save(tmp_path / "ours"))

    layers = {
        name for name, module in again.get_base_model().named_modules() if hasattr(module, "lora_A")
    }
    assert layers == set(adapter.modules) == {"proj_out", "transformer_blocks.0.attn.to_q"}


def test_a_universal_file_has_one_rank_and_says_what_it_is(tmp_path):
    trained = random_adapter(tiny_transformer("flux"), TARGETS["flux"], **CONFIGS["patterns"])
    adapter = load_adapter(saved(trained, tmp_path, "black-forest-labs/FLUX.1-dev"))

    file = adapter.save_universal(tmp_path / "sub" / "universal.safetensors")

    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
        shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}
    assert {shape[0] for name, shape in shapes.items() if "lora_A" in name} == {6}
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in shapes)
    assert header == {
        "format": "pt",
        "arr_adapter": "universal",
        "arr_scale": "baked",
        "arr_family": "flux",
        "arr_base": "black-forest-labs/FLUX.1-dev",
        "arr_rank": "6",
        "arr_content_hash": adapter.content_hash,
    }
    again = load_adapter(file)
    assert identity(again) == identity(adapter) and again.layout == "universal"
    assert {pair.scale for pair in again.modules.values()} == {1.0}
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    copies = [adapter.save_universal(tmp_path / str(copy)).read_bytes() for copy in range(5)]
    assert {*copies} == {file.read_bytes()}, "the same weights are the same bytes"
    (tmp_path / "ordinary").touch()
    assert file.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize(
    ("alpha", "stored"), [(8, torch.bfloat16), (2, torch.bfloat16), (6, torch.float32)]
)
def test_a_baked_lora_b_keeps_its_dtype_only_where_no_bit_is_lost(alpha, stored, tmp_path):
    one_pair(tmp_path, dtype=torch.bfloat16, lora_alpha=alpha)
    adapter = load_adapter(tmp_path)

    universal = adapter.to_universal()

    b = universal["transformer.transformer_blocks.0.attn.to_q.lora_B.weight"]
    assert b.dtype == stored
    assert torch.equal(
        b.float(), adapter.modules["transformer_blocks.0.attn.to_q"].B.float() * alpha / 4
    )


def test_an_injected_adapter_is_as_precise_on_a_base_that_is_not(adapter, family):
    transformer = tiny_transformer(family).to(torch.bfloat16)
    inject(adapter, transformer)
    assert extract(transformer).content_hash == adapter.content_hash


# ---- layouts

LAYOUTS = {
    "peft+alpha": ("base_model.model.", 8.0, "", None),
    "peft+alpha+named": ("base_model.model.", 8.0, ".default", None),
    "diffusers+alpha": ("transformer.", 8.0, "", None),
    "diffusers+alpha+named": ("transformer.", 8.0, ".default_0", None),
    "diffusers+header": ("transformer.", None, "", "transformer."),
    "diffusers+alpha+header": ("transformer.", 8.0, "", "transformer."),
    "comfyui+alpha": ("diffusion_model.", 8.0, "", None),
    "bare+alpha": ("", 8.0, "", None),
    "bare+header": ("", None, "", ""),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_the_same_numbers_is_the_same_adapter(plain, adapter, name, tmp_path):
    prefix, alpha, infix, header_prefix = LAYOUTS[name]
    header = None if header_prefix is None else header_of(plain, header_prefix)
    read = load_adapter(relaid(plain, tmp_path / "one.safetensors", prefix, alpha, infix, header))
    assert (read.content_hash, read.layout) == (adapter.content_hash, name)
    assert set(strengths(read).values()) == {(4, 8.0, 2.0)}


def test_what_diffusers_and_peft_save_is_read(plain, adapter, family, tmp_path):
    transformer = tiny_transformer(family)
    inject(adapter, transformer)
    transformer.save_lora_adapter(tmp_path)
    for path, layout in ((tmp_path, "bare+header"), (plain / files.WEIGHTS_NAME, "peft")):
        read = load_adapter(path)
        assert (read.content_hash, read.layout) == (adapter.content_hash, layout)


@pytest.mark.parametrize("prefix", ["base_model.model.", "transformer.", ""])
def test_a_file_that_records_no_strength_needs_the_alpha_of_its_training(
    plain, adapter, prefix, tmp_path
):
    file = relaid(plain, tmp_path / "renamed.safetensors", prefix)

    refused(file, "strength is unknown.*--alpha N")

    given = load_adapter(file, alpha=8)
    assert given.content_hash == adapter.content_hash
    assert given.peft_config()["lora_alpha"] == 8


def test_a_repository_of_one_adapter_stands_for_it_and_of_two_is_refused_by_their_names(tmp_path):
    one_pair(tmp_path / "ARR-FLUX.1-dev")
    assert load_adapter(tmp_path).rank == 4

    one_pair(tmp_path / "ARR-Qwen-Image-Edit")
    refused(tmp_path, r"got ARR-FLUX\.1-dev, ARR-Qwen-Image-Edit; give one of them")


def test_a_published_adapter_without_its_configuration_has_the_strength_of_its_card(tmp_path):
    """ComfyUI's download brings the weights alone."""
    folder = one_pair(
        tmp_path / "ARR-FLUX.1-dev",
        tensors={
            A: torch.ones(16, 32),
            B: torch.ones(32, 16),
        },
    )
    (folder / files.CONFIG_NAME).unlink()
    for path in (folder, folder / files.WEIGHTS_NAME):
        adapter = load_adapter(path)
        assert {pair.scale for pair in adapter.modules.values()} == {
            2.0
        } and adapter.base == "black-forest-labs/FLUX.1-dev"
    folder = one_pair(tmp_path / "ARR-Qwen-Image-Edit")
    (folder / files.CONFIG_NAME).unlink()
    refused(folder, "expected rank 32 .* got rank 4")


def test_what_neither_family_could_load_is_not_converted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pair = {
        "lora_A.weight": torch.ones(4, 8),
        "lora_B.weight": torch.ones(8, 4),
        "alpha": torch.tensor(4.0),
    }
    module = "diffusion_model.double_blocks.0.img_attn.proj"
    save_file({f"{module}.{name}": tensor for name, tensor in pair.items()}, "bfl.safetensors")
    assert command.main(["convert", "bfl.safetensors"]) == 2
    assert (
        "nothing could load the result" in capsys.readouterr().err
        and len(list(tmp_path.iterdir())) == 1
    )
    assert (
        command.main(["inspect", "bfl.safetensors"]) == 0
        and "none of ours" in capsys.readouterr().out
    )


def test_a_snapshot_of_the_hub_cache_may_link_to_its_blobs(tmp_path):
    snapshot, blobs = (
        tmp_path / "models--org--name/snapshots/0123/ARR",
        tmp_path / "models--org--name/blobs",
    )
    one_pair(snapshot)
    blobs.mkdir()
    for file in list(snapshot.iterdir()):
        file.rename(blobs / f"blob-of-{file.name}")
        file.symlink_to(f"../../../blobs/blob-of-{file.name}")

    assert load_adapter(snapshot).rank == 4


# ---- what happens to the file as it is


@pytest.mark.skipif(
    Version(diffusers.__version__) < Version("0.42"), reason="measured with diffusers 0.42"
)
@pytest.mark.filterwarnings(
    "ignore:Found missing adapter keys", "ignore:While injecting the PEFT adapters"
)
@pytest.mark.parametrize("header", [False, True], ids=["", "header"])
@pytest.mark.parametrize("infix", ["", ".default"], ids=["", "named"])
@pytest.mark.parametrize("alpha", [None, 8.0], ids=["", "alpha"])
@pytest.mark.parametrize("prefix", ["base_model.model.", "transformer.", "diffusion_model.", ""])
def test_what_is_said_of_a_raw_file_is_what_diffusers_does(
    family, plain, effects, prefix, alpha, infix, header, tmp_path
):
    said_header = header_of(plain, "transformer." if prefix else "") if header else None
    file = relaid(plain, tmp_path / "raw.safetensors", prefix, alpha, infix, said_header)

    said = raw_outcomes(load_adapter(file, alpha=None if alpha or header else 8))["diffusers"]

    if said == compatibility.FAILS:
        with pytest.raises((KeyError, ValueError)):
            through_diffusers(family, file)
    elif said == compatibility.UNSET:
        assert not torch.allclose(through_diffusers(family, file), effects[compatibility.FULL])
    else:
        assert distance(through_diffusers(family, file), effects[said]) < TOLERANCE


@pytest.fixture(scope="module")
def effects(family, adapter):
    """The output of the tiny transformer with the plain adapter at each strength that a file may come to."""
    results = {}
    for said, scale in (
        (compatibility.FULL, 2.0),
        ("0.50 of its strength", 1.0),
        (compatibility.TWICE, 4.0),
    ):
        transformer = tiny_transformer(family)
        modules = {
            module: pair._replace(alpha=scale * pair.rank, scale=scale)
            for module, pair in adapter.modules.items()
        }
        inject(Adapter(modules), transformer)
        results[said] = output(transformer)
    return {**results, compatibility.NOTHING: output(tiny_transformer(family))}


def test_only_a_universal_file_is_at_full_strength_everywhere(adapter, tmp_path):
    universal = load_adapter(adapter.save_universal(tmp_path / "u.safetensors"))
    assert raw_outcomes(adapter)["ComfyUI"] == "nothing is applied, yet the node reports success"
    assert raw_outcomes(universal) == {"diffusers": "full strength", "ComfyUI": "full strength"}


# ---- family and base


def widths(
    *kinds: str, blocks: int = 1, block: str = "transformer_blocks", width: int = 3072
) -> dict[str, int]:
    return {f"{block}.{number}.{kind}": width for number in range(blocks) for kind in kinds}


SINGLE = widths("attn.to_q", blocks=38, block="single_transformer_blocks")


@pytest.mark.parametrize(
    ("modules", "base", "expected"),
    [
        pytest.param(
            {**widths(*TARGETS["flux"], blocks=19), **SINGLE}, None, "flux", id="published FLUX"
        ),
        pytest.param(
            widths(*ATTENTION, blocks=60), None, "qwen-image-edit", id="published Qwen-Image-Edit"
        ),
        pytest.param(widths("ff_context.net.2"), None, "flux", id="FLUX by its feed-forward"),
        pytest.param(
            widths("img_mlp.net.2"), None, "qwen-image-edit", id="Qwen by its feed-forward"
        ),
        pytest.param(widths("attn.to_q", blocks=19), None, "unknown", id="attention fits both"),
        pytest.param(
            widths("attn.to_q", blocks=19), BASES["flux"], "flux", id="attention, the base decides"
        ),
        pytest.param(
            widths("attn.to_q", blocks=2),
            "Qwen/Qwen-Image-Edit-2509",
            "qwen-image-edit",
            id="an edition",
        ),
        pytest.param(
            widths("attn.to_q", blocks=20), BASES["flux"], "unknown", id="FLUX has 19 double blocks"
        ),
        pytest.param(widths("attn.to_q", blocks=38, width=2432), None, "unknown", id="SD 3.5"),
        pytest.param(
            widths("attn.to_q", blocks=60, width=2048), None, "unknown", id="another width"
        ),
        pytest.param(
            {**widths("attn.to_q"), "double_blocks.0.img_attn.qkv": 3072},
            BASES["flux"],
            "unknown",
            id="names of another program",
        ),
        pytest.param({**widths("img_mlp.net.2"), **SINGLE}, None, "unknown", id="a mixture"),
        pytest.param(
            widths("attn.to_qkv_mlp_proj", block="single_transformer_blocks"),
            None,
            "unknown",
            id="FLUX.2",
        ),
    ],
)
def test_the_family_is_told_by_names_then_counts_then_the_base_and_else_unknown(
    modules, base, expected
):
    assert detect_family(modules, base) == expected


def test_every_linear_layer_of_the_real_classes_is_known(family):
    layers = tiny_transformer(family).named_modules()
    assert (
        detect_family({name: m.in_features for name, m in layers if hasattr(m, "in_features")})
        == family
    )


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        ("Qwen/Qwen-Image-Edit", "Qwen/Qwen-Image-Edit"),
        ("/home/somebody/models/FLUX.1-dev/", "FLUX.1-dev"),
        ("C:\\Users\\somebody\\FLUX.1-dev", "FLUX.1-dev"),
        ("/x/hub/models--Qwen--Qwen-Image-Edit/snapshots/0123", "Qwen/Qwen-Image-Edit"),
        ("../FLUX.1-dev", "FLUX.1-dev"),
        ("\x1b[31mred\n", "[31mred"),
        ("", None),
        (None, None),
    ],
)
def test_the_base_is_shown_without_the_paths_of_whoever_trained_it(recorded, shown):
    assert base_id(recorded) == shown


@pytest.mark.parametrize(
    ("base", "loaded", "warning"),
    [
        ("Qwen/Qwen-Image-Edit", None, None),
        ("Qwen/Qwen-Image-Edit", "/models/qwen-image-edit", None),
        (
            "Qwen/Qwen-Image-Edit",
            "Qwen/Qwen-Image-Edit-2509",
            "trained on Qwen/Qwen-Image-Edit, used with .*-2509",
        ),
        ("Qwen/Qwen-Image-Edit-2509", "Qwen/Qwen-Image-Edit", "its effect there was not trained"),
        (None, "Qwen/Qwen-Image-Edit", "no base model is recorded.*-2509"),
        ("black-forest-labs/FLUX.1-dev", None, "not of the modules' family"),
    ],
)
def test_a_base_that_was_not_trained_on_is_warned_of(base, loaded, warning):
    said = base_warning("qwen-image-edit", base, loaded)
    assert said is None if warning is None else re.search(warning, said)


# ---- matching


def test_what_does_not_fit_a_transformer_is_refused_before_it_is_changed(adapter, family):
    transformer = tiny_transformer(family)
    module, absent = "transformer_blocks.0.attn.to_q", "transformer_blocks.9.attn.to_q"
    pair = adapter.modules[module]
    cut = pair._replace(A=pair.A[:, :31])
    for modules, reason in (
        ({**adapter.modules, absent: pair}, f"got {len(adapter.modules)}; missing are {absent}"),
        ({module: cut}, rf"shape \[32, 32\] for {module}, got \[32, 31\]"),
    ):
        with pytest.raises(AdapterError, match=reason):
            inject(Adapter(modules), transformer)
    other = tiny_transformer(FAMILIES[1 - FAMILIES.index(family)])
    with pytest.raises(AdapterError, match=f"got one of {family}; load the base model"):
        inject(adapter, other)
    assert not hasattr(transformer, "peft_config") and not hasattr(other, "peft_config")
    inject(adapter, transformer)
    with pytest.raises(AdapterError, match="expected a transformer without an adapter"):
        inject(adapter, transformer)


# ---- refusals

MODULE = "base_model.model.transformer_blocks.0.attn.to_q"
A, B = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight"


def one_pair(folder, dtype=torch.float32, tensors=None, **config):
    """``folder``, holding the smallest PEFT adapter: one pair of rank 4, alpha 8, with changes; None is no tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    pair = {
        A: torch.randn(4, 32, generator=generator).to(dtype),
        B: torch.randn(32, 4, generator=generator).to(dtype),
        **(tensors or {}),
    }
    written = {name: tensor for name, tensor in pair.items() if tensor is not None}
    save_file(written, folder / files.WEIGHTS_NAME)
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    (folder / files.CONFIG_NAME).write_text(json.dumps(settings))
    return folder


ONE = torch.ones(1)
REFUSED_TENSORS = {
    "no A": ({A: None}, r"got only .*lora_B\.weight; the file is incomplete"),
    "no B": ({B: None}, r"got only .*lora_A\.weight; the file is incomplete"),
    "DoRA": ({f"{MODULE}.lora_magnitude_vector": ONE}, "a DoRA magnitude.*use_dora=False"),
    "DoRA of Kohya": ({"x.dora_scale": ONE}, "a DoRA magnitude"),
    "LoRA bias": ({f"{MODULE}.lora_B.bias": ONE}, "a trained bias.*lora_bias=False"),
    "bias of the layer": ({f"{MODULE}.base_layer.bias": ONE}, "a trained bias.*bias='none'"),
    "modules_to_save": ({"base_model.model.proj_out.weight": ONE}, "modules_to_save"),
    "LoHa": ({f"{MODULE}.hada_w1_a": ONE}, "a LoHa factor"),
    "LoKr": ({f"{MODULE}.lokr_w1": ONE}, "a LoKr factor"),
    "embedding": ({f"{MODULE}.lora_embedding_A": ONE}, "an embedding's LoRA"),
    "text encoder": ({"text_encoder.layers.0.q.lora_A.weight": ONE}, "a text encoder's LoRA"),
    "Kohya": ({"lora_unet_double_blocks_0.lora_down.weight": ONE}, "a Kohya name"),
    "not a LoRA": ({"optimizer": ONE}, "names like <module>.lora_A.weight, got 'optimizer'"),
    "terminal escapes in an adapter's name": (
        {f"{MODULE}.lora_A.\x1b[2J.weight": ONE},
        r"\\x1b\[2J",
    ),
    "terminal escapes": ({"\x1b[2J": ONE}, r"got '\\x1b\[2J'"),
    "two adapters": ({f"{MODULE}.lora_A.other.weight": ONE}, "expected one adapter"),
    "two prefixes": (
        {
            "transformer.y.lora_A.weight": torch.ones(4, 2),
            "transformer.y.lora_B.weight": torch.ones(2, 4),
        },
        "expected one prefix",
    ),
    "alpha alone": (
        {"base_model.model.y.alpha": ONE},
        r"lora_A and lora_B of y, got only base_model.model.y.alpha",
    ),
    "NaN": (
        {A: torch.full((4, 32), math.nan)},
        r"NaN or infinity in .*lora_A.weight",
    ),
    "infinity": (
        {B: torch.full((32, 4), math.inf)},
        r"NaN or infinity in .*lora_B.weight",
    ),
    "convolution": (
        {A: torch.ones(4, 32, 1, 1)},
        r"expected a matrix.*\[4, 32, 1, 1\]",
    ),
    "empty": ({A: torch.ones(0, 32)}, r"expected a matrix.*\[0, 32\]"),
    "integers": (
        {A: torch.ones(4, 32, dtype=torch.int32)},
        "got torch.int32",
    ),
    "alpha of many": ({f"{MODULE}.alpha": torch.ones(2)}, "expected one number in"),
    "alpha of zero": ({f"{MODULE}.alpha": torch.zeros(1)}, "finite alpha other than 0"),
    "alpha against configuration": (
        {f"{MODULE}.alpha": torch.tensor(4.0)},
        "expected scale 2 .*got alpha 4",
    ),
    "ranks of A and B": (
        {A: torch.ones(3, 32)},
        r"expected one rank in transformer_blocks.0",
    ),
    "overflow": (
        {B: torch.full((32, 4), 3e38)},
        "an overflow in transformer_blocks.0",
    ),
}


@pytest.mark.parametrize(("tensors", "reason"), REFUSED_TENSORS.values(), ids=REFUSED_TENSORS)
def test_tensors_that_are_no_plain_lora_are_refused_by_name(tensors, reason, tmp_path):
    with pytest.raises(AdapterError, match=reason) as caught:
        load_adapter(one_pair(tmp_path, tensors=tensors)).to_universal()
    assert "\n" not in str(caught.value)


REFUSED_CONFIGS = {
    "DoRA": ({"use_dora": True}, "got use_dora=True"),
    "bias": ({"bias": "lora_only"}, "bias: expected 'none', got \"lora_only\""),
    "LoRA bias": ({"lora_bias": True}, "lora_bias=True"),
    "modules_to_save": ({"modules_to_save": ["proj_out"]}, r"modules_to_save=\['proj_out'\]"),
    "LoHa": ({"peft_type": "LOHA"}, "peft_type: expected 'LORA', got \"LOHA\""),
    "PiSSA": (
        {"init_lora_weights": "pissa"},
        "init_lora_weights='pissa', which rewrites base weights",
    ),
    "no alpha": ({"lora_alpha": None}, "lora_alpha: expected a valid number, got null"),
    "alpha of zero": ({"lora_alpha": 0}, "lora_alpha: expected a number other than 0, got 0"),
    "alpha NaN": ({"lora_alpha": math.nan}, "lora_alpha: expected a finite number, got NaN"),
    "alpha as text": ({"lora_alpha": "8"}, 'lora_alpha: expected a valid number, got "8"'),
    "no rank": ({"r": None}, "r: expected a valid integer, got null"),
    "half a rank": ({"r": 4.5}, "r: expected a valid integer, got 4.5"),
    "another rank": (
        {"r": 8},
        "expected rank 8 for transformer_blocks.0.attn.to_q as configured, got rank 4",
    ),
    "another rank by pattern": ({"rank_pattern": {"to_q": 2}}, "expected rank 2"),
    "pattern that is no table": (
        {"alpha_pattern": ["to_q"]},
        "alpha_pattern: expected a valid dictionary",
    ),
    "pattern of text": (
        {"alpha_pattern": {"to_q": "8"}},
        "alpha_pattern.to_q: expected a valid number",
    ),
    "pattern that is no expression": (
        {"alpha_pattern": {"to_q(": 8}},
        "expected regular expressions",
    ),
}


@pytest.mark.parametrize(("config", "reason"), REFUSED_CONFIGS.values(), ids=REFUSED_CONFIGS)
def test_a_configuration_of_more_or_less_than_a_plain_lora_is_refused_by_name(
    config, reason, tmp_path
):
    refused(one_pair(tmp_path, **config), reason)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"[" * 100_000, b"\xff"],
    ids=["empty", "cut", "list", "deep", "no text"],
)
def test_a_configuration_that_is_no_json_object_is_refused(content, tmp_path):
    (one_pair(tmp_path) / files.CONFIG_NAME).write_bytes(content)
    refused(tmp_path, "expected.* JSON")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_a_pickle_is_refused_unopened(suffix, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    file = tmp_path / f"adapter_model{suffix}"
    file.write_bytes(pickle.dumps(Bomb()))
    refused(file, "expected safetensors, got a pickle")
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_a_pickle_is_refused(tmp_path):
    (one_pair(tmp_path) / files.WEIGHTS_NAME).rename(tmp_path / "adapter_model.bin")
    refused(tmp_path, "got adapter_model.bin, a pickle")


def damaged(content: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "cut in the header": content[:20],
        "cut in the data": content[:-1],
        "a header of 2^62 bytes": (2**62).to_bytes(8, "little") + content[8:],
        "a zip": b"PK\x03\x04" + content,
        "a header that is no JSON": content[:8] + b"?" + content[9:],
    }


@pytest.mark.parametrize("damage", damaged(b"x" * 30))
def test_a_damaged_file_is_one_clear_error(damage, tmp_path):
    file = one_pair(tmp_path) / files.WEIGHTS_NAME
    file.write_bytes(damaged(file.read_bytes())[damage])
    refused(tmp_path, r"expected a complete safetensors file, got [\d,]+ bytes")


def test_a_file_of_the_size_of_a_model_is_refused_unread(tmp_path):
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.truncate(files.MAX_FILE_BYTES + 1)
    refused(
        file,
        "got 8,589,934,593 bytes, more than 8,589,934,592; give the adapter, not a whole model",
    )


@pytest.mark.parametrize("name", [files.WEIGHTS_NAME, files.CONFIG_NAME])
def test_a_link_out_of_the_folder_is_refused(name, tmp_path):
    folder = one_pair(tmp_path / "adapter")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    refused(folder, "a link that leads out of it")


def test_a_linked_folder_is_refused_inside_a_repository(tmp_path):
    one_pair(tmp_path / "elsewhere")
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "ARR").symlink_to(tmp_path / "elsewhere")
    refused(tmp_path / "repository", "a link that leads out of it")


def test_what_is_no_adapter_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("?")
    refused(tmp_path / "absent", "got nothing; check the path")
    refused(tmp_path / "notes.txt", "expected a .safetensors file, got .txt")
    refused(tmp_path, "expected adapter_config.json and adapter_model.safetensors.*got neither")
    (one_pair(tmp_path) / files.CONFIG_NAME).unlink()
    refused(tmp_path, "expected adapter_config.json beside adapter_model.safetensors, got none")
    one_pair(tmp_path)
    (tmp_path / files.WEIGHTS_NAME).unlink()
    refused(tmp_path, "expected adapter_model.safetensors, got none")
    save_file({}, tmp_path / "empty.safetensors")
    refused(tmp_path / "empty.safetensors", "got no tensor at all")


def test_one_file_says_its_strength_once(plain, adapter, tmp_path):
    universal = adapter.save_universal(tmp_path / "universal.safetensors")
    refused(
        universal,
        "got alpha 8 given for a file that records its strength; leave alpha out",
        alpha=8,
    )
    refused(plain, "leave alpha out", alpha=8)
    refused(
        relaid(plain, tmp_path / "raw.safetensors", "transformer."),
        "expected a finite alpha other than 0, got nan",
        alpha=math.nan,
    )
    (tmp_path / "mixed").mkdir()
    universal.rename(tmp_path / "mixed" / files.WEIGHTS_NAME)
    (tmp_path / "mixed" / files.CONFIG_NAME).write_bytes((plain / files.CONFIG_NAME).read_bytes())
    refused(tmp_path / "mixed", "expected a universal file alone")


def test_alpha_tensors_must_be_complete(plain, tmp_path):
    file = relaid(plain, tmp_path / "one.safetensors", "transformer.", alpha=8.0)
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(".alpha"))
    del tensors[name]
    save_file(tensors, file)
    refused(file, f"none for {name.removeprefix('transformer.').removesuffix('.alpha')}")


def test_header_metadata_that_is_no_json_is_refused(plain, tmp_path):
    file = relaid(
        plain, tmp_path / "one.safetensors", "transformer.", header={"lora_adapter_metadata": "{"}
    )
    refused(file, "expected JSON")


# ---- the command


def test_inspect_prints_a_table(plain, adapter, family, capsys):
    assert command.main(["inspect", str(plain)]) == 0
    printed = capsys.readouterr()
    rows = dict(re.findall(r"^(\w+) +(.+)$", printed.out, re.MULTILINE))
    assert rows["family"] == family and rows["base"] == BASES[family] and rows["layout"] == "peft"
    assert (rows["rank"], rows["alpha"], rows["scale"], rows["dtype"]) == ("4", "8", "2", "float32")
    assert rows["hash"] == adapter.content_hash and rows["modules"] == str(len(adapter.modules))
    assert (
        "transformer_blocks.*.attn.to_q" in printed.out
        and "the node reports success" in printed.out
    )
    assert printed.err == ""


def test_convert_writes_the_universal_file_and_says_how_to_load_it(
    plain, family, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert command.main(["convert", str(plain), "--output", "out/mine.safetensors"]) == 0
    assert command.main(["convert", str(plain)]) == 0
    printed = capsys.readouterr().out
    assert "pipe.load_lora_weights('out', weight_name='mine.safetensors')" in printed
    assert "lora_name mine.safetensors, strength_model 1.0" in printed
    converted = load_adapter("out/mine.safetensors")
    assert converted.content_hash == load_adapter(plain).content_hash
    assert (tmp_path / f"ARR-{family}-universal.safetensors").exists()


def test_convert_takes_the_alpha_and_the_base_that_a_file_lacks(plain, tmp_path, capsys):
    file, out = (
        relaid(plain, tmp_path / "raw.safetensors", "transformer."),
        tmp_path / "out.safetensors",
    )
    assert command.main(["convert", str(file), "--alpha", "8", "--output", str(out)]) == 0
    assert "warning: no base model is recorded" in capsys.readouterr().err
    arguments = ["convert", str(file), "--alpha", "8", "--base", "org/model", "--output", str(out)]
    assert command.main(arguments) == 2 and "expected a new file" in capsys.readouterr().err
    out.unlink()
    assert command.main(arguments) == 0
    assert capsys.readouterr().err == ""
    assert load_adapter(out).base == "org/model"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["inspect", "{folder}/absent"], "got nothing; check the path"),
        (["inspect", "{folder}", "--alpha", "8"], "leave alpha out"),
        (["convert", "{folder}", "--output", "{folder}/x.pt"], "ends in .safetensors"),
        (
            [
                "convert",
                "{folder}/adapter_model.safetensors",
                "--output",
                "{folder}/adapter_model.safetensors",
            ],
            "a new file",
        ),
        (
            ["convert", "{folder}", "--output", "{folder}/adapter_config.json/x.safetensors"],
            "adapter_config.json",
        ),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_status_2(plain, arguments, reason, capsys):
    assert command.main([argument.format(folder=plain) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert reason in printed.err
