"""What a person sees and does at the bell, the toasts, the banner and the list, in a real Chromium."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from tests.e2e.pages import BADGE, BELL, NOTE, TOAST, eventually, heard, inbox, open_page, publish, state, streams
from tests.e2e.proxy import Proxy
from tests.servers import Site, Worker

NOTIFY = """
from datetime import datetime
from django.contrib.auth.models import User
from notifications import notify
alice = User.objects.get(username="alice")
result = []
for row in rows:
    if "expires_at" in row:
        row["expires_at"] = datetime.fromisoformat(row["expires_at"])
    result.append(notify(alice, **row).pk)
"""
MUTE = """
from django.contrib.auth.models import User
from notifications.preferences import change_preferences
result = change_preferences(User.objects.get(username="alice"), muted=["broadcast"]) and None
"""
ROWS = "notification-bell [data-rows] [data-id]"
PILL = "notification-bell [data-pill]"
SCROLL = "notification-bell [data-scroll]"


def notify(worker: Worker, *rows: dict[str, Any]) -> list[int]:
    ids: list[int] = worker.run(NOTIFY, rows=rows)
    return ids


async def open_bell(page: Page, count: int) -> None:
    await page.click(BELL)
    await expect(page.locator(ROWS)).to_have_count(count)


#: Archives the first row and takes it back in one breath, and notes what comes and goes in the list from then on.
ARCHIVE_AND_UNDO = """() => {
    const root = document.querySelector("notification-bell").shadowRoot;
    window.moves = [];
    window.echoes = 0;
    document.addEventListener("notifications:archived", () => (echoes += 1));
    new MutationObserver((records) => {
        for (const { addedNodes, removedNodes } of records)
            moves.push(...[...removedNodes].map(() => "gone"), ...[...addedNodes].map(() => "back"));
    }).observe(root.querySelector("[data-rows]"), { childList: true });
    root.querySelector("[data-rows] [data-action=archive]").click();
    root.querySelector("[data-undo-button]").click();
}"""


async def test_archived_and_taken_back_at_once_does_not_flicker(alice: BrowserContext, worker: Worker) -> None:
    page = await open_page(alice)
    publish(worker, "there", 3)
    await open_bell(page, 3)
    await page.evaluate(ARCHIVE_AND_UNDO)
    await eventually(lambda: page.evaluate("echoes"), lambda count: count == 2)
    assert await page.evaluate("moves") == ["gone", "back"]
    await expect(page.locator("notification-bell [data-unread]")).to_have_text("3")


async def test_list_grows_as_one_scrolls_and_does_not_jump_under_what_is_new(
    alice: BrowserContext, worker: Worker
) -> None:
    publish(worker, "old", 45)
    page = await open_page(alice)
    await open_bell(page, 20)
    scroller, rows = page.locator(SCROLL), page.locator(ROWS)
    for count in (40, 45):
        await scroller.evaluate("(list) => list.scrollTo(0, list.scrollHeight)")
        await expect(rows).to_have_count(count)
    await scroller.evaluate("(list) => list.scrollTo(0, 400)")
    await heard(page, publish(worker, "new", 3))
    await expect(page.locator(PILL)).to_have_text("3 new")
    await expect(rows).to_have_count(45)
    assert await scroller.evaluate("(list) => list.scrollTop") == 400
    await page.locator(PILL).click()
    await expect(rows).to_have_count(48)
    await expect(rows.first).to_contain_text("new 2")
    await expect(page.locator(PILL)).to_be_hidden()
    assert await scroller.evaluate("(list) => list.scrollTop") == 0


async def test_what_comes_while_the_list_loads_is_in_it(alice: BrowserContext, worker: Worker) -> None:
    page = await open_page(alice)
    await heard(page, ids := publish(worker, "old", 2))
    asked, may_go = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        response = await route.fetch()
        asked.set()
        await may_go.wait()
        await route.fulfill(response=response)

    await page.route("**/notifications/?*", hold)
    await page.click(BELL)
    await asked.wait()
    await heard(page, ids + publish(worker, "new"))
    may_go.set()
    await expect(page.locator(f"{ROWS} .notification-title")).to_have_text(["new 0", "old 1", "old 0"])


async def test_inbox_page_that_was_hidden_is_brought_up_to_date_when_it_is_seen(
    alice: BrowserContext, worker: Worker
) -> None:
    await alice.add_init_script(PLATFORM)
    notify(worker, {"kind": "broadcast", "title": "Sale"}, {"title": "Shipped"})
    page = await open_page(alice, "/notifications/")
    titles = page.locator("notification-inbox [data-rows] .notification-title")
    await expect(titles).to_have_text(["Shipped", "Sale"])
    await page.evaluate("hide(true)")
    worker.run(MUTE)
    await expect(page.locator("notification-bell")).to_have_attribute("unread", "1")
    await page.evaluate("hide(false)")
    await expect(titles).to_have_text(["Shipped"])


async def test_list_of_one_kind_keeps_others_out(alice: BrowserContext, worker: Worker) -> None:
    order, sale = {"kind": "order.progress", "title": "Shipped"}, {"kind": "broadcast", "title": "Sale"}
    notify(worker, order, sale, order)
    page = await open_page(alice)
    await open_bell(page, 3)
    kinds = page.locator("notification-bell [data-kinds]")
    await kinds.select_option(label="My orders")
    titles = page.locator(f"{ROWS} .notification-title")
    await expect(titles).to_have_text(["Shipped", "Shipped"])
    await page.mouse.move(0, 0)
    await page.locator("notification-bell [data-popover]").focus()
    await heard(page, notify(worker, sale, {**order, "title": "Delivered"}))
    await expect(titles).to_have_text(["Delivered", "Shipped", "Shipped"])
    await kinds.select_option(label="All kinds")
    await expect(titles).to_have_text(["Delivered", "Sale", "Shipped", "Sale", "Shipped"])


async def test_double_click_does_one_thing_and_undo_takes_back_all_of_one_kind(
    alice: BrowserContext, worker: Worker
) -> None:
    publish(worker, "row", 4)
    page = await open_page(alice)
    await open_bell(page, 4)
    first = page.locator(ROWS).first
    await first.locator("[data-action=archive]").dblclick()
    await expect(page.locator(ROWS)).to_have_count(3)
    await first.locator("[data-action=read]").dblclick()
    await expect(first).to_have_attribute("data-read", "")
    await page.locator(ROWS).nth(1).locator("[data-action=archive]").click()
    await expect(page.locator(ROWS)).to_have_count(2)
    await page.locator("notification-bell [data-undo-button]").click()
    await expect(page.locator(ROWS)).to_have_count(4)


@pytest.mark.parametrize("path", ["/", "/notifications/"])
async def test_refused_action_is_said_where_it_was_done(alice: BrowserContext, worker: Worker, path: str) -> None:
    publish(worker, "row", 2)
    page = await open_page(alice, path)
    scope = "notification-inbox" if path == "/notifications/" else "notification-bell"
    if path == "/":
        await open_bell(page, 2)
    await page.route("**/archive/*", lambda route: route.fulfill(status=403, json={"error": "CSRF"}))
    await page.locator(f"{scope} [data-rows] [data-action=archive]").first.click()
    bar = page.locator(f"{scope} [data-undo]")
    await expect(bar).to_contain_text("That could not be saved.")
    await expect(bar.get_by_text("That could not be saved.")).to_be_visible()
    await expect(bar.get_by_text("Archived.")).to_be_hidden()
    await expect(bar.locator("[data-undo-button]")).to_be_hidden()
    await expect(page.locator(f"{scope} [data-rows] [data-id]")).to_have_count(2)


async def test_action_is_taken_after_another_login_changed_the_token(alice: BrowserContext, worker: Worker) -> None:
    publish(worker, "row", 1)
    page = await open_page(alice, "/notifications/")
    other = (await alice.cookies())[0]
    await alice.add_cookies([{"name": "csrftoken", "value": "a" * 32, "url": f"http://{other['domain']}"}])
    await page.locator("notification-inbox [data-rows] [data-action=archive]").click()
    pending = "document.querySelector('notification-bell').inbox.pending"
    await eventually(lambda: page.evaluate(pending), lambda count: count == 0)
    await expect(page.locator("notification-inbox [data-undo-button]")).to_be_visible()
    await page.reload()
    await expect(page.locator("notification-inbox [data-rows] [data-id]")).to_have_count(0)


async def test_toasts_go_when_the_bell_opens_and_when_they_are_archived(alice: BrowserContext, worker: Worker) -> None:
    page = await open_page(alice, "/")
    (id,) = notify(worker, {"title": "One", "url": "/orders/"})
    toasts = page.locator(TOAST)
    await expect(toasts).to_have_count(1)
    await page.evaluate(f"document.querySelector('notification-bell').inbox.act('archive', [{id}])")
    await expect(toasts).to_have_count(0, timeout=2000)
    notify(worker, {"title": "Two", "url": "/orders/"})
    await expect(toasts).to_have_count(1)
    await page.click(BELL)
    await expect(toasts).to_have_count(0, timeout=2000)


async def test_empty_inbox_page_gets_its_buttons_with_its_first_rows(alice: BrowserContext, worker: Worker) -> None:
    page = await open_page(alice, "/notifications/")
    list = page.locator("notification-inbox")
    everything = list.get_by_role("button", name="Mark all as read")
    kind = list.get_by_role("combobox", name="Kind")
    await expect(everything).to_be_hidden()
    notify(worker, {"kind": "order.progress", "title": "Shipped"}, {"kind": "unheard.of", "title": "Sale"})
    await expect(list.locator("[data-rows] [data-id]")).to_have_count(2)
    await expect(kind.locator("option", has_text="unheard.of")).to_have_count(1)
    await list.get_by_role("checkbox").first.check()
    await list.get_by_role("group").get_by_role("button", name="Archive").click()
    await expect(list.locator("[data-rows] [data-id]")).to_have_count(1)
    await everything.click()
    await expect(list.locator("[data-rows] [data-id][data-read]")).to_have_count(1)
    await kind.select_option(label="My orders")
    await page.wait_for_url("**kind=order.progress**")
    await page.get_by_role("link", name="Settings").first.click()
    await page.wait_for_url("**/notifications/preferences/")


async def test_rows_of_the_page_are_replaced_and_expire(alice: BrowserContext, worker: Worker) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    row, notice = {"title": "Order 9: 30 %", "tag": "9"}, {"kind": "shop.notice", "title": "Late", "tag": "late"}
    notify(worker, row, notice, {"title": "Closing", "expires_at": soon})
    page = await open_page(alice, "/notifications/")
    titles = page.locator("notification-inbox [data-rows] .notification-title")
    await expect(titles).to_have_text(["Closing", "Late", "Order 9: 30 %"])
    await page.evaluate("{ const now = Date.now; Date.now = () => now() + 2 * 3_600_000; }")
    # By the server's clock nothing has expired, and its answer would count all of it.
    await page.route("**/notifications/seen/*", lambda route: route.fulfill(json={"unseen": 0}))
    notify(worker, {**row, "title": "Order 9: 60 %"}, {**notice, "title": "Later"})
    await expect(titles).to_have_text(["Later", "Order 9: 60 %"])
    await expect(page.locator("notification-banner .notification-title")).to_have_text(["Later"])
    await expect(page.locator("notification-bell")).to_have_attribute("unread", "2")


async def test_all_read_on_an_older_page_reads_the_newer_ones_as_well(alice: BrowserContext, worker: Worker) -> None:
    ids = publish(worker, "row", 3)
    page = await open_page(alice, f"/notifications/?before={ids[1]}")
    await page.get_by_role("button", name="Mark all as read").click()
    await eventually(lambda: asyncio.to_thread(inbox, worker), lambda inbox: inbox["unread"] == [])


#: Whether nothing has the focus.
LOST = "() => document.activeElement === document.body"


async def test_focus_stays_in_the_list_when_what_had_it_goes(alice: BrowserContext, worker: Worker) -> None:
    publish(worker, "row", 3)
    page = await open_page(alice, "/")
    await page.route("**/notifications/?*", lambda route: route.abort())
    await page.click(BELL)
    again = page.locator("notification-bell [data-retry]")
    await expect(again).to_be_visible()
    await page.unroute("**/notifications/?*")
    await again.press("Enter")
    await expect(page.locator(ROWS)).to_have_count(3)
    assert not await page.evaluate(LOST)
    await page.locator("notification-bell [data-read-all]").press("Enter")
    await expect(page.locator(f"{ROWS}[data-read]")).to_have_count(3)
    await expect(page.locator("notification-bell [data-read-all]")).to_be_focused()
    publish(worker, "row")
    await page.goto("/notifications/")
    await state(page, lambda state: state["readyState"] == 1)
    list = page.locator("notification-inbox")
    group = list.get_by_role("group")
    for name in ("Mark as read", "Archive"):
        await list.get_by_role("checkbox").first.check()
        await group.get_by_role("button", name=name).press("Enter")
        await expect(group).to_be_hidden()
        assert not await page.evaluate(LOST)
    publish(worker, "row")
    await list.get_by_role("button", name="Mark all as read").press("Enter")
    await expect(list.get_by_role("heading", name="Notifications")).to_be_focused()


async def test_long_body_can_be_read_to_its_end(alice: BrowserContext, worker: Worker) -> None:
    notify(worker, {"kind": "shop.notice", "title": "Terms", "body": "A line of the terms.\n" * 30})
    page = await open_page(alice, "/notifications/")
    for place in ("notification-inbox", "notification-banner"):
        body = page.locator(f"{place} .notification-body").first
        assert await body.evaluate("(body) => body.scrollHeight <= body.clientHeight")


#: A platform that notes what it is asked to show. The site has an icon for when there is something new.
PLATFORM = """
window.badges = [];
window.shown = [];
navigator.setAppBadge = async (count) => void badges.push(count);
navigator.clearAppBadge = async () => void badges.push(0);
window.Notification = class {
    static permission = "granted";
    static requestPermission = async () => "granted";
    constructor(title, options) {
        Object.assign(this, { title, ...options });
        shown.push(this);
    }
};
window.hiding = false;
Object.defineProperty(Document.prototype, "visibilityState", { get: () => (hiding ? "hidden" : "visible") });
window.hide = (value) => {
    hiding = value;
    document.dispatchEvent(new Event("visibilitychange"));
};
document.addEventListener("readystatechange", () => document.querySelector("notification-bell")
    ?.setAttribute("favicon", "/static/new.svg"));
"""


async def test_count_shows_in_title_icon_and_badge_of_the_app_until_it_is_seen(
    alice: BrowserContext, worker: Worker
) -> None:
    await alice.add_init_script(PLATFORM)
    page = await open_page(alice)
    title = await page.title()
    icon = page.locator("link[rel=icon]")
    await expect(icon).not_to_have_attribute("href", "/static/new.svg")
    publish(worker, "new", 2)
    await expect(page).to_have_title(f"(2) {title}")
    await expect(icon).to_have_attribute("href", "/static/new.svg")
    await expect(icon).to_have_count(1)
    await page.click(BELL)
    await expect(page).to_have_title(title)
    await expect(icon).not_to_have_attribute("href", "/static/new.svg")
    assert (await page.evaluate("badges"))[-3:] == [1, 2, 0]
    await expect(page.locator(BADGE)).to_have_class("notification-badge notification-quiet")  # seen, and not read


async def test_system_tells_who_looks_elsewhere_and_a_tag_replaces_what_it_told(
    alice: BrowserContext, worker: Worker
) -> None:
    await alice.add_init_script(PLATFORM)
    page = await open_page(alice, "/")
    await page.click(BELL)
    await page.locator("notification-bell [data-settings]").click()
    await page.locator("notification-bell [data-preference=system]").check()
    await page.keyboard.press("Escape")
    await heard(page, seen := notify(worker, {"title": "Looked at"}))
    await page.evaluate("hide(true)")
    order = {"title": "Packed", "body": "Soon", "tag": "order-9", "url": "/orders/?from=system"}
    ids = notify(worker, order, {**order, "title": "Shipped"}, {"title": "Other"})
    await heard(page, seen + ids)
    told = await eventually(lambda: page.evaluate("shown"), lambda shown: len(shown) >= 3)
    assert [(it["title"], it["body"], it["tag"]) for it in told] == [
        ("Packed", "Soon", "order-9"),
        ("Shipped", "Soon", "order-9"),
        ("Other", "", f"notification-{ids[2]}"),
    ]
    await page.evaluate("shown[1].onclick()")
    await page.wait_for_url("**/orders/?from=system")
    await expect(page.locator(BADGE)).to_have_text("2")  # the one clicked is read, the one it replaced is gone


async def test_no_toast_for_what_the_person_looks_at(alice: BrowserContext, worker: Worker) -> None:
    page = await open_page(alice, "/orders/?from=test")
    here = {"title": "Here", "url": "/orders/?from=test"}
    await heard(page, ids := notify(worker, here, {"title": "Elsewhere", "url": "/"}))
    toasts = page.locator(f"{TOAST} .notification-title")
    await expect(toasts).to_have_text(["Elsewhere"])
    await page.click(BELL)
    await heard(page, ids + notify(worker, {"title": "In the open list", "url": "/"}))
    await expect(page.locator(ROWS).first).to_contain_text("In the open list")
    await expect(page.get_by_text("In the open list").locator("visible=true")).to_have_count(1)


async def test_banner_goes_when_its_time_is_over_and_stays_away_once_dismissed(
    alice: BrowserContext, worker: Worker
) -> None:
    page = await open_page(alice, "/")
    soon = (datetime.now(UTC) + timedelta(seconds=4)).isoformat()
    short = {"kind": "shop.notice", "title": "Closed in a moment", "expires_at": soon}
    notify(worker, short, {"kind": "shop.notice", "title": "Closed on Sunday"})
    banners = page.locator("notification-banner .notification-banner .notification-title")
    await expect(banners).to_have_text(["Closed on Sunday", "Closed in a moment"])
    await expect(banners).to_have_text(["Closed on Sunday"])
    await page.locator("notification-banner [data-close]").click()
    await expect(banners).to_have_count(0)
    await expect(page.locator(BADGE)).to_be_hidden()
    await eventually(
        lambda: page.evaluate("document.querySelector('notification-bell').inbox.pending"), lambda n: n == 0
    )
    await page.reload()
    await state(page, lambda state: state["readyState"] == 1)
    await expect(banners).to_have_count(0)


@pytest.mark.parametrize("hidden", [False, True], ids=["looked at", "hidden"])
async def test_what_expired_while_the_page_was_away_is_announced_nowhere(
    alice: BrowserContext, proxy: Proxy, worker: Worker, hidden: bool
) -> None:
    await alice.add_init_script(PLATFORM)
    page = await open_page(alice, "/")
    await page.evaluate("document.querySelector('notification-bell').setAttribute('system', 'on')")
    await alice.set_offline(True)
    proxy.cut()
    await page.evaluate(f"hide({str(hidden).lower()})")
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    notice, other = {"kind": "shop.notice", "title": "Closing"}, {"title": "Sale"}
    ids = notify(worker, {**notice, "expires_at": soon}, {**other, "expires_at": soon}, notice, other)
    await eventually(lambda: asyncio.to_thread(inbox, worker), lambda inbox: inbox["unread"] == ids[:1:-1])
    await alice.set_offline(False)
    await heard(page, ids, within=60)
    await expect(page.locator(BADGE)).to_have_text("2")
    await expect(page.locator("notification-banner .notification-banner")).to_have_count(1)
    if hidden:
        assert [it["title"] for it in await page.evaluate("shown")] == ["Closing", "Sale"]
    else:
        await expect(page.locator(f"{TOAST} .notification-title")).to_have_text(["Sale"])


async def test_banner_of_which_the_inbox_knows_nothing_can_be_dismissed(alice: BrowserContext, worker: Worker) -> None:
    page = await open_page(alice, "/")
    notify(worker, {"kind": "shop.notice", "title": "Closed on Sunday"})
    banner = page.locator("notification-banner .notification-banner")
    await expect(banner).to_have_count(1)
    await page.evaluate("document.querySelector('notification-bell').inbox.items.clear()")
    await banner.locator("[data-close]").click()
    await expect(banner).to_have_count(0)


@pytest.mark.parametrize(
    ("mishap", "within"),
    [
        # Headless pages always count as visible, and such are not frozen: told as the browser would tell it.
        ("document.dispatchEvent(new Event('freeze'))", 1),
        # What hangs says nothing, and is found out.
        ("setTimeout(() => { for (const end = Date.now() + 8000; Date.now() < end; ); })", 5),
    ],
    ids=["frozen", "hanging"],
)
async def test_leader_that_stands_still_hands_over_and_catches_up_when_it_moves_again(
    alice: BrowserContext, proxy: Proxy, worker: Worker, mishap: str, within: float
) -> None:
    leader = await open_page(alice)
    other = await open_page(alice)
    ids = publish(worker, "before")
    for page in (leader, other):
        await heard(page, ids)
    await leader.evaluate(mishap)
    await state(other, lambda state: state["leading"] and state["readyState"] == 1, within=within)
    ids += publish(worker, "meanwhile", 5)
    await heard(other, ids)
    await leader.evaluate("document.dispatchEvent(new Event('resume'))")
    ids += publish(worker, "after")
    for page in (leader, other):
        await heard(page, ids)
    await eventually(streams(proxy), lambda count: count == 1)


#: What sticks out of the window, in the page and in every shadow root, by its class.
STICKS_OUT = """() => {
    const found = [];
    const look = (root) => {
        for (const element of root.querySelectorAll("*")) {
            if (element.shadowRoot) look(element.shadowRoot);
            if (element.closest(".notification-hidden, .visually-hidden") || !element.checkVisibility()) continue;
            const { left, right, width } = element.getBoundingClientRect();
            if (width && (left < -0.5 || right > innerWidth + 0.5)) found.push(element.className || element.localName);
        }
    };
    for (const element of document.querySelectorAll("*")) if (element.localName.startsWith("notification-")) {
        look(element);
        if (element.shadowRoot) look(element.shadowRoot);
    }
    return [found, document.documentElement.scrollWidth];
}"""
MOVES = """() => {
    const roots = [document, ...[...document.querySelectorAll("*")].map((element) => element.shadowRoot)];
    return roots.flatMap((root) => root?.getAnimations() ?? []).length;
}"""


@pytest_asyncio.fixture(params=["en-GB", "de-DE", "ar"], loop_scope="package")
async def phone(
    request: pytest.FixtureRequest, browser: Browser, site: Site, proxy: Proxy
) -> AsyncIterator[BrowserContext]:
    """Alice's phone, which is as narrow as half a small window: what is left of one at 200 %. She wants no motion."""
    context = await browser.new_context(
        base_url=proxy.url, locale=request.param, viewport={"width": 320, "height": 640}, reduced_motion="reduce"
    )
    await context.add_init_script(NOTE)
    await context.add_cookies([{"name": "sessionid", "value": site.sessions["alice"], "url": proxy.url}])
    context.set_default_timeout(15_000)
    yield context
    await context.close()


async def test_nothing_sticks_out_of_a_narrow_window_or_moves(phone: BrowserContext, worker: Worker) -> None:
    long = {"title": "Donaudampfschifffahrtsgesellschaftskapitän" * 2, "body": "/".join("abcdefghijklmnopqrst" * 4)}
    page = await open_page(phone)
    notify(
        worker, {**long, "kind": "shop.notice", "level": "error"}, {**long, "url": "/"}, {**long, "kind": "broadcast"}
    )
    await expect(page.locator(TOAST)).to_have_count(2)
    await expect(page.locator("notification-banner .notification-banner")).to_have_count(1)
    assert await page.evaluate(STICKS_OUT) == [[], 320]
    await open_bell(page, 3)
    await page.locator("notification-bell [data-settings]").click()
    await page.locator(f"{ROWS} [data-action=archive]").last.click()
    await expect(page.locator("notification-bell [data-undo-button]")).to_be_visible()
    assert await page.evaluate(STICKS_OUT) == [[], 320]
    assert await page.evaluate(MOVES) == 0
    await page.goto("/notifications/")
    await expect(page.locator("notification-inbox .notification-rows > li")).to_have_count(2)
    assert await page.evaluate(STICKS_OUT) == [[], 320]
