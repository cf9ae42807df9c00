"""The report of a run: everything from the run's folder, nothing from elsewhere, whatever state the folder is in."""

import base64
import io
import re

import pytest
from doubles.html_page import Page
from PIL import Image

from arr_core.common.proportions import Proportion
from arr_core.reports.charts import Chart, Line, Point
from arr_core.reports.html import duration, figure, percent, signed_percent
from arr_core.reports.run import ReportWriter, write_report
from arr_core.rubrics import Rubric, Theme
from arr_core.training.events import (
    BothStatistics,
    CheckpointEvent,
    EncodedEvent,
    EventLog,
    FinishedEvent,
    ImageStatistics,
    MeasuredShare,
    MeasureEvent,
    ResumedEvent,
    StartedEvent,
    StoppedEvent,
    UpdateEvent,
    ValidationEvent,
    ValidationImage,
    WarningEvent,
)

HOSTILE = "</title></style><script>alert(1)</script><img src=http://x.example/y onerror=\"alert('2')\">'\"&"
CIRCLES = "three red circles"
MEASURED = MeasuredShare(value=0.5, low=0.4, high=0.6, count=96)
UPDATE = {
    "seconds": 10.0,
    "sampling_s": 5.0,
    "waiting_s": 1.0,
    "training_s": 3.0,
    "pairs": 8,
    "decided": 6,
    "undecided": 2,
    "failures": 1,
    "first_pick_rate": 0.5,
    "loss": -0.1,
    "kl": 1e-4,
    "clip_high": 0.01,
    "clip_low": 0.0,
    "grad_norm": 0.3,
    "learning_rate": 1e-4,
    "judge_calls": 16,
    "judge_tokens": 3200,
    "judge_cost": 0.25,
}


class Run:
    """A run's folder in the making: configuration, rubric, images and events, as the trainer leaves them."""

    def __init__(self, folder, text=CIRCLES, size=(32, 32)):
        folder.mkdir(exist_ok=True)
        self.folder, self.text, self.size = folder, text, size
        (folder / "config.yaml").write_text(f"run:\n  name: {text}\n")
        rubric = Rubric(name=text, task="t2i", criteria=[f"see {text}"], provenance={"model": text})
        rubric.save(folder / "rubric.json")
        self.log = EventLog(folder / "events.jsonl")
        self.emit(StartedEvent(run=text, updates=4, device="cpu", task="t2i", algorithm="rpo"))

    def emit(self, *events):
        for event in events:
            self.log.emit(event)
        return self

    def update(self, update, **fields):
        return self.emit(UpdateEvent(update=update, **UPDATE | fields))

    def validation(self, update, wins=18, losses=2, edges=0.1, best=True, **sample):
        for name in (f"{update}.png", "base.png"):
            Image.new("RGB", self.size, (200, 30, 30)).save(self.folder / name)
        low, high = Proportion(wins, wins + losses).interval
        image = {"policy": f"{update}.png", "preferred": "policy", "reason": f"because {self.text}"}
        base, policy = (
            ImageStatistics(contrast=0.2, edge_energy=energy, colour_entropy=3.0)
            for energy in (0.1, edges)
        )
        return self.emit(
            ValidationEvent(
                update=update,
                wins=wins,
                losses=losses,
                undecided=4,
                win_rate=wins / (wins + losses) if wins + losses else None,
                low=low,
                high=high,
                best=best,
                seconds=3.0,
                statistics=BothStatistics(base=base, policy=policy),
                images=(ValidationImage(prompt=self.text, base="base.png", **image | sample),),
            )
        )

    def measure(self, low=0.8):
        policy = MeasuredShare(value=0.9, low=low, high=0.95, count=96)
        return self.emit(
            MeasureEvent(name=f"exact {self.text}", unit="share", base=MEASURED, policy=policy)
        )

    def whole(self):
        self.emit(EncodedEvent(examples=12, seconds=2.0)).validation(0, 0, 0, best=False)
        self.update(1).update(2).validation(2).update(3).update(4).validation(4).measure()
        return self.emit(FinishedEvent(update=4, seconds=60.0, sentence="It won."))

    def page(self):
        return Page(write_report(self.folder))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


STOPPED = StoppedEvent(update=1, reason="requested")
SLOW = WarningEvent(message="slow")
WHOLE = f"""finished text to image rpo 4 of 4 updates cpu | It won. | Better than its base
90 % 95 % interval 70–97, of 20 decided pairs | 50 % → 90 % base → policy, measured without the judge
90 % (80 % to 95 %, of 96) | The intervals are apart. | Before and after 4 updates
Rubric: {CIRCLES} | model: {CIRCLES} | see {CIRCLES} | name: {CIRCLES}
sampling 20 s 39 % | waiting for the judge 4.0 s | training 12 s | rest of the updates 4.0 s
validation 9.0 s | encoding prompts 2.0 s | all 51 s | pairs 32 | decided 24 (75 %)
of these failed 4 (12 %) | calls 64 | tokens 12,800 | cost, as reported 1.00"""


@pytest.mark.parametrize(
    "events, said",
    [
        (Run.whole, WHOLE),
        (lambda run: run.update(1), "not ended | 1 of 4 updates"),
        (lambda run: run.emit(STOPPED), "stopped (requested), can be resumed"),
        (
            lambda run: run.update(1).update(2).emit(ResumedEvent(update=1)).update(2),
            "pairs 16 | 1 update done again after a resume, 10 s and 16 judge calls",
        ),
        (lambda run: run.emit(SLOW, SLOW), "slow (2 times) | 2 warnings"),
        (lambda run: run.emit(WarningEvent(message="\ud800")), "\\ud800"),
        (lambda run: run.measure(low=0.55), "intervals overlap"),
        # The verdict follows the interval.
        (lambda run: run.validation(2, 18, 2), "Better than its base"),
        (lambda run: run.validation(2, 2, 18), "Worse than its base"),
        (lambda run: run.validation(2, 11, 9), "No difference shown"),
        (lambda run: run.validation(2, 0, 0), "Nothing to tell policy and base apart yet"),
        (
            lambda run: run.validation(2, 19, 1).validation(4, 17, 3, best=False),
            "holds the policy of update 2, with 95 % the best of 2 validations | flatters",
        ),
    ],
)
def test_the_page_says_what_came_out_and_how_sure_it_is(run, events, said):
    text = events(run).page().text
    assert [words for words in re.split(r" \| |\n", said) if words not in text] == []
    assert [path.name for path in run.folder.glob("*report*")] == ["report.html"]


def test_a_run_that_has_not_begun_has_a_page_too(tmp_path):
    (tmp_path / "events.jsonl").touch()
    text = Page(write_report(tmp_path)).text
    assert "Nothing to judge yet" in text and "no event at all" in text


@pytest.mark.parametrize("edges, marked", [(0.126, True), (0.124, False)])
def test_an_image_statistic_that_changed_much_is_pointed_out(run, edges, marked):
    page = run.validation(2, edges=edges).page()
    assert ("edge energy +26" in page.text) == marked
    assert ("chart moved" in [one.get("class") for one in page.all("figure")]) == marked


@pytest.mark.parametrize("rubric", [None, "", "{", '{"criteria": 3}'])
def test_without_configuration_and_images_and_with_no_rubric_that_can_be_read(run, rubric):
    run.whole()
    for path in [*run.folder.glob("*.png"), run.folder / "config.yaml", run.folder / "rubric.json"]:
        path.unlink()
    if rubric is not None:
        (run.folder / "rubric.json").write_text(rubric)
    page = run.page()
    assert page.all("img") == [] and "image missing" in page.text
    assert "Rubric" not in page.text and "Settings" not in page.text


def test_themes_show_their_tips(run):
    themes = (Theme(theme="Fidelity", tips=("look at the sky",)),)
    Rubric(name="sky", task="edit", themes=themes).save(run.folder / "rubric.json")
    assert "Fidelity look at the sky" in run.page().text


def test_nothing_is_drawn_of_ratios_where_an_objective_has_none(run):
    text = run.update(1, clip_high=None, clip_low=None).page().text
    assert "Clipped ratios" not in text and "Gradient norm" in text


def test_the_writer_follows_the_run(tmp_path):
    run, report = Run(tmp_path / "run"), tmp_path / "run" / "report.html"
    run.log.observers = (ReportWriter(run.folder),)
    run.update(1)
    assert not report.exists()
    for event in (
        CheckpointEvent(update=1, path="checkpoints/1"),
        MeasureEvent(name="exact", unit="share", base=MEASURED, policy=MEASURED),
        STOPPED,
        FinishedEvent(update=1),
    ):
        run.emit(event)
        assert event.time in report.read_text(encoding="utf-8")
        report.unlink()


# --- images ---------------------------------------------------------------------------------------------------------


def test_small_images_are_embedded_whole_and_shown_as_squares(run):
    [base, policy] = run.validation(2).page().all("img")
    assert "crisp" in policy["class"] and policy["alt"] == f"policy: {CIRCLES}"
    kind, data = policy["src"].split(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/png;base64" and image.size == (32, 32)
    assert image.getpixel((0, 0)) == (200, 30, 30)


def test_large_images_are_scaled_down_and_keep_their_shape(tmp_path):
    policy = Run(tmp_path / "run", size=(1024, 512)).validation(2).page().all("img")[1]
    assert policy["src"].startswith("data:image/jpeg") and "crisp" not in policy["class"]
    assert (policy["width"], policy["height"]) == ("448", "224")


@pytest.mark.parametrize("preferred, said", [("base", "base, preferred"), (None, "Undecided: bec")])
def test_an_edit_shows_its_source_first_and_which_image_is_preferred(run, preferred, said):
    page = run.validation(2, source="base.png", preferred=preferred).page()
    sides = [image["alt"].split(":")[0] for image in page.all("img")]
    assert sides == ["source", "base", "policy"] and said in page.text
    assert ({"class": "preferred"} in page.all("figure")) == (preferred is not None)


def test_a_prompt_seen_before_shows_how_it_changed(run):
    images = run.validation(0).validation(2).page().all("img")
    sides = [image["alt"].split(":")[0] for image in images[2:]]
    assert sides == ["after update 0", "after update 2"]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.png",
        "/etc/passwd",
        "{outside}",
        "linked.png",
        "config.yaml",
        "torn.png",
        "a\0b",
        "x" * 5000,
        "file:///outside.png",
    ],
)
def test_only_images_inside_the_folder_are_read(tmp_path, run, name):
    outside = tmp_path / "outside.png"
    Image.new("RGB", (64, 64)).save(outside)
    (run.folder / "linked.png").symlink_to(outside)
    (run.folder / "torn.png").write_bytes(outside.read_bytes()[:60])
    page = run.validation(2, policy=name.format(outside=outside)).page()
    assert len(page.all("img")) == 1 and "image missing" in page.text


def test_text_is_text_everywhere_and_the_page_can_load_and_run_nothing(tmp_path):
    run = Run(tmp_path / "run", text=HOSTILE).whole()
    run.emit(WarningEvent(message=HOSTILE), StoppedEvent(update=4, reason=HOSTILE))
    page = run.page()
    page.assert_inert()
    assert page.text.count("alert(1)") > 5


# --- charts and numbers ---------------------------------------------------------------------------------------------


def drawn(*points, **axis):
    return Chart("Loss", [Line([Point(*point) for point in points])], **axis)


@pytest.mark.parametrize(
    "points, path",
    [
        ([(0, 0.0), (10, 1.0)], "M0.00 100.00L100.00 0.00"),
        ([(0, 0.0), (1, None), (2, 1.0)], "M0.00 100.00M100.00 0.00"),  # unknown: interrupted
        ([(3, 0.5)], "M50.00 50.00h0"),
    ],
)
def test_lines_run_from_corner_to_corner(points, path):
    assert drawn(*points, low=0, high=1).paths[-1].d == path


@pytest.mark.parametrize(
    "first, last, labels",
    [
        (0.013, 0.071, ["0", "0.02", "0.04", "0.06", "0.08"]),
        (0, 0, ["0", "0.25", "0.5", "0.75", "1"]),
        (-4, -4, ["−6", "−5", "−4", "−3", "−2"]),
    ],
)
def test_axes_get_round_numbers_and_screen_readers_hear_where_it_goes(first, last, labels):
    chart = drawn((0, first), (1, last))
    assert [label for _, label in chart.y_labels] == labels
    said = f"Loss: {figure(first)} at update 0, {figure(last)} at update 1"
    assert chart.spoken == said and chart.x_labels == [(0, "0"), (100, "1")]


def test_a_long_line_is_thinned():
    points = [(update, float(update % 7)) for update in range(10_000)]
    assert drawn(*points).paths[-1].d.count("L") < 500


@pytest.mark.parametrize(
    "write, values, said",
    [
        (percent, (None, 0.0, 0.00012, 0.5, 0.999), ["unknown", "0 %", "0.012 %", "50 %", "100 %"]),
        (figure, (None, 12345.0, 0.00012345, -1.5), ["unknown", "12,345", "0.000123", "−1.5"]),
        (signed_percent, (0.311, -0.5, -0.001), ["+31 %", "−50 %", "0 %"]),
        (duration, (9.44, 59.9, 580, 7387), ["9.4 s", "1 min 00 s", "9 min 40 s", "2 h 03 min"]),
    ],
)
def test_numbers_as_people_read_them(write, values, said):
    assert [write(value).replace("\u202f", " ") for value in values] == said
