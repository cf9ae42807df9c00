"""The configuration: the card's numbers, one way in, one way out, and errors that say where and what."""

import shlex

import pytest
import yaml
from pydantic import ValidationError

from arr_core import train
from arr_core.common.paths import resource
from arr_core.config.load import ConfigError, changed_fields, config_hash, load_config, save_config
from arr_core.config.presets import PRESETS
from arr_core.config.schema import TrainConfig

PROMPTS = "--data.train prompts.txt "
ATTENTION = {"attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"} | {
    f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
}
FEED_FORWARD = {"ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"}


def load(source, words: str = "") -> TrainConfig:
    return load_config(str(source), shlex.split(words))


def value(config: TrainConfig, dotted: str):
    section, field = dotted.split(".")
    return getattr(getattr(config, section), field)


def fault(source, words: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        load(source, words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str, encoding: str = "utf-8"):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding=encoding)
        return path

    return write


# --- what was published -------------------------------------------------------------------------------------------

SHARED = {
    "objective.algorithm": "rpo",
    "objective.advantage": "raw",
    "objective.ratio": "plain",
    "objective.reward_preferred": 1.0,
    "objective.reward_dispreferred": -0.1,
    "objective.clip_range": 0.2,
    "objective.trained_steps": None,
    "optimizer.betas": (0.9, 0.999),
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 1e-4,
    "optimizer.max_grad_norm": 1.0,
    "adapter.dropout": 0.0,
    "rollout.sampler": "dance",
    "rollout.eta": 0.3,
    "rollout.shift": 3.0,
    "rollout.shared_noise": True,
    "policy.height": 512,
    "policy.width": 512,
    "policy.true_cfg_scale": 1.0,
    "policy.dtype": "bfloat16",
    "policy.gradient_checkpointing": True,
    "run.updates": 300,
    "run.save_every": 50,
}
# field: of FLUX, of Qwen-Image-Edit
OWN = {
    "policy.base": ("black-forest-labs/FLUX.1-dev", "Qwen/Qwen-Image-Edit"),
    "adapter.rank": (16, 32),
    "adapter.alpha": (32, 64),
    "optimizer.learning_rate": (5e-5, 1e-5),
    "objective.kl_coefficient": (0.01, 0.02),
    "rollout.steps": (8, 10),
    "rollout.prompts_per_update": (32, 16),
}


@pytest.mark.parametrize(
    "preset, which, targets",
    [("flux", 0, ATTENTION | FEED_FORWARD), ("qwen-image-edit", 1, ATTENTION)],
)
def test_the_published_presets_have_the_cards_values(preset, which, targets):
    config = load(preset, PROMPTS)
    expected = {**SHARED, **{dotted: values[which] for dotted, values in OWN.items()}}
    assert {dotted: value(config, dotted) for dotted in expected} == expected
    assert set(config.adapter.targets) == targets


@pytest.mark.parametrize("preset", ["miniature", "miniature-edit"])
def test_the_miniature_presets_need_nothing_from_outside(preset):
    config = load(preset)
    assert config.judge.profile == "miniature"
    for name in (config.policy.base, config.data.train, config.data.validation):
        path = name and resource(name)
        assert path and path.exists()


# --- in and out ---------------------------------------------------------------------------------------------------


def test_flags_come_over_the_file_and_the_file_over_its_preset(yaml_file):
    before = load("miniature")
    path = yaml_file("preset: miniature\noptimizer: {learning_rate: 2e-3, eps: 1e-7}\n")
    config = load(path, "--optimizer.eps 1e-6")
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.eps, config.adapter.rank) == (2e-3, 1e-6, 16)
    assert load("miniature") == before  # the presets are as they were


@pytest.mark.parametrize(
    "words, parsed",
    [
        ("--run.updates 3", 3),
        ("--run.updates=3", 3),
        ("--optimizer.learning_rate 1e-3", 1e-3),
        ("--objective.reward_dispreferred -0.55", -0.55),
        ("--judge.both_orders false", False),
        ("--run.name 2024-01-01", "2024-01-01"),
        ("--run.name 7", "7"),
        ("--policy.negative_prompt=", ""),
        ("--policy.negative_prompt 'a=b: [c'", "a=b: [c"),
        ("--run.threads null", None),
        ("--objective.trained_steps null", None),
        ("--objective.trained_steps '[0, 2]'", [0, 2]),
        ("--objective.trained_steps 0,2", [0, 2]),
        ("--adapter.targets attn.to_q,attn.to_k", ["attn.to_q", "attn.to_k"]),
        ("--optimizer.betas '[0.5, 0.9]'", (0.5, 0.9)),
        ("--run.seed 1 --run.seed 2", 2),
    ],
)
def test_flags_are_read_as_their_field_means(words, parsed):
    dotted = words.removeprefix("--").replace("=", " ").split()[0]
    assert value(load("miniature", words), dotted) == parsed


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_run_that_loads_as_it_was_saved(preset, tmp_path):
    words = "--run.name 'Größe 1' --run.trackers tensorboard --objective.trained_steps 0,1"
    config = load(preset, f"{PROMPTS} {words} --adapter.start some/adapter")
    assert config.adapter.alpha / config.adapter.rank == 2.0
    assert config.task == ("edit" if preset.endswith("edit") else "t2i")
    save_config(config, tmp_path / "config.yaml")
    loaded = load(tmp_path / "config.yaml")
    assert loaded == config and config_hash(loaded) == config_hash(config)
    written = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert list(written) == list(TrainConfig.model_fields)


def test_a_file_may_have_a_byte_order_mark_and_empty_sections(yaml_file):
    assert load(yaml_file("preset: miniature\nrun:\n", "utf-8-sig")) == load("miniature")


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError):
        load("miniature").run.seed = 3


@pytest.mark.parametrize(
    "words, changed",
    [
        ("--objective.clip_range 1e-3 --run.seed 1", ["run.seed", "objective.clip_range"]),
        # may change when a run is resumed
        ("--run.updates 999 --run.output_dir elsewhere --run.threads 1", []),
        ("--run.trackers wandb --run.keep_checkpoints 9", []),
    ],
)
def test_changed_fields_are_named_and_change_the_hash(words, changed):
    before, after = load("miniature"), load("miniature", words)
    assert changed_fields(before, after) == changed
    assert (config_hash(before) == config_hash(after)) == (not changed)


def test_files_are_found_from_anywhere_and_a_built_in_rubric_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    files = {
        "data.train": "p.txt",
        "data.validation": "~/held.txt",
        "adapter.start": "mine",
        "judge.rubric": "r.json",
        "run.output_dir": "~/runs",
    }
    config = load_config("flux", [f"--{dotted}={path}" for dotted, path in files.items()])
    for dotted, path in files.items():
        assert value(config, dotted) == tmp_path / path.removeprefix("~/")
    assert config.run.folder == tmp_path / "runs/flux"
    named = load("miniature", "--judge.rubric 't2i zh'")
    assert str(named.judge.rubric) == "t2i zh"
    assert named.data.train == "miniature:data/prompts_train.txt"


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        ("--run.update 3", "--run.update: unknown field; did you mean run.updates?"),
        (
            "--learning_rate 3",
            "--learning_rate: unknown field; did you mean optimizer.learning_rate?",
        ),
        ("run.updates 3", "run.updates: expected --section.field value"),
        ("--run.updates", "argument --run.updates: expected one argument; see --help"),
        (
            "--run.updates --run.seed 1",
            "argument --run.updates: expected one argument; see --help",
        ),
        ("--run.updates many", '--run.updates: expected a valid integer, got "many"'),
        ("--run.updates 0", '--run.updates: expected greater than or equal to 1, got "0"'),
        (
            "--policy.family sdxl",
            "--policy.family: expected 'flux' or 'qwen-image-edit', got \"sdxl\"",
        ),
        ("--policy.height 40", '--policy.height: expected a multiple of 16, got "40"'),
        (
            "--policy.device gpu",
            '--policy.device: expected auto, cpu, mps, cuda, cuda:N, xpu or xpu:N, got "gpu"',
        ),
        (
            "--optimizer.learning_rate nan",
            '--optimizer.learning_rate: expected a finite number, got "nan"',
        ),
        (
            "--adapter.targets []",
            "--adapter.targets: expected a list with at least 1 item, got []",
        ),
        (
            "--run.seed=x --run.updates=y",
            '--run.seed: expected a valid integer, got "x"; --run.updates: expected a valid integer, got "y"',
        ),
    ],
)
def test_a_bad_flag_is_named_with_what_was_expected_and_what_it_got(words, message):
    assert fault("miniature", words) == message


def test_a_list_that_does_not_end_is_named():
    assert "optimizer" in fault("miniature", "--optimizer.betas [1")


@pytest.mark.parametrize(
    "name", ["../escape", "a/b", "a\\b", "..", ".hidden", "", "trailing.", "new\nline"]
)
def test_a_run_name_is_never_a_path(name):
    message = fault("miniature", shlex.quote(f"--run.name={name}"))
    assert message.startswith("--run.name: expected a file name")


@pytest.mark.parametrize(
    "words, message",
    [
        (
            "--rollout.prompts_per_update 4 --rollout.micro_batch 64",
            "rollout.micro_batch: expected at most 8, two images for each of rollout.prompts_per_update, got 64",
        ),
        (
            "--objective.optimizer_steps 33",
            "objective.optimizer_steps: expected at most rollout.prompts_per_update (32), got 33",
        ),
        (
            "--objective.reference start",
            "objective.reference: expected 'base' unless adapter.start names an adapter, got 'start'",
        ),
        (
            "--rollout.sampler cps --rollout.eta 1.5",
            "rollout.eta: expected at most 1 for the sampler cps, got 1.5",
        ),
        (
            "--objective.algorithm rpo --rollout.eta 0",
            "rollout.eta: expected more than 0, since rpo needs noise to have a log-prob, got 0",
        ),
        (
            "--objective.algorithm rpo --rollout.steps 1",
            "rollout.steps: expected at least 2, since rpo leaves out the last transition, got 1",
        ),
        (
            "--objective.algorithm rpo --adapter.dropout 0.1",
            "adapter.dropout: expected 0 for rpo, whose ratio must start at 1, got 0.1",
        ),
        (
            "--objective.algorithm rpo --objective.trained_steps [8]",
            "objective.trained_steps: expected different numbers from 0 to 7, got [8]",
        ),
        (
            "--objective.algorithm rpo --objective.trained_steps [1,1]",
            "objective.trained_steps: expected different numbers from 0 to 7, got [1, 1]",
        ),
        (
            "--objective.algorithm rpo --rollout.sampler cps --objective.trained_steps [7]",
            "objective.trained_steps: expected different numbers from 0 to 6, got [7]",
        ),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(words, message):
    assert fault("miniature", words) == f"miniature: {message}"


SECTIONS = ": expected sections such as 'policy:' and 'data:', got "


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "preset: minature",
            ': preset: expected one of {presets}, got "minature"; did you mean miniature?',
        ),
        ("preset: [flux]", ': preset: expected one of {presets}, got ["flux"]; did you mean flux?'),
        (
            "preset: miniature\nobjective: {clip: 3}",
            ": objective.clip: unknown field; did you mean objective.clip_range?",
        ),
        (
            "preset: miniature\noptimiser: {eps: 1}",
            ": optimiser: unknown field; did you mean optimizer?",
        ),
        (
            "preset: miniature\nlearning_rate: 1",
            ": learning_rate: unknown field; did you mean optimizer.learning_rate?",
        ),
        (
            "preset: miniature\nrun: fast",
            ': run: expected a valid dictionary or instance of Run, got "fast"',
        ),
        ("preset: miniature\nrun: {seed: 1.5}", ": run.seed: expected a valid integer, got 1.5"),
        ("preset: miniature\nrun: {name: 2024-99-01}", ": expected YAML: month must be in 1..12"),
        ("", f"{SECTIONS}null"),
        ("- a", f'{SECTIONS}["a"]'),
        ("run:\n  name: a: b", ":2: expected YAML: mapping values are not allowed here"),
        ("run: {seed: 1}\nrun: {updates: 3}", ":2: expected YAML: run stands there twice"),
    ],
)
def test_a_bad_file_is_named_with_its_field_or_line(yaml_file, text, message):
    path = yaml_file(text)
    assert fault(path) == str(path) + message.replace("{presets}", ", ".join(PRESETS))


def test_a_flag_of_a_section_that_is_none_hides_it_not(yaml_file):
    path = yaml_file("preset: miniature\nrun: !!pairs [a: 1]")
    assert "run: expected a valid dictionary" in fault(path, "--run.updates 1")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00run")
    assert fault(tmp_path / "run.yaml").endswith("got bytes at offset 0 that are not UTF-8")
    assert fault(tmp_path).startswith(f"{tmp_path}: expected YAML, got is a directory")
    assert fault("quen-image-edit").endswith("there is no such file; did you mean qwen-image-edit?")


def test_what_is_missing_is_asked_for(yaml_file):
    message = "flux: data.train: expected a value, got nothing; give it with --data.train"
    assert fault("flux") == message
    message = fault(yaml_file("run: {name: a}\n"))
    assert "policy.family: expected a value, got nothing" in message
    assert message.endswith("'preset: NAME' in the file fills in what it leaves out")


# --- help ---------------------------------------------------------------------------------------------------------


def test_help_tells_every_field_its_limits_and_its_default(capsys):
    with pytest.raises(SystemExit) as ended:
        train.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for section in TrainConfig.model_fields:
        for name, field in type(getattr(load("miniature"), section)).model_fields.items():
            assert f"--{section}.{name} " in text
            assert field.description.replace("-", "")[:30] in text.replace("- ", "").replace(
                "-", ""
            )
    assert "--run.updates int Rollout-and-update rounds in all" in text
    assert "(default: 300) (at least 1)" in text
    assert "(above 0, below 1)" in text
