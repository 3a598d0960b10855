"""What axe-core finds in each part of the interface, in light and dark, from the left and from the right; and a day
without a mouse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.e2e.pages import BADGE, BELL, NOTE, TOAST, eventually, heard, open_page, publish, state
from tests.e2e.proxy import Proxy
from tests.servers import Site, Worker

NOTIFY = """
from django.contrib.auth.models import User
from notifications import notify
alice = User.objects.get(username="alice")
body = "It left us this morning."
result = [notify(alice, f"{level} {kind}", body, kind=kind, level=level, url="/orders/?a").pk for kind, level in rows]
"""
LEVELS = ["info", "success", "warning", "error"]
#: The elements as their tags render them for Alice.
RENDER = """
from django.contrib.auth.models import User
from django.template import RequestContext, Template
from django.test import RequestFactory
from django.utils import translation
request = RequestFactory().get("/")
request.user, request.resolver_match = User.objects.get(username="alice"), None
with translation.override(language):
    result = Template("{% load notifications %}" + tags).render(RequestContext(request))
"""
#: Until every animation is over, colours are in between.
CALM = "Promise.all(document.getAnimations().map((animation) => animation.finished.catch(() => {})))"

Scheme = Literal["light", "dark"]
LOOKS = [
    ("light", "en"),
    ("dark", "ar"),
    # The other half of the square, which takes as long again.
    pytest.param(("dark", "en"), marks=pytest.mark.faults),
    pytest.param(("light", "ar"), marks=pytest.mark.faults),
]


@pytest_asyncio.fixture(params=LOOKS, ids="-".join, loop_scope="package")
async def reader(
    request: pytest.FixtureRequest, browser: Browser, site: Site, proxy: Proxy
) -> AsyncIterator[BrowserContext]:
    """Alice's browser, with her taste and language."""
    scheme: Scheme
    scheme, language = request.param
    context = await browser.new_context(base_url=proxy.url, locale=language, color_scheme=scheme)
    await context.add_init_script(NOTE)
    await context.add_cookies([{"name": "sessionid", "value": site.sessions["alice"], "url": proxy.url}])
    context.set_default_timeout(15_000)
    yield context
    await context.close()


async def check(page: Page) -> None:
    """Run all rules of axe-core, the best practices too, on the whole page."""
    await page.evaluate(CALM)
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


async def test_axe_finds_nothing_in_bell_toasts_banner_and_status(
    reader: BrowserContext, worker: Worker, request: pytest.FixtureRequest
) -> None:
    language = request.node.callspec.params["reader"][1]
    status = worker.run(RENDER, language=language, tags="{% notification_status %}")

    async def with_status(route):  # type: ignore[no-untyped-def]
        response = await route.fetch()
        await route.fulfill(response=response, body=(await response.text()).replace("</main>", f"{status}</main>"))

    await reader.route("**/orders/", with_status)
    page = await open_page(reader)
    assert await page.evaluate("document.dir || 'ltr'") == ("rtl" if language == "ar" else "ltr")
    await expect(page.locator("notification-status dd[data-state]")).not_to_be_empty()
    await check(page)

    shown = worker.run(NOTIFY, rows=[["test", level] for level in LEVELS[:3]])
    await expect(page.locator(TOAST)).to_have_count(3)
    await page.locator(TOAST).first.hover()
    await check(page)
    shown += worker.run(NOTIFY, rows=[["test", "error"]])
    await expect(page.locator(TOAST)).to_have_count(1)  # all of them folded into one
    await page.locator(TOAST).first.hover()
    await check(page)
    await page.locator(TOAST).get_by_role("button").click()

    shown += worker.run(NOTIFY, rows=[["shop.notice", level] for level in LEVELS])
    await expect(page.locator("notification-banner .notification-banner")).to_have_count(4)
    await heard(page, shown)
    await check(page)

    await page.click(BELL)
    await expect(page.locator("notification-bell [data-rows] [data-id]")).to_have_count(8)
    await check(page)
    await page.locator("notification-bell [data-settings]").click()
    await page.locator("notification-bell [data-rows] [data-action=archive]").first.click()
    await expect(page.locator("notification-bell [data-undo-button]")).to_be_visible()
    await check(page)
    await page.locator("notification-bell [role=tab][data-status=archived]").click()
    await expect(page.locator("notification-bell [data-rows] [data-id]")).to_have_count(1)
    await check(page)


async def test_axe_finds_nothing_in_inbox_and_preferences(reader: BrowserContext, worker: Worker) -> None:
    page = await open_page(reader, "/notifications/")
    await check(page)
    worker.run(NOTIFY, rows=[["test", level] for level in LEVELS] + [["order.progress", "info"]] * 20)
    rows = page.locator("notification-inbox .notification-rows > li")
    await expect(rows).to_have_count(24)
    await page.goto("/notifications/")
    await expect(rows).to_have_count(20)
    await rows.first.get_by_role("checkbox").check()
    await check(page)
    await page.goto("/notifications/preferences/")
    await state(page, lambda state: state["readyState"] == 1)
    await check(page)
    await page.locator("main form button").click()
    await expect(page.locator(".notification-saved")).to_be_visible()
    await check(page)


async def test_axe_looks_into_the_elements(alice: BrowserContext) -> None:
    page = await open_page(alice)
    await page.evaluate("document.querySelector('notification-bell').shadowRoot.querySelector('[data-label]').remove()")
    found = await Axe().run(page)
    assert found.generate_snapshot() == "button-name (critical) : 1"


async def test_what_comes_is_read_aloud_once_with_a_bell_or_without(alice: BrowserContext, worker: Worker) -> None:
    tags = "{% notification_toasts %}{% notification_banner 'shop.notice' %}"
    html = f"<!doctype html><html lang=en>{worker.run(RENDER, language='en', tags=tags)}"
    await alice.route("**/plain/", lambda route: route.fulfill(content_type="text/html", body=html))
    page = await alice.new_page()
    await page.goto("/plain/")
    await page.wait_for_function("document.querySelector('notification-toasts')?.client?.readyState === 1")
    toasts, banner = [page.locator(f"notification-{name} [data-say]") for name in ("toasts", "banner")]
    worker.run(NOTIFY, rows=[["test", "info"], ["shop.notice", "info"]])
    await expect(toasts).to_have_text("info test")
    await expect(banner).to_have_text("info shop.notice")
    worker.run(NOTIFY, rows=[["test", "info"], ["test", "info"]])
    await expect(toasts).to_have_text("2 new notifications")
    await expect(banner).to_have_text("info shop.notice")

    await page.close()
    page = await open_page(alice)
    worker.run(NOTIFY, rows=[["test", "info"], ["shop.notice", "info"]])
    toasts, banner, bell = [page.locator(f"notification-{name} [data-say]") for name in ("toasts", "banner", "bell")]
    await expect(bell).to_have_text("2 new notifications")
    assert await toasts.text_content() == await banner.text_content() == ""


#: What has the focus, by its accessible name or what comes near it.
FOCUSED = """() => {
    let element = document.activeElement;
    while (element.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
    const labelled = element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent;
    return labelled.trim().replace(/\\s+/g, " ");
}"""


async def focused(page: Page) -> str:
    return str(await page.evaluate(FOCUSED))


async def tab_to(page: Page, name: str, key: str = "Tab", most: int = 80) -> None:
    """Press a key until the focus is on what is called so."""
    seen = []
    for _ in range(most):
        await page.keyboard.press(key)
        seen.append(await focused(page))
        if f"{seen[-1]} ".startswith(f"{name} "):
            return
    raise AssertionError(f"{key} leads to {seen}, not to {name!r}")


async def test_day_without_a_mouse(alice: BrowserContext, worker: Worker) -> None:
    publish(worker, "key", 4)
    page = await open_page(alice)

    # From the top of the page to the bell, into the list, along its rows.
    await tab_to(page, "Notifications, 4 unread")
    await page.keyboard.press("Enter")
    rows = page.locator("notification-bell [data-rows] [data-id]")
    await expect(rows).to_have_count(4)
    await tab_to(page, "key 3")
    await page.keyboard.press("ArrowDown")
    assert await focused(page) == "key 2"
    await page.keyboard.press("ArrowUp")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Tab")
    assert await focused(page) == "Mark as read"
    await page.keyboard.press("Enter")
    await expect(page.locator("notification-bell [data-rows] [data-read]")).to_have_count(1)

    # What leaves the list leaves the focus on its neighbour; undo brings it back.
    await tab_to(page, "Archive")
    await page.keyboard.press("Enter")
    await expect(rows).to_have_count(3)
    await eventually(lambda: focused(page), lambda name: name == "key 1")
    await tab_to(page, "Undo")
    await page.keyboard.press("Enter")
    await expect(rows).to_have_count(4)
    await eventually(lambda: focused(page), lambda name: name == "key 2")

    # The tabs by arrows, the settings, and out.
    await tab_to(page, "All", "Shift+Tab")
    await page.keyboard.press("ArrowRight")
    assert (await focused(page)).startswith("Unread")
    await expect(rows).to_have_count(3)
    await page.keyboard.press("ArrowRight")
    assert await focused(page) == "Archived"
    await expect(page.get_by_text("Nothing is archived.")).to_be_visible()
    await tab_to(page, "Settings", "Shift+Tab")
    await page.keyboard.press("Enter")
    await tab_to(page, "Play a sound")
    await page.keyboard.press("Space")
    await expect(page.locator("[data-preference=sound]")).to_be_checked()
    await page.keyboard.press("Escape")
    await expect(page.locator(BELL)).to_be_focused()

    # A toast can be reached and put away, and holds still while it has the focus.
    publish(worker, "toast")
    await expect(page.locator(TOAST)).to_have_count(1)
    await tab_to(page, "toast 0", "Shift+Tab")
    await page.keyboard.press("Escape")
    await expect(page.locator(TOAST)).to_have_count(0)

    # A banner is dismissed.
    worker.run(NOTIFY, rows=[["shop.notice", "warning"]])
    await expect(page.locator("notification-banner").get_by_text("warning shop.notice")).to_be_visible()
    await tab_to(page, "Dismiss", "Shift+Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("notification-banner .notification-banner")).to_have_count(0)

    # The inbox page: choose two, archive them, undo; and a notification opened.
    await page.goto("/notifications/")
    rows = page.locator("notification-inbox .notification-rows > li")
    await expect(rows).to_have_count(6)
    await state(page, lambda state: state["readyState"] == 1)
    await tab_to(page, "Select “key 3”")
    await page.keyboard.press("Space")
    await tab_to(page, "Select “key 2”")
    await page.keyboard.press("Space")
    group = page.get_by_role("group", name="With the selected notifications")
    await group.get_by_role("button", name="Archive").focus()
    await page.keyboard.press("Enter")
    await expect(rows).to_have_count(4)
    await page.locator("notification-inbox [data-undo-button]").focus()
    await page.keyboard.press("Enter")
    await expect(rows).to_have_count(6)
    await tab_to(page, "key 1", "Tab")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/orders/?from=test")
    await expect(page.locator(BADGE)).to_be_visible()
