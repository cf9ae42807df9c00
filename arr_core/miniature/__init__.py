"""The embedded world: small models of the real classes, their prompts, their judge, and a measure that looks at pixels."""

from importlib.metadata import version


def transformers_fault() -> str:
    """Why the installed transformers cannot load the embedded models, or nothing.

    They were saved by transformers 5, whose folders load wrongly in 4 without a word: weights stay random.
    """
    installed = version("transformers")
    if int(installed.partition(".")[0]) >= 5:
        return ""
    return (
        f"the embedded world needs transformers 5 or newer, got {installed}; run it from an environment of its own, "
        "which ComfyUI's nodes find by ARR_PYTHON"
    )
