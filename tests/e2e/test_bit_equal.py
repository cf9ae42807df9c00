"""Ten updates of the embedded world give the same adapter, bit for bit, as before any change of the code."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]

# Made with torch 2.14.1 on a CPU with AVX512, one thread.
TORCH, CPU = "2.14.1", "AVX512"
RPO = [
    *("--objective.algorithm", "rpo", "--rollout.sampler", "flow", "--rollout.eta", "1.0"),
    *("--objective.trained_steps", "0,1,2,3"),
]
SHA256 = {
    ("miniature", "nft"): "1e06b1a102748bdb2b65026b95aeab5b48024f879270fabd252dabbe261d266f",
    ("miniature", "rpo"): "f5919aaaedb7496c2399ddae60d1dd1051965c8cc57eb1b58b8017e9b9fb4493",
    ("miniature-edit", "nft"): "35ea54425d8cf70414c8cd26bba6b4facdc159b08570720582a5a0f109e9ad7a",
    ("miniature-edit", "rpo"): "5fa61eb9c6611c4df3a54bc40014aa3f9596149344d444e9c05ac129c2c47f8f",
}
# Sums of |lora_B| of the same adapters: what another torch or processor, which rounds otherwise, must come close to.
LORA_B = {
    ("miniature", "nft"): 310.1671,
    ("miniature", "rpo"): 305.6376,
    ("miniature-edit", "nft"): 390.8157,
    ("miniature-edit", "rpo"): 369.7980,
}


@pytest.mark.parametrize(("preset", "algorithm"), SHA256)
def test_ten_updates_give_the_adapter_they_gave_before(preset, algorithm, tmp_path):
    words = [
        *(sys.executable, "-m", "arr_core.train", preset),
        *("--run.output_dir", str(tmp_path), "--run.name", "run", "--run.updates", "10"),
        *("--run.threads", "1", "--validation.count", "8"),
        *(RPO if algorithm == "rpo" else ()),
    ]
    subprocess.run(words, cwd=ROOT, env=os.environ, check=True, capture_output=True, text=True)
    file = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    size = sum(t.abs().sum().item() for name, t in load_file(file).items() if "lora_B" in name)
    assert size == pytest.approx(LORA_B[preset, algorithm], rel=0.05)
    same_rounding = (torch.__version__.partition("+")[0], torch.backends.cpu.get_cpu_capability())
    if same_rounding == (TORCH, CPU):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert digest == SHA256[preset, algorithm]
