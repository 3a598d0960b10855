"""A strict Content-Security-Policy never complains, and what people write stays text, whatever they write."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import BrowserContext, Page, expect

from tests.e2e.pages import BELL, heard, inbox, open_page
from tests.e2e.proxy import Proxy
from tests.servers import Site, Worker

#: As rows that somebody wrote past notify(), which refuses such links.
HOSTILE = """
from django.contrib.auth.models import User
from notifications import log
from notifications.envelope import dumps
from notifications.models import Level, Notification
from notifications.publishing import notification_payload
topic = f"user:{User.objects.get(username='alice').pk}"
text = '<script>alert(1)</script><img src=x onerror=alert(1)>"><svg onload=alert(1)>'
links = ["javascript:alert(1)", " JaVaScRiPt:alert(1)", "data:text/html,<script>alert(1)</script>", "//evil.example/"]
result = []
for kind in (text[:40], "shop.notice", "order.progress", "javascript:alert(1)"):
    for url in links:
        row = Notification.objects.create(
            topic=topic, title=text, body=text, kind=kind, url=url, tag=kind[:25] + url[:25], data={"order": text}
        )
        log.append([(topic, "notification", dumps(notification_payload(row)))])
        result.append(row.pk)
"""
#: Before anything of the page.
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
    violations.push([event.violatedDirective, event.blockedURI, event.sourceFile, event.lineNumber].join(" ")));
"""
#: Where a script may come to hide: attributes that are code or addresses, elements that are not text.
PLANTED = """() => {
    const found = [];
    const look = (root) => {
        for (const element of root.querySelectorAll("*")) {
            if (element.matches("img[src='x'], svg[onload], script:not([src])")) found.push(element.outerHTML);
            for (const { name, value } of element.attributes) {
                const address = ["href", "src", "action", "formaction"].includes(name);
                if (name.startsWith("on") || (address && /^\\s*(javascript|data):|evil/i.test(value)))
                    found.push(`${name}=${value}`);
            }
            if (element.shadowRoot) look(element.shadowRoot);
            if (element instanceof HTMLTemplateElement) look(element.content);
        }
    };
    look(document);
    return found;
}"""


@pytest_asyncio.fixture(loop_scope="package")
async def watched(alice: BrowserContext) -> AsyncIterator[list[str]]:
    """What went wrong in any of Alice's pages: reports of the policy, complaints of the console, dialogs."""
    complaints: list[str] = []
    await alice.add_init_script(WATCH)

    def watch(page: Page) -> None:
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))

    alice.on("page", watch)
    yield complaints
    assert complaints == []


async def look(page: Page) -> None:
    assert await page.evaluate("violations") == []
    assert await page.evaluate(PLANTED) == []


async def test_hostile_texts_and_links_stay_text_everywhere(
    alice: BrowserContext, watched: list[str], worker: Worker
) -> None:
    page = await open_page(alice, "/")
    other = await open_page(alice, "/notifications/")
    ids = worker.run(HOSTILE)
    for one in (page, other):
        await heard(one, ids)
    script = "<script>alert(1)</script>"

    # Live: toast (in the other tab), banners, the bell's list, the inbox page.
    await expect(page.locator("notification-banner .notification-banner")).to_have_count(4)
    await look(page)
    await page.bring_to_front()
    await page.click(BELL)
    rows = page.locator("notification-bell [data-rows] [data-id]")
    await expect(rows).to_have_count(len(ids))
    await expect(rows.first).to_contain_text(script)
    await expect(page.locator("notification-bell [data-rows] a[href]")).to_have_count(0)
    await look(page)
    await expect(other.locator("notification-inbox .notification-rows > li")).to_have_count(len(ids))
    await look(other)

    # Rendered by the server.
    for path in ("/orders/", "/notifications/", f"/notifications/?kind={script}", "/notifications/preferences/"):
        await page.goto(path)
        await page.wait_for_function("() => document.querySelector('notification-bell')?.client?.readyState === 1")
        await look(page)
    await expect(page.locator("notification-banner .notification-banner").first).to_contain_text(script)
    await expect(page.locator("notification-banner a[href]")).to_have_count(0)
    assert inbox(worker)["all"] == ids[::-1]


async def test_one_toast_of_hostile_text_is_text(alice: BrowserContext, watched: list[str], worker: Worker) -> None:
    page = await open_page(alice, "/")
    worker.run(HOSTILE.replace("in links", "in links[:1]").replace('"shop.notice", ', ""))
    toasts = page.locator("notification-toasts .notification-toast")
    await expect(toasts).to_have_count(3)
    await expect(toasts.first).to_contain_text("<script>alert(1)</script>")
    await expect(toasts.locator("a[href]")).to_have_count(0)
    await look(page)


async def test_no_page_of_the_demo_breaks_its_policy(
    alice: BrowserContext, watched: list[str], site: Site, proxy: Proxy, worker: Worker
) -> None:
    await alice.add_cookies([{"name": "sessionid", "value": site.sessions["root"], "url": proxy.url}])
    worker.run("from project.shop.demo import populate\npopulate()\nresult = None")
    pages = ["/", "/orders/", "/orders/1/", "/desk/", "/notifications/", "/notifications/preferences/"]
    pages += ["/admin/", "/admin/notifications/broadcast/", "/admin/notifications/broadcast/add/"]
    page = await alice.new_page()
    for path in pages:
        response = await page.goto(path)
        assert response is not None and response.ok
        assert response.headers["content-security-policy"].startswith("default-src 'self'; ")
        await page.wait_for_function("() => document.querySelector('notification-bell')?.client?.readyState === 1")
        await page.locator("notification-bell button[part=button]").click()
        await expect(page.locator("notification-bell [data-popover]")).to_be_visible()
        await look(page)
    publisher = "from notifications import notify\nnotify('everyone', 'Hello')\nresult = None"
    worker.run(publisher)
    await expect(page.locator("notification-bell [data-rows]").get_by_text("Hello")).to_be_visible()
    await look(page)
