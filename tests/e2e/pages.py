"""What tests of pages in a browser have in common: publishing from another process, opening, waiting, looking."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from playwright.async_api import BrowserContext, Page

from tests.e2e.proxy import Proxy
from tests.servers import Worker

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
    status: sorted((n.pk for part in box.parts(status) for n in part), reverse=True)
    for status in ("unread", "all", "archived")
}
"""
#: Notes in each page what its document is told, and when the state of its connection changed (in ms).
NOTE = """
window.heard = [];
window.states = [];
document.addEventListener("notifications:notification", ({ detail }) => heard.push(detail.id));
document.addEventListener("notifications:state", ({ detail }) => states.push({ at: performance.now(), ...detail }));
"""
ROWS = """() => [...document.querySelector("notification-bell").shadowRoot.querySelectorAll("[data-rows] [data-id]")]
    .map((row) => Number(row.dataset.id))"""
OLDER = """() => document.querySelector("notification-bell").shadowRoot.querySelector("[data-more]:not([hidden])")
    ?.click()"""
BELL = "notification-bell button[part=button]"
BADGE = "notification-bell .notification-badge"
TOAST = "notification-toasts .notification-toast"


def publish(worker: Worker, title: str, count: int = 1, name: str = "alice") -> list[int]:
    """Notify ``name`` from another process; return the ids."""
    ids: list[int] = worker.run(PUBLISH, name=name, title=title, count=count)
    return ids


def inbox(worker: Worker, name: str = "alice") -> dict[str, list[int]]:
    """Return what the database says is in the inbox of ``name``: ids by status, newest first."""
    ids: dict[str, list[int]] = worker.run(INBOX, name=name)
    return ids


async def open_page(context: BrowserContext, path: str = "/orders/") -> Page:
    """Open a page and wait for it to be connected."""
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
    """Return what ``read`` returns as soon as it is as ``condition`` says."""
    value: Any = None
    try:
        async with asyncio.timeout(within):
            while not condition(value := await read()):  # noqa: ASYNC110 – a page can only be asked
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"still {value!r} after {within:g} s") from None
    return value


def streams(proxy: Proxy) -> Callable[[], Awaitable[int]]:
    """Return a function that counts the proxy's streams, for :func:`eventually`."""

    async def count() -> int:
        return proxy.streams()

    return count


async def heard(page: Page, *topics: list[int], within: float = 30.0) -> None:
    """Wait for the page to have heard of these, and see that it heard of nothing else, nothing twice, each in order.

    What belongs to different topics has no order among each other.
    """
    expected = sum(map(len, topics))
    await eventually(lambda: page.evaluate("heard.length"), lambda count: count >= expected, within)
    known = await page.evaluate("heard")
    for topic in topics:
        members = set(topic)
        assert [id for id in known if id in members] == topic
    assert sorted(known) == sorted(id for topic in topics for id in topic)


async def listed(page: Page, ids: list[int], status: str = "all") -> None:
    """Open the bell's list, to its very end, and see that it shows exactly these, newest first."""
    tab = page.locator(f"notification-bell [role=tab][data-status={status}]")
    if not await tab.is_visible():
        await page.click(BELL)
    await tab.click()

    async def rows() -> Any:
        await page.evaluate(OLDER)
        return await page.evaluate(ROWS)

    await eventually(rows, lambda shown: shown == sorted(ids, reverse=True))
    await page.keyboard.press("Escape")
