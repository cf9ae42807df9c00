"""ARRLoadAdapter in a real ComfyUI, on tiny models of ComfyUI's own classes: what it changes, compared with B @ A."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from arr_core.adapters import Adapter, LoraPair

WIDTH, RANK = 128, 4
BASES = {"flux": "black-forest-labs/FLUX.1-dev", "qwen": "Qwen/Qwen-Image-Edit"}
# diffusers' name in a block -> (ComfyUI's name, rows of its weight or None for all, [out, in])
SQUARE, UP, DOWN = (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)
FLUX_BLOCK = {
    **{f"attn.to_{name}": ("img_attn.qkv", at, SQUARE) for at, name in enumerate("qkv")},
    **{f"attn.add_{name}_proj": ("txt_attn.qkv", at, SQUARE) for at, name in enumerate("qkv")},
    "attn.to_out.0": ("img_attn.proj", None, SQUARE),
    "attn.to_add_out": ("txt_attn.proj", None, SQUARE),
    "ff.net.0.proj": ("img_mlp.0", None, UP),
    "ff.net.2": ("img_mlp.2", None, DOWN),
    "ff_context.net.0.proj": ("txt_mlp.0", None, UP),
    "ff_context.net.2": ("txt_mlp.2", None, DOWN),
}
ATTENTION = "to_q to_k to_v to_out.0 add_q_proj add_k_proj add_v_proj to_add_out".split()
QWEN_BLOCK = {f"attn.{name}": (f"attn.{name}", None, SQUARE) for name in ATTENTION}
QWEN_BLOCK["img_mlp.net.0.proj"] = ("img_mlp.net.0.proj", None, UP)
BLOCKS = {"flux": ("double_blocks", FLUX_BLOCK), "qwen": ("transformer_blocks", QWEN_BLOCK)}


def make_adapter(family: str, blocks: int = 2, alpha: float = 8.0) -> Adapter:
    """Random pairs for every module that BLOCKS names, at scale alpha / rank."""
    random = torch.Generator().manual_seed(1)
    modules = {}
    for block in range(blocks):
        for name, (_, _, (rows, columns)) in BLOCKS[family][1].items():
            a, b = (
                torch.randn(RANK, columns, generator=random),
                torch.randn(rows, RANK, generator=random),
            )
            modules[f"transformer_blocks.{block}.{name}"] = LoraPair(a, b, alpha, alpha / RANK)
    return Adapter(modules, BASES[family])


def expected_changes(adapter: Adapter, family: str, strength: float) -> dict[str, torch.Tensor]:
    """ComfyUI's weight name -> the change that the adapter means."""
    folder, names = BLOCKS[family]
    changes = {}
    for module, pair in adapter.modules.items():
        _, block, name = module.split(".", 2)
        theirs, part, (rows, columns) = names[name]
        key = f"diffusion_model.{folder}.{block}.{theirs}.weight"
        change = strength * pair.scale * pair.B @ pair.A
        if part is None:
            changes[key] = change
        else:
            changes.setdefault(key, torch.zeros(3 * rows, columns))[
                part * rows : (part + 1) * rows
            ] = change
    return changes


def graph(server, family: str, adapter: str, **inputs) -> dict:
    return {
        "model": server.node("TestTinyModel", family=family),
        "load": server.node("ARRLoadAdapter", model=["model", 0], adapter=adapter, **inputs),
        "change": server.node("TestSaveChange", model=["load", 0], name="change.safetensors"),
    }


def check(server, graph: dict, family: str, adapter: Adapter, strength: float = 1.0) -> str:
    """The text of the graph's node, after the change that it made was compared with the adapter's meaning."""
    outputs = server.run(graph)
    found = load_file(server.base / "output/change.safetensors")
    expected = expected_changes(adapter, family, strength)
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-4)
    return outputs["load"]["text"][0]


def loras(server):
    return server.base / "models/loras"


@pytest.mark.parametrize("version", ["server", "old_server"])
@pytest.mark.parametrize("family", ["flux", "qwen"])
def test_a_peft_folder_acts_at_the_strength_it_was_trained_with(version, family, request):
    server, adapter = request.getfixturevalue(version), make_adapter(family)
    adapter.save(loras(server) / f"{family}-peft")
    name = f"{family}-peft/adapter_model.safetensors"
    text = check(server, graph(server, family, name), family, adapter)
    lines = dict(line.split(": ", 1) for line in text.splitlines())
    assert lines["rank"] == "4" and lines["alpha"] == "8" and lines["effective scale"] == "2"
    count = len(adapter.modules)
    assert lines["modules matched"] == f"{count} of {count}"
    assert lines["family"] == {"flux": "flux", "qwen": "qwen-image-edit"}[family]


@pytest.mark.parametrize("strength", [0.5, -1.0])
def test_strength_scales_the_change(server, strength):
    adapter = make_adapter("flux")
    adapter.save_universal(loras(server) / "flux.safetensors")
    scaled = graph(server, "flux", "flux.safetensors", strength=strength)
    text = check(server, scaled, "flux", adapter, strength)
    assert f"effective scale: {strength:g}" in text


def test_the_lora_output_feeds_the_stock_loader_and_saver(server):
    adapter = make_adapter("qwen")
    adapter.save_universal(loras(server) / "qwen.safetensors")
    stock = graph(server, "qwen", "qwen.safetensors")
    stock["stock"] = server.node("LoraModelLoader", model=["model", 0], lora=["load", 1])
    stock["change"]["inputs"]["model"] = ["stock", 0]
    stock["save"] = server.node("SaveLoRA", lora=["load", 1], prefix="loras/saved")
    check(server, stock, "qwen", adapter)
    (saved,) = (server.base / "output/loras").glob("saved*.safetensors")
    check(server, graph(server, "qwen", saved.name), "qwen", adapter)


def test_an_adapter_that_changed_on_disk_is_loaded_again(server):
    for alpha in (8.0, 2.0):
        adapter = make_adapter("flux", alpha=alpha)
        adapter.save_universal(loras(server) / "changing.safetensors")
        check(server, graph(server, "flux", "changing.safetensors"), "flux", adapter)


def test_a_model_with_fewer_blocks_is_a_warning_with_names(server):
    make_adapter("flux", blocks=3).save(loras(server) / "deep")
    outputs = server.run(graph(server, "flux", "deep/adapter_model.safetensors"))
    text = outputs["load"]["text"][0]
    assert "modules matched: 24 of 36" in text
    assert "warning: this model has no transformer_blocks.2." in text


def without_strength(folder):
    from safetensors.torch import save_file

    save_file(
        {
            f"transformer.{name}": tensor
            for name, tensor in make_adapter("flux").state_dict().items()
        },
        folder / "silent.safetensors",
    )


def wider(folder):
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 64, generator=random), torch.randn(64, 4, generator=random)
    Adapter(
        {"transformer_blocks.0.attn.to_q": LoraPair(a, b, 4.0, 1.0)}, BASES["flux"]
    ).save_universal(folder / "wider.safetensors")


def for_qwen(folder):
    make_adapter("qwen").save_universal(folder / "for-qwen.safetensors")


@pytest.mark.parametrize(
    "make, name, family, words",
    [
        (for_qwen, "for-qwen.safetensors", "flux", "load Qwen-Image-Edit"),
        (for_qwen, "for-qwen.safetensors", "other", "load Qwen-Image-Edit"),
        (without_strength, "silent.safetensors", "flux", "its strength is unknown"),
        (
            wider,
            "wider.safetensors",
            "flux",
            "shape [128, 128] for transformer_blocks.0.attn.to_q, got [64, 64]",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error_on_the_node(server, make, name, family, words):
    make(loras(server))
    message = server.fail(graph(server, family, name))
    assert message.startswith("ValueError: ") and words in message


def test_a_file_without_strength_takes_the_alpha_that_is_given(server):
    without_strength(loras(server))
    outputs = server.run(graph(server, "flux", "silent.safetensors", alpha=8.0))
    assert "effective scale: 2" in outputs["load"]["text"][0]


@pytest.mark.parametrize(
    "name, words",
    [
        ("../../../etc/passwd", "expected a file of ComfyUI's loras folders"),
        ("/etc/passwd", "expected a file of ComfyUI's loras folders"),
        ("run: ../../models", "that is no path"),
        ("missing.safetensors", "expected a file of ComfyUI's loras folders"),
        ("(none)", "expected a LoRA file or a connected run"),
    ],
)
def test_what_is_no_file_of_the_loras_folders_is_an_error_on_the_node(server, name, words):
    message = server.fail(graph(server, "flux", name))
    assert message.startswith("ValueError: ") and words in message
