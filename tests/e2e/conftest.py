"""A demo site on SQLite and the in-memory layer, served behind a proxy, and Alice's browser on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.async_api import Browser, BrowserContext, expect

from tests.conftest import MakeSite
from tests.e2e.pages import NOTE
from tests.e2e.proxy import Proxy
from tests.servers import AsgiServer, Site, Worker

# A machine that is busy with other things is slow, and not at fault.
expect.set_options(timeout=15_000)


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
