"""The controller's page in a real browser, without a display: what is seen, heard and pressed, against a stand-in."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from distredge.control.schema import Role
from distredge.testing.page_server import World, full_world, serving
from distredge.testing.page_story import STREAM

pytestmark = pytest.mark.slow

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script> & \"quoted\""

WIDTHS = (1280, 390)

PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("the page's tests need Chromium: apt install chromium", pytrace=False)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def world() -> World:
    return full_world()


@pytest.fixture
def address(world: World) -> Iterator[str]:
    with serving(world) as found:
        yield found


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Open]:
    pages: list[Page] = []

    def opened(width: int = 1280, **options: object) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)  # type: ignore[arg-type]
        pages.append(page)
        page.goto(address)
        return page

    yield opened
    for page in pages:
        page.close()


def seen(page: Page) -> Page:
    """The page, once the figures are there."""
    expect(page.locator("#methods svg")).to_be_visible()
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_shows_all_without_an_error_or_anything_from_elsewhere(
    browser: Browser, address: str, world: World, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    wrong: list[str] = []
    origins: set[str] = set()

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def asked(request: Request) -> None:
        origins.add(urlsplit(request.url).netloc)

    page.on("console", heard)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", asked)
    try:
        page.goto(address)
        seen(page)
        for chart in ("topology", "history", "split", "timeline", "methods", "training"):
            expect(page.locator(f"#{chart} svg.chart")).to_be_visible()
        expect(page.locator("#devices tbody tr")).to_have_count(len(world.overview.devices))
        expect(page.locator("#events tbody tr")).to_have_count(len(world.views[STREAM].events))
        assert page.evaluate("document.documentElement.scrollWidth") == width
        with page.expect_response("**/v1/streams/*"):
            pass  # a round more
        assert wrong == []
        assert origins == {urlsplit(address).netloc}
    finally:
        page.close()


def test_figures_are_those_that_the_controller_gave_and_have_units(open_page: Open, world: World) -> None:
    page, view = seen(open_page()), world.views[STREAM]
    assert view.predicted and view.measured
    expect(page.locator("#timeline")).to_contain_text(f"{view.predicted.latency_ms:.1f}\u00a0ms")
    expect(page.locator("#timeline")).to_contain_text(f"{view.measured.latency_ms:.1f}\u00a0ms")
    expect(page.locator("#topology")).to_contain_text("50.0\u00a0Mbit/s")
    expect(page.locator("#topology")).to_contain_text("▼ \u221275\u00a0%")
    expect(page.locator("#methods .ours")).to_contain_text("in force")
    parts = [p for v in view.volumes for p in v.parts if p.rows[1] > p.rows[0]]
    expect(page.locator("#split .part")).to_have_count(len(parts))
    expect(page.locator("#split .halo")).to_have_count(sum(p.halo_rows > 0 for p in parts))
    page.locator("#split-table summary").click()
    expect(page.locator("#split-table tbody tr")).to_have_count(sum(len(v.parts) for v in view.volumes))


def test_what_changes_at_the_controller_reaches_the_page_and_keeps_the_focus(open_page: Open, world: World) -> None:
    page = seen(open_page())
    page.locator("#event-text").fill("the uplink")
    page.locator("#history svg").focus()
    world.happens(STREAM, "drift_seen", "the uplink of nano-1 fell", "nano-1")
    world.tick()
    expect(page.locator("#events tbody tr")).to_have_count(1)
    expect(page.locator("#events tbody tr")).to_contain_text("the uplink of nano-1 fell")
    expect(page.locator("#announce")).to_contain_text("the uplink of nano-1 fell")
    assert page.evaluate("document.activeElement.closest('#history') !== null")
    view = world.views[STREAM]
    nodes = tuple(n.model_copy(update={"mbps": 7.5, "health": "down"}) if n.node == "nano-2" else n for n in view.nodes)
    world.views[STREAM] = view.model_copy(update={"nodes": nodes})
    node = page.locator("#topology [data-key='nano-2']")
    expect(node).to_contain_text("7.50\u00a0Mbit/s")
    expect(node).to_contain_text("down")


def test_the_event_log_keeps_the_line_that_is_read(open_page: Open, world: World) -> None:
    page = seen(open_page())
    log = page.locator("#events")
    log.evaluate("box => { box.scrollTop = 100 }")
    oldest = log.locator("tbody tr").last
    place = "row => row.offsetTop - row.closest('.events').scrollTop"
    before = oldest.evaluate(place)
    world.happens(STREAM, "drift_seen", "one more", "nano-1")
    expect(log.locator("tbody tr").first).to_contain_text("one more")
    assert oldest.evaluate(place) == pytest.approx(before, abs=1)  # whole pixels


def test_says_since_when_the_controller_is_gone_and_goes_on_when_it_is_back(browser: Browser, world: World) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    try:
        with serving(world) as address:
            page.goto(address)
            seen(page)
        expect(page.locator("#lost")).to_contain_text(re.compile(r"cannot be reached since \d\d:\d\d:\d\d"))
        expect(page.locator("#connection")).to_have_text("not reachable")
        world.happens(STREAM, "drift_seen", "while it was away", "nano-1")
        port = urlsplit(address).port
        assert port
        with serving(world, port):
            expect(page.locator("#lost")).to_be_hidden()
            expect(page.locator("#connection")).to_have_text("live")
            expect(page.locator("#events")).to_contain_text("while it was away")
    finally:
        page.close()


def test_asks_for_a_token_and_refuses_a_wrong_one(open_page: Open, world: World) -> None:
    world.tokens = {"right": "reader"}
    page = open_page()
    expect(page.get_by_label("Token", exact=True)).to_be_focused()
    expect(page.locator("#main")).to_be_hidden()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#entry-why")).to_contain_text("does not accept this token")
    page.keyboard.type("right")
    page.keyboard.press("Enter")
    seen(page)
    expect(page.locator("#facts")).to_contain_text("reader")
    expect(page.locator("#entry")).to_be_hidden()
    page.get_by_role("button", name="Forget the token").click()
    expect(page.locator("#entry")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize("role", ["reader", "device"])
def test_only_operators_get_buttons(open_page: Open, world: World, role: Role) -> None:
    world.role = role
    page = seen(open_page())
    expect(page.locator("#actions")).to_contain_text(f"The role {role} looks only")
    expect(page.locator("#actions button")).to_have_count(0)


def test_an_operator_pins_unpins_and_rolls_back_with_a_reason(open_page: Open, world: World) -> None:
    page = seen(open_page())
    for action, name in (("pin", "Pin the plan"), ("unpin", "Unpin the plan"), ("rollback", "Roll back")):
        page.locator("#actions").get_by_role("button", name=name).click()
        dialog = page.get_by_role("dialog", name=name)
        expect(dialog.get_by_role("textbox")).to_be_focused()
        dialog.get_by_role("button", name=name).click()  # without a reason: nothing is sent
        expect(dialog).to_be_visible()
        page.keyboard.type(f"because of {action}")
        dialog.get_by_role("button", name=name).click()
        expect(dialog).to_be_hidden()
        assert world.posts[-1] == (STREAM, action, f"because of {action}")
        expect(page.locator("#events tbody tr").first).to_contain_text(f"because of {action}")
    assert len(world.posts) == 3


def test_a_refused_order_says_why_and_can_be_given_up(open_page: Open, world: World) -> None:
    world.refusal = "the plan before needs 'nano-9', which is not there"
    page = seen(open_page())
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("textbox", name=re.compile("^Reason")).fill("it stutters")
    page.locator("#confirm-do").click()
    expect(page.locator("#confirm-error")).to_have_text(world.refusal)
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    expect(page.get_by_role("button", name="Roll back")).to_be_focused()
    assert world.posts == []


def test_hostile_text_is_shown_as_text(open_page: Open, world: World) -> None:
    world.happens(STREAM, "pinned", HOSTILE, "nano-1")
    page = seen(open_page())
    expect(page.locator("#events tbody tr").first).to_contain_text(HOSTILE)
    page.locator("#history .flag circle").last.hover()
    expect(page.locator("#tip")).to_contain_text(HOSTILE)
    assert page.locator("main img, main script, #tip *").count() == 0
    expect(page).to_have_title("DistrEdge controller")


def test_every_control_and_every_chart_is_reached_by_the_keyboard(open_page: Open) -> None:
    page = seen(open_page())
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(e => e.closest('[id]')?.id ?? '')(document.activeElement)"))
        if reached[-1] == "devices":
            break
    wanted = ["stream", "actions", "topology", "history", "split", "timeline", "methods", "training"]
    wanted += ["event-kind", "event-text", "events", "devices"]
    assert [name for name in dict.fromkeys(reached) if name in wanted] == wanted

    page.locator("#history svg").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tip")).to_contain_text("measuring power")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").count("measuring power") == 1
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()


def test_every_control_has_a_name_and_the_page_has_landmarks(open_page: Open) -> None:
    page = seen(open_page())
    tree = page.locator("body").aria_snapshot()
    for landmark in (
        "banner",
        "main",
        'region "Events"',
        'log "New events"',
        'combobox "Stream"',
        'searchbox "Contains"',
    ):
        assert landmark in tree
    assert not re.search(r"- (button|combobox|textbox|searchbox|region)(:|$)", tree, re.MULTILINE)


def test_another_stream_is_chosen_and_has_its_empty_places(open_page: Open) -> None:
    page = seen(open_page())
    page.get_by_role("combobox", name="Stream").select_option("camera-1-2")
    expect(page.locator("#history")).to_have_text("No frame has been finished yet.")
    expect(page.locator("#timeline")).to_contain_text("No frame has been measured yet")
    expect(page.locator("#methods")).to_contain_text("have not been compared yet")
    expect(page.locator("#training")).to_contain_text("No policy has been fine-tuned")
    expect(page.locator("#events")).to_contain_text("Nothing has happened yet.")
    expect(page.get_by_role("button", name="Roll back")).to_be_disabled()
    expect(page.locator("#actions")).to_contain_text("There is no plan to roll back to.")
    page.reload()
    expect(page.get_by_role("combobox", name="Stream")).to_have_value("camera-1-2")


@pytest.mark.parametrize("width", WIDTHS)
def test_without_devices_and_streams_says_how_to_start_them(open_page: Open, world: World, width: int) -> None:
    world.show(world.overview.model_copy(update={"devices": (), "streams": ()}))
    page = open_page(width)
    expect(page.locator("#no-streams")).to_contain_text("distredge run plan.json --controller http://127.0.0.1:")
    expect(page.locator("#devices")).to_contain_text("No device has registered.")
    expect(page.locator("#figures")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") == width
