"""Take the pictures of the documentation anew: ``python -m tests.e2e.screenshots [NAME …]``, into ``docs/images``.

They show the demo shop as it is after ``manage.py demo``, and what its people do then.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright, expect

from tests.conftest import CHROMIUM_ARGUMENTS
from tests.e2e.pages import BELL, TOAST, state
from tests.servers import ROOT, AsgiServer, Site, Worker, program

FOLDER = ROOT / "docs" / "images"
POPULATE = """
from project.shop.demo import populate
from django.contrib.auth.models import User
from django.test import Client
populate()
result = {}
for name in ("alice", "carol"):
    client = Client()
    client.force_login(User.objects.get(username=name))
    result[name] = client.cookies["sessionid"].value
"""
ADVANCE = """
from project.shop.models import Order
order = Order.objects.filter(customer__username="alice", product__name=product).latest("pk")
order.advance()
result = None
"""
ANNOUNCE = """
from notifications import broadcast
result = broadcast(title, body, level=level, kind=kind).pk
"""
ARABIC = """
from django.contrib.auth.models import User
from notifications import notify
alice = User.objects.get(username="alice")
for title, body, level in (
    ("عرض نهاية الأسبوع", "خصم على كل أباريق الشاي حتى مساء الأحد.", "info"),
    ("فاتورتك جاهزة", "يمكنك تنزيلها من صفحة الطلب.", "info"),
    ("وصل طلبك “Notebook”", "نتمنى لك كتابة ممتعة!", "success"),
):
    notify(alice, title, body, level=level, url="/orders/", kind="order.progress")
result = None
"""
CALM = "Promise.all(document.getAnimations().map((animation) => animation.finished.catch(() => {})))"


class Studio:
    """A running demo and a browser before it."""

    def __init__(self, server: AsgiServer, worker: Worker, browser: Browser, sessions: dict[str, str]) -> None:
        self.server, self.worker, self.browser, self.sessions = server, worker, browser, sessions

    @asynccontextmanager
    async def page(
        self, path: str, width: int, height: int, name: str = "alice", **options: Any
    ) -> AsyncIterator[Page]:
        """A page of ``name``, who has a browser of this size."""
        options = {"locale": "en-GB", "color_scheme": "light", **options}
        context = await self.browser.new_context(
            base_url=self.server.url, viewport={"width": width, "height": height}, **options
        )
        await context.add_cookies([{"name": "sessionid", "value": self.sessions[name], "url": self.server.url}])
        page = await context.new_page()
        await page.goto(path)
        await state(page, lambda state: state["readyState"] == 1)
        yield page
        await context.close()

    async def save(self, page: Page, name: str) -> None:
        await page.evaluate(CALM)
        path = FOLDER / f"{name}.png"
        await page.screenshot(path=path)
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1024:.0f} KiB")

    async def open_bell(self, page: Page) -> None:
        await page.click(BELL)
        await expect(page.locator("notification-bell [data-rows] [data-id]").first).to_be_visible()
        await expect(page.locator("notification-bell")).to_have_attribute("unseen", "0")
        await page.mouse.move(0, 0)


async def bell(studio: Studio) -> None:
    async with studio.page("/orders/", 1180, 640) as page:
        await studio.open_bell(page)
        await studio.save(page, "bell")


async def toasts(studio: Studio) -> None:
    async with studio.page("/orders/", 1180, 640) as page:
        studio.worker.run(ADVANCE, product="Lamp")
        studio.worker.run(ADVANCE, product="Teapot")
        await expect(page.locator(TOAST)).to_have_count(2)
        await expect(page.locator("#orders [data-status=delivered]")).to_have_count(2)
        await studio.save(page, "toasts")


async def banner(studio: Studio) -> None:
    async with studio.page("/orders/", 1180, 460) as page:
        body = "The road is closed; orders leave a day later."
        studio.worker.run(ANNOUNCE, kind="shop.notice", level="warning", title="No parcels on Thursday", body=body)
        await expect(page.locator("notification-banner .notification-banner")).to_be_visible()
        await studio.save(page, "banner")
        await page.locator("notification-banner [data-close]").click()


async def inbox(studio: Studio) -> None:
    async with studio.page("/notifications/", 1180, 760) as page:
        boxes = page.locator("notification-inbox .notification-rows input")
        await boxes.nth(1).check()
        await boxes.nth(2).check()
        await page.mouse.move(0, 0)
        await studio.save(page, "inbox")


async def preferences(studio: Studio) -> None:
    async with studio.page("/notifications/preferences/", 1180, 760) as page:
        await studio.save(page, "preferences")


async def phone(studio: Studio) -> None:
    async with studio.page("/orders/", 390, 720, device_scale_factor=1.5) as page:
        await studio.open_bell(page)
        await studio.save(page, "phone")


async def dark(studio: Studio) -> None:
    async with studio.page("/orders/", 1180, 640, color_scheme="dark") as page:
        await studio.open_bell(page)
        await studio.save(page, "dark")


async def arabic(studio: Studio) -> None:
    studio.worker.run(ARABIC)
    async with studio.page("/orders/", 1180, 640, locale="ar") as page:
        await studio.open_bell(page)
        await studio.save(page, "arabic")


PICTURES: dict[str, Callable[[Studio], Awaitable[None]]] = {
    picture.__name__: picture for picture in (bell, toasts, banner, inbox, preferences, phone, dark, arabic)
}


async def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(f"sqlite:///{Path(folder) / 'site.sqlite3'}")
        site.manage("migrate", "--verbosity=0")
        with site.worker() as worker, site.server() as server:
            sessions = worker.run(POPULATE)
            async with async_playwright() as playwright:
                chromium = program("chromium", "chromium-browser", "google-chrome")
                browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
                studio = Studio(server, worker, browser, sessions)
                for name in names or PICTURES:
                    await PICTURES[name](studio)
                await browser.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
