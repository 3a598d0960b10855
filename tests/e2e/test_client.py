"""The browser's client in a real Chromium, against a real server, with things in between that hinder it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.conftest import MakeSite
from tests.e2e.proxy import Proxy
from tests.servers import AsgiServer, Site, Worker

PUBLISH = """
from django.contrib.auth.models import User
from notifications import notify
user = User.objects.get(username=name)
result = [notify(user, f"{title} {i}", url="/orders/?from=test", kind="test").pk for i in range(count)]
"""
INBOX = """
from django.contrib.auth.models import User
from notifications import inbox
user = User.objects.get(username=name)
box = inbox.Inbox(user)
result = {
    "unread": [n.pk for part in box.parts("unread") for n in part.order_by("-pk")],
    "all": [n.pk for part in box.parts("all") for n in part.order_by("-pk")],
}
"""
#: Notes in each page what its document is told.
NOTE = """
window.heard = [];
document.addEventListener("notifications:notification", ({ detail }) => heard.push(detail.id));
"""
ROWS = """() => [...document.querySelector("notification-bell").shadowRoot.querySelectorAll("[data-rows] [data-id]")]
    .map((row) => Number(row.dataset.id))"""
BELL = "notification-bell button[part=button]"
BADGE = "notification-bell .notification-badge"


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    return make_site()


@pytest.fixture
def worker(site: Site) -> Iterator[Worker]:
    with site.worker() as process:
        yield process


@pytest.fixture
def server(site: Site) -> Iterator[AsgiServer]:
    with site.server() as server:
        yield server


@pytest.fixture
async def proxy(server: AsgiServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def alice(browser: Browser, site: Site, proxy: Proxy) -> AsyncIterator[BrowserContext]:
    """Alice's browser, which sees the site through the proxy."""
    context = await browser.new_context(base_url=proxy.url, locale="en-GB")
    await context.add_init_script(NOTE)
    await context.add_cookies([{"name": "sessionid", "value": site.sessions["alice"], "url": proxy.url}])
    context.set_default_timeout(15_000)
    yield context
    await context.close()


def publish(worker: Worker, title: str, count: int = 1, name: str = "alice") -> list[int]:
    ids: list[int] = worker.run(PUBLISH, name=name, title=title, count=count)
    return ids


async def open_page(context: BrowserContext, path: str = "/orders/") -> Page:
    page = await context.new_page()
    await page.goto(path)
    await state(page, lambda state: state["readyState"] == 1)
    return page


async def state(page: Page, condition: Callable[[dict[str, Any]], bool], within: float = 30.0) -> dict[str, Any]:
    """Return the state of the page's connection as soon as it is as ``condition`` says."""
    read = "() => document.querySelector('notification-bell')?.client?.state ?? null"
    answer: dict[str, Any] = await eventually(
        lambda: page.evaluate(read), lambda it: bool(it) and condition(it), within
    )
    return answer


async def eventually(read: Callable[[], Awaitable[Any]], condition: Callable[[Any], bool], within: float = 30.0) -> Any:
    value: Any = None
    try:
        async with asyncio.timeout(within):
            while not condition(value := await read()):  # noqa: ASYNC110 – a page can only be asked
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"still {value!r} after {within:g} s") from None
    return value


async def heard(page: Page, ids: list[int], within: float = 30.0) -> None:
    """Wait for the page to have heard of these, and see that it heard of nothing else, nothing twice, in order."""
    await eventually(lambda: page.evaluate("heard.length"), lambda count: count >= len(ids), within)
    assert await page.evaluate("heard") == ids


#: Before the page's modules run.
PREFER_WEBSOCKET = """
document.addEventListener("readystatechange", () => document.querySelector("notification-bell")
    ?.setAttribute("transports", "websocket sse polling"));
"""


async def test_falls_back_past_what_a_proxy_blocks_and_returns_when_it_heals(
    alice: BrowserContext, proxy: Proxy, worker: Worker
) -> None:
    await alice.add_init_script(PREFER_WEBSOCKET)
    proxy.refuses_upgrades = True
    page = await open_page(alice)
    it = await state(page, lambda state: state["transport"] == "sse")
    assert it["fallback"] == "websocket: refused"
    ids = publish(worker, "over SSE")
    await heard(page, ids)

    proxy.holds_streams = True
    proxy.cut()
    await state(page, lambda state: state["transport"] == "polling" and state["readyState"] == 1)
    ids += publish(worker, "by polling", 3)
    await heard(page, ids)

    proxy.refuses_upgrades = proxy.holds_streams = False
    # The person comes back to the network: an occasion to look for something better.
    await page.evaluate("dispatchEvent(new Event('online'))")
    ids += publish(worker, "meanwhile", 3)
    it = await state(page, lambda state: state["transport"] == "websocket")
    assert it["fallback"] is None
    ids += publish(worker, "over WebSocket", 3)
    await heard(page, ids)


async def test_many_tabs_hold_one_stream_and_each_shows_everything(
    alice: BrowserContext, proxy: Proxy, worker: Worker
) -> None:
    pages = [await open_page(alice) for _ in range(12)]
    assert proxy.streams() == 1
    ids = publish(worker, "for all", 5)
    for page in pages:
        await heard(page, ids)
        await expect(page.locator(BADGE)).to_have_text("5")
    toasts = [await page.locator("notification-toasts .notification-toast").count() for page in pages]
    assert sum(count > 0 for count in toasts) == 1
    assert proxy.streams() == 1


async def test_leader_closed_while_200_are_published_loses_and_doubles_nothing(
    alice: BrowserContext, proxy: Proxy, worker: Worker
) -> None:
    pages = [await open_page(alice) for _ in range(4)]
    publishing = asyncio.create_task(asyncio.to_thread(publish, worker, "burst", 200))
    await eventually(lambda: pages[1].evaluate("heard.length"), lambda count: count > 10)
    await pages[0].close()
    await eventually(lambda: pages[2].evaluate("heard.length"), lambda count: count > 60)
    await pages[1].close()
    ids = await publishing
    for page in pages[2:]:
        await heard(page, ids, within=30)
    assert proxy.streams() == 1


async def test_server_restarted_under_publication_on_mixed_transports(
    alice: BrowserContext, server: AsgiServer, worker: Worker
) -> None:
    pages = [await open_page(alice) for _ in range(4)]
    for page, transport in zip(pages, ("sse", "websocket", "polling", "auto"), strict=True):
        await page.evaluate("(name) => document.querySelector('notification-bell').client.use(name)", transport)
        await state(page, lambda state: state["readyState"] == 1)
    ids: list[int] = []
    for _ in range(3):
        publishing = asyncio.create_task(asyncio.to_thread(publish, worker, "on and on", 40))
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        ids += await publishing
    for page in pages:
        await heard(page, ids, within=60)


async def test_offline_reads_are_made_good_and_what_came_meanwhile_is_there(
    alice: BrowserContext, worker: Worker
) -> None:
    page = await open_page(alice)
    first = publish(worker, "before", 5)
    await heard(page, first)
    await page.click(BELL)
    rows = page.locator("notification-bell [data-rows] [data-id]")
    await expect(rows).to_have_count(5)
    await alice.set_offline(True)
    for index in range(3):
        await rows.nth(index).locator("[data-action=read]").click()
    await expect(page.locator("notification-bell [data-rows] [data-read]")).to_have_count(3)
    later = publish(worker, "meanwhile", 20)
    await alice.set_offline(False)
    await heard(page, first + later, within=40)
    unread = sorted(set(first[:2] + later), reverse=True)
    await eventually(
        lambda: asyncio.to_thread(worker.run, INBOX, name="alice"), lambda inbox: inbox["unread"] == unread
    )
    await page.locator("notification-bell [role=tab][data-status=unread]").click()
    await eventually(lambda: page.evaluate(ROWS), lambda ids: ids[:20] == unread[:20])


async def test_read_in_one_browser_is_gone_in_the_other(
    browser: Browser, alice: BrowserContext, site: Site, proxy: Proxy, worker: Worker
) -> None:
    phone = await browser.new_context(base_url=proxy.url)
    await phone.add_cookies([{"name": "sessionid", "value": site.sessions["alice"], "url": proxy.url}])
    pages = [await open_page(alice), await open_page(phone)]
    publish(worker, "hello", 2)
    for page in pages:
        await expect(page.locator(BADGE)).to_have_text("2")
    for page in pages:
        await page.click(BELL)
        await expect(page.locator("notification-bell [data-rows] [data-id]")).to_have_count(2)
    await pages[0].locator("notification-bell [data-rows] [data-action=read]").first.click()
    await expect(pages[1].locator("notification-bell [data-rows] [data-read]")).to_have_count(1, timeout=3000)
    await pages[0].locator("notification-bell [data-rows] [data-action=archive]").first.click()
    await expect(pages[1].locator("notification-bell [data-rows] [data-id]")).to_have_count(1, timeout=3000)
    await pages[0].locator("notification-bell [data-undo-button]").click()
    await expect(pages[1].locator("notification-bell [data-rows] [data-id]")).to_have_count(2, timeout=3000)
    await phone.close()


async def test_logged_out_stops_for_good_and_says_so(alice: BrowserContext, proxy: Proxy) -> None:
    page = await open_page(alice)
    await alice.clear_cookies()
    proxy.cut()
    it = await state(page, lambda state: state["readyState"] == 2)
    assert it["reason"] == "unauthorized"
    await page.click(BELL)
    await expect(page.locator("notification-bell [data-when=out]")).to_be_visible()


async def test_inbox_page_becomes_live(alice: BrowserContext, worker: Worker) -> None:
    publish(worker, "there", 2)
    page = await open_page(alice, "/notifications/")
    rows = page.locator("notification-inbox .notification-rows > li")
    await expect(rows).to_have_count(2)
    publish(worker, "live")
    await expect(rows).to_have_count(3)
    await expect(rows.first).to_contain_text("live 0")
    await rows.first.locator("[data-action=read]").click()
    await expect(page.locator("notification-inbox [data-count]")).to_have_text("2 unread")
    await rows.nth(1).get_by_role("checkbox").check()
    await rows.nth(2).get_by_role("checkbox").check()
    await (
        page.get_by_role("group", name="With the selected notifications").get_by_role("button", name="Archive").click()
    )
    await expect(rows).to_have_count(1)
    await page.locator("notification-inbox [data-undo-button]").click()
    await expect(rows).to_have_count(3)


async def test_inbox_page_without_javascript(browser: Browser, site: Site, proxy: Proxy, worker: Worker) -> None:
    context = await browser.new_context(base_url=proxy.url, locale="en-GB", java_script_enabled=False)
    await context.add_cookies([{"name": "sessionid", "value": site.sessions["alice"], "url": proxy.url}])
    publish(worker, "old", 25)
    page = await context.new_page()
    await page.goto("/notifications/")
    rows = page.locator(".notification-rows > li")
    await expect(rows).to_have_count(20)
    await page.get_by_role("link", name="Unread").click()
    await expect(rows).to_have_count(20)
    await page.get_by_role("link", name="Older").click()
    await expect(rows).to_have_count(5)
    await rows.first.get_by_role("button", name="Archive").click()
    await expect(rows).to_have_count(4)
    await rows.first.get_by_role("button", name="Mark as read").click()
    await expect(rows).to_have_count(3)
    await rows.nth(1).get_by_role("button", name="old").click()
    await expect(page).to_have_url(f"{proxy.url}/orders/?from=test")
    await context.close()


async def test_hostile_texts_and_links_stay_text(alice: BrowserContext, worker: Worker) -> None:
    page = await open_page(alice, "/")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    await page.evaluate("document.addEventListener('securitypolicyviolation', (e) => console.log(e.violatedDirective))")
    worker.run(
        """
from django.contrib.auth.models import User
from notifications.models import Notification
from notifications import log
from notifications.envelope import dumps
from notifications.publishing import notification_payload
user = User.objects.get(username="alice")
# Past notify(), which refuses such links: as a row that somebody wrote otherwise.
text = '<script>alert(1)</script><img src=x onerror=alert(1)>'
for url in ("javascript:alert(1)", "data:text/html,<script>alert(1)</script>", "//evil.example/", "http://evil.example/"):
    row = Notification.objects.create(topic=f"user:{user.pk}", title=text, body=text, kind=text[:40], url=url)
    log.append([(f"user:{user.pk}", "notification", dumps(notification_payload(row)))])
result = None
"""
    )
    await eventually(lambda: page.evaluate("heard.length"), lambda count: count == 4)
    await page.click(BELL)
    rows = page.locator("notification-bell [data-rows] [data-id]")
    await expect(rows).to_have_count(4)
    await expect(rows.first).to_contain_text("<script>alert(1)</script>")
    await expect(page.locator("notification-bell [data-rows] a[href]")).to_have_count(0)
    assert complaints == []


async def test_toasts_can_be_switched_off_for_this_browser(alice: BrowserContext, worker: Worker) -> None:
    page = await open_page(alice, "/")
    toasts = page.locator("notification-toasts .notification-toast")
    await heard(page, publish(worker, "shown"))
    await expect(toasts).to_have_count(1)
    await page.click(BELL)
    await page.locator("notification-bell [data-settings]").click()
    await page.locator("notification-bell [data-preference=toasts]").uncheck()
    await page.goto("/")
    await state(page, lambda state: state["readyState"] == 1)
    await heard(page, publish(worker, "not shown"))
    await expect(page.locator(BADGE)).to_have_text("1")
    await expect(toasts).to_have_count(0)


async def test_panel_by_keyboard_alone(alice: BrowserContext, worker: Worker) -> None:
    publish(worker, "key", 3)
    page = await open_page(alice)
    focused = "document.activeElement.shadowRoot?.activeElement?.textContent?.trim()"
    await page.locator(BELL).focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("notification-bell [data-rows] [data-id]")).to_have_count(3)
    for _ in range(8):
        await page.keyboard.press("Tab")
        if await page.evaluate(focused) == "key 2":
            break
    assert await page.evaluate(focused) == "key 2"
    await page.keyboard.press("ArrowDown")
    assert await page.evaluate(focused) == "key 1"
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    assert await page.evaluate(focused) == "Archive"
    await page.keyboard.press("Enter")
    await expect(page.locator("notification-bell [data-rows] [data-id]")).to_have_count(2)
    await eventually(lambda: page.evaluate(focused), lambda text: text == "key 0")
    await page.keyboard.press("Escape")
    await expect(page.locator(BELL)).to_be_focused()
