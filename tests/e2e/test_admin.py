"""Composing a broadcast in a real browser: what its script shows, and that the buttons do what they say."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.e2e.conftest import House

ADD = "/admin/notifications/broadcast/add/"
LONG = """
from django.contrib.auth.models import User
from notifications import broadcast, notify
from notifications.inbox import mark_read

sam = User.objects.get(username="sam")
broadcast(title, audience=[sam])
mark_read(sam, [notify(sam, title).pk])
"""


@pytest_asyncio.fixture(loop_scope="package")
async def page(house: House, browser: Browser) -> AsyncIterator[Page]:
    """The compose form, open before somebody who may send."""
    complaints: list[str] = []
    context = await browser.new_context(base_url=house.server.url, locale="en-GB")
    context.set_default_timeout(15_000)
    await house.site.log_in(context, "root", house.server)
    page = await context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(ADD)
    yield page
    await context.close()
    assert complaints == []


async def test_compose_shows_only_the_fields_of_the_audience(page: Page) -> None:
    group, users = page.locator(".field-group"), page.locator(".field-users")
    await expect(group).to_be_hidden()
    await expect(users).to_be_hidden()
    await page.get_by_label("a group").check()
    await expect(group).to_be_visible()
    await page.get_by_label("chosen users").check()
    await expect(group).to_be_hidden()
    await expect(users).to_be_visible()


async def test_compose_previews_text_as_text(page: Page) -> None:
    await page.get_by_label("Title").fill("<b>Sale</b>")
    await page.get_by_label("success").check()
    card = page.locator(".broadcast-card")
    await expect(card.locator("strong")).to_have_text("<b>Sale</b>")
    await expect(card).to_have_attribute("data-level", "success")


async def test_compose_offers_to_schedule_when_a_time_is_given(page: Page) -> None:
    schedule, send = page.locator("[name=_schedule]"), page.locator("[name=_send]")
    await expect(schedule).to_be_hidden()
    await page.locator("#id_scheduled_at_0").fill("2099-01-01")
    await expect(schedule).to_be_visible()
    await expect(schedule).to_have_class("default")
    await expect(send).not_to_have_class("default")


async def test_send_straight_after_typing(page: Page) -> None:
    # The click takes the focus from the field, which changes the form while the button is down.
    await page.get_by_label("Title").fill("Sale")
    await page.locator("[name=_send]").click()
    await expect(page.locator(".broadcast-size")).to_have_text("This reaches 5 people.")
    await page.get_by_role("button", name="Send to 5 people").click()
    await expect(page.get_by_text("“Sale” was sent to 5 people.")).to_be_visible()
    await expect(page.locator("notification-bell")).to_contain_text("1")


async def test_send_to_a_person_found_by_typing(page: Page) -> None:
    await page.get_by_label("Title").fill("For Alice")
    await page.get_by_label("chosen users").check()
    await page.locator(".field-users .select2-selection").click()
    await page.keyboard.type("ali")
    await page.get_by_role("option", name="alice").click()
    await page.locator("[name=_send]").click()
    await page.get_by_role("button", name="Send to 1 person").click()
    await expect(page.get_by_text("“For Alice” was sent to 1 person.")).to_be_visible()


async def wide(page: Page) -> int:
    """Return by how many pixels the page is wider than its window, or a part of it than that part's place."""
    return int(
        await page.evaluate(
            """() => Math.max(...["html", "#main", ".content"].map((part) => {
              const element = document.querySelector(part);
              return element.scrollWidth - element.clientWidth;
            }))"""
        )
    )


async def test_title_without_spaces_fits_every_page(page: Page) -> None:
    await page.get_by_label("Title").fill("W" * 200)
    await page.locator("[name=_send]").click()
    await expect(page.locator(".broadcast-size")).to_be_visible()
    assert await wide(page) == 0
    await page.get_by_role("link", name="Not yet").click()
    await expect(page.locator("[name=_send]")).to_be_visible()
    assert await wide(page) == 0
    change = page.url
    await page.get_by_role("link", name="Delete").click()
    await expect(page.get_by_text("Are you sure")).to_be_visible()
    assert await wide(page) == 0
    await page.goto(change)
    await page.locator("[name=_send]").click()
    await page.get_by_role("button", name="Send to").click()
    await expect(page.get_by_text("What became of it")).to_be_visible()
    assert await wide(page) == 0
    await page.get_by_role("link", name="Recall…").click()
    await expect(page.get_by_role("button", name="Recall it")).to_be_visible()
    assert await wide(page) == 0
    await page.get_by_role("button", name="Recall it").click()
    await expect(page.get_by_text("was recalled.")).to_be_visible()
    assert await wide(page) == 0


@pytest.mark.parametrize("model", ["broadcast", "notification", "receipt"])
async def test_title_without_spaces_leaves_room_for_the_other_columns(page: Page, house: House, model: str) -> None:
    house.worker.run(LONG, title="W" * 200)
    await page.goto(f"/admin/notifications/{model}/")
    await expect(page.locator("#result_list tbody tr").first).to_contain_text("WWW…")
    last = page.locator("#result_list tbody tr").first.locator("td, th").last
    box = await last.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= page.viewport_size["width"]  # type: ignore[index]
