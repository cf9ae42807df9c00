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

    kind: Literal["openai", "miniature"] = Field("openai", description="OpenAI-compatible server or embedded judge")
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
    profiles = _read(path)
    if name not in profiles:
        known = ", ".join(sorted([*profiles, "miniature"]))
        raise JudgeError(f"judge.profile: expected one of {known}, came {name!r}; describe it in {path}, for example "
                         f"{name}: {{url: 'http://127.0.0.1:8000/v1', model: 'Qwen/Qwen3-VL-8B-Instruct'}}")
    if profiles[name].kind == "openai" and not (profiles[name].url and profiles[name].model):
        raise JudgeError(f"{path}: {name}: expected url and model")
    return profiles[name]


def _read(path: Path) -> dict[str, Profile]:
    """The file's profiles. What it says goes into no message: somebody may have written a key into it."""
    expected = f"{path}: expected judge profiles, name: {{url, model, key_variable}}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig")) if path.exists() else {}
    except OSError as error:
        raise JudgeError(f"{expected}; it cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        raise JudgeError(f"{expected}; it is no YAML in UTF-8{f', see line {mark.line + 1}' if mark else ''}") from None
    if not isinstance(content, dict | None):
        raise JudgeError(f"{expected}; it holds a {type(content).__name__}")
    profiles = {}
    for name, fields in (content or {}).items():
        try:
            profiles[str(name)] = Profile.model_validate(fields)
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(map(str, fault["loc"])) or "it"
            hint = f"; the fields are {', '.join(Profile.model_fields)}" if fault["type"] == "extra_forbidden" else ""
            raise JudgeError(f"{expected}; {name}: {field}: {fault['msg']}{hint}") from None
    return profiles


def make_client(name: str, *, timeout_s: float = 60.0, retries: int = 3, concurrency: int = 16):
    """The client of the profile called ``name``. Raises JudgeError for an unknown profile or a missing key."""
    profile = load_profile(name)
    if profile.kind == "miniature":
        from ..miniature.judge import MiniatureClient

        return MiniatureClient()
    from .openai_client import NO_KEY, OpenAIClient

    key = os.environ.get(profile.key_variable, "").strip() if profile.key_variable else NO_KEY
    if not (key.isascii() and key.isprintable() and key):
        raise JudgeError(f"the judge profile {name!r} takes its key from the environment variable "
                         f"{profile.key_variable}, which {'holds no key' if key else 'is not set'}")
    return OpenAIClient(url=profile.url, model=profile.model, api_key=key, timeout_s=timeout_s, retries=retries,
                        concurrency=concurrency, temperature=profile.temperature, max_tokens=profile.max_tokens,
                        price_per_million_tokens=profile.price_per_million_tokens)
