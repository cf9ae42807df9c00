"""The fields of a run: frozen models that refuse unknown keys and values out of range.

A field's docstring is its description: ``--help`` prints it. A default is the value that both published runs share.
What differs between families has no default and comes from a preset (``presets.py``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from ..common.paths import resource


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        use_attribute_docstrings=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_without_nul(cls, value: object) -> object:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("expected text without NUL")
        return value


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("expected the home folder of a user who exists") from None


def _absolute(path: Path) -> Path:
    """Where the path leads from here, so that a run finds its files from anywhere."""
    return Path(os.path.abspath(_expanded(path)))


def _absolute_data(path: str | Path) -> str | Path:
    return path if resource(path) else _absolute(Path(path))


def _absolute_rubric(path: Path) -> Path:
    """A built-in rubric goes by its name."""
    return path if not path.suffix and not path.exists() else _absolute(path)


AdapterPath = Annotated[Path, AfterValidator(_absolute)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
DataFile = Annotated[str | Path, AfterValidator(_absolute_data)]
RubricFile = Annotated[Path, AfterValidator(_absolute_rubric)]


class Run(Section):
    name: str = "run"
    """Name of the run: its folder under output_dir and its adapter file"""
    output_dir: Annotated[Path, AfterValidator(_expanded)] = Path("runs")
    """Folder of run folders; this run writes to output_dir/name"""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of prompt order, noise, adapter weights and validation"""
    updates: Count = 300
    """Rollout-and-update rounds in all; may be raised when a run is resumed"""
    save_every: Count = 50
    """Updates between two checkpoints"""
    keep_checkpoints: Count = 3
    """Newest checkpoints kept; older ones are deleted"""
    trackers: list[Literal["tensorboard", "wandb"]] = []
    """Metric trackers that are fed beside events.jsonl; they need the extra 'track'"""
    threads: int | None = Field(default=None, ge=1)
    """Torch threads on a CPU; null leaves torch's own choice"""

    @field_validator("name")
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w .-]*", name) or name[-1] in " ." or len(name.encode()) > 180:
            raise ValueError(
                "expected a file name of letters, digits, spaces, dots, '-' and '_', no path, and not a long one"
            )
        return name

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.output_dir / self.name


class Policy(Section):
    family: Literal["flux", "qwen-image-edit"]
    """Model family; FLUX makes images, Qwen edits them"""
    base: str = Field(min_length=1)
    """Frozen base: Hugging Face id, or pipeline folder"""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face base"""
    dtype: Literal["float32", "bfloat16"]
    """Number type of the frozen base; the adapter is float32"""
    quantization: Literal["nf4"] | None = None
    """nf4: the frozen transformer and the large text encoder in 4 bits (extra 'nf4'), about a
    quarter of the memory"""
    sharded: bool = False
    """Split the frozen base over the cards of all processes (FSDP2), for a base that one card does
    not hold"""
    device: str = "auto"
    """'auto' (the best there is), 'cpu', 'mps', 'cuda', 'cuda:1', 'xpu'"""
    height: int = Field(512, ge=16, le=4096, multiple_of=16)
    """Height of sampled images in pixels"""
    width: int = Field(512, ge=16, le=4096, multiple_of=16)
    """Width of sampled images in pixels; an edit keeps its source's shape at this area"""
    guidance_scale: float = Field(3.5, ge=0)
    """FLUX only: embedded guidance, which needs no second call"""
    true_cfg_scale: float = Field(1.0, ge=1)
    """Classifier-free guidance by a second, negative call; 1 is off, as published"""
    negative_prompt: str = " "
    """Text of the second call when true_cfg_scale is above 1"""
    max_sequence_length: int = Field(512, ge=1, le=4096)
    """Text tokens kept; FLUX pads every prompt to this length"""
    condition_area: int | None = Field(None, ge=256)
    """Edits: area in pixels of the source as the text encoder sees it; null is what the pipeline
    does: the source as it is trained on, or 384*384 for the Plus pipeline"""
    gradient_checkpointing: bool = True
    """Recompute activations going backward: slower, less memory"""

    @field_validator("base")
    @classmethod
    def _is_found_from_anywhere(cls, base: str) -> str:
        folder = _expanded(Path(base))
        return str(_absolute(folder)) if not resource(base) and folder.is_dir() else base

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", device):
            raise ValueError("expected auto, cpu, mps, cuda, cuda:N, xpu or xpu:N")
        return device


class Adapter(Section):
    rank: int = Field(ge=1, le=1024)
    """LoRA rank"""
    alpha: Positive
    """LoRA alpha; the adapter's scale is alpha / rank, 2.0 as published"""
    dropout: Fraction = 0.0
    """LoRA dropout; must be 0 for rpo's ratio to start at exactly 1"""
    targets: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    """Modules that get an adapter, matched as name suffixes"""
    start: AdapterPath | None = None
    """Adapter to start from (PEFT folder or file), whose rank, alpha and targets are then kept;
    null starts from zero"""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of the adapter, which is then what is validated and saved; in
    update n it is at most (1 + n) / (10 + n), so that the start is soon forgotten; null keeps none"""


class Data(Section):
    train: DataFile
    """Prompts (.txt, one a line; .jsonl; .json) or edits (.jsonl; .json)"""
    validation: DataFile | None = None
    """Held-out prompts, never trained on; null takes them from the end of train"""
    validation_count: Count = 64
    """Prompts held out from the end of train when validation is null"""


class Rollout(Section):
    steps: int = Field(ge=1, le=1000)
    """Sampling steps of a training image"""
    sampler: Literal["dance", "flow", "cps"] = "dance"
    """rpo: dance (DanceGRPO), flow (Flow-GRPO) or cps (FlowCPS); nft samples without noise"""
    eta: float = Field(0.3, ge=0)
    """rpo: noise level of the sampler; usual are dance 0.3, flow 0.7, cps 0.8"""
    shift: Positive = 3.0
    """Static shift of the noise schedule towards high noise"""
    shared_noise: bool = True
    """Whether both images of a pair start from the same noise"""
    prompts_per_update: Count
    """Prompts in one update, two images each, over all processes together"""
    micro_batch: Count = 4
    """Images in one transformer call; lower it when memory runs out"""


class Objective(Section):
    algorithm: Literal["rpo", "nft"] = "rpo"
    """rpo: clipped ratio on stored transitions, as published; nft: DiffusionNFT, forward process"""
    advantage: Literal["raw", "centred"] = "raw"
    """rpo: rewards as they are, or less their mean, which has less variance"""
    reward_preferred: float = 1.0
    """Reward of the image that the judge prefers"""
    reward_dispreferred: float = -0.1
    """Reward of the other image; an undecided pair has none at all"""
    clip_range: float = Field(0.2, gt=0, lt=1)
    """rpo: the ratio is clipped to 1 +- this. The log-prob is a mean over elements, so 0.2 hardly
    ever fires"""
    ratio: Literal["plain", "guard"] = "plain"
    """rpo: plain ratio, or GRPO-Guard: the log ratio centred and scaled by the step's std, the loss
    divided by |dt|; it wants a much smaller clip_range"""
    kl_coefficient: float = Field(ge=0)
    """Weight of the distance to the reference: exact KL of a transition (rpo), squared velocity
    difference (nft)"""
    trained_steps: list[Annotated[int, Field(ge=0)]] | None = Field(None, min_length=1)
    """rpo: transitions to train, counted from 0; null is all but the last"""
    reference: Literal["base", "start"] = "base"
    """What the KL term holds on to: the base without adapter, or the adapter in adapter.start"""
    nft_beta: Positive = 1.0
    """nft: how far the two implicit policies stand from the old one"""
    nft_decay: Fraction = 0.9
    """nft: decay of the moving average that is the old policy; 0 is no average; higher values are
    more robust to label noise"""
    nft_times: Count = 2
    """nft: noise levels drawn for each pair, whose images share them and their noise"""
    epochs: Count = 1
    """Passes of the optimizer over each rollout"""
    optimizer_steps: Count = 1
    """Optimizer steps in one pass; the pairs are split among them"""


class Optimizer(Section):
    learning_rate: Positive
    """AdamW learning rate, constant after the warm-up"""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW betas"""
    eps: Positive = 1e-08
    """AdamW epsilon"""
    weight_decay: float = Field(0.0001, ge=0)
    """AdamW weight decay"""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm"""
    warmup_updates: int = Field(0, ge=0)
    """Updates over which the learning rate rises linearly from zero"""


class Judge(Section):
    profile: str = Field(min_length=1)
    """Judge profile: 'miniature', or a name from your judges file ('local', 'openai', ...)"""
    both_orders: bool = True
    """Ask twice with the images swapped; disagreement means undecided"""
    rubric: RubricFile | None = None
    """Rubric file (.json or .txt); null uses the built-in one of the task"""
    timeout_s: Positive = 60.0
    """Seconds after which a request has failed"""
    retries: int = Field(3, ge=0)
    """Further attempts after a failed request"""
    concurrency: Count = 16
    """Requests in flight at once"""
    outage_hours: float = Field(12.0, ge=0, le=1000)
    """Hours to wait for a judge that answered before and fails: no server, no credit, a refused key. 0 does not wait"""


class Validation(Section):
    every: Count = 25
    """Updates between two validations against the frozen base"""
    count: Count = 64
    """Held-out prompts judged at each validation, or all if there are fewer"""
    steps: int | None = Field(default=None, ge=1, le=1000)
    """Sampling steps of a validation image; null is rollout.steps"""
    images: int = Field(default=8, ge=0)
    """Sample images written at each validation"""
    judge_profile: str | None = Field(default=None, min_length=1)
    """Judge profile of the validation; null is judge.profile"""
    exact_measure: bool = False
    """At the end, count the exact images of the embedded world's held-out prompts, base against
    adapter"""


class Collapse(Section):
    not_finite: Count = 3
    """Updates in a row without a finite gradient that stop the run; fewer are left out and counted"""
    undecided: Count = 20
    """Updates in a row without a decided pair that stop the run"""
    lost_level: Fraction = 0.01
    """A validation stops the run if an adapter no worse than the base would lose so clearly with
    less than this probability; 0 is never"""
    contrast: Fraction = 0.2
    """A validation stops the run if the contrast of the images falls below this share of the
    base's; 0 is never"""
    kl: Positive | None = 1.0
    """The distance to the reference that stops the run, where kl_coefficient asks for one; null is
    any"""


class TrainConfig(Section):
    """Everything that decides what a run does; it is saved as the run's ``config.yaml``."""

    run: Run = Run.model_validate({})
    policy: Policy
    adapter: Adapter
    data: Data
    rollout: Rollout
    objective: Objective
    optimizer: Optimizer
    judge: Judge
    validation: Validation = Validation.model_validate({})
    collapse: Collapse = Collapse.model_validate({})

    @property
    def task(self) -> Literal["t2i", "edit"]:
        """What the policy's family does."""
        return "edit" if self.policy.family == "qwen-image-edit" else "t2i"

    @model_validator(mode="after")
    def _fields_agree(self) -> TrainConfig:
        for fault in self._faults():
            raise ValueError(fault)
        return self

    def _faults(self) -> Iterator[str]:
        """What in the fields does not go together."""
        policy, adapter, rollout, objective = (
            self.policy,
            self.adapter,
            self.rollout,
            self.objective,
        )
        images = 2 * rollout.prompts_per_update
        if policy.sharded and policy.quantization:
            yield (
                f"policy.sharded: expected false with policy.quantization {policy.quantization}, whose parts cannot be "
                "split; choose one of them"
            )
        if adapter.start is not None and adapter.dropout:
            yield f"adapter.dropout: expected 0 with adapter.start, which goes on without, got {adapter.dropout}"
        if rollout.micro_batch > images:
            yield (
                f"rollout.micro_batch: expected at most {images}, two images for each of rollout.prompts_per_update, "
                f"got {rollout.micro_batch}"
            )
        if objective.optimizer_steps > rollout.prompts_per_update:
            yield (
                f"objective.optimizer_steps: expected at most rollout.prompts_per_update "
                f"({rollout.prompts_per_update}), got {objective.optimizer_steps}"
            )
        if objective.reference == "start" and adapter.start is None:
            yield "objective.reference: expected 'base' unless adapter.start names an adapter, got 'start'"
        if rollout.sampler == "cps" and rollout.eta > 1:
            yield f"rollout.eta: expected at most 1 for the sampler cps, got {rollout.eta}"
        if objective.algorithm == "rpo":
            yield from self._rpo_faults()
        elif rollout.shared_noise:
            yield (
                "rollout.shared_noise: expected false for nft, got true; nft samples without noise on the way, so one "
                "noise makes the same image twice"
            )

    def _rpo_faults(self) -> Iterator[str]:
        rollout, trained = self.rollout, self.objective.trained_steps
        # The last step of cps has no noise, so its transition has no density.
        last = rollout.steps - 2 if rollout.sampler == "cps" else rollout.steps - 1
        if rollout.eta == 0:
            yield "rollout.eta: expected more than 0, since rpo needs noise to have a log-prob, got 0"
        if self.adapter.dropout:
            yield (
                "adapter.dropout: expected 0 for rpo, whose ratio must start at 1, got "
                f"{self.adapter.dropout}"
            )
        if trained is None and rollout.steps < 2:
            yield "rollout.steps: expected at least 2, since rpo leaves out the last transition, got 1"
        if trained and (max(trained) > last or len(set(trained)) < len(trained)):
            yield f"objective.trained_steps: expected different numbers from 0 to {last}, got {trained}"
