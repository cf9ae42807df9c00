"""ARRJudge: who compares images, by the name of a profile; where it is stands in a file of the user, never in a workflow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from comfy_api.latest import io
from PIL import Image

from ..arr_core.common.paths import profiles_file
from .child import free_models
from .live import Live, wait
from .schema import ADVANCED, JudgeSocket, Node, choice, number, schema

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class JudgeChoice:
    """What ARR_JUDGE carries: a name and how to ask. No URL, no model, no key."""

    profile: str
    both_orders: bool = True


class ARRJudge(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRJudge",
            [
                choice("profile", profile_names()),
                io.Boolean.Input("both_orders", default=True),
                io.Boolean.Input("check", default=True),
                number("timeout", 60.0, 1.0, 3600.0, step=1.0, **ADVANCED),
            ],
            {"judge": JudgeSocket, "status": io.String},
        )

    @classmethod
    def execute(cls, profile, both_orders, check, timeout=60.0) -> io.NodeOutput:
        with Live(cls) as live:
            status = describe(profile, check, timeout)
            live.show_text(status)
        return io.NodeOutput(JudgeChoice(profile, both_orders), status, ui={"text": [status]})


def describe(name: str, check: bool, timeout: float) -> str:
    """What a judge is, or with ``check`` what it answers to one small question, each member of a panel for itself.

    A person is not asked, and a model is not loaded for it. Raises JudgeError, or ValueError for an answer that is none.
    """
    from ..arr_core.judging import Judge, Pair
    from ..arr_core.judging.chat import RequestLimits
    from ..arr_core.judging.profiles import default_rubric, load_profile, make_client

    profile = load_profile(name)
    if profile.kind == "human" or not check:
        return f"{name}: a judge of kind {profile.kind}, not checked"
    if profile.kind == "local":
        if not (Path(profile.model).is_dir() or HUB_NAME.fullmatch(profile.model)):
            raise ValueError(
                f"the judge {name!r}: expected a folder or a hub name (owner/name) as its model, got "
                f"{profile.model[:200]!r}; correct its profile"
            )
        return f"{name}: a model in this process, loaded when it is first asked"
    if profile.kind == "panel" and not any(
        load_profile(member).kind == "panel" for member in profile.members
    ):
        return "; ".join(describe(member, check, timeout) for member in profile.members)
    client = make_client(name, RequestLimits(timeout_s=timeout, retries=0))
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    rubric = default_rubric(name, "t2i")
    with Judge(client, rubric, both_orders=False, shared=False) as judge:
        (verdict,) = wait(judge.submit([Pair("a red circle", red, blue)]))
    opinion = verdict.opinions[0]
    if opinion.failure and not opinion.reply:
        raise ValueError(
            f"the judge {name!r} gives no verdict: {opinion.failure}; raise the timeout, try again, or correct its "
            "profile"
        )
    if verdict.failed:
        raise ValueError(
            f"the judge {name!r} answers, but gives no verdict: {verdict.reason}; name another model in its profile, "
            "one that sees images"
        )
    return f"{name}: answers in {verdict.latency_s:.1f} s"


def free_models_for(profile: str) -> None:
    """Free ComfyUI's models where a judge's will be loaded beside them: for a local judge, or a panel with one."""
    from ..arr_core.judging.profiles import load_profile

    named = load_profile(profile)
    if "local" in (named.kind, *(load_profile(member).kind for member in named.members)):
        free_models()


def profile_names() -> list[str]:
    """The names in the user's judges file, whatever else is wrong with it, and the built-in ones."""
    import yaml

    try:
        content = yaml.safe_load(profiles_file().read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    named = [str(name) for name in content] if isinstance(content, dict) else []
    return list(dict.fromkeys(["miniature", *named, "human"]))
