"""The embedded world: small models of the real classes, their prompts, their judge, and a measure that looks at pixels."""

from importlib import import_module
from importlib.metadata import version


def transformers_fault() -> str:
    """Why the installed transformers cannot load the embedded models, or nothing.

    They were saved by transformers 5, whose folders load wrongly in 4 without a word: weights stay random.
    """
    installed = version("transformers")
    if int(installed.partition(".")[0]) >= 5:
        return ""
    return (
        f"the embedded world needs transformers 5 or newer, found {installed}; run it from an environment of its own, "
        "which ComfyUI's nodes find by ARR_PYTHON"
    )


def quiet(*libraries: str) -> None:
    """The embedded models load in a moment; the libraries' loading bars (of both, unless one is named) would only hide ours."""
    for library in libraries or ("diffusers", "transformers"):
        import_module(library).utils.logging.disable_progress_bar()
