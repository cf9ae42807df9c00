"""Judge profiles: a name in a run or workflow; the URL, the model and the key's variable in a file of the user.

The file is ``$ARR_JUDGES``, or ``judges.yaml`` in the user's configuration folder:

    vllm: {url: "http://gpu-box:8000/v1", model: "Qwen/Qwen3-VL-8B-Instruct"}
    hosted: {url: "https://api.openai.com/v1", model: "gpt-5-mini", key_variable: OPENAI_API_KEY}
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .verdict import JudgeError


class Profile(BaseModel):
    """Where a judge is and what it is called. The key itself is never here, only the variable that holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["openai", "miniature"] = Field("openai", description="OpenAI-compatible server, or the embedded judge")
    url: str = Field("", description="Base URL, with /v1")
    model: str = Field("", description="Model name as the server knows it")
    key_variable: str | None = Field(None, description="Environment variable that holds the key")
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(1024, ge=16)
    price_per_million_tokens: float = Field(0.0, ge=0, description="For the cost in the report")


def profiles_file() -> Path:
    """The user's file of judge profiles, whether or not it is there."""
    if os.environ.get("ARR_JUDGES"):
        return Path(os.environ["ARR_JUDGES"])
    home = os.environ.get("APPDATA") if os.name == "nt" else os.environ.get("XDG_CONFIG_HOME")
    return Path(home or Path.home() / ".config") / "arr-rpo" / "judges.yaml"


def load_profile(name: str) -> Profile:
    """The profile called ``name``. Raises JudgeError that says which names there are and where they live."""
    if name == "miniature":
        return Profile(kind="miniature")
    path = profiles_file()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
        profiles = {key: Profile.model_validate(value) for key, value in (content or {}).items()}
    except (OSError, yaml.YAMLError, ValidationError, AttributeError) as error:
        raise JudgeError(f"{path}: expected judge profiles, name: {{url, model, key_variable}}; "
                         f"{' '.join(str(error).split())[:300]}") from error
    if name not in profiles:
        known = ", ".join(sorted([*profiles, "miniature"]))
        raise JudgeError(f"judge.profile: expected one of {known}, came {name!r}; describe it in {path}, for example "
                         f"{name}: {{url: 'http://127.0.0.1:8000/v1', model: 'Qwen/Qwen3-VL-8B-Instruct'}}")
    if profiles[name].kind == "openai" and not (profiles[name].url and profiles[name].model):
        raise JudgeError(f"{path}: {name}: expected url and model")
    return profiles[name]


def make_client(name: str, *, timeout_s: float = 60.0, retries: int = 3, concurrency: int = 16):
    """The client of the profile called ``name``. Raises JudgeError for an unknown profile or a missing key."""
    profile = load_profile(name)
    if profile.kind == "miniature":
        from ..miniature.judge import MiniatureClient

        return MiniatureClient()
    from .openai_client import OpenAIClient

    key = os.environ.get(profile.key_variable, "") if profile.key_variable else "none"
    if not key:
        raise JudgeError(f"the judge profile {name!r} takes its key from the environment variable "
                         f"{profile.key_variable}, which is not set")
    return OpenAIClient(url=profile.url, model=profile.model, api_key=key, timeout_s=timeout_s, retries=retries,
                        concurrency=concurrency, temperature=profile.temperature, max_tokens=profile.max_tokens,
                        price_per_million_tokens=profile.price_per_million_tokens)
