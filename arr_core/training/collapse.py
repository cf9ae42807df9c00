"""When a run is stopped because it no longer learns: read from the events of its updates and validations."""

from __future__ import annotations

from ..common.proportions import Proportion
from ..config.schema import Collapse
from .events import UpdateEvent, ValidationEvent


class CollapseWatch:
    """Follows a run. ``streaks`` is its state: updates in a row, up to the last one, that taught nothing."""

    def __init__(self, settings: Collapse):
        self.settings = settings
        self.streaks = {"undecided": 0, "not_finite": 0}

    def update(self, event: UpdateEvent) -> str | None:
        """Why the run is over, if it is, after an update."""
        settings, streaks = self.settings, self.streaks
        if event.decided:
            all_skipped = event.skipped and not event.grad_norm
            streaks["undecided"] = 0
            streaks["not_finite"] = streaks["not_finite"] + 1 if all_skipped else 0
        elif event.failures < event.pairs:  # else the judge did not answer at all
            streaks["undecided"] += 1
        if streaks["not_finite"] >= settings.not_finite:
            return f"no gradient was finite in {_updates(streaks['not_finite'])}"
        if streaks["undecided"] >= settings.undecided:
            return f"no pair was decided in {_updates(streaks['undecided'])}"
        if settings.kl is not None and event.kl is not None and event.kl > settings.kl:
            return (
                f"the KL from the reference is {event.kl:.3g}, beyond collapse.kl {settings.kl:g}"
            )
        return None

    def validation(self, event: ValidationEvent) -> str | None:
        """Why the run is over, if it is, after a validation."""
        won = Proportion(event.wins, event.wins + event.losses)
        if won.by_chance < self.settings.lost_level:
            return f"the adapter lost its validation, with {won.count} of {won.total} decided pairs won"
        if event.statistics is not None:
            base, policy = event.statistics.base.contrast, event.statistics.policy.contrast
            if not policy >= self.settings.contrast * base:
                return (
                    f"the images have lost their contrast: {policy:.3g}, the base's is {base:.3g}"
                )
        return None


def _updates(count: int) -> str:
    return "one update" if count == 1 else f"{count} updates in a row"
