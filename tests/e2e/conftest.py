"""One browser for all these tests, one demo site for each module; Alice and Bob are new in each test.

The site is on SQLite and the in-memory layer, and served behind a proxy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from tests.conftest import CHROMIUM_ARGUMENTS, copy_sqlite
from tests.e2e.pages import NOTE
from tests.e2e.proxy import Proxy
from tests.servers import AsgiServer, Site, Worker

# A machine that is busy with other things is slow, and not at fault.
expect.set_options(timeout=15_000)

#: Whoever was called so before keeps what they had, under another name.
RENEW = """
from django.contrib.auth.models import User
from django.test import Client
User.objects.filter(username=name).update(username=f"former customer {age}")
user = User.objects.create(username=name)
client = Client()
client.force_login(user)
result = [user.pk, client.cookies["sessionid"].value]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The browser belongs to a loop; who shares the one shares the other.
    for item in items:
        if item.path.parent == Path(__file__).parent and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="package"), append=False)


@dataclass
class House:
    """A site that runs while the tests of a module come and go."""

    site: Site
    worker: Worker
    server: AsgiServer
    guests: int = 0

    def renew(self, name: str) -> None:
        """Give ``name`` to somebody new, who has no notifications, preferences or orders."""
        self.guests += 1
        pk, session = self.worker.run(RENEW, name=name, age=self.guests)
        self.site.users[name], self.site.sessions[name] = pk, session


@pytest.fixture(scope="module")
def house(site_template: Callable[[str, str], Site], tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    template = site_template("sqlite", "project.settings")
    url = f"sqlite:///{tmp_path_factory.mktemp('house') / 'site.sqlite3'}"
    copy_sqlite(template.database_url.removeprefix("sqlite:///"), url.removeprefix("sqlite:///"))
    site = template.copy(url)
    with site.worker() as worker, site.server() as server:
        yield House(site, worker, server)


@pytest.fixture
def site(house: House) -> Site:
    for name in ("alice", "bob"):
        house.renew(name)
    return house.site


@pytest.fixture
def worker(site: Site, house: House) -> Worker:
    return house.worker


@pytest.fixture
def server(site: Site, house: House) -> Iterator[AsgiServer]:
    """The server, which a test may stop. What it wrote meanwhile is shown with a test that fails."""
    before = len(house.server.log)
    yield house.server
    print(house.server.log[before:][-8000:])
    if not house.server.running:
        house.server.start()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def chromium_process(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="package")
async def browser(chromium_process: Browser) -> AsyncIterator[Browser]:
    """The browser; contexts that a test leaves open are closed, and nothing else outlives it."""
    yield chromium_process
    for context in chromium_process.contexts:
        await context.close()


@pytest_asyncio.fixture(loop_scope="package")
async def proxy(server: AsgiServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as proxy:
        yield proxy


@pytest_asyncio.fixture(loop_scope="package")
async def alice(browser: Browser, site: Site, proxy: Proxy) -> AsyncIterator[BrowserContext]:
    """Alice's browser, which sees the site through the proxy."""
    context = await browser.new_context(base_url=proxy.url, locale="en-GB")
    await context.add_init_script(NOTE)
    await context.add_cookies([{"name": "sessionid", "value": site.sessions["alice"], "url": proxy.url}])
    context.set_default_timeout(15_000)
    yield context
    await context.close()
