"""How pytest runs: from any folder, and with CI set no test of a browser or of ComfyUI may be skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = ROOT / "tests" / "conftest.py"


@pytest.mark.parametrize(
    "folder, ci, status", [("browser", "true", 1), ("browser", "", 0), ("unit", "true", 0)]
)
def test_a_skipped_browser_test_fails_where_ci_is_set(tmp_path, folder, ci, status):
    (tmp_path / folder).mkdir()
    shutil.copy(CONFTEST, tmp_path / "conftest.py")
    (tmp_path / folder / "test_it.py").write_text(
        "import pytest\n\n\ndef test_it():\n    pytest.skip('no chromium')\n"
    )
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n    fast: x\n    browser: x\n    xdist_group: x\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rsf", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout
    assert "no chromium" in done.stdout


@pytest.mark.parametrize("name", ["1 ARR-RPO.main", "copy"])
def test_pytest_runs_from_anywhere_under_any_folder_name(tmp_path, name):
    clone, elsewhere = tmp_path / name, tmp_path / "elsewhere"
    elsewhere.mkdir()
    (clone / "tests").mkdir(parents=True)
    for file in ("__init__.py", "pyproject.toml"):
        shutil.copy(ROOT / file, clone / file)
    (clone / "arr_core").mkdir()
    (clone / "arr_core" / "__init__.py").touch()
    (clone / "tests" / "test_it.py").write_text("def test_it():\n    import arr_core\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(clone)],
        cwd=elsewhere,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
