"""ARRJudge: who compares images, by the name of a profile; where it is stands in a file of the user, never in a workflow."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from comfy_api.latest import io

from ..arr_core.common.paths import profiles_file
from .child import let_models_go
from .live import Live, wait
from .schema import JudgeSocket, advanced, explained, schema

BUILT_IN = ["miniature", "human"]
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class JudgeChoice:
    """What ARR_JUDGE carries: a name and how to ask. No URL, no model, no key."""

    profile: str
    both_orders: bool = True

    @property
    def kind(self) -> str:
        """openai, local, panel, human or miniature. Raises JudgeError for a name that is not known."""
        from ..arr_core.judging.profiles import load_profile

        return load_profile(self.profile).kind


class ARRJudge(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRJudge",
            "Judge",
            is_output_node=True,
            description=(
                "A vision-language model that compares two images. Its address and key stand in your own judges file; "
                "'miniature' is embedded and needs no server."
            ),
            search_aliases=["vlm", "vision language model", "reward", "preference", "arr"],
            inputs=[
                io.Combo.Input(
                    "profile",
                    options=profile_names(),
                    tooltip=(
                        "A name from your judges file (~/.config/arr-rpo/judges.yaml, or the file that ARR_JUDGES names)."
                    ),
                ),
                io.Boolean.Input(
                    "both_orders",
                    default=True,
                    tooltip=(
                        "Ask twice with the images swapped; if the answers differ, the pair is undecided."
                    ),
                ),
                io.Boolean.Input(
                    "check",
                    default=True,
                    tooltip=(
                        "Ask one small question now, so that a judge that is not there is found out before it is needed."
                    ),
                ),
                io.Float.Input(
                    "timeout",
                    default=60.0,
                    min=1.0,
                    max=3600.0,
                    step=1.0,
                    **advanced(),
                    tooltip=("Seconds after which the check has failed."),
                ),
            ],
            outputs=[
                JudgeSocket.Output(
                    display_name="judge",
                    tooltip="The judge, for comparing, training and win rates.",
                ),
                io.String.Output(display_name="status", tooltip="What the check found."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, profile: str) -> bool | str:
        """The user's file may have changed since the page was loaded: a name is looked up when the node runs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, **_) -> object:
        """Changes with the judges file, so that a corrected profile is checked again."""
        path = profiles_file()
        return path.stat().st_mtime_ns if path.is_file() else None

    @classmethod
    def execute(
        cls, profile: str, both_orders: bool, check: bool, timeout: float = 60.0
    ) -> io.NodeOutput:
        choice = JudgeChoice(profile, both_orders)
        live = Live(cls.hidden.unique_id)
        with explained(live):
            status = (
                checked(choice, timeout)
                if check
                else f"{profile}: a judge of kind {choice.kind}, not checked"
            )
        live.say(status)
        return io.NodeOutput(choice, status, ui={"text": [status]})


def checked(choice: JudgeChoice, timeout: float) -> str:
    """What a judge answers to one small question, each member of a panel for itself.

    A person is not asked, and a model is not loaded for it. Raises JudgeError, or ValueError for an answer that is none.
    """
    from PIL import Image

    from ..arr_core.judging import Judge, Pair
    from ..arr_core.judging.profiles import default_rubric, load_profile, make_client

    profile = load_profile(choice.profile)
    if profile.kind == "panel" and all(
        load_profile(member).kind != "panel" for member in profile.members
    ):
        return "; ".join(
            checked(replace(choice, profile=member), timeout) for member in profile.members
        )
    if profile.kind == "human":
        return f"{choice.profile}: not checked"
    if profile.kind == "local":
        if not (Path(profile.model).is_dir() or HUB_NAME.fullmatch(profile.model)):
            raise ValueError(
                f"the judge {choice.profile!r}: expected a folder or a hub name (owner/name) as its model, came "
                f"{profile.model[:200]!r}; correct its profile"
            )
        return f"{choice.profile}: a model in this process, loaded when it is first asked"
    client = make_client(choice.profile, timeout_s=timeout, retries=0)
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    rubric = default_rubric(choice.profile, "t2i")
    with Judge(client, rubric, both_orders=False, shared=False) as judge:
        verdict = wait(
            judge.submit(
                [
                    Pair(
                        "a red circle" if choice.kind == "miniature" else "a plain red picture",
                        red,
                        blue,
                    )
                ]
            )
        )
    opinion = verdict[0].opinions[0]
    if opinion.failure and not opinion.reply:
        raise ValueError(
            f"the judge {choice.profile!r} gives no verdict: {opinion.failure}; raise the timeout, try "
            "again, or correct its profile"
        )
    if verdict[0].failed:
        raise ValueError(
            f"the judge {choice.profile!r} answers, but gives no verdict: {verdict[0].reason}; name another "
            "model in its profile, one that sees images"
        )
    return f"{choice.profile}: answers in {verdict[0].latency_s:.1f} s"


def runs_here(profile: str) -> bool:
    """Whether a judge's model will be loaded beside ComfyUI's own: for a local judge, or a panel with one."""
    from ..arr_core.judging.profiles import load_profile

    named = load_profile(profile)
    return "local" in (named.kind, *(load_profile(member).kind for member in named.members))


def make_room(profile: str) -> None:
    """Let ComfyUI's models go before a judge's is loaded."""
    if runs_here(profile):
        let_models_go()


def profile_names() -> list[str]:
    """The names in the user's judges file, whatever else is wrong with it, and the built-in ones."""
    import yaml

    try:
        content = yaml.safe_load(profiles_file().read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    named = [str(name) for name in content] if isinstance(content, dict) else []
    return list(dict.fromkeys([*BUILT_IN[:1], *named, *BUILT_IN[1:]]))
