"""When a run is over: streaks of updates that taught nothing, a lost validation, contrast, KL; and what is never written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from arr_core.adapters.file import AdapterError, write_tensors
from arr_core.common.proportions import Proportion
from arr_core.config.schema import Collapse
from arr_core.judging import Verdict
from arr_core.training.collapse import CollapseWatch
from arr_core.training.events import BothStatistics, ImageStatistics, UpdateEvent, ValidationEvent
from arr_core.training.validation import validation_event

NUMBERS = ("seconds", "sampling_s", "waiting_s", "training_s", "learning_rate")
UNDECIDED = UpdateEvent.of(1, [Verdict(None, "")] * 2, **dict.fromkeys(NUMBERS, 0.0))
FAILED = replace(UNDECIDED, failures=2)
SOUND = replace(UNDECIDED, decided=2, grad_norm=0.5, kl=0.4)
SKIPPED = replace(SOUND, grad_norm=0.0, skipped=1, kl=None)
PARTLY = replace(SKIPPED, grad_norm=0.1)


def validation(wins: int, losses: int, contrast: float = 0.2) -> ValidationEvent:
    verdicts = [Verdict("a", "")] * wins + [Verdict("b", "")] * losses
    base, policy = (
        ImageStatistics(contrast=c, edge_energy=0, colour_entropy=0) for c in (0.2, contrast)
    )
    return validation_event(1, verdicts, [], BothStatistics(base=base, policy=policy))


@pytest.mark.parametrize(
    ("updates", "reason"),
    [
        ([UNDECIDED] * 4, "no pair was decided in 4 updates in a row"),
        ([UNDECIDED] * 3 + [SOUND] + [UNDECIDED] * 3 + [FAILED] * 2, None),
        ([SKIPPED] * 2, "no gradient was finite in 2 updates in a row"),
        ([SKIPPED, UNDECIDED, SKIPPED], "no gradient was finite in 2 updates in a row"),
        ([SKIPPED, SOUND, SKIPPED, PARTLY, SKIPPED], None),
        (
            [SOUND, replace(SOUND, kl=0.6)],
            "the KL from the reference is 0.6, beyond collapse.kl 0.5",
        ),
    ],
)
def test_streaks_and_the_kl_end_a_run(updates, reason):
    watch = CollapseWatch(Collapse(undecided=4, not_finite=2, kl=0.5))
    found = [watch.update(event) for event in updates]
    assert found[-1] == reason and not any(found[:-1])


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (validation(0, 4), None),  # 1 / 16 by chance
        (validation(0, 7), "the adapter lost its validation, with 0 of 7 decided pairs won"),
        (validation(24, 40), None),
        (validation(22, 42), "the adapter lost its validation, with 22 of 64 decided pairs won"),
        (validation(0, 0), None),
        (validation(30, 2, contrast=0.05), None),
        (
            validation(30, 2, contrast=0.03),
            "the images have lost their contrast: 0.03, the base's is 0.2",
        ),
    ],
)
def test_a_validation_that_is_clearly_lost_or_without_contrast_ends_a_run(event, reason):
    assert CollapseWatch(Collapse()).validation(event) == reason
    assert CollapseWatch(Collapse(lost_level=0, contrast=0)).validation(event) is None


def test_the_chance_of_a_count_is_the_exact_binomial_one():
    chances = [
        Proportion(count, total).by_chance for count, total in ((0, 4), (1, 4), (4, 4), (0, 0))
    ]
    assert chances == [1 / 16, 5 / 16, 1, 1]
    assert Proportion(22, 64).by_chance == pytest.approx(0.00843, abs=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_never_written(tmp_path, value):
    file = tmp_path / "adapter.safetensors"
    write_tensors({"sound": torch.ones(2)}, file, {})
    before = file.read_bytes()
    with pytest.raises(
        AdapterError, match="expected finite weights, got infinity or NaN in broken"
    ):
        write_tensors({"sound": torch.zeros(2), "broken": torch.tensor([1.0, value])}, file, {})
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_statistics_that_are_no_numbers_are_unknown():
    given = {**dict.fromkeys(NUMBERS, 1e30), "loss": float("nan"), "kl": 1e31}
    event = UpdateEvent.of(1, [], **given)
    assert (event.loss, event.kl, event.learning_rate) == (None, None, 1e30)
