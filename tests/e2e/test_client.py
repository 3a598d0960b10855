"""The browser's client in a real Chromium, against a real server, with things in between that hinder it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.e2e.pages import BADGE, BELL, TOAST, eventually, heard, inbox, listed, open_page, publish, state, streams
from tests.e2e.proxy import Proxy
from tests.servers import AsgiServer, Site, Worker

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
    it = await state(page, lambda state: state["transport"] == "sse" and state["readyState"] == 1)
    assert it["fallback"] == "websocket: refused"
    assert await page.evaluate("states.find((it) => it.readyState === 1).at - states[0].at") < 3000
    ids = publish(worker, "over SSE")
    await heard(page, ids)

    proxy.holds_streams = True
    proxy.cut()
    ids += publish(worker, "before anything carries", 3)
    await state(page, lambda state: state["transport"] == "polling" and state["readyState"] == 1)
    ids += publish(worker, "by polling", 3)
    await heard(page, ids)

    proxy.refuses_upgrades = proxy.holds_streams = False
    # The person comes back to the network: an occasion to look for something better.
    publishing = asyncio.create_task(asyncio.to_thread(publish_slowly, worker, 30))
    await page.evaluate("dispatchEvent(new Event('online'))")
    it = await state(page, lambda state: state["transport"] == "websocket" and state["readyState"] == 1)
    assert it["fallback"] is None
    slowly = await publishing
    ids += slowly[::2] + publish(worker, "over WebSocket", 3)
    await heard(page, ids, slowly[1::2])
    await listed(page, ids + slowly[1::2])


#: Until it is enough, to a topic of the person's own and to one for all, so that there is an order to keep in each.
PUBLISH_SLOWLY = """
import time
from django.contrib.auth.models import User
from notifications import notify
topics = [User.objects.get(username="alice"), "everyone"]
result = []
for i in range(count):
    result.append(notify(topics[i % 2], f"on and on {i}", kind="test").pk)
    time.sleep(0.03)
"""


def publish_slowly(worker: Worker, count: int) -> list[int]:
    ids: list[int] = worker.run(PUBLISH_SLOWLY, count=count)
    return ids


# Thirty tabs and ten restarts with the long runs: `make faults ONLY="-k tabs"`.
@pytest.mark.parametrize("tabs", [12, pytest.param(30, marks=pytest.mark.faults)])
async def test_many_tabs_hold_one_stream_and_outlive_the_one_that_holds_it(
    alice: BrowserContext, proxy: Proxy, worker: Worker, tabs: int
) -> None:
    pages: list[Page] = []
    while len(pages) < tabs:
        pages += await asyncio.gather(*(open_page(alice, "/notifications/preferences/") for _ in range(6)))
    await eventually(streams(proxy), lambda count: count == 1)
    ids = publish(worker, "for all")
    for page in pages:
        await heard(page, ids)
        await expect(page.locator(BADGE)).to_have_text("1")
    assert sum([await page.locator(TOAST).count() for page in pages]) == 1
    assert proxy.streams() == 1

    leading = [await leads(page) for page in pages]
    assert sum(leading) == 1
    leader = pages[leading.index(True)]
    crashed: list[Page] = []
    for page in pages:
        page.on("crash", lambda page: crashed.append(page))
    publishing = asyncio.create_task(asyncio.to_thread(publish, worker, "burst", 200))
    witness = pages[leading.index(True) - 1]
    await eventually(lambda: witness.evaluate("heard.length"), lambda count: count > 20)
    session = await alice.new_cdp_session(leader)
    killing = asyncio.create_task(session.send("Page.crash"))
    await eventually(said(crashed), bool)
    killing.cancel()
    ids += await publishing
    # Whatever shared a process with it, which is the browser's to decide, is gone with it.
    survivors = [page for page in pages if page not in crashed]
    assert len(survivors) >= tabs * 2 // 3
    for page in survivors:
        await heard(page, ids, within=90)
        await expect(page.locator(BADGE)).to_have_text("99+")
    await eventually(streams(proxy), lambda count: count == 1)
    assert await leaders(survivors) == 1
    assert inbox(worker)["all"] == ids[::-1]
    for page in survivors[:3]:
        await page.bring_to_front()
        await listed(page, ids)


def said(crashed: list[Page]) -> Any:
    async def pages() -> list[Page]:
        return crashed

    return pages


async def leaders(pages: list[Page]) -> int:
    return sum([await leads(page) for page in pages])


async def leads(page: Page) -> bool:
    return bool(await page.evaluate("document.querySelector('notification-bell').client.state.leading"))


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
    # All may have been heard before the second went; then another has yet to lead, and to open its stream.
    await eventually(lambda: leaders(pages[2:]), lambda count: count == 1)
    await asyncio.gather(*[state(page, lambda state: state["readyState"] == 1) for page in pages[2:]])
    await eventually(streams(proxy), lambda count: count == 1)


@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.faults)])
async def test_server_restarted_under_publication_on_mixed_transports(
    alice: BrowserContext, server: AsgiServer, worker: Worker, times: int
) -> None:
    pages = [await open_page(alice) for _ in range(5)]
    for page, transport in zip(pages, ("sse", "websocket", "polling", "auto", "auto"), strict=True):
        await page.evaluate("(name) => document.querySelector('notification-bell').client.use(name)", transport)
        await state(page, lambda state: state["readyState"] == 1)
    ids: list[int] = []
    for round in range(times):
        publishing = asyncio.create_task(asyncio.to_thread(publish_slowly, worker, 20))
        await asyncio.to_thread(server.terminate if round % 2 else server.kill)
        await asyncio.to_thread(server.start)
        ids += await publishing
    assert inbox(worker)["all"] == ids[::-1]
    for page in pages:
        await heard(page, ids[::2], ids[1::2], within=60)
    for page in pages:
        await page.bring_to_front()
        await listed(page, ids)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.faults)])
async def test_offline_reads_are_made_good_and_what_came_meanwhile_is_there(
    browser: Browser, alice: BrowserContext, site: Site, server: AsgiServer, proxy: Proxy, worker: Worker, seconds: int
) -> None:
    page = await open_page(alice)
    phone = await browser.new_context(base_url=server.url, locale="en-GB")
    await site.log_in(phone, "alice", server)
    other = await open_page(phone)
    first = publish(worker, "before", 5)
    await heard(page, first)
    await page.click(BELL)
    rows = page.locator("notification-bell [data-rows] [data-id]")
    await expect(rows).to_have_count(5)
    await alice.set_offline(True)
    proxy.cut()  # what is open stays open otherwise
    for index in range(3):
        await rows.nth(index).locator("[data-action=read]").click()
    await expect(page.locator("notification-bell [data-rows] [data-read]")).to_have_count(3)
    await other.click(BELL)
    await other.locator(f"notification-bell [data-id='{first[0]}'] [data-action=read]").click()
    later = publish(worker, "meanwhile", 50)
    await asyncio.sleep(seconds)  # the time offline is what is tried here
    assert await page.evaluate("heard") == first
    assert inbox(worker)["unread"] == [*later[::-1], *first[:0:-1]]

    await alice.set_offline(False)
    await heard(page, first + later, within=60)
    unread = [*later[::-1], first[1]]
    await eventually(lambda: asyncio.to_thread(inbox, worker), lambda inbox: inbox["unread"] == unread)
    for side in (page, other):
        await side.keyboard.press("Escape")
        await listed(side, unread, "unread")
        await listed(side, first + later)
        await expect(side.locator("notification-bell [data-unread]")).to_have_text(str(len(unread)))
    await phone.close()


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


async def test_page_of_alice_never_becomes_one_of_bob(
    alice: BrowserContext, proxy: Proxy, site: Site, worker: Worker
) -> None:
    ids = publish(worker, "for her")
    page = await open_page(alice)
    await page.click(BELL)
    row = page.locator("notification-bell [data-rows] [data-id]")
    await expect(row).to_have_count(1)
    # In another tab she logs out, and he logs in.
    await alice.add_cookies([{"name": "sessionid", "value": site.sessions["bob"], "url": proxy.url}])
    publish(worker, "for him", name="bob")
    proxy.cut()
    it = await state(page, lambda state: state["readyState"] == 2)
    assert it["reason"] == "unauthorized"
    await expect(page.locator("notification-bell [data-when=out]")).to_be_visible()
    await row.hover()
    await row.locator("[data-action=archive]").click()
    answer = await page.evaluate("document.querySelector('notification-bell').inbox.load().catch(String)")
    assert answer == "Error: HTTP 401"
    assert await page.evaluate("heard") == []
    assert inbox(worker)["unread"] == ids
    # She is back: what she did meanwhile is done.
    await alice.add_cookies([{"name": "sessionid", "value": site.sessions["alice"], "url": proxy.url}])
    page = await open_page(alice)
    pending = "document.querySelector('notification-bell').inbox.pending"
    await eventually(lambda: page.evaluate(pending), lambda count: count == 0)
    assert inbox(worker)["archived"] == ids


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
    await page.goto("/orders/")
    await expect(page.locator("[hidden]").locator("visible=true")).to_have_count(0)
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

    await page.goto("/notifications/")
    await rows.nth(0).get_by_role("checkbox").check()
    await rows.nth(1).get_by_role("checkbox").check()
    group = page.get_by_role("group", name="With the selected notifications")
    await group.get_by_role("button", name="Archive").click()
    await page.get_by_role("link", name="Archived").click()
    await expect(rows).to_have_count(3)
    await rows.first.get_by_role("button", name="Back to the inbox").click()
    await expect(rows).to_have_count(2)
    await page.get_by_role("link", name="All", exact=True).click()
    await page.get_by_role("button", name="Mark all as read").click()
    await expect(page.locator("[data-rows] [data-id]:not([data-read])")).to_have_count(0)
    ids = inbox(worker)
    assert (ids["unread"], len(ids["all"]), len(ids["archived"])) == ([], 23, 2)
    await context.close()


#: Notes when toasts come and go, and whether one can see them.
WATCH_TOASTS = """() => {
    const stack = document.querySelector("notification-toasts").shadowRoot.querySelector("[data-stack]");
    window.toasts = [];
    const note = () => toasts.push([performance.now(), stack.childElementCount, stack.checkVisibility()]);
    new MutationObserver(note).observe(stack, { childList: true });
}"""


async def test_toast_stays_long_enough_to_be_read_and_goes_by_itself(alice: BrowserContext, worker: Worker) -> None:
    page = await open_page(alice)
    await page.evaluate(WATCH_TOASTS)
    publish(worker, "shown")
    await expect(page.locator(TOAST)).to_be_visible()
    await expect(page.locator(TOAST)).to_be_in_viewport(ratio=1)
    await expect(page.locator(TOAST)).to_have_count(0)
    (came, one, visible), (went, none, _) = await page.evaluate("toasts")
    assert (one, visible, none) == (1, True, 0)
    assert went - came >= 5000


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
