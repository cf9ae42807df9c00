"""What a server's error means: most spoil one question, and some say that no later one can succeed, with what to do."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

# How servers say that a model is blind: vLLM, SGLang, OpenAI, OpenRouter, LM Studio, Ollama, llama.cpp, DeepSeek, Groq.
_BLIND = re.compile(
    r"not a (multi-?modal|vision)|(not|n't) support (image|vision|multi-?modal|visual)|support image input|"
    r"image_url is only supported|images? inputs? (is|are) not supported|mmproj|missing data required for image|"
    r"at most 0 image|unknown variant .{0,3}image_url|content.{0,20} must be a string|"
    r"invalid type: sequence, expected a string|untagged enum ChatCompletionRequest\w*Content",
    re.IGNORECASE,
)
_TOO_FEW = re.compile(r"at most [1-9]\d* images?", re.IGNORECASE)
# Not "exceeded your current quota": that is also said of a minute's limit, which passes.
_NO_CREDIT = re.compile(r"insufficient_quota|insufficient (balance|credit|funds)", re.IGNORECASE)


class Fault(Exception):
    """An attempt that brought no reply; its text is short enough for a verdict.

    fatal: why no later request can succeed if none ever did, and what to do; or nothing.
    passes: whether the same request may succeed later. after_s: the server's Retry-After.
    """

    def __init__(self, failure: str, *, fatal: str = "", passes: bool = True, after_s: float = 0.0):
        super().__init__(failure[:200])
        self.fatal, self.passes, self.after_s = fatal, passes, after_s


@dataclass(frozen=True)
class ServerError:
    """A response with the status of an error: the server's message, its name for the error, and a redirect's target."""

    status: int
    message: str
    code: str = ""
    location: str = ""

    @property
    def busy(self) -> bool:
        """Whether the status says that the same request may succeed later."""
        return self.status in (408, 409, 425, 429) or self.status >= 500

    @property
    def of_images(self) -> bool:
        """Whether images are the trouble, which no other fields of the request mend."""
        return bool(_BLIND.search(self.message) or _TOO_FEW.search(self.message))


def retry_after(header: str) -> float:
    """The seconds of a Retry-After, a number or a date; 0 for none, or one that cannot be read."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def fatal_reason(
    error: ServerError, *, url: str, model: str, answered: bool, log_probs: bool
) -> str:
    """Why no later request can succeed, and what to do; nothing where the next one may.

    answered: whether the server has answered anything, so that a 403 is not about the key.
    """
    status, judge = error.status, f"the judge at {url}"
    said = f" ({error.message[:200]})" if error.message else ""
    if _BLIND.search(error.message):
        return f"the model {model!r} at {url} cannot see images{said}; choose a vision-language model in the profile"
    if _TOO_FEW.search(error.message):
        return f"{judge} takes too few images{said}; start vLLM with --limit-mm-per-prompt '{{\"image\": 3}}'"
    if status == 402 or _NO_CREDIT.search(f"{error.code} {error.message}"):
        return f"{judge} says that the account is out of credit{said}; pay, or name another profile"
    if status == 401 or status == 403 and not answered:
        return f"{judge} refuses the key (HTTP {status}){said}; set the environment variable that the profile names"
    if status == 404:
        return f"{judge} knows no model {model!r} (HTTP 404); correct the profile's model or url"
    if 300 <= status < 400:
        return (
            f"{judge} redirects to {error.location!r} (HTTP {status}), and no redirect is followed; if you trust that "
            "address, write it into the profile's url"
        )
    if log_probs and re.search("log_?probs", error.message, re.IGNORECASE):
        return f"{judge} gives no log-probabilities{said}; set the profile's mode to reasons"
    return ""
