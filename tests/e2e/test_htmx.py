"""The htmx recipe of ``docs/client.md``, as it stands there, under the demo's Content-Security-Policy."""

from __future__ import annotations

import re
from pathlib import Path

import django_htmx
import pytest
from playwright.async_api import BrowserContext, Route, expect

from tests.e2e.pages import heard, open_page, publish, state
from tests.e2e.proxy import Proxy
from tests.servers import ROOT, AsgiServer, Worker

HTMX = Path(django_htmx.__file__).parent / "static" / "django_htmx"
CREATE_ORDER = """
from django.contrib.auth.models import User
from project.shop.models import Order, Product
mug, _ = Product.objects.get_or_create(name="Mug", price=14, picture="shop/products/mug.svg")
result = Order.objects.create(customer=User.objects.get(username="alice"), product=mug).pk
"""


def recipe() -> tuple[str, str]:
    """Return what the documentation puts into the page's head, and the section's opening tag."""
    text = (ROOT / "docs" / "client.md").read_text().partition("## htmx")[2]
    head, section = re.findall(r"```html\n(.*?)```", text, re.DOTALL)[0].split("\n\n")
    return head, section.strip()


@pytest.mark.parametrize("version", [2, 4])
async def test_page_follows_by_htmx_alone(
    alice: BrowserContext, proxy: Proxy, server: AsgiServer, worker: Worker, version: int
) -> None:
    head, section = recipe()

    async def with_htmx(route: Route) -> None:
        response = await route.fetch()
        html = await response.text()
        html = re.sub(r'<script type="module" src="[^"]*shop\.js"></script>', head, html)
        html = html.replace('<div id="orders" data-live>', section)
        await route.fulfill(response=response, body=html)

    await alice.route("**/orders/", with_htmx)
    await alice.route("**/htmx.min.js", lambda route: route.fulfill(path=HTMX / f"htmx-{version}.min.js"))
    page = await open_page(alice)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    await page.reload()
    await state(page, lambda state: state["readyState"] == 1)
    assert await page.evaluate("window.htmx.version")

    order = worker.run(CREATE_ORDER)
    await expect(page.locator(f"#order-{order} [aria-current=step]")).to_have_text("Placed")
    worker.run("from project.shop.models import Order\nOrder.objects.get(pk=pk).advance()\nresult = None", pk=order)
    await expect(page.locator(f"#order-{order} [aria-current=step]")).to_have_text("Packed")

    # What swaps the content leaves the bell and its stream where they are.
    ids = await page.evaluate("heard")
    await heard(page, ids + publish(worker, "and on"))
    assert proxy.streams() == 1
    assert complaints == []
