"""What the workflows are: nodes, their settings, and how they are wired."""

from __future__ import annotations

from build import Node, Workflow

HUB = "https://huggingface.co"
# The page where the adapters are; their card still says ARR-RPO in its examples.
CARD = f"{HUB}/OpenEnvisionLab/Auto-Rubric-as-Reward/resolve/main"


def model(url: str, directory: str, folder: str = "") -> dict:
    """A file that ComfyUI offers to download: its name as a node's list has it, where it is, and its folder in models."""
    return {"name": folder + url.rsplit("/", 1)[-1], "url": url, "directory": directory}


FLUX = model(f"{HUB}/Comfy-Org/flux1-dev/resolve/main/flux1-dev.safetensors", "diffusion_models")
FLUX_TEXT = [
    model(
        f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main/{name}.safetensors", "text_encoders"
    )
    for name in ("clip_l", "t5xxl_fp16")
]
FLUX_VAE = model(
    f"{HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors",
    "vae",
)
QWEN = model(
    f"{HUB}/Comfy-Org/Qwen-Image-Edit_ComfyUI/resolve/main/split_files/diffusion_models/"
    "qwen_image_edit_fp8_e4m3fn.safetensors",
    "diffusion_models",
)
QWEN_TEXT = model(
    f"{HUB}/Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files/text_encoders/"
    "qwen_2.5_vl_7b_fp8_scaled.safetensors",
    "text_encoders",
)
QWEN_VAE = model(
    f"{HUB}/Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files/vae/qwen_image_vae.safetensors",
    "vae",
)

PROMPTS = """\
A high-resolution product photo of two matte blue ceramic cups on a wooden table, the smaller one to the left of the larger one
Three yellow lemons in a row on a white plate, the middle one cut in half, overhead view
A red bicycle leaning against a green door, a black cat sitting on its saddle, overcast light
A hand-painted wooden sign that says "FRESH BREAD" above a bakery window, early morning
An elderly woman in a purple coat feeding exactly four pigeons on a park bench, watercolor
A glass bottle to the right of a stack of five books, a single candle behind them, film photograph
Two astronauts playing chess on a red desert, a blue planet low on the horizon, digital painting
A bowl of ramen with two halves of an egg, chopsticks resting on the left rim, steam, close-up
A white lighthouse below a full moon, three sailboats in front of it, linocut in two colours
A child in a yellow raincoat holding a transparent umbrella above a small brown dog, rainy street at night"""
EDITS = """\
Change the background to a sunny beach while preserving the subject, its pose and its light from the left
Turn the photo into a black-and-white picture while keeping everything where it is
Make it look like a late autumn evening while preserving all objects and their positions
Add a small red hot-air balloon to the upper right corner and leave everything else as it is
Turn the photo into a watercolor painting while preserving the composition
Add soft fog in the background and keep the subject sharp and unchanged
Make the colours warmer, as at sunset, and preserve every object and its shape
Put a thin white frame around the picture and change nothing inside it"""
CUPS = (
    "A high-resolution product photo of two matte blue ceramic cups on a wooden table, with the smaller cup to the left "
    "of the larger cup, soft window lighting."
)
SHIRT = (
    "Change the shirt color to dark green while preserving the person's face, pose, background, lighting, and all other "
    "clothing details."
)
JUDGES = """\
**Judge**: describe it once in `~/.config/arr-rpo/judges.yaml`:
```
local:
  url: "http://127.0.0.1:8000/v1"
  model: "Qwen/Qwen3-VL-8B-Instruct"
```
Workflows only name the profile; addresses and keys stay with you."""


def adapter(folder: str) -> list[dict]:
    """The file of a published adapter, in a folder of its own below loras: its name says which it is, and how strong."""
    return [model(f"{CARD}/{folder}/adapter_model.safetensors", "loras", f"{folder}/")]


def workflows() -> list[Workflow]:
    """All of them."""
    return [
        demo(),
        apply_flux(),
        apply_qwen(),
        side_by_side(),
        compare(),
        rubric_from_pairs(),
        train_flux(),
        train_qwen(),
    ]


def demo() -> Workflow:
    w = Workflow("arr_demo_miniature_training")
    w.note(
        0,
        """\
# Watch a model learn, on your CPU
Nothing is downloaded. Press **Run**.

A small FLUX draws shapes and gets the prompt right about six times in ten. A small judge compares two pictures of a prompt
under the rubric, and the adapter learns what it prefers. On the node you see the win rate against the untrained base, and
the same prompts before and after.

**Cancel** finishes the update and saves; **Run** goes on. The adapter lands among your LoRAs (`loras/ARR-RPO`), the report in
`output/ARR-RPO/runs/demo`. Two to five minutes on a laptop.""",
        height=420,
    )
    judge = w.add("ARRJudge", 1, profile="miniature", both_orders=True, check=True, width=340)
    rubric = w.add("ARRRubric", 1, source="built-in: miniature t2i", width=340)
    train = w.add(
        "ARRTrainRPO",
        2,
        width=520,
        height=980,
        preset="miniature",
        run_name="demo",
        updates=60,
        judge=judge[0],
        rubric=rubric[0],
    )
    w.add("LossGraphNode", 3, width=420, height=420, loss=train[1], filename_prefix="loss_graph")
    w.add("PreviewAny", 3, width=420, height=220, title="What came out", source=train[4])
    w.add(
        "ARRWinRate",
        4,
        width=460,
        height=900,
        preset="miniature",
        run=train[3],
        judge=judge[0],
        rubric=rubric[0],
    )
    return w


def flux_loaders(w: Workflow) -> tuple[Node, Node, Node]:
    unet = w.add(
        "UNETLoader", 0, unet_name="flux1-dev.safetensors", weight_dtype="default", models=[FLUX]
    )
    clip = w.add(
        "DualCLIPLoader",
        0,
        clip_name1="clip_l.safetensors",
        clip_name2="t5xxl_fp16.safetensors",
        type="flux",
        device="default",
        models=FLUX_TEXT,
    )
    return unet, clip, w.add("VAELoader", 0, vae_name="ae.safetensors", models=[FLUX_VAE])


def flux_prompt(w: Workflow, clip: Node) -> tuple[Node, Node, Node]:
    text = w.add(
        "CLIPTextEncode", 1, width=400, height=220, clip=clip[0], text=CUPS, title="Prompt"
    )
    guided = w.add("FluxGuidance", 1, width=400, conditioning=text[0], guidance=3.5)
    empty = w.add("ConditioningZeroOut", 1, width=400, conditioning=text[0])
    return guided, empty, w.add("EmptySD3LatentImage", 1, width=400, batch_size=1)


def sample(
    w: Workflow,
    column: int,
    source: Node,
    positive: Node,
    negative: Node,
    latent: Node,
    vae: Node,
    **fields,
) -> Node:
    sampled = w.add(
        "KSampler",
        column,
        model=source[0],
        positive=positive[0],
        negative=negative[0],
        latent_image=latent[0],
        **{
            "seed": 42,
            "steps": 30,
            "cfg": 1.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
            **fields,
        },
    )
    return w.add("VAEDecode", column, samples=sampled[0], vae=vae[0])


def apply_flux() -> Workflow:
    w = Workflow("arr_apply_flux_adapter")
    unet, clip, vae = flux_loaders(w)
    w.note(
        0,
        """\
# The FLUX adapter, at full strength
Put `adapter_model.safetensors` of `ARR-FLUX.1-dev` into `models/loras/ARR-FLUX.1-dev`. Loaded raw by other nodes, this adapter
does nothing or half of what it should.

**Prompts** that it likes name objects, attributes, counts, spatial relations, style, and what must not be ignored.""",
    )
    loader = w.add(
        "ARRLoadAdapter",
        1,
        width=400,
        model=unet[0],
        adapter="ARR-FLUX.1-dev/adapter_model.safetensors",
        strength=1.0,
        models=adapter("ARR-FLUX.1-dev"),
    )
    w.add("PreviewAny", 1, width=400, height=200, source=loader[2], title="What was loaded")
    positive, negative, latent = flux_prompt(w, clip)
    w.add(
        "SaveImage",
        3,
        width=420,
        images=sample(w, 2, loader, positive, negative, latent, vae)[0],
        filename_prefix="ARR/flux",
    )
    return w


def side_by_side() -> Workflow:
    w = Workflow("arr_base_against_adapter")
    unet, clip, vae = flux_loaders(w)
    w.note(
        0,
        f"""\
# Base against adapter, same seed
The judge says which of the two answers the prompt better, and why. For a number over many prompts use **Win Rate**.

{JUDGES}""",
        height=380,
    )
    positive, negative, latent = flux_prompt(w, clip)
    loader = w.add(
        "ARRLoadAdapter",
        1,
        width=400,
        model=unet[0],
        adapter="ARR-FLUX.1-dev/adapter_model.safetensors",
        strength=1.0,
        models=adapter("ARR-FLUX.1-dev"),
    )
    base = sample(w, 2, unet, positive, negative, latent, vae)
    adapted = sample(w, 2, loader, positive, negative, latent, vae)
    w.add("PreviewImage", 3, width=400, images=base[0], title="A: base")
    w.add("PreviewImage", 3, width=400, images=adapted[0], title="B: adapter")
    judge = w.add("ARRJudge", 4, profile="local", both_orders=True, check=True, width=440)
    w.add(
        "ARRJudgePair",
        4,
        width=440,
        height=820,
        image_a=base[0],
        image_b=adapted[0],
        prompt=CUPS,
        judge=judge[0],
        when_undecided="stop here",
    )
    return w


def apply_qwen() -> Workflow:
    w = Workflow("arr_apply_qwen_image_edit_adapter")
    unet = w.add(
        "UNETLoader",
        0,
        unet_name="qwen_image_edit_fp8_e4m3fn.safetensors",
        weight_dtype="default",
        models=[QWEN],
    )
    clip = w.add(
        "CLIPLoader",
        0,
        clip_name="qwen_2.5_vl_7b_fp8_scaled.safetensors",
        type="qwen_image",
        device="default",
        models=[QWEN_TEXT],
    )
    vae = w.add("VAELoader", 0, vae_name="qwen_image_vae.safetensors", models=[QWEN_VAE])
    w.note(
        0,
        """\
# The Qwen-Image-Edit adapter on a photo
Put `adapter_model.safetensors` of `ARR-Qwen-Image-Edit` into `models/loras/ARR-Qwen-Image-Edit`. It was trained on
Qwen-Image-Edit; other editions accept it, untested.

**Instructions** that it likes say what to change and what to preserve.""",
    )
    photo = w.add("LoadImage", 1, width=400, image="example.png", title="Photo")
    scaled = w.add(
        "ImageScaleToTotalPixels",
        1,
        width=400,
        image=photo[0],
        upscale_method="lanczos",
        megapixels=1.0,
    )
    loader = w.add(
        "ARRLoadAdapter",
        1,
        width=400,
        model=unet[0],
        adapter="ARR-Qwen-Image-Edit/adapter_model.safetensors",
        strength=1.0,
        models=adapter("ARR-Qwen-Image-Edit"),
    )
    w.add("PreviewAny", 1, width=400, height=200, source=loader[2], title="What was loaded")
    positive = w.add(
        "TextEncodeQwenImageEdit",
        2,
        width=400,
        height=220,
        clip=clip[0],
        vae=vae[0],
        image=scaled[0],
        prompt=SHIRT,
        title="Instruction",
    )
    negative = w.add(
        "TextEncodeQwenImageEdit",
        2,
        width=400,
        height=180,
        clip=clip[0],
        vae=vae[0],
        image=scaled[0],
        prompt="",
        title="Negative",
    )
    latent = w.add("VAEEncode", 2, width=400, pixels=scaled[0], vae=vae[0])
    shifted = w.add("ModelSamplingAuraFlow", 2, width=400, model=loader[0], shift=3.0)
    made = sample(w, 3, shifted, positive, negative, latent, vae, steps=20, cfg=2.5)
    w.add("SaveImage", 4, width=420, images=made[0], filename_prefix="ARR/edit")
    return w


def compare() -> Workflow:
    w = Workflow("arr_compare_two_images")
    w.note(
        0,
        f"""\
# Which image is better, and why
Both image orders are asked; if the answers differ, the pair is **undecided** and nothing behind *preferred* runs. Batches are
compared pair by pair. For an edit, connect the source image and an editing rubric.

{JUDGES}""",
        height=400,
    )
    a = w.add("LoadImage", 1, image="example.png", title="Image A", width=340)
    b = w.add("LoadImage", 1, image="example.png", title="Image B", width=340)
    judge = w.add("ARRJudge", 2, profile="local", both_orders=True, check=True, width=360)
    rubric = w.add("ARRRubric", 2, source="built-in: t2i", width=360)
    pair = w.add(
        "ARRJudgePair",
        3,
        width=480,
        height=860,
        image_a=a[0],
        image_b=b[0],
        prompt=CUPS,
        judge=judge[0],
        rubric=rubric[0],
        when_undecided="stop here",
    )
    w.add("PreviewImage", 4, width=380, images=pair[0], title="Preferred")
    w.add("PreviewAny", 4, width=380, height=260, source=pair[3], title="Reasons")
    return w


def rubric_from_pairs() -> Workflow:
    w = Workflow("arr_rubric_from_pairs")
    w.note(
        0,
        f"""\
# Criteria from what people preferred
Put a file of labelled pairs into the input folder, 50 to 100 of them:
```
{{"prompt": "...", "images": ["a.png", "b.png"], "label_rank": [1, 2]}}
```
one a line (`.jsonl`), 1 is the better image, and paths start at the file. Criteria are written, verified in both orders,
refined, and kept if they help on pairs that were held out.

{JUDGES}""",
        height=480,
    )
    judge = w.add("ARRJudge", 1, profile="local", both_orders=True, check=True, width=360)
    written = w.add(
        "ARRRubricFromPairs",
        2,
        width=460,
        height=520,
        pairs_file="pairs.jsonl",
        judge=judge[0],
        save_as="my rubric",
    )
    w.add("PreviewAny", 3, width=480, height=420, source=written[1], title="The rubric")
    w.add("PreviewAny", 3, width=480, height=200, source=written[2], title="On held-out pairs")
    return w


def train(name: str, note: str, preset: str, rubric_name: str, **fields) -> tuple[Workflow, Node]:
    w = Workflow(name)
    w.note(0, f"{note}\n\n{JUDGES}", height=560, width=420)
    judge = w.add("ARRJudge", 1, profile="local", both_orders=True, check=True, width=360)
    rubric = w.add("ARRRubric", 1, source=rubric_name, width=360)
    node = w.add(
        "ARRTrainRPO",
        2,
        width=520,
        height=1040,
        preset=preset,
        updates=300,
        judge=judge[0],
        rubric=rubric[0],
        **fields,
    )
    w.add("LossGraphNode", 3, width=420, height=420, loss=node[1], filename_prefix="loss_graph")
    w.add("PreviewAny", 3, width=420, height=220, source=node[4], title="What came out")
    return w, node


def train_flux() -> Workflow:
    w, _ = train(
        "arr_train_flux",
        """\
# Train FLUX.1-dev on your prompts
Ten prompts are typed here to begin with. Type your own, or clear them and choose a `prompts_file` of the input folder (one
prompt a line); hundreds are better. A fifth of them, at most 64, is held out for the win rate. The base is fetched from
Hugging Face (accept its licence, set HF_TOKEN), or name a diffusers folder in `models/diffusers` as *base*.

`flux` is the published setting, `recommended` the same base with what bears a judge's errors best. A card with little memory:
*settings*, `rollout.micro_batch = 2`.""",
        "recommended",
        "built-in: t2i",
        run_name="my flux",
        prompts=PROMPTS,
    )
    return w


def train_qwen() -> Workflow:
    w, node = train(
        "arr_train_qwen_image_edit",
        """\
# Train Qwen-Image-Edit on your photos
Eight instructions for one photo are typed here to begin with. Connect your images (a batch or a list), with one instruction
for all or one for each; or disconnect them, clear the instructions and choose a `prompts_file` of edits:
```
{"source_image": "a.png", "instruction": "..."}
```
one a line (`.jsonl`). The base is fetched from Hugging Face, or name a diffusers folder in `models/diffusers` as *base*.""",
        "recommended-edit",
        "built-in: edit",
        run_name="my edits",
        prompts=EDITS,
    )
    photo = w.add("LoadImage", 1, image="example.png", title="Photos", width=360)
    node.values["images"] = photo[0]
    return w
