"""The page in Chromium, without a display, drawn in software: pixels, picking, fingers, no requests."""

import shutil
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import pytest

from pcsparse.view.page import Box, Classes, Sweep, save_page

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api")
Image = pytest.importorskip("PIL.Image")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--headless=new", "--enable-unsafe-swiftshader", "--use-angle=swiftshader"]
DESKTOP, PHONE = (1100, 640), (390, 844)
HOSTILE = "</script><img src=x onerror=alert(1)>"

ROAD, CAR, TREE = (255, 0, 255), (100, 150, 245), (0, 175, 0)
CLASSES = Classes(("road", "car", "tree"), np.array([ROAD, CAR, TREE], np.uint8))


def street(seed=0, n=12_000, **more):
    """A road, a car before the sensor and a tree on its left; the model takes part of the tree for a car."""
    rng = np.random.default_rng(seed)
    road = rng.uniform([-20, -5, -1.7], [20, 5, -1.65], (n, 3))
    car = rng.uniform([7 + seed, -1, -1.7], [11 + seed, 1, -0.2], (n // 2, 3))
    tree = rng.uniform([8, 6, -1], [12, 10, 4], (n // 2, 3))
    points = np.concatenate([road, car, tree]).astype(np.float32)
    labels = np.repeat([0, 1, 2], [n, n // 2, n // 2])
    prediction = np.where((labels == 2) & (points[:, 2] > 2.5), 1, labels)
    labels = np.where(rng.random(len(labels)) < 0.1, -1, labels)
    pose = np.eye(4)
    pose[0, 3] = 15.0 * seed
    return Sweep(
        points,
        f"sweep {seed}",
        intensity=rng.random(len(points)).astype(np.float32),
        labels=labels,
        prediction=prediction,
        confidence=rng.uniform(0.3, 1, len(points)).astype(np.float32),
        instance=np.where(prediction == 1, 7, 0),
        boxes=(Box((9 + seed, 0, -0.95), (4.2, 2.2, 1.7), 0.0, "car", 0.9),),
        pose=pose,
        **more,
    )


@dataclass
class Opened:
    """A page in a tab, and what it said and asked for."""

    tab: object
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def settle(self) -> None:
        self.tab.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def pixels(self) -> np.ndarray:
        """(h, w, 3) of the view, with what lies over it."""
        self.settle()
        # the pointer would light up what it rests on
        self.tab.mouse.move(0, 0)
        picture = Image.open(BytesIO(self.tab.locator("#stage").screenshot()))
        return np.asarray(picture.convert("RGB")).astype(int)

    def count(self, rgb) -> int:
        """Pixels of a colour, shaded edges left out."""
        return int((np.abs(self.pixels() - rgb).max(axis=2) <= 3).sum())

    def extent(self, rgb) -> tuple[int, int]:
        """How many pixels a colour spans, from top to bottom and from left to right."""
        rows, columns = np.nonzero(np.abs(self.pixels() - rgb).max(axis=2) <= 3)
        return int(np.ptp(rows)), int(np.ptp(columns))

    def place(self, rgb) -> tuple[float, float]:
        """The middle of a block of 5 by 5 pixels of a colour, shaded or not."""
        seen = self.pixels()
        light = np.linalg.norm(seen, axis=2)
        same = (seen @ np.array(rgb) > 0.995 * light * np.linalg.norm(rgb)) & (light > 60)
        blocks = np.lib.stride_tricks.sliding_window_view(same, (5, 5)).all(axis=(2, 3))
        rows, columns = np.nonzero(blocks)
        middle = len(rows) // 2
        ratio = self.tab.evaluate("() => devicePixelRatio")
        return (columns[middle] + 2.5) / ratio, (rows[middle] + 2.5) / ratio

    def card(self) -> dict[str, str]:
        """Values of the picked point by name; its heading as `point`."""
        cells = self.tab.locator("#picked dd").all()
        values = {cell.get_attribute("data-value"): cell.inner_text() for cell in cells}
        return values | {"point": self.tab.locator("#picked h2").inner_text()}


def changed(before, after) -> float:
    """Share of pixels that differ."""
    return float((np.abs(before - after).max(axis=2) > 8).mean())


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here; `make test-slow` installs it where it may")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page of sweeps; at the end the console must be empty, and nothing but the file asked for."""
    opened, tabs = [], []

    def act(
        sweeps=None, classes=CLASSES, size=DESKTOP, clean=True, before="", edit=lambda text: text, **names
    ):
        path = tmp_path / f"{len(tabs)}.html"
        save_page(path, sweeps or [street()], classes, **names)
        path.write_text(edit(path.read_text()))
        phone = size == PHONE
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            device_scale_factor=2 if phone else 1,
            has_touch=phone,
            is_mobile=phone,
        )
        page = Opened(context.new_page())
        tabs.append(context)
        page.tab.add_init_script(before or "0")
        page.tab.on("console", lambda message: page.said.append(message.text))
        page.tab.on("pageerror", lambda error: page.said.append(str(error)))
        page.tab.on("dialog", lambda dialog: (page.said.append("a dialog"), dialog.dismiss()))

        def intercept(route):
            page.asked.append(route.request.url)
            route.continue_() if route.request.url.startswith("file:") else route.abort()

        page.tab.route("**/*", intercept)
        page.tab.goto(path.as_uri())
        page.tab.wait_for_selector(
            "html[data-first-frame], #failure:not([hidden])", state="attached", timeout=60_000
        )
        if clean:
            opened.append((page, path))
        return page

    yield act
    for page, path in opened:
        page.settle()
        assert page.said == []
        assert page.asked == [path.as_uri()]
    for context in tabs:
        context.close()


def test_every_class_is_drawn_in_its_colour(show):
    page = show()
    for rgb in (ROAD, CAR, TREE):
        assert page.count(rgb) > 500
    picture = page.pixels()
    # the sky stays empty
    assert (np.abs(picture[120:160, 300:700] - (20, 23, 29)).max(axis=2) == 0).mean() > 0.99


def test_toggles_hide_a_class_and_tell_its_points(show):
    page = show()
    # a box has the colour of its class
    page.tab.locator("#boxes").uncheck()
    before, cars = page.pixels(), page.count(CAR)
    row = page.tab.locator("#classes li[data-name=road]")
    assert row.inner_text().split() == ["road", "12,000", "50.0", "%"]
    row.locator("input").focus()
    page.tab.keyboard.press("Space")
    assert page.count(ROAD) == 0
    # the list was not made anew under the hands of who goes through it by keyboard
    assert page.tab.evaluate("() => document.activeElement.closest('li').dataset.name") == "road"
    assert page.count(CAR) >= cars > 500
    page.tab.click("#allOff")
    assert page.count(CAR) == page.count(TREE) == 0
    page.tab.click("#allOn")
    assert changed(before, page.pixels()) == 0


def test_every_mode_has_its_own_colours(show):
    page = show()
    modes = [button.get_attribute("data-mode") for button in page.tab.locator("#modes button").all()]
    assert modes == ["labels", "prediction", "error", "confidence", "intensity", "height", "instance"]
    pictures = []
    for number, _ in enumerate(modes, start=1):
        page.tab.keyboard.press(str(number))
        pictures.append(page.pixels())
    for i, picture in enumerate(pictures):
        assert all(changed(picture, other) > 0.002 for other in pictures[:i]), modes[i]
    page.tab.click("[data-mode=error]")
    texts = page.tab.locator("#verdicts li").all_inner_texts()
    assert [text.split()[0] for text in texts] == ["right", "wrong", "no"]
    # the crown above 2.5 m: 30 % of the tree, where it has a label
    sweep = street()
    wrong = int(((sweep.labels >= 0) & (sweep.labels != sweep.prediction)).sum())
    assert f"{wrong:,}" in texts[1]
    page.tab.locator("#verdicts li[data-name=right] input").uncheck()
    without = int((np.abs(page.pixels() - (66, 70, 78)).max(axis=2) <= 3).sum())
    page.tab.locator("#verdicts li[data-name='no label'] input").uncheck()
    # letters have such pixels too
    assert page.count((66, 70, 78)) < 0.2 * without
    left = page.pixels()
    assert changed(pictures[2], left) > 0.02
    assert page.count((255, 74, 64)) > 50


def test_a_click_shows_the_values_of_the_point_under_it(show):
    sweep = street()
    page = show([sweep])
    page.tab.mouse.click(*page.place(CAR))
    values = page.card()
    row = int(values["point"].removeprefix("Point ").replace(",", ""))
    assert sweep.prediction[row] == 1
    for axis, name in enumerate("xyz"):
        shown = float(values[name].removesuffix(" m"))
        assert shown == pytest.approx(float(sweep.points[row, axis]), abs=0.002)
    names = ("road", "car", "tree", "unlabelled")
    assert (values["class"], values["prediction"]) == (names[sweep.labels[row]], "car")
    assert float(values["intensity"]) == pytest.approx(float(sweep.intensity[row]), abs=0.008)
    assert float(values["confidence"][:-2]) == pytest.approx(100 * float(sweep.confidence[row]), abs=0.3)
    assert float(values["range"][:-2]) == pytest.approx(float(np.linalg.norm(sweep.points[row])), abs=0.003)
    assert values["instance"] == "7"
    assert (values.get("box") == "car") == (sweep.points[row, 0] < 11.1)
    page.tab.keyboard.press("Escape")
    assert page.tab.locator("#picked").is_hidden()
    # nothing lies in the sky
    page.tab.mouse.click(500, 130)
    assert page.tab.locator("#picked").is_hidden()


def test_world_coordinates_are_shown_with_their_origin(show):
    sweep = street(origin=(448_000.0, 5_411_000.0, 0.0))
    page = show([sweep])
    page.tab.mouse.click(*page.place(CAR))
    values = page.card()
    row = int(values["point"].removeprefix("Point ").replace(",", ""))
    assert float(values["y"].removesuffix(" m")) == pytest.approx(
        5_411_000 + float(sweep.points[row, 1]), abs=0.002
    )
    # the origin is no sensor
    assert "range" not in values


def test_the_slider_and_the_keys_go_through_a_sequence(show):
    page = show([street(i) for i in range(3)])
    first = page.pixels()
    assert "1 of 3: sweep 0" in page.tab.locator("#subtitle").inner_text()
    page.tab.locator("#sweep").fill("2")
    page.tab.wait_for_selector("#subtitle:has-text('3 of 3: sweep 2')")
    third = page.pixels()
    assert changed(first, third) > 0.005
    page.tab.locator("#view").focus()
    page.tab.keyboard.press("]")
    page.tab.wait_for_selector("#subtitle:has-text('1 of 3: sweep 0')")
    for key in "t--------":
        page.tab.keyboard.press(key)
    alone = page.extent(ROAD)
    page.tab.locator("#all").check()
    page.tab.wait_for_selector("#subtitle:has-text('72,000 points')")
    # by their poses the three roads lie one before the other: 70 m by 10 m, where one is 40 m long
    together = page.extent(ROAD)
    assert together[0] / alone[0] == pytest.approx(70 / 40, rel=0.05)
    assert together[1] / alone[1] == pytest.approx(1, rel=0.05)
    page.tab.click("#play")
    page.tab.wait_for_selector("#subtitle:has-text('2 of 3')")
    page.tab.click("#play")


def test_mouse_wheel_and_keys_move_and_reset_brings_back(show):
    page = show()
    start = page.pixels()
    mouse = page.tab.mouse

    def drag(button, dx, dy):
        mouse.move(400, 400)
        mouse.down(button=button)
        mouse.move(400 + dx, 400 + dy, steps=4)
        mouse.up(button=button)

    def keys(*names):
        page.tab.locator("#view").focus()
        for name in names:
            page.tab.keyboard.press(name)

    for act in (
        lambda: drag("left", 120, 40),
        lambda: drag("right", 120, 40),
        lambda: (mouse.move(400, 400), mouse.wheel(0, -400)),
        lambda: keys("ArrowLeft", "ArrowUp"),
        lambda: keys("Shift+ArrowLeft"),
        lambda: keys("+", "+"),
        lambda: keys("t"),
    ):
        act()
        assert changed(start, page.pixels()) > 0.02
        page.tab.click("#reset")
        page.tab.locator("#reset").blur()
        assert changed(start, page.pixels()) == 0
    # a drag is no click
    assert page.tab.locator("#picked").is_hidden()


def test_from_above_lengths_are_to_scale(show):
    page = show()
    for key in "t--":
        page.tab.keyboard.press(key)
    page.tab.locator("#rings").uncheck()
    page.tab.locator("#boxes").uncheck()
    # 40 m by 10 m; x runs up
    height, width = page.extent(ROAD)
    assert height / width == pytest.approx(4.0, rel=0.05)


def test_boxes_rings_shade_size_and_theme_change_what_is_drawn(show):
    page = show()
    assert page.tab.text_content("#boxesName") == "1 box"
    # what is drawn, not what is written over it
    page.tab.evaluate("() => { document.getElementById('marks').hidden = true; }")
    for name in ("boxes", "rings", "shade"):
        before = page.pixels()
        page.tab.locator(f"#{name}").uncheck()
        assert changed(before, page.pixels()) > 0.0005, name
    before = page.pixels()
    page.tab.locator("#size").fill("3")
    assert changed(before, page.pixels()) > 0.02
    page.tab.click("#theme")
    assert (np.abs(page.pixels()[120:160, 300:700] - (246, 247, 249)).max(axis=2) == 0).mean() > 0.99


def test_the_picture_button_saves_what_is_seen(show):
    page = show(title="a street, 1")
    with page.tab.expect_download() as download:
        page.tab.click("#shot")
    assert download.value.suggested_filename == "a_street_1.png"
    with Image.open(download.value.path()) as picture:
        saved = np.asarray(picture.convert("RGB")).astype(int)
    assert saved.shape[:2] == page.pixels().shape[:2]
    for rgb in (ROAD, CAR, TREE):
        assert (np.abs(saved - rgb).max(axis=2) <= 3).sum() > 500


def fingers(page, *frames):
    """Touch by touch: each frame is the places of all fingers, an empty one lifts them."""
    session = page.tab.context.new_cdp_session(page.tab)
    down = False
    for frame in frames:
        kind = "touchEnd" if not frame else "touchMove" if down else "touchStart"
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(frame)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        down = bool(frame)


def test_fingers_drag_pinch_and_tap_on_a_phone(show):
    page = show(size=PHONE)
    start = page.pixels()
    assert start.shape[:2] == (2 * PHONE[1], 2 * PHONE[0])
    fingers(page, [(150, 400)], [(180, 410)], [(240, 430)], [])
    dragged = page.pixels()
    assert changed(start, dragged) > 0.02
    page.tab.tap("#reset")
    # a button that was tapped last looks a little different
    assert changed(start, page.pixels()) < 0.002
    fingers(page, [(180, 420), (210, 450)], [(150, 390), (240, 480)], [(110, 350), (280, 520)], [])
    pinched = page.pixels()
    assert changed(start, pinched) > 0.05
    assert page.count(CAR) > 1.5 * int((np.abs(start - CAR).max(axis=2) <= 3).sum())
    page.tab.tap("#reset")
    # the page itself was neither scrolled nor zoomed by it
    assert page.tab.evaluate("() => [scrollX, scrollY, visualViewport.scale]") == [0, 0, 1]
    page.tab.touchscreen.tap(*page.place(CAR))
    assert page.card()["prediction"] == "car"


def test_a_phone_gets_a_panel_that_folds_and_no_sideways_scroll(show):
    page = show([street(i) for i in range(2)], size=PHONE, title="a-name-without-any-space" * 8)
    widths = "() => ['html', '#panel', '#title'].map((name) => document.querySelector(name).scrollWidth)"
    assert page.tab.locator("#panel").is_hidden()
    assert max(page.tab.evaluate(widths)) <= PHONE[0]
    page.tab.tap("#fold")
    assert page.tab.locator("#panel").is_visible()
    assert page.tab.locator("#fold").get_attribute("aria-expanded") == "true"
    assert max(page.tab.evaluate(widths)) <= PHONE[0]
    stage = page.tab.locator("#stage").bounding_box()
    assert stage["width"] == PHONE[0]
    assert stage["height"] > 0.45 * PHONE[1]
    for button in page.tab.locator("button:visible").all():
        box = button.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE[0]
    page.tab.tap("#fold")
    assert page.tab.locator("#panel").is_hidden()


def test_a_hostile_name_is_text(show):
    classes = Classes(("a", HOSTILE, "c"), CLASSES.colors)
    sweep = street()
    page = show([Sweep(sweep.points, HOSTILE, labels=sweep.prediction)] * 2, classes, title=HOSTILE)
    assert page.tab.locator("img").count() == 0
    assert page.tab.locator("#title").inner_text() == page.tab.title() == HOSTILE
    assert HOSTILE in page.tab.locator("#subtitle").inner_text()
    assert page.tab.locator("#classes b").all_inner_texts().count(HOSTILE) == 1
    page.tab.mouse.click(*page.place(CAR))
    assert page.card()["class"] == HOSTILE


def test_the_policy_stops_what_would_leave_the_page(show):
    page = show(clean=False)
    refused = page.tab.evaluate(
        """() => Promise.all([
            fetch("https://nowhere.invalid/a").then(() => "sent", () => "refused"),
            new Promise((done) => {
                const image = new Image();
                image.onload = () => done("sent");
                image.onerror = () => done("refused");
                image.src = "https://nowhere.invalid/b.png";
            }),
        ])"""
    )
    assert refused == ["refused", "refused"]
    assert [url for url in page.asked if not url.startswith("file:")] == []
    assert sum("Content Security Policy" in text for text in page.said) >= 2


@pytest.mark.parametrize(
    ("before", "edit", "said"),
    [
        ("delete window.DecompressionStream", str, "lacks DecompressionStream"),
        ("HTMLCanvasElement.prototype.getContext = () => null", str, "no WebGL2"),
        ("0", lambda text: text.replace('"bytes":', '"bytes":1'), "The points are damaged"),
    ],
    ids=["old browser", "no WebGL2", "damaged"],
)
def test_what_cannot_be_drawn_is_said(show, before, edit, said):
    page = show(before=before, edit=edit)
    assert said in page.tab.locator("#failure").inner_text()


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_points(show, count):
    page = show([Sweep(np.full((count, 3), 5.0))], None)
    assert f"{count} points" in page.tab.locator("#subtitle").inner_text()


def test_a_sweep_of_a_real_sensor_s_size_opens(show, record_property, capsys):
    """How long it takes is told, not judged: the machine may be busy."""
    page = show([street(n=62_334)])
    milliseconds = int(page.tab.locator("html").get_attribute("data-first-frame"))
    record_property("first_frame_ms", milliseconds)
    with capsys.disabled():
        print(f"\nfirst frame of {124_668:,} points after {milliseconds} ms")
    assert "124,668 points" in page.tab.locator("#subtitle").inner_text()
    assert page.count(ROAD) > 500


def test_a_real_sweep_opens(show, real_data, capsys):
    from pcsparse.data.files import read_points

    source = real_data / "semantickitti/dataset/sequences/00/velodyne/000000.bin"
    if not source.is_file():
        pytest.skip(f"no {source.name} among the real samples")
    cloud = read_points(source)
    page = show([Sweep(cloud.points, source.name, cloud.intensity)], None, size=PHONE)
    milliseconds = page.tab.locator("html").get_attribute("data-first-frame")
    with capsys.disabled():
        print(f"\nfirst frame of a real sweep after {milliseconds} ms")
    assert (np.abs(page.pixels() - (20, 23, 29)).max(axis=2) > 40).mean() > 0.05


def test_the_last_of_two_quick_choices_is_shown(show):
    page = show([street(0), street(1)])
    before = page.pixels()
    # the second sweep is not unpacked yet: the first choice takes longer than the one that takes it back
    page.tab.evaluate("() => { const all = document.getElementById('all'); all.click(); all.click(); }")
    page.tab.wait_for_timeout(500)
    assert changed(before, page.pixels()) == 0
