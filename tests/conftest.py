"""What all tests share: one thread, no network, and small pipelines of the real classes with random weights on disk."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from pathlib import Path

import pytest

MARKERS = {
    "unit": "fast",
    "equivalence": "fast",
    "e2e": "slow",
    "comfy": "comfy",
    "browser": "browser",
}


def pytest_collection_modifyitems(items):
    """A test is marked by its folder. Tests that share one server or one browser stay in one process, and have time."""
    for item in items:
        marker = MARKERS[item.path.relative_to(Path(__file__).parent).parts[0]]
        if not item.get_closest_marker("slow"):
            item.add_marker(marker)
        if marker in ("comfy", "browser"):
            item.add_marker(pytest.mark.xdist_group(marker))
            item.add_marker(
                pytest.mark.timeout(900)
            )  # a server and a trainer share what cores there are


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """With CI set, a skipped comfy or browser test is a failed one: it has not shown what it is there to show."""
    report = yield
    needed = any(item.get_closest_marker(name) for name in ("comfy", "browser"))
    if os.environ.get("CI") and needed and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"expected to run where CI is set, got skipped: {report.longrepr[2]}"
    return report


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """The network's far end is on this machine in every test."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def saved_pipeline(tmp_path_factory):
    """``saved_pipeline(name)`` is the folder of a random pipeline: "flux", "qwen" or "qwen-plus" (2509)."""
    from tools.miniature import models

    make = {
        "flux": lambda: models.flux_pipeline(heads=2, layers=2, single_layers=2),
        "qwen": lambda: models.qwen_edit_pipeline(heads=2, layers=2),
        "qwen-plus": lambda: models.qwen_edit_pipeline(heads=2, layers=2, plus=True),
    }
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            make[name]().save_pretrained(folders[name])
        return folders[name]

    return folder


@pytest.fixture(scope="session")
def run_config(saved_pipeline):
    """``run_config(name, **{"section.field": value})`` is a run's configuration on a random pipeline."""
    from arr_core.config.load import make_config

    def config(name: str, **fields):
        given = {"policy.base": str(saved_pipeline(name)), "policy.device": "cpu", **fields}
        sections: dict[str, dict] = {}
        for dotted, value in given.items():
            section, field = dotted.split(".")
            sections.setdefault(section, {})[field] = value
        return make_config("miniature" if name == "flux" else "miniature-edit", sections)

    return config


@pytest.fixture(scope="session")
def encodings(tmp_path_factory) -> Path:
    """A folder of encodings that all tests share; they are found by content."""
    return tmp_path_factory.mktemp("encodings")


@pytest.fixture(scope="session")
def make_policy(run_config, encodings):
    """``make_policy(name, **fields)`` is a policy on a random pipeline and the configuration that it came from."""
    from arr_core.policies.loading import load_policy

    def policy(name: str, **fields):
        config = run_config(name, **fields)
        return load_policy(config.policy, encodings), config

    return policy


@pytest.fixture(scope="session")
def source_image(tmp_path_factory):
    """``source_image(width, height)`` is the path of a picture of that size, the same picture at every call."""
    folder = tmp_path_factory.mktemp("sources")

    def path(width: int, height: int, seed: int = 0) -> Path:
        import torch
        from PIL import Image

        file = folder / f"{width}x{height}-{seed}.png"
        if not file.exists():
            coarse = torch.randint(
                0, 256, (4, 4, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
            )
            Image.fromarray(coarse.numpy()).resize((width, height), Image.Resampling.BICUBIC).save(
                file
            )
        return file

    return path


@pytest.fixture(scope="session")
def add_adapter():
    """``add_adapter(policy, settings)`` adds an adapter whose ``lora_B`` is random too, the same at every call."""
    import torch

    def add(policy, settings, scale: float = 0.02, seed: int = 7):
        torch.manual_seed(seed)
        parameters = policy.add_adapter(settings)
        for name, parameter in parameters.items():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=scale)
        return parameters

    return add
