"""The demo as people use it: real Chromium, a real server, one person saves and another one sees it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from tests.servers import AsgiServer, Site, Worker

TRANSPORTS = {"sse": "SSE", "websocket": "WebSocket", "polling": "polling"}

CREATE_ORDERS = """
from django.contrib.auth.models import User
from project.shop.models import Order, Product

mug, _ = Product.objects.get_or_create(name="Mug", price=14, picture="shop/products/mug.svg")
result = [Order.objects.create(customer=User.objects.get(username=name), product=mug).pk for name in names]
"""


class Shop:
    """A running demo site and the windows that people have open on it."""

    def __init__(self, site: Site, server: AsgiServer, worker: Worker, browser: Browser) -> None:
        self.site, self.server, self.worker, self.browser = site, server, worker, browser
        self.complaints: list[str] = []

    def create_order(self, customer: str) -> int:
        return int(self.worker.run(CREATE_ORDERS, names=[customer])[0])

    async def window(self, name: str, path: str, transport: str = "auto") -> Page:
        """Open a browser of its own for ``name``; with a transport chosen as a person would, in the panel."""
        context = await self.browser.new_context(base_url=self.server.url, locale="en-GB")
        context.set_default_timeout(15_000)
        await self.site.log_in(context, name, self.server)
        page = await context.new_page()
        self.watch(page)
        await page.goto(path)
        if transport != "auto":
            await page.get_by_role("radio", name=TRANSPORTS[transport], exact=True).check(force=True)
            await expect(page.locator("#connection-transport")).to_have_text(TRANSPORTS[transport])
            await expect(page.locator("#connection")).to_have_attribute("data-state", "open")
        return page

    def watch(self, page: Page) -> None:
        """Note what went wrong in a page; :attr:`complaints` is empty at the end of each test."""
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)


@pytest_asyncio.fixture(loop_scope="package")
async def shop(site: Site, server: AsgiServer, worker: Worker, browser: Browser) -> AsyncIterator[Shop]:
    shop = Shop(site, server, worker, browser)
    yield shop
    for context in browser.contexts:
        await context.close()
    assert shop.complaints == []


def toasts(page: Page, text: str | re.Pattern[str] = "") -> Locator:
    return page.locator("notification-toasts .notification-toast").filter(has_text=text)


async def save_in_admin(page: Page, order: int, status: str) -> None:
    """Change an order's status in the Django admin, by its form."""
    await page.goto(f"/admin/shop/order/{order}/change/")
    await page.get_by_label("Status").select_option(status)
    await page.get_by_role("button", name="Save", exact=True).click()
    await expect(page.get_by_text("was changed successfully")).to_be_visible()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_order_saved_in_admin_shows_at_once_to_its_customer_alone(shop: Shop, transport: str) -> None:
    order = shop.create_order("alice")
    alice = await shop.window("alice", "/orders/", transport)
    bob = await shop.window("bob", "/orders/", transport)
    root = await shop.window("root", "/admin/")
    # A reloaded page would have forgotten this.
    await alice.evaluate("window.since = 'before'")
    badge = alice.locator("notification-bell .notification-badge")
    await expect(badge).to_have_text("1")  # the order itself

    await save_in_admin(root, order, "shipped")

    await expect(toasts(alice, "“Mug” is on its way to you.")).to_be_visible()
    await expect(badge).to_have_text("2")
    await expect(alice.locator(f"#order-{order} [aria-current=step]")).to_have_text("Shipped")
    assert await alice.evaluate("window.since") == "before"

    # What comes after it reaches Bob as well: had he been sent Alice's, it would be there by now.
    shop.worker.run('from notifications import notify\nnotify("everyone", "Free tea")\nresult = None')
    await expect(toasts(bob, "Free tea")).to_be_visible()
    await expect(toasts(bob)).to_have_count(1)
    await expect(bob.locator("notification-bell .notification-badge")).to_have_text("1")
    assert "Mug" not in await bob.locator("notification-toasts").inner_text()


async def test_desk_sees_an_order_come_in_and_customer_sees_it_go(shop: Shop) -> None:
    shop.create_order("bob")
    desk = await shop.window("root", "/desk/")
    alice = await shop.window("alice", "/orders/")
    await expect(alice.get_by_text("Nothing ordered yet")).to_be_visible()
    await expect(alice.locator("#connection")).to_have_attribute("data-state", "open")
    await expect(desk.locator("#connection")).to_have_attribute("data-state", "open")

    await alice.get_by_role("button", name="Order: Mug").click()
    await expect(alice.locator(".order [aria-current=step]")).to_have_text("Placed")

    ticket = desk.locator(".ticket", has_text="alice")
    await expect(ticket).to_be_visible()
    await ticket.get_by_role("button", name="Pack").click()
    await expect(desk.locator(".column", has_text="Packed").locator(".ticket", has_text="alice")).to_be_visible()
    await expect(alice.locator(".order [aria-current=step]")).to_have_text("Packed")
    await expect(toasts(alice, "“Mug” is packed.")).to_be_visible()


async def test_announcement_from_desk_shows_to_everybody(shop: Shop) -> None:
    desk = await shop.window("root", "/desk/")
    people = [await shop.window(name, "/orders/", "sse") for name in ("alice", "bob")]
    await desk.get_by_label("Title").fill("Free tea until Friday")
    await desk.get_by_role("button", name="Send to all of them").click()
    await expect(desk.get_by_role("status").get_by_text("Sent: Free tea until Friday")).to_be_visible()
    for page in people:
        await expect(toasts(page, "Free tea until Friday")).to_be_visible()


async def test_transport_chosen_once_stays_for_this_browser(shop: Shop) -> None:
    alice = await shop.window("alice", "/orders/", "websocket")
    await alice.goto("/")
    await expect(alice.get_by_role("radio", name="WebSocket")).to_be_checked()
    await expect(alice.locator("#connection-transport")).to_have_text("WebSocket")
    await expect(alice.locator("#connection")).to_have_attribute("data-state", "open")


async def test_page_follows_after_the_server_was_away(shop: Shop) -> None:
    order = shop.create_order("alice")
    alice = await shop.window("alice", f"/orders/{order}/", "sse")
    shop.server.terminate()
    await expect(alice.locator("#connection")).to_have_attribute("data-state", "waiting")
    shop.worker.run(
        "from project.shop.models import Order\nresult = Order.objects.get(pk=order).advance()", order=order
    )
    shop.server.start()
    await expect(alice.locator("#order [aria-current=step]")).to_have_text("Packed", timeout=30_000)
    await expect(alice.locator("#connection")).to_have_attribute("data-state", "open")
    # The browser itself complains of the connection that was refused meanwhile.
    shop.complaints = [text for text in shop.complaints if "net::ERR_" not in text]


async def test_order_that_does_not_get_through_says_so(shop: Shop) -> None:
    shop.create_order("bob")  # something is on the shelf
    alice = await shop.window("alice", "/orders/")
    shop.server.terminate()
    await alice.get_by_role("button", name="Order: Mug").click()
    await expect(alice.get_by_text("That did not get through.")).to_be_visible()
    shop.server.start()
    await alice.get_by_role("button", name="Order: Mug").click()
    await expect(alice.locator(".order [aria-current=step]")).to_have_text("Placed")
    await expect(alice.get_by_text("That did not get through.")).to_have_count(0)
    shop.complaints = [text for text in shop.complaints if "net::ERR_" not in text]
