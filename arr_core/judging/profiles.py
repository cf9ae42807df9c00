"""Judge profiles: a name in a run or workflow; the URL, the model and the key's variable in a file of the user.

The file is ``$ARR_JUDGES``, or ``judges.yaml`` in the user's configuration folder:

    vllm: {url: "http://gpu-box:8000/v1", model: "Qwen/Qwen3-VL-8B-Instruct", mode: logits, threshold: 0.6}
    hosted: {url: "https://api.openai.com/v1", model: "gpt-5-mini", key_variable: OPENAI_API_KEY, max_tokens: 8000}
    here: {kind: local, model: "Qwen/Qwen2.5-VL-3B-Instruct", device: cuda, batch_size: 8}
    all: {kind: panel, members: [vllm, hosted, here], rule: majority}

A profile speaks with the host of its URL and no other.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ..common.errors import describe_validation_error
from ..common.paths import profiles_file
from ..common.yaml import read_yaml
from ..rubrics.built_in import BUILT_IN as RUBRICS
from ..rubrics.rubric import Rubric, Task
from .budget import Budget
from .chat import Chat, RequestLimits
from .client import Client
from .verdict import JudgeError

VOTE_TEMPERATURE = (
    0.7  # for the votes of a profile whose temperature is 0: equal votes would say nothing
)
# No name, password or question in it: they may be keys, and a URL is shown in errors.
_ADDRESS = re.compile(
    r"https?://(?:(?:\w[\w-]{0,62}\.){0,9}\w[\w-]{0,62}\.?|\[[0-9a-f:.]+\])(?::(\d{1,5}))?(?:/[^\s?#@\x00-\x1f\x7f]*)?",
    re.ASCII | re.IGNORECASE,
)
BUILT_IN = (
    "human",
    "miniature",
)  # kinds that are profiles of that name, with nothing to say in a file
SHAPE = "judge profiles in YAML, name: {url, model, key_variable}"
# How keys begin, or what they hold; a variable that is set is one, whatever its name.
_KEY = re.compile(r"(sk|hf|gsk|r8|xai|nvapi|AIza)[_A-Z\d]|(?=.*\d)(?=.*[a-z]).{20,}")


class Profile(BaseModel):
    """Where a judge is and how it is asked. The key itself is never here, only the variable that holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["openai", "local", "panel", "human", "miniature"] = Field(
        "openai",
        description="OpenAI-compatible server; transformers model in this process; several profiles as one; a "
        "person; the embedded judge",
    )
    url: str = Field(
        "", description="openai: base URL, with /v1. No other host is asked, redirects are refused"
    )
    model: str = Field(
        "", description="Model name as the server knows it; local: folder or name on the hub"
    )
    key_variable: str | None = Field(
        None, description="openai: environment variable that holds the key"
    )
    mode: Literal["reasons", "logits"] = Field(
        "reasons",
        description="reasons: findings, then a verdict in words. logits: one token, the probability of A "
        "against B; cheap, calibrated by asking both orders; needs log-probabilities",
    )
    votes: int = Field(
        1,
        ge=1,
        le=99,
        description="reasons: replies to each question, of which more than half must agree",
    )
    threshold: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=("Abstain below this share of the votes, or probability (logits, miniature)"),
    )
    temperature: float = Field(
        0.0, ge=0, le=2, description="Of the reply; votes are drawn at 0.7 where this is 0"
    )
    max_tokens: int = Field(
        1024, ge=16, description="Of one reply. Models that think first need several thousand"
    )
    max_side: int = Field(
        1024, ge=16, description="Larger pictures are made smaller, to so many pixels on a side"
    )
    chat_template: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Settings of the chat template, such as {enable_thinking: false}; local models, "
        "vLLM and SGLang know them",
    )
    extra: dict[str, JsonValue] = Field(
        default_factory=dict, description="openai: more fields of the request's body"
    )
    retries: int | None = Field(
        None, ge=0, description="openai: further attempts after a failed one, in place of the run's"
    )
    requests_per_minute: float | None = Field(
        None, gt=0, description="openai: start no more requests than these in a minute"
    )
    price_per_million_tokens: float = Field(
        0.0, ge=0, description="For the cost in reports, and for max_cost"
    )
    price_per_million_reply_tokens: float | None = Field(
        None, ge=0, description="Where replies have another price"
    )
    max_calls: int | None = Field(
        None,
        ge=1,
        description=(
            "Stop after so many questions in one run of the program; further attempts at one that failed are not counted"
        ),
    )
    max_tokens_total: int | None = Field(
        None, ge=1, description="Stop when so many tokens were used, prompts included"
    )
    max_cost: float | None = Field(
        None, gt=0, description="Stop when so much was spent, in the prices' currency"
    )
    device: str = Field("auto", description="local: auto, cpu, cuda, cuda:1, mps")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="local: auto is bfloat16, on the CPU float32"
    )
    batch_size: int = Field(
        8, ge=1, description="local: questions that go through the model together"
    )
    port: int = Field(0, ge=0, le=65535, description="human: port of the page, 0 takes a free one")
    members: tuple[str, ...] = Field((), description="panel: names of other profiles")
    rule: Literal["majority", "unanimous"] = Field(
        "majority", description="panel: more than half of all members must agree, or all of them"
    )

    @property
    def reply_settings(self) -> str:
        """What may change a reply, for the name of a model that replies."""
        return (
            f"temperature={self.temperature}:max_tokens={self.max_tokens}:max_side={self.max_side}"
        )

    @property
    def extra_fields(self) -> dict[str, Any]:
        """Fields of a request's body beyond those of the protocol."""
        template = {"chat_template_kwargs": self.chat_template} if self.chat_template else {}
        return {**template, **self.extra}

    def fault(self) -> str:
        """What does not fit together, or nothing."""
        if self.kind == "openai" and not (self.url and self.model):
            return "expected url and model"
        if self.kind == "openai" and not _is_address(self.url):
            return (
                "url: expected http:// or https://, a host and perhaps a port from 1 to 65535 and a path, got something "
                "else; a key has its place in the variable that key_variable names"
            )
        variable = self.key_variable
        if variable and variable not in os.environ:
            if not re.fullmatch(r"[A-Za-z_]\w*", variable, re.ASCII) or _KEY.match(variable):
                return (
                    "key_variable: expected the name of an environment variable, got what may be a key (not shown); set a "
                    "variable to the key, and write the variable's name here"
                )
        if self.kind == "local" and not self.model:
            return "expected model, a folder or a name on the hub"
        if self.kind == "panel" and len(set(self.members)) < max(2, len(self.members)):
            return "expected members, the names of two different profiles or more"
        if self.votes > 1 and self.mode == "logits":
            return "votes are for mode reasons; logits give a probability by themselves"
        if (
            self.threshold
            and self.mode == "reasons"
            and self.votes == 1
            and self.kind != "miniature"
        ):
            return "a threshold needs a confidence: votes of 2 or more, or mode logits"
        if self.max_cost and not (
            self.price_per_million_tokens or self.price_per_million_reply_tokens
        ):
            return "max_cost needs price_per_million_tokens"
        return ""


def _is_address(url: str) -> bool:
    found = _ADDRESS.fullmatch(url)
    return found is not None and int(found[1] or 1) in range(1, 65536)


def load_profile(name: str) -> Profile:
    """The profile called ``name``. Raises JudgeError that says which names there are and where they live."""
    if name in BUILT_IN:
        return Profile.model_validate({"kind": name})
    path = profiles_file()
    profiles = _read(path)
    if name not in profiles:
        known = ", ".join(sorted({*profiles, *BUILT_IN}))
        raise JudgeError(
            f"judge.profile: expected one of {known}, got {name!r}; describe it in {path}, for example "
            f"{name}: {{url: 'http://127.0.0.1:8000/v1', model: 'Qwen/Qwen3-VL-8B-Instruct'}}"
        )
    try:
        profile = Profile.model_validate(profiles[name])
    except ValidationError as error:
        fields = Profile.model_fields
        faults = describe_validation_error(error, fields=fields, values=False)
        hint = f"; the fields are {', '.join(fields)}" if "unknown field" in faults else ""
        raise JudgeError(f"{path}: expected {SHAPE}; {name}: {faults}{hint}") from None
    if fault := profile.fault():
        raise JudgeError(f"{path}: {name}: {fault}")
    return profile


def _read(path: Path) -> dict[str, Any]:
    """The fields of the file's profiles, by name. A fault in one spoils no other, so they are not checked here.

    What the file says goes into no message: somebody may have written a key into it.
    """
    content = read_yaml(path, SHAPE, JudgeError, secret=True) if path.exists() else {}
    if not isinstance(content, dict | None):
        raise JudgeError(f"{path}: expected {SHAPE}; it holds a {type(content).__name__}")
    return {str(name): fields for name, fields in (content or {}).items()}


def default_rubric(name: str, task: Task) -> Rubric:
    """The rubric of a task where the user names none: the built-in one, or what the judge of this profile brings."""
    if load_profile(name).kind == "miniature":
        from ..miniature.criteria import RUBRICS as OWN

        return OWN[task]
    return RUBRICS[task]


def make_chat(name: str, limits: RequestLimits | None = None) -> Chat:
    """The model of the profile called ``name``, to be talked to. Raises JudgeError where there is none, or no key."""
    profile, limits = load_profile(name), limits or RequestLimits()
    if profile.kind == "openai":
        from .openai_client import OpenAIChat

        chat: Chat = OpenAIChat(profile, limits, api_key=_key(name, profile), name=name)
    elif profile.kind == "local":
        from .local import LocalChat

        chat = LocalChat(profile)
    else:
        raise JudgeError(
            f"the judge profile {name!r} is of kind {profile.kind}, which writes no text; name a profile of "
            "kind openai or local"
        )
    limited = profile.max_calls or profile.max_tokens_total or profile.max_cost
    return Budget(chat, profile, name, limits.concurrency) if limited else chat


def make_client(
    name: str, limits: RequestLimits | None = None, *, chat: Chat | None = None
) -> Client:
    """The client of the profile called ``name``. Raises JudgeError for an unknown profile or a missing key.

    chat: the profile's own, where the caller uses it too, so that both share its limits.
    """
    profile = load_profile(name)
    if profile.kind == "miniature":
        from ..miniature.judge import MiniatureClient

        return MiniatureClient(threshold=profile.threshold or 0.55)
    if profile.kind == "human":
        from ..labeling.human import HumanClient

        return HumanClient(profile.port)
    if profile.kind == "panel":
        from .panel import Panel

        if nested := [member for member in profile.members if load_profile(member).kind == "panel"]:
            raise JudgeError(
                f"{profiles_file()}: {name}: {nested[0]} is a panel; expected the names of single judges"
            )
        if any(load_profile(member).kind == "human" for member in profile.members):
            raise JudgeError(
                f"{profiles_file()}: {name}: a person sees each pair once, and a panel's members see it in both "
                "orders; expected the names of models"
            )
        return Panel([make_client(member, limits) for member in profile.members], profile.rule)
    if profile.mode == "logits":
        from .logits import LogitsClient

        return LogitsClient(chat or make_chat(name, limits), threshold=profile.threshold)
    from .pairwise import PairwiseClient

    return PairwiseClient(
        chat or make_chat(name, limits),
        votes=profile.votes,
        threshold=profile.threshold,
        temperature=profile.temperature or VOTE_TEMPERATURE,
    )


def _key(name: str, profile: Profile) -> str:
    from .openai_client import NO_KEY

    key = os.environ.get(profile.key_variable, "").strip() if profile.key_variable else NO_KEY
    if not (key.isascii() and key.isprintable() and key):
        raise JudgeError(
            f"the judge profile {name!r} takes its key from the environment variable "
            f"{profile.key_variable}, which {'holds no key' if key else 'is not set'}"
        )
    return key
