"""The script that trains the embedded world: ``python -m tools.miniature.build flux|edit|judge|data``.

Both generators learn from pictures whose captions are wrong three or four times in ten, as captions of the wild are: they
draw well and listen badly, which is what preference training is there to mend. The judge is a Qwen2.5-VL of 0.3 M
parameters that describes pictures; it learns from drawings, never from the generators.

``--start`` goes on from a folder. FLUX and the judge learned ``--relations "left of" above`` first: where what is named
first always stands first, a relation is one word's affair. With ``right of`` order and relation make an exclusive-or,
which neither learned from nothing in half an hour, and both learned in a quarter of one from there; FLUX with ``right of``
named twice, which draws it twice as often, for 5,500 steps, and for 800 more with all three alike.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from arr_core.miniature.world import COLOURS, COUNTS, SHAPES, Edit, Request, Thing

from . import scenes
from .scenes import OPPOSITE, PROMPTED, instruction_of, place, prompt_of, render

WRONG_CAPTIONS = 0.4  # share
TEXT_LENGTH = 12
FOLDER = Path(__file__).resolve().parents[2] / "arr_core" / "miniature"


def other(options, *taken, rng: random.Random):
    """One of ``options`` that is none of ``taken``."""
    return rng.choice([option for option in options if option not in taken])


def misdescribe(request: Request, rng: random.Random) -> Request:
    """A request that differs from ``request`` in one part: a colour, a shape, the relation or the number."""
    part = rng.choice(["colour", "shape", "order"])
    if request.second is None:
        if part == "order":
            return replace(request, count=other(COUNTS.values(), request.count, rng=rng))
        options, old = (
            (COLOURS, request.first.colour) if part == "colour" else (SHAPES, request.first.shape)
        )
        return replace(
            request, first=replace(request.first, **{part: other(options, old, rng=rng)})
        )
    if part == "order":
        return replace(request, first=request.second, second=request.first)
    side = rng.choice(["first", "second"])
    thing = getattr(request, side)
    value = (
        other(COLOURS, request.first.colour, request.second.colour, rng=rng)
        if part == "colour"
        else other(SHAPES, thing.shape, rng=rng)
    )
    return replace(request, **{side: replace(thing, **{part: value})})


def mistake(edit: Edit, scene: list[Thing], rng: random.Random) -> list[Thing]:
    """A scene that is no right answer to ``edit``: the wrong value, the wrong thing, nothing, or too much."""
    right = edit.apply(scene)
    wrong = rng.choice(["value", "thing", "nothing", "too much"])
    bystander = next(thing for thing in scene if thing.name != edit.target)
    if wrong == "nothing" or (wrong == "value" and edit.kind == "remove"):
        return scene
    if wrong == "value":
        options, old = (COLOURS, bystander.colour) if edit.kind == "colour" else (SHAPES, "")
        return replace(
            edit, value=other(options, old, edit.value, *edit.target.split(), rng=rng)
        ).apply(scene)
    if wrong == "thing":
        value = (
            edit.value
            if edit.value not in bystander.name
            else other(SHAPES, *bystander.name.split(), rng=rng)
        )
        kind = edit.kind if value == edit.value else "shape"
        return Edit(bystander.name, kind, value).apply(scene)
    return [
        replace(thing, shape=other(SHAPES, thing.shape, rng=rng))
        if thing.name == bystander.name
        else thing
        for thing in right
    ]


def scene_for(edit: Edit, rng: random.Random) -> list[Thing]:
    """A scene of two things, one of them the edit's target; the other shares no colour with target or value."""
    colour, shape = edit.target.split()
    second = Thing(rng.choice(SHAPES), other(COLOURS, colour, edit.value, rng=rng))
    things = [Thing(shape, colour), second]
    rng.shuffle(things)
    return place(Request(things[0], 1, things[1], rng.choice(list(OPPOSITE))), rng)


def tensor(images: list[Image.Image]) -> torch.Tensor:
    """Images [N, 3, H, W] in -1..1."""
    return (
        torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        .permute(0, 3, 1, 2)
        .float()
        / 127.5
        - 1
    )


class Schedule:
    """AdamW with warm-up and a cosine to zero, clipping at 1, and a moving average of the weights."""

    def __init__(self, parameters, peak: float, steps: int, average: float = 0.999):
        self.parameters, self.peak, self.steps, self.average = (
            list(parameters),
            peak,
            steps,
            average,
        )
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=peak, weight_decay=0.0, betas=(0.9, 0.98)
        )
        self.mean, self.done, self.start = (
            [p.detach().clone() for p in self.parameters],
            0,
            time.time(),
        )

    def step(self, loss: torch.Tensor, note: str = "") -> None:
        warm, rate = (
            min(1.0, (self.done + 1) / 200),
            0.5 * (1 + math.cos(math.pi * self.done / self.steps)),
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * warm * rate
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        decay = min(self.average, (1 + self.done) / (10 + self.done))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.parameters], 1 - decay)
        self.done += 1
        if self.done % 100 == 0 or self.done == self.steps:
            print(
                f"{note} {self.done}/{self.steps} loss {loss.item():.4f} {time.time() - self.start:.0f} s",
                flush=True,
            )

    @torch.no_grad()
    def finish(self) -> None:
        """Put the averaged weights into the model."""
        for parameter, mean in zip(self.parameters, self.mean, strict=True):
            parameter.copy_(mean)


def train_vae(vae, images: torch.Tensor, steps: int, batch: int = 32, video: bool = False) -> None:
    """Train ``vae`` in place to give back ``images`` [N, 3, H, W]; a whisper of KL keeps the latents tame."""
    schedule = Schedule(vae.parameters(), 3e-3, steps, average=0.99)
    vae.train()
    for _ in range(steps):
        x = images[torch.randint(len(images), (batch,))]
        posterior = vae.encode(x[:, :, None] if video else x).latent_dist
        y = vae.decode(posterior.sample()).sample
        y = y[:, :, 0] if video else y
        schedule.step(
            F.l1_loss(y, x) + F.mse_loss(y, x) + 1e-4 * posterior.kl().mean() / x[0, 0].numel(),
            "vae",
        )
    schedule.finish()
    vae.eval().requires_grad_(False)


def timesteps(batch: int) -> torch.Tensor:
    """Noise levels in (0, 1): logit-normal, a third of them uniform."""
    return torch.where(
        torch.rand(batch) < 0.33, torch.rand(batch), torch.sigmoid(0.5 + torch.randn(batch))
    )


def save(pipeline, folder: Path) -> None:
    """Write a pipeline with its weights as bfloat16 safetensors."""
    pipeline.to(dtype=torch.bfloat16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    print("saved", folder, flush=True)


def train_flux(
    folder: Path,
    relations: Sequence[str],
    steps: int,
    vae_steps: int,
    pictures: int,
    start: Path | None,
    peak: float,
    batch: int = 64,
) -> None:
    """Train the FLUX pipeline, from nothing or on from the one in ``start``, whose VAE stays, and save it."""
    from .models import flux_pipeline

    rng, pipe = random.Random(0), flux_pipeline()
    if start is not None:
        pipe = type(pipe).from_pretrained(start).to(dtype=torch.float32)
    requests = scenes.requests(relations)
    counts = [request for request in requests if request.second is None]
    drawn = [
        rng.choice(counts) if rng.random() < 0.25 else rng.choice(requests) for _ in range(pictures)
    ]
    images = tensor([render(place(request, rng)) for request in drawn])
    if start is None:
        train_vae(pipe.vae, images, vae_steps)
    with torch.no_grad():
        latents = torch.cat([pipe.vae.encode(part).latent_dist.mean for part in images.split(256)])
    if start is None:
        pipe.vae.register_to_config(
            shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item()
        )
    latents = (latents - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    side = latents.shape[-1]
    latents = pipe._pack_latents(latents, len(latents), latents.shape[1], side, side)
    prompts = list(dict.fromkeys(prompt_of(request) for request in requests))
    index = {prompt: i for i, prompt in enumerate(prompts)}
    with torch.no_grad():
        pooled = pipe._get_clip_prompt_embeds(prompts, 1, "cpu")
    tokens = pipe.tokenizer_2(
        prompts, padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt"
    ).input_ids

    transformer, encoder = pipe.transformer.train(), pipe.text_encoder_2
    schedule = Schedule([*transformer.parameters(), *encoder.parameters()], peak, steps)
    image_ids = pipe._prepare_latent_image_ids(1, side // 2, side // 2, "cpu", torch.float32)
    for _ in range(steps):
        picked = torch.randint(len(drawn), (batch,))
        captions = [
            misdescribe(drawn[i], rng) if rng.random() < WRONG_CAPTIONS else drawn[i]
            for i in picked.tolist()
        ]
        caption = torch.tensor([index[prompt_of(request)] for request in captions])
        t, noise, x0 = timesteps(batch), torch.randn_like(latents[:batch]), latents[picked]
        velocity = transformer(
            hidden_states=torch.lerp(x0, noise, t[:, None, None]),
            timestep=t,
            guidance=torch.full((batch,), 3.5),
            pooled_projections=pooled[caption],
            encoder_hidden_states=encoder(tokens[caption])[0],
            txt_ids=torch.zeros(TEXT_LENGTH, 3),
            img_ids=image_ids,
            return_dict=False,
        )[0]
        schedule.step(F.mse_loss(velocity, noise - x0), "flux")
    schedule.finish()
    save(pipe, folder)


def edit_examples(count: int, rng: random.Random) -> list[tuple[str, Image.Image, Image.Image]]:
    """Instruction, source and answer; the answer is a mistake four times in ten."""
    examples, edits = [], scenes.edits()
    for _ in range(count):
        edit = rng.choice(edits)
        scene = scene_for(edit, rng)
        answer = mistake(edit, scene, rng) if rng.random() < WRONG_CAPTIONS else edit.apply(scene)
        examples.append((instruction_of(edit), render(scene), render(answer)))
    return examples


def train_edit(
    folder: Path,
    steps: int,
    vae_steps: int,
    pictures: int,
    start: Path | None,
    peak: float,
    batch: int = 64,
) -> None:
    """Train the Qwen-Image-Edit pipeline, from nothing or on from the one in ``start``, whose VAE stays, and save it.

    Its text encoder stays as it was drawn.
    """
    from arr_core.policies.qwen_image_edit import image_token_types

    from .models import qwen_edit_pipeline

    rng, pipe = random.Random(1), qwen_edit_pipeline()
    if start is not None:
        pipe = type(pipe).from_pretrained(start).to(dtype=torch.float32)
    pipe.text_encoder.requires_grad_(False)
    examples = edit_examples(pictures, rng)
    sources, answers = (tensor([example[side] for example in examples]) for side in (1, 2))
    if start is None:
        train_vae(pipe.vae, torch.cat([sources, answers]), vae_steps, video=True)

    def encode(images: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [
                pipe.vae.encode(part[:, :, None]).latent_dist.mean[:, :, 0]
                for part in images.split(256)
            ]
        )

    with torch.no_grad():
        sources, answers = encode(sources), encode(answers)
        if start is None:
            both = torch.cat([sources, answers])
            pipe.vae.register_to_config(
                latents_mean=both.mean((0, 2, 3)).tolist(), latents_std=both.std((0, 2, 3)).tolist()
            )
        mean, std = (
            torch.tensor(pipe.vae.config.latents_mean),
            torch.tensor(pipe.vae.config.latents_std),
        )
        side = sources.shape[-1]
        sources, answers = (
            pipe._pack_latents(
                ((part - mean[:, None, None]) / std[:, None, None])[:, None],
                len(part),
                part.shape[1],
                side,
                side,
            )
            for part in (sources, answers)
        )
        begun, parts = time.time(), []
        with image_token_types(pipe.text_encoder):
            for at in range(0, pictures, 256):
                chunk = examples[at : at + 256]
                texts, images = [e[0] for e in chunk], [e[1] for e in chunk]
                parts.append(pipe._get_qwen_prompt_embeds(texts, images))
        longest = max(embeds.shape[1] for embeds, _ in parts)
        embeds = torch.cat([F.pad(e, (0, 0, 0, longest - e.shape[1])) for e, _ in parts])
        mask = torch.cat([F.pad(m, (0, longest - m.shape[1])) for _, m in parts])
        print(f"encoded {tuple(embeds.shape)} in {time.time() - begun:.0f} s", flush=True)

    transformer = pipe.transformer.train()
    schedule = Schedule(transformer.parameters(), peak, steps)
    shapes = [[(1, side // 2, side // 2)] * 2] * batch
    for _ in range(steps):
        picked = torch.randint(pictures, (batch,))
        t, noise, x0 = timesteps(batch), torch.randn_like(answers[:batch]), answers[picked]
        velocity = transformer(
            hidden_states=torch.cat([torch.lerp(x0, noise, t[:, None, None]), sources[picked]], 1),
            timestep=t,
            encoder_hidden_states=embeds[picked],
            encoder_hidden_states_mask=mask[picked],
            img_shapes=shapes,
            return_dict=False,
        )[0][:, : x0.shape[1]]
        schedule.step(F.mse_loss(velocity, noise - x0), "edit")
    schedule.finish()
    save(pipe, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["flux", "edit", "judge", "data"])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the part is written")
    parser.add_argument(
        "--relations",
        nargs="+",
        choices=list(OPPOSITE),
        default=PROMPTED,
        help=("that prompts may name; one that is named twice is drawn twice as often"),
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--vae-steps", type=int, default=1500)
    parser.add_argument("--pictures", type=int, default=24000)
    parser.add_argument("--peak", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--start", type=Path, help="folder to go on from")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.part == "flux":
        train_flux(
            args.folder / "flux",
            args.relations,
            args.steps,
            args.vae_steps,
            args.pictures,
            args.start,
            args.peak,
        )
    elif args.part == "edit":
        train_edit(
            args.folder / "qwen-image-edit",
            args.steps,
            args.vae_steps,
            args.pictures,
            args.start,
            args.peak,
        )
    elif args.part == "judge":
        from .build_judge import train_judge

        train_judge(args.folder / "judge", args.relations, args.steps, args.start, args.peak)
    else:
        from .build_data import write_data

        write_data(args.folder / "data")


if __name__ == "__main__":
    main()
