"""The human judge in a real browser: keys and buttons pressed, verdicts that arrive, and pages that may not answer."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from arr_core.common.files import read_json_lines
from arr_core.judge import main
from arr_core.judging import Judge, JudgeError, Pair
from arr_core.judging.profiles import make_client
from arr_core.labeling.human import HumanClient
from arr_core.rubrics import Rubric

RUBRIC = Rubric(
    name="light", task="t2i", criteria=("The image is bright.", "It is not <b>dull</b>.")
)
BRIGHT, DARK, SOURCE = (Image.new("RGB", (64, 48), (level, 60, 60)) for level in (250, 20, 120))


@contextlib.contextmanager
def submitted(asked: list[Pair], tab=None, undo_window_s: float = 0.3):
    """The verdicts to come of pairs, and the address of the page, which is open in the tab."""
    with Judge(HumanClient(undo_window_s=undo_window_s), RUBRIC) as judge:
        if tab:
            tab.goto(judge.client.url)
        yield judge.submit(asked), judge.client.url


def pairs(count: int, source=None) -> list[Pair]:
    """Image a is the bright one where the number is even."""
    images = (BRIGHT, DARK), (DARK, BRIGHT)
    return [Pair(f"prompt {number}", *images[number % 2], source) for number in range(count)]


def preferred(future, timeout: float = 20) -> list[str | None]:
    return [verdict.preferred for verdict in future.result(timeout)]


def until(tab, expression: str, *arguments) -> None:
    """Wait until the page says so. (The page's own policy forbids it to be asked by playwright's wait_for_function.)"""
    end = time.monotonic() + 20
    while not tab.evaluate(expression, *arguments):
        assert time.monotonic() < end, f"{expression} {arguments}: {tab.inner_text('body')}"
        time.sleep(0.02)


def shown(tab, prompt: str) -> None:
    """Wait until this pair can be judged: its images are there."""
    until(
        tab, "prompt => document.getElementById('prompt').textContent === prompt && ready", prompt
    )


def bright_side(tab) -> str:
    """The key of the brighter image, by the pixels that the browser shows."""
    red = tab.evaluate("""() => ['left', 'right'].map(side => {
        const image = document.querySelector('#' + side + ' img'), canvas = document.createElement('canvas');
        canvas.width = canvas.height = 1;
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0, 1, 1);
        return context.getImageData(0, 0, 1, 1).data[0]; })""")
    assert sorted(red) == [20, 250]
    return "1" if red[0] > red[1] else "2"


def press_bright(tab, *numbers: int) -> None:
    for number in numbers:
        shown(tab, f"prompt {number}")
        tab.keyboard.press(bright_side(tab))


def test_keys_give_the_verdicts_that_the_person_saw_and_a_reload_loses_nothing(tab):
    """Six pairs; the person always takes the brighter one, whichever side it is on, and finds the last two equal."""
    with submitted(pairs(6), tab) as (future, _):
        press_bright(tab, 0)
        shown(tab, "prompt 1")
        before = bright_side(tab)
        tab.reload()
        shown(tab, "prompt 1")
        assert bright_side(tab) == before
        assert tab.text_content("#count") == "1 answered, 5 waiting"
        press_bright(tab, 1, 2, 3)
        for number in (4, 5):
            shown(tab, f"prompt {number}")
            tab.keyboard.press("0")
        assert preferred(future) == ["a", "b", "a", "b", None, None]
        verdicts = future.result()
        assert not any(verdict.failed for verdict in verdicts)
        assert {len(verdict.opinions) for verdict in verdicts} == {1}
        until(tab, "document.getElementById('word').textContent.startsWith('Waiting for pairs')")


def test_undo_takes_answers_back_until_they_are_handed_on(tab):
    with submitted(pairs(2), tab, undo_window_s=1.5) as (future, _):
        for number in range(2):
            shown(tab, f"prompt {number}")
            tab.keyboard.press("2" if bright_side(tab) == "1" else "1")  # both of them wrong
        tab.wait_for_selector("#undo-last:visible")
        tab.keyboard.press("Backspace")
        shown(tab, "prompt 1")
        tab.click("#undo")
        shown(tab, "prompt 0")
        assert tab.is_disabled("#undo")
        press_bright(tab, 0, 1)
        assert not future.done()
        tab.wait_for_selector("#finish:visible")
        tab.keyboard.press("Enter")
        assert preferred(future, 1) == ["a", "b"]


def test_a_key_pressed_twice_judges_one_pair(tab):
    """The next pair's images are not there yet; a key that comes too early is not an answer to it."""
    with submitted(pairs(3), tab):
        shown(tab, "prompt 0")
        tab.evaluate("""() => { for (let n = 0; n < 5; n++)
            document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '1', bubbles: true})); }""")
        shown(tab, "prompt 1")
        time.sleep(0.2)
        assert tab.text_content("#count") == "1 answered, 2 waiting"


def test_text_is_text_and_closing_the_judge_ends_the_page_and_the_server(tab):
    hostile = "<img src=x onerror=alert(1)>\n</script><script>alert(2)</script>"
    with submitted([Pair(hostile, BRIGHT, DARK)], tab) as (future, url):
        shown(tab, hostile)
        assert tab.text_content("#criteria") == "1. The image is bright.\n2. It is not <b>dull</b>."
        assert tab.locator("#top :is(img, b, script)").count() == 0
    until(tab, "document.getElementById('word').textContent.startsWith('The run has ended')")
    assert future.cancelled() or future.exception() is not None
    with pytest.raises(urllib.error.URLError):
        ask(url)


def test_on_a_phone_everything_of_an_edit_fits_and_buttons_do_as_keys_do(chromium):
    context = chromium.new_context(
        viewport={"width": 390, "height": 760}, has_touch=True, is_mobile=True
    )
    tab = context.new_page()
    with submitted(pairs(2, SOURCE), tab) as (future, _):
        shown(tab, "prompt 0")
        assert tab.text_content("#question") == "Which image carries out the instruction better?"
        assert tab.evaluate("document.querySelector('#source img').naturalWidth") == 64
        page = "document.documentElement"
        assert tab.evaluate(f"[{page}.scrollWidth, {page}.scrollHeight]") == [390, 760]
        for name in ("#source", "#left", "#right", "#choose-1", "#choose-0", "#choose-2", "#undo"):
            box = tab.locator(name).bounding_box()
            assert box["y"] + box["height"] <= 760 and box["height"] >= 44, name
        tab.tap(f"#choose-{bright_side(tab)}")
        shown(tab, "prompt 1")
        tab.tap("#choose-0")
        assert preferred(future) == ["a", None]
    context.close()


# --- who may not answer -------------------------------------------------------------------------------------------


def ask(url: str, path: str = "", body: dict | None = None, **headers) -> int:
    """The status of a request that no browser made."""
    request = urllib.request.Request(
        url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers=headers,
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_who_does_not_know_the_address_or_comes_by_another_name_sees_nothing():
    with submitted(pairs(1)) as (future, url):
        scheme, _, host, token, _ = url.split("/")
        origin, answer = f"{scheme}//{host}", {"number": 0, "side": 0}
        assert host.startswith("127.0.0.1:") and len(token) >= 32
        assert ask(url) == ask(url, "state/-1") == 200
        for path in ("/", "/state/-1", "/wrong/state/-1", f"/{token}/../state/-1"):
            assert ask(origin, path) == 404
        port = host.split(":")[1]
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
            assert ask(url, Host=name) == 403
            assert ask(url, "answer", answer, Host=name, Origin=f"http://{name}") == 403
        assert ask(url, "answer", answer) == 403
        for other in ("http://evil.example", "null", "http://localhost:3000", f"https://{host}"):
            assert ask(url, "answer", answer, Origin=other) == 403
        wrong = ({"number": True}, {"number": "0"}, {"side": 2}, {"x": "x" * 999})
        for bad in ({"number": 0}, *(answer | one for one in wrong)):
            assert ask(url, "answer", bad, Origin=origin) == 400
        time.sleep(0.5)
        assert not future.done()
        # There is no such task: nothing happens.
        assert ask(url, "answer", answer | {"number": 7}, Origin=origin) == 200
        assert ask(url, "answer", answer, Origin=origin) == 200
        assert future.result(timeout=10)[0].decided


class Evil(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_):
        """Says nothing."""


def test_another_page_of_the_same_browser_cannot_answer(tab):
    """A page of another site that has learned the whole address, token and all."""
    with submitted(pairs(1)) as (future, url), ThreadingHTTPServer(("127.0.0.1", 0), Evil) as evil:
        threading.Thread(target=evil.serve_forever, daemon=True).start()
        tab.goto(f"http://127.0.0.1:{evil.server_address[1]}/")
        said = tab.evaluate(
            """async url => {
            const body = JSON.stringify({number: 0, side: 0});
            await fetch(url + "answer", {method: "POST", mode: "no-cors", body}).catch(() => null);
            const seen = await fetch(url + "state/-1").then(reply => reply.text()).catch(() => "unseen");
            const frame = document.createElement("iframe");
            frame.src = url;
            document.body.append(frame);
            await new Promise(resolve => frame.onload = resolve);
            return seen; }""",
            url,
        )
        evil.shutdown()
        assert said == "unseen"
        time.sleep(0.5)
        assert not future.done()
        tab.faults.clear()  # the browser said that it refused


def test_a_run_names_it_as_a_profile_and_a_port_that_is_taken_is_named(capsys):
    client = make_client("human")
    with Judge(client, RUBRIC) as judge:
        assert not judge.both_orders
        assert capsys.readouterr().err == f"you are the judge: open {client.url}\n"
        port = int(client.url.split(":")[2].split("/")[0])
        with pytest.raises(JudgeError, match=f"expected a free port .* judge, got {port}; "):
            HumanClient(port)


# --- the command --------------------------------------------------------------------------------------------------


class Label:
    """The command in a thread, and the address that it printed."""

    def __init__(self, capsys, *words):
        self.status, self.url = None, ""
        self.thread = threading.Thread(target=self._run, args=(words,), daemon=True)
        self.thread.start()
        printed = ""
        while not self.url and self.thread.is_alive():
            time.sleep(0.05)
            printed += capsys.readouterr().err
            self.url = next(iter(re.findall(r"open (http\S+/)\n", printed)), "")

    def _run(self, words) -> None:
        self.status = main(["label", *map(str, words)])


def ranks(path) -> list[list[int]]:
    return [record.get("label_rank") for record in read_json_lines(path)] if path.exists() else []


def counted(tab, count: str) -> None:
    """Wait until this pair of all is shown and can be judged."""
    until(tab, "count => document.getElementById('count').textContent === count && ready", count)


def test_a_folder_of_images_is_labelled_line_by_line_and_can_be_gone_on_with(tab, tmp_path, capsys):
    images, output = tmp_path / "images", tmp_path / "out" / "labels.jsonl"
    ties = output.with_suffix(".ties.jsonl")
    for prompt, count in (("a red mug", 4), ("a blue hat", 3)):
        (images / prompt).mkdir(parents=True)
        for number in range(count):
            (DARK if number % 2 else BRIGHT).save(images / prompt / f"{number}.png")
    (images / "a blue hat" / "prompt.txt").write_text("a blue hat, 蓝色的帽子\n", encoding="utf-8")
    tab.goto(Label(capsys, images, "--output", output).url)
    shown(tab, "a blue hat, 蓝色的帽子")
    output.mkdir()  # so that the label cannot be written: it is not taken
    tab.keyboard.press(bright_side(tab))
    tab.wait_for_selector("#fault:visible")
    tab.faults.clear()  # the browser said that there was a status 500
    counted(tab, "1 of 4")
    output.rmdir()
    tab.keyboard.press(bright_side(tab))
    counted(tab, "2 of 4")
    [record] = read_json_lines(output)
    assert record == {
        "query": "a blue hat, 蓝色的帽子",
        "label_rank": [1, 2],
        "response": ["../images/a blue hat/0.png", "../images/a blue hat/1.png"],
    }
    tab.keyboard.press("0")
    shown(tab, "a red mug")
    assert (ranks(output), ranks(ties)) == ([[1, 2]], [None])
    tab.keyboard.press("Backspace")
    counted(tab, "2 of 4")
    assert ranks(ties) == []
    tab.keyboard.press("0")
    counted(tab, "3 of 4")
    # A second command, as after a kill: what is in the files is not asked again.
    again = Label(capsys, images, "--output", output)
    tab.goto(again.url)
    for count in ("3 of 4", "4 of 4"):
        counted(tab, count)
        tab.keyboard.press(bright_side(tab))
    tab.wait_for_selector("#finish:visible")
    tab.click("#finish")
    again.thread.join(timeout=20)
    assert (again.status, ranks(output)) == (0, [[1, 2]] * 3)
    assert main(["label", str(images), "--output", str(output)]) == 0
    assert "all 4 pairs are labelled" in capsys.readouterr().out
