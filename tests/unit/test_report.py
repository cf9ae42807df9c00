"""The report: everything from the run's folder, nothing from elsewhere, whatever state the folder is in."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from arr_core.common.proportions import wilson
from arr_core.reports.charts import Line, Point, line_chart
from arr_core.reports.run import write_report
from arr_core.reports.words import duration, figure, percent, signed_percent

HOSTILE = "</title></style><script>alert(1)</script><img src=http://x.example/y onerror=\"alert('2')\">'\"&"


class Run:
    """A run's folder in the making: configuration, rubric, pictures and events, as the trainer leaves them."""

    def __init__(self, folder, *, text="three red circles", size=(32, 32)):
        self.folder, self.text, self.size = folder, text, size
        (folder / "config.yaml").write_text(f"run:\n  name: {text}\n")
        (folder / "rubric.json").write_text(
            json.dumps(
                {
                    "name": text,
                    "task": "t2i",
                    "criteria": [f"criterion {text}"],
                    "provenance": {"model": text},
                }
            )
        )
        (folder / "events.jsonl").touch()

    def start(self, updates=4):
        self.emit(
            "started",
            run=self.text,
            updates=updates,
            prompts=8,
            validation_prompts=4,
            device="cpu",
            task="t2i",
            algorithm="rpo",
            rubric={"name": self.text, "hash": "0"},
        )
        self.emit("encoded", examples=12, seconds=2.0)
        return self

    def update(self, update, **fields):
        self.emit(
            "update",
            **{
                "update": update,
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
                "ratio_mean": 1.0,
                "clip_high": 0.01,
                "clip_low": 0.0,
                "grad_norm": 0.3,
                "learning_rate": 1e-4,
                "judge_calls": 16,
                "judge_tokens": 3200,
                "judge_cost": 0.25,
                **fields,
            },
        )
        return self

    def validation(self, update, wins=18, losses=2, edges=0.1, best=True, **sample):
        for name in (f"{update}.png", "base.png"):
            Image.new("RGB", self.size, (200, 30, 30)).save(self.folder / name)
        low, high = wilson(wins, wins + losses)
        self.emit(
            "validation",
            update=update,
            wins=wins,
            losses=losses,
            undecided=4,
            low=low,
            high=high,
            best=best,
            seconds=3.0,
            win_rate=wins / (wins + losses) if wins + losses else None,
            statistics={
                "base": {"contrast": 0.2, "edge_energy": 0.1, "colour_entropy": 3.0},
                "policy": {"contrast": 0.2, "edge_energy": edges, "colour_entropy": 3.0},
            },
            images=[
                {
                    "prompt": self.text,
                    "base": "base.png",
                    "policy": f"{update}.png",
                    "source": None,
                    "preferred": "policy",
                    "reason": f"because {self.text}",
                    **sample,
                }
            ],
        )
        return self

    def measure(self, low=0.8):
        self.emit(
            "measure",
            name=f"exact {self.text}",
            unit="share",
            base={"value": 0.5, "low": 0.4, "high": 0.6, "count": 96},
            policy={"value": 0.9, "low": low, "high": 0.95, "count": 96},
        )
        return self

    def emit(self, kind, **fields):
        """A line of the log. Fields that are wrong are written as they are."""
        values = {"event": kind, "time": "2026-01-01T00:00:00.000+00:00", **fields}
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")
        return self

    def report(self):
        return write_report(self.folder).read_text(encoding="utf-8")


class Page(HTMLParser):
    """The tags of a page and its text; fails on tags that do not close in order."""

    VOID = {"meta", "img", "br", "link"}

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words).replace("\u202f", " "))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.words.append(data)

    def images(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def whole(run):
    run.start().validation(0, 0, 0, best=False).update(1).update(2).validation(2).update(3).update(
        4
    ).validation(4)
    return run.measure().emit(
        "finished", update=4, seconds=60.0, sentence="It won.", report="report.html"
    )


class TestAFinishedRun:
    def test_says_what_came_out_and_how_sure_it_is(self, run):
        text = Page(whole(run).report()).text
        assert "finished" in text and "It won." in text and "Better than its base" in text
        assert "90 % 95 % interval 70–97, of 20 decided pairs" in text

    def test_has_every_section(self, run):
        text = Page(whole(run).report()).text
        for title in (
            "Does it beat its base?",
            "Measured without the judge",
            "Before and after 4 updates",
            "Training",
            "Has the look of the pictures changed?",
            "Rubric: three red circles",
            "Cost and time",
            "Settings",
        ):
            assert title in text

    def test_sums_time_and_cost(self, run):
        text = Page(whole(run).report()).text
        for row in (
            "sampling 20 s 39 %",
            "waiting for the judge 4.0 s",
            "training 12 s",
            "rest of the updates 4.0 s",
            "validation 9.0 s",
            "encoding prompts 2.0 s",
            "all 51 s",
            "pairs 32",
            "decided 24 (75 %)",
            "of these failed 4 (12 %)",
            "calls 64",
            "tokens 12,800",
            "cost, as reported 1.00",
        ):
            assert row in text

    def test_shows_the_measure_and_whether_its_intervals_are_apart(self, run, tmp_path):
        text = Page(whole(run).report()).text
        assert (
            "50 % → 90 %" in text
            and "90 % (80 % to 95 %, of 96)" in text
            and "intervals are apart" in text
        )
        (tmp_path / "other").mkdir()
        assert (
            "intervals overlap"
            in Page(Run(tmp_path / "other").start().measure(low=0.55).report()).text
        )

    def test_shows_rubric_with_provenance_and_settings(self, run):
        text = Page(whole(run).report()).text
        assert "criterion three red circles" in text and "model: three red circles" in text
        assert "name: three red circles" in text

    def test_the_page_is_put_in_place_alone(self, run):
        whole(run).report()
        assert [path.name for path in run.folder.glob("*report*")] == ["report.html"]


class TestVerdict:
    @pytest.mark.parametrize(
        "wins, losses, verdict",
        [
            (18, 2, "Better than its base"),
            (2, 18, "Worse than its base"),
            (11, 9, "No difference shown"),
            (0, 0, "Nothing to tell policy and base apart yet"),
        ],
    )
    def test_follows_the_interval(self, run, wins, losses, verdict):
        assert verdict in Page(run.start().validation(2, wins, losses).report()).text

    def test_names_the_update_that_is_kept_and_that_it_was_picked(self, run):
        text = Page(run.start().validation(2, 19, 1).validation(4, 17, 3, best=False).report()).text
        assert (
            "holds the policy of update 2, with 95 % the best of 2 validations" in text
            and "flatters" in text
        )

    def test_an_image_statistic_that_moved_far_is_pointed_out(self, run):
        page = run.start().validation(2, edges=0.126).report()
        assert (
            "edge energy +26 % against the base" in Page(page).text
            and 'class="chart moved"' in page
        )

    def test_one_that_moved_little_is_not(self, run):
        page = run.start().validation(2, edges=0.124).report()
        assert "look of the pictures has changed" not in page and 'class="chart moved"' not in page


class TestARunThatIsNotWhole:
    def test_before_the_first_event(self, run):
        assert "Nothing to judge yet" in Page(run.report()).text

    def test_still_going(self, run):
        text = Page(run.start().update(1).report()).text
        assert "not ended" in text and "1 of 4 updates" in text

    def test_stopped(self, run):
        text = Page(
            run.start().update(1).emit("stopped", update=1, reason="requested").report()
        ).text
        assert "stopped (requested), can be resumed" in text

    def test_resumed_counts_each_update_once_and_tells_what_was_done_twice(self, run):
        text = Page(
            run.start().update(1).update(2).emit("resumed", update=1).update(2).report()
        ).text
        assert (
            "pairs 16" in text
            and "1 update done again after a resume, 10 s and 16 judge calls" in text
        )

    def test_without_configuration_rubric_and_pictures(self, run):
        whole(run)
        for path in [
            *run.folder.glob("*.png"),
            run.folder / "config.yaml",
            run.folder / "rubric.json",
        ]:
            path.unlink()
        page = Page(run.report())
        assert page.images() == [] and "picture missing" in page.text and "Rubric" not in page.text

    def test_the_same_warning_is_one_line(self, run):
        text = Page(
            run.emit("warning", message="slow").emit("warning", message="slow").report()
        ).text
        assert "slow (2 times)" in text and "2 warnings" in text

    def test_nothing_is_drawn_of_ratios_where_an_objective_has_none(self, run):
        text = Page(run.start().update(1, clip_high=None, clip_low=None).report()).text
        assert "Clipped ratios" not in text and "Gradient norm" in text


class TestPictures:
    def test_small_ones_are_whole_and_shown_as_squares(self, run):
        [base, policy] = Page(run.start().validation(2).report()).images()
        assert "crisp" in policy["class"] and policy["alt"] == "policy: three red circles"
        kind, data = policy["src"].split(",")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (
            kind == "data:image/png;base64"
            and image.size == (32, 32)
            and image.getpixel((0, 0)) == (200, 30, 30)
        )

    def test_large_ones_are_scaled_down_and_keep_their_shape(self, tmp_path):
        policy = Page(Run(tmp_path, size=(1024, 512)).start().validation(2).report()).images()[1]
        assert policy["src"].startswith("data:image/jpeg") and (
            policy["width"],
            policy["height"],
        ) == ("448", "224")
        assert "crisp" not in policy["class"]

    def test_an_edit_shows_its_source_first(self, run):
        images = Page(run.start().validation(2, source="base.png").report()).images()
        assert [image["alt"].split(":")[0] for image in images] == ["source", "base", "policy"]

    def test_the_preferred_one_is_said_and_framed(self, run):
        page = run.start().validation(2, preferred="base").report()
        assert "base, preferred" in Page(page).text and page.count('class="preferred"') == 1

    def test_undecided_is_said(self, run):
        assert (
            "Undecided: because three red"
            in Page(run.start().validation(2, preferred=None).report()).text
        )

    def test_a_prompt_seen_before_shows_how_it_changed(self, run):
        page = Page(run.start().validation(0).validation(2).report())
        assert [image["alt"].split(":")[0] for image in page.images()] == [
            "base",
            "policy",
            "after update 0",
            "after update 2",
        ]

    @pytest.mark.parametrize(
        "name",
        [
            "../outside.png",
            "/etc/passwd",
            "{outside}",
            "linked.png",
            "config.yaml",
            "a\0b",
            "x" * 5000,
            "file:///outside.png",
        ],
    )
    def test_only_pictures_inside_of_the_folder_are_read(self, tmp_path, name):
        outside, folder = tmp_path / "outside.png", tmp_path / "run"
        Image.new("RGB", (8, 8)).save(outside)
        folder.mkdir()
        (folder / "linked.png").symlink_to(outside)
        name = str(outside) if name == "{outside}" else name
        page = Page(Run(folder).start().validation(2, policy=name).report())
        assert len(page.images()) == 1 and "picture missing" in page.text

    def test_a_damaged_picture_is_missing(self, run):
        run.start().validation(2)
        (run.folder / "2.png").write_bytes((run.folder / "2.png").read_bytes()[:60])
        assert "picture missing" in Page(run.report()).text


class TestHostileText:
    def test_is_text_everywhere(self, tmp_path):
        run = Run(tmp_path, text=HOSTILE)
        whole(run).emit("warning", message=HOSTILE).emit("stopped", update=4, reason=HOSTILE)
        page = run.report()
        parsed = Page(page)
        assert {tag for tag, _ in parsed.tags}.isdisjoint(
            {"script", "iframe", "object", "link", "base", "form"}
        )
        assert not [
            name for _, attributes in parsed.tags for name in attributes if name.startswith("on")
        ]
        assert len(parsed.images()) == page.count("<img ") and parsed.text.count("alert(1)") > 5

    def test_nothing_is_loaded_from_anywhere(self, run):
        parsed = Page(whole(run).report())
        assert all(image["src"].startswith("data:image/") for image in parsed.images())
        [policy] = [
            attributes["content"]
            for tag, attributes in parsed.tags
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        ]
        assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        assert {attributes["href"] for _, attributes in parsed.tags if "href" in attributes} <= {
            "#warnings"
        }

    def test_letters_without_utf8_do_not_break_the_page(self, tmp_path):
        assert "?" in Run(tmp_path).start().emit("warning", message="\ud800").report()

    @pytest.mark.parametrize("wrong", ["text", [], {}, 10**400, True, float("inf")])
    def test_fields_of_a_wrong_kind_are_unknown(self, run, wrong):
        run.start().update(
            1, **dict.fromkeys(("seconds", "pairs", "loss", "kl", "judge_cost"), wrong)
        )
        run.emit(
            "validation",
            update=1,
            images=[wrong, {"prompt": wrong}],
            statistics={"base": wrong, "policy": wrong},
        )
        names = ("wins", "win_rate", "low", "high", "statistics", "images")
        run.emit("validation", update=2, **dict.fromkeys(names, wrong))
        run.emit("measure", name=wrong, unit=wrong, base=wrong, policy={"value": wrong})
        Page(run.report())

    @pytest.mark.parametrize(
        "content", ["", "{", "[1, {}, null]", '{"criteria": 3}', '{"themes": [{"tips": 1}]}']
    )
    def test_a_rubric_of_another_shape_is_shown_as_far_as_it_goes(self, run, content):
        (run.folder / "rubric.json").write_text(content)
        Page(run.start().report())

    def test_themes_show_their_tips(self, run):
        (run.folder / "rubric.json").write_text(
            json.dumps(
                {
                    "themes": [
                        {
                            "theme": "Fidelity",
                            "description": "keeps the rest",
                            "tips": ["look at the sky"],
                        }
                    ]
                }
            )
        )
        text = Page(run.start().report()).text
        assert "Fidelity: keeps the rest" in text and "look at the sky" in text


class TestChart:
    def test_lines_run_from_corner_to_corner(self):
        chart = line_chart("y", [Line([Point(0, 0.0), Point(10, 1.0)])], show=str, low=0, high=1)
        assert 'd="M0.0 1000.0L1000.0 0.0"' in chart

    def test_an_unknown_value_interrupts_the_line(self):
        chart = line_chart(
            "y", [Line([Point(0, 0.0), Point(1, None), Point(2, 1.0)])], show=str, low=0, high=1
        )
        assert 'd="M0.0 1000.0M1000.0 0.0"' in chart

    def test_axes_get_round_numbers_that_hold_the_data(self):
        labels = re.findall(
            r'<span style="top[^>]*>([^<]*)',
            line_chart("y", [Line([Point(0, 0.013), Point(1, 0.071)])], show=figure),
        )
        assert labels == ["0", "0.02", "0.04", "0.06", "0.08"]

    def test_a_constant_has_an_axis_too(self):
        for value in (0.0, 5.0, -5.0):
            assert "<svg" in line_chart("y", [Line([Point(3, value)], dots=True)], show=figure)

    def test_a_long_line_is_thinned(self):
        points = [Point(update, float(update % 7)) for update in range(100_000)]
        assert len(line_chart("y", [Line(points)], show=figure)) < 20_000

    def test_a_screen_reader_hears_where_it_goes(self):
        chart = line_chart("Loss", [Line([Point(1, 0.5), Point(9, 0.25)])], show=figure)
        assert 'role="img" aria-label="Loss: 0.5 at update 1, 0.25 at update 9"' in chart


def test_words_for_numbers():
    assert [percent(share) for share in (None, 0.0, 0.00012, 0.5, 0.999, 1.0)] == [
        "unknown",
        "0\u202f%",
        "0.012\u202f%",
        "50\u202f%",
        "100\u202f%",
        "100\u202f%",
    ]
    assert [figure(value) for value in (None, 12345.0, 0.00012345, -1.5)] == [
        "unknown",
        "12,345",
        "0.000123",
        "\u22121.5",
    ]
    assert [signed_percent(change) for change in (0.311, -0.5, -0.001)] == [
        "+31\u202f%",
        "\u221250\u202f%",
        "0\u202f%",
    ]
    assert [duration(seconds) for seconds in (9.44, 59.9, 580, 7387)] == [
        "9.4\u202fs",
        "1\u202fmin 00\u202fs",
        "9\u202fmin 40\u202fs",
        "2\u202fh 03\u202fmin",
    ]
