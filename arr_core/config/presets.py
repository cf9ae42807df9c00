"""The named starting points of a run, as nested plain data: ``PRESETS[name][section][field]``.

``flux`` and ``qwen-image-edit`` are the two published runs (model card, arXiv 2605.08354). What both share is the
field's default in ``settings.py``; what differs stands here. They name no prompt file: ``data.train`` is the user's to
give. ``miniature`` and ``miniature-edit`` run the embedded world on a CPU. ``recommended`` and
``recommended-edit`` are the published bases with what the README's tables favour: nft, separate noise, its slow
average, four optimizer steps to an update.
"""

ATTENTION = [
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]


def _with(base: dict, **sections: dict) -> dict:
    """``base`` with some fields of some sections replaced."""
    return {**base, **{name: {**base.get(name, {}), **fields} for name, fields in sections.items()}}


FLUX = {
    "run": {"name": "flux"},
    "policy": {"family": "flux", "base": "black-forest-labs/FLUX.1-dev", "dtype": "bfloat16"},
    "adapter": {"rank": 16, "alpha": 32.0, "targets": ATTENTION + FEED_FORWARD},
    "data": {},
    "rollout": {"steps": 8, "prompts_per_update": 32, "micro_batch": 4},
    "objective": {"kl_coefficient": 0.01},
    "optimizer": {"learning_rate": 5e-5},
    "judge": {"profile": "local"},
}

QWEN_IMAGE_EDIT = {
    "run": {"name": "qwen-image-edit"},
    "policy": {"family": "qwen-image-edit", "base": "Qwen/Qwen-Image-Edit", "dtype": "bfloat16"},
    "adapter": {"rank": 32, "alpha": 64.0, "targets": ATTENTION},
    "data": {},
    "rollout": {"steps": 10, "prompts_per_update": 16, "micro_batch": 2},
    "objective": {"kl_coefficient": 0.02},
    "optimizer": {"learning_rate": 1e-5},
    "judge": {"profile": "local"},
}

# Updates and step sizes here are for minutes on two CPU cores, not for the published bases.
MINIATURE = {
    "run": {"name": "miniature", "updates": 100, "save_every": 25},
    "policy": {
        "family": "flux",
        "base": "miniature:flux",
        "dtype": "float32",
        "height": 32,
        "width": 32,
        "max_sequence_length": 12,
        "gradient_checkpointing": False,
    },
    "adapter": {"rank": 16, "alpha": 32.0, "targets": ATTENTION + FEED_FORWARD},
    "data": {
        "train": "miniature:data/prompts_train.txt",
        "validation": "miniature:data/prompts_heldout.txt",
    },
    "rollout": {"steps": 8, "shared_noise": False, "prompts_per_update": 32, "micro_batch": 64},
    "objective": {"algorithm": "nft", "advantage": "centred", "kl_coefficient": 0.0},
    "optimizer": {"learning_rate": 1e-3},
    "judge": {"profile": "miniature"},
    "validation": {"every": 20, "exact_measure": True},
}

RECOMMENDED = {
    "rollout": {"shared_noise": False},
    "objective": {"algorithm": "nft", "advantage": "centred", "optimizer_steps": 4},
}
PRESETS: dict[str, dict] = {
    "flux": FLUX,
    "qwen-image-edit": QWEN_IMAGE_EDIT,
    "miniature": MINIATURE,
    "miniature-edit": _with(
        MINIATURE,
        run={"name": "miniature-edit", "updates": 250},
        optimizer={"learning_rate": 2e-3},
        policy={
            "family": "qwen-image-edit",
            "base": "miniature:qwen-image-edit",
            "condition_area": 32 * 32,
        },
        adapter={"targets": ATTENTION},
        data={
            "train": "miniature:data/edits_train.jsonl",
            "validation": "miniature:data/edits_heldout.jsonl",
        },
    ),
    "recommended": _with(FLUX, run={"name": "recommended"}, **RECOMMENDED),
    "recommended-edit": _with(QWEN_IMAGE_EDIT, run={"name": "recommended-edit"}, **RECOMMENDED),
}
