"""The page of preferences in a real Chromium: without scripts, across tabs, and beside the bell."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.servers import AsgiServer, Site, Worker

PAGE = "/notifications/preferences/"
NOTIFY = """
from django.contrib.auth.models import User
from notifications import notify
result = [notify(User.objects.get(username="alice"), title, kind=kind).pk for kind, title in rows]
"""
BELL = "notification-bell button[part=button]"
KIND = "main [name=kinds][value='{}']"
READY = "() => document.querySelector('notification-bell')?.client?.state.readyState === 1"


@pytest_asyncio.fixture(loop_scope="package")
async def alice(browser: Browser, site: Site, server: AsgiServer) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(base_url=server.url, locale="en-GB", permissions=["notifications"])
    await site.log_in(context, "alice", server)
    context.set_default_timeout(15_000)
    yield context
    await context.close()


async def open_page(context: BrowserContext, path: str) -> Page:
    page = await context.new_page()
    await page.goto(path)
    await page.wait_for_function(READY)
    return page


async def save(page: Page) -> None:
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".notification-saved")).to_be_visible()


async def test_page_works_without_scripts(browser: Browser, site: Site, server: AsgiServer) -> None:
    context = await browser.new_context(base_url=server.url, locale="en-GB", java_script_enabled=False)
    await site.log_in(context, "alice", server)
    page = await context.new_page()
    await page.goto(PAGE)
    await page.locator(KIND.format("broadcast")).uncheck()
    await page.locator("main [name=sound]").check()
    await page.locator("main [name=transport][value=websocket]").check()
    await save(page)
    await page.goto(PAGE)
    await expect(page.locator(KIND.format("broadcast"))).not_to_be_checked()
    await expect(page.locator(KIND.format("order.progress"))).to_be_checked()
    await expect(page.locator("main [name=sound]")).to_be_checked()
    await expect(page.locator("main [name=transport]:checked")).to_have_value("websocket")
    await context.close()


async def test_muting_takes_a_kind_out_of_the_other_tabs_and_unmuting_brings_it_back(
    alice: BrowserContext, worker: Worker
) -> None:
    other = await open_page(alice, "/orders/")
    badge = other.locator("notification-bell .notification-badge")
    worker.run(NOTIFY, rows=[["broadcast", "Sale"], ["order.progress", "Shipped"]])
    await expect(badge).to_have_text("2")
    page = await open_page(alice, PAGE)
    await page.locator(KIND.format("broadcast")).uncheck()
    await save(page)
    await expect(badge).to_have_text("1", timeout=2000)
    await other.bring_to_front()
    await other.locator(BELL).click()
    rows = other.locator("notification-bell [data-rows] .notification-title")
    await expect(rows).to_have_text(["Shipped"])
    worker.run(NOTIFY, rows=[["broadcast", "Bigger sale"], ["order.progress", "Delivered"]])
    await expect(rows).to_have_text(["Delivered", "Shipped"])
    await page.bring_to_front()
    await page.locator(KIND.format("broadcast")).check()
    await save(page)
    await other.bring_to_front()
    await expect(rows).to_have_text(["Delivered", "Bigger sale", "Shipped", "Sale"])


async def test_page_follows_what_is_chosen_in_another_tab(alice: BrowserContext) -> None:
    one, other = [await open_page(alice, PAGE) for _ in range(2)]
    await one.locator(KIND.format("order.progress")).uncheck()
    await one.locator("main [name=toasts]").uncheck()
    await save(one)
    await expect(other.locator(KIND.format("order.progress"))).not_to_be_checked()
    await expect(other.locator("main [name=toasts]")).not_to_be_checked()
    await expect(other.locator(KIND.format("order.new"))).to_be_checked()


async def test_no_toast_for_who_wants_none(alice: BrowserContext, worker: Worker) -> None:
    page = await open_page(alice, PAGE)
    await page.locator("main [name=toasts]").uncheck()
    await save(page)
    await page.wait_for_function(READY)
    worker.run(NOTIFY, rows=[["order.progress", "Quiet"]])
    await expect(page.locator("notification-bell .notification-badge")).to_have_text("1")
    await expect(page.locator("notification-toasts .notification-toast")).to_have_count(0)


async def test_transport_of_the_person_carries_the_page(alice: BrowserContext) -> None:
    page = await open_page(alice, PAGE)
    await page.locator("main [name=transport][value=polling]").check()
    await save(page)
    await page.wait_for_function(
        "() => document.querySelector('notification-bell')?.client?.state.transport === 'polling'"
    )


async def test_open_page_follows_the_transport_unless_its_own_is_fixed(alice: BrowserContext) -> None:
    using = "() => document.querySelector('notification-bell').client.state.transport"
    page, other, fixed = [await open_page(alice, path) for path in (PAGE, "/orders/", "/orders/")]
    await fixed.evaluate(
        """() => {
            document.querySelector('notification-bell').setAttribute('fixed-transport', '');
            window.told = 0;
            document.addEventListener('notifications:preferences', () => (window.told += 1));
        }"""
    )
    for told, (choice, carrier) in enumerate((("polling", "polling"), ("auto", "sse")), start=1):
        await page.locator(f"main [name=transport][value={choice}]").check()
        await save(page)
        await other.wait_for_function(f"({using})() === '{carrier}'")
        await fixed.wait_for_function(f"() => window.told === {told}")
        assert await fixed.locator("notification-bell").get_attribute("transport") == "auto"
        assert await fixed.evaluate(using) == "sse"
        await other.reload()  # now the page is rendered with the choice


async def test_what_the_bell_was_told_in_this_browser_gives_way_to_the_page(alice: BrowserContext) -> None:
    page = await open_page(alice, PAGE)
    stored = "() => Object.keys(localStorage).filter((key) => key.startsWith('notifications.preferences')).length"
    await page.locator(BELL).click()
    await page.locator("notification-bell [data-settings]").click()
    await page.locator("notification-bell [data-preference=toasts]").uncheck()
    assert await page.evaluate(stored) == 1
    await page.keyboard.press("Escape")
    await save(page)
    assert await page.evaluate(stored) == 0


async def test_refusal_of_the_browser_is_said(browser: Browser, site: Site, server: AsgiServer) -> None:
    context = await browser.new_context(base_url=server.url, locale="en-GB", permissions=[])
    await site.log_in(context, "alice", server)
    page = await open_page(context, PAGE)
    refusal = page.get_by_text(re.compile("does not allow it"))
    await expect(refusal).to_be_hidden()
    await page.locator("main [name=system]").check()
    await expect(refusal).to_be_visible()
    await page.locator("main [name=system]").uncheck()
    await expect(refusal).to_be_hidden()
    await context.close()


@pytest.mark.parametrize("locale", ["en-GB", "de-DE", "ar"])
async def test_page_fits_a_phone(locale: str, browser: Browser, site: Site, server: AsgiServer) -> None:
    context = await browser.new_context(
        base_url=server.url, locale=locale, viewport={"width": 320, "height": 640}, java_script_enabled=True
    )
    await site.log_in(context, "alice", server)
    page = await open_page(context, PAGE)
    assert await page.evaluate("document.documentElement.scrollWidth") == 320
    await context.close()
