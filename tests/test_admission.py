"""Requests for the stream go through the site's own middleware, in one hop to a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.core.asgi import get_asgi_application
from django.core.signals import request_finished, request_started
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import Client as Browser
from django.urls import path, resolve

from notifications import admission, turns, views
from notifications.admission import Admission
from notifications.asgi import wrap
from notifications.stream import current_hub
from tests.clients import InProcess
from tests.urls import urlpatterns as site_urls

STREAM = "/notifications/stream/"
calls: list[tuple[str, bool]] = []


def in_loop_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def ordinary(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    def middleware(request: HttpRequest) -> Any:
        calls.append(("ordinary", in_loop_thread()))
        response = get_response(request)
        response["X-Ordinary"] = "yes"
        response.set_cookie("seen", "1")
        return response

    return middleware


class Asynchronous:
    """A middleware that knows no other way."""

    sync_capable, async_capable = False, True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        assert iscoroutinefunction(get_response)
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> Any:
        calls.append(("asynchronous", in_loop_thread()))
        response = await self.get_response(request)
        response["X-Asynchronous"] = "yes"
        return response


def failing(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    def middleware(request: HttpRequest) -> Any:
        raise RuntimeError("a middleware of the site's failed")

    return middleware


def maintenance(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    return lambda request: HttpResponse("back soon", status=503)


release = threading.Event()


def stuck(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    def middleware(request: HttpRequest) -> Any:
        calls.append(("stuck", in_loop_thread()))
        release.wait(20)
        return get_response(request)

    return middleware


async def mine(request: HttpRequest) -> HttpResponse:
    return HttpResponse("mine")


urlpatterns = [path("mine/stream/", mine), path("other/", views.stream), *site_urls]


@pytest.fixture
async def alice(serving: None) -> AsyncIterator[dict[str, str]]:
    browser = Browser()
    user = await User.objects.acreate(username="alice")
    await sync_to_async(browser.force_login)(user)
    calls.clear()
    yield {"cookie": f"sessionid={browser.cookies['sessionid'].value}"}


@pytest.fixture
def middleware(settings: Any) -> Callable[..., Any]:
    def made(*names: str) -> Any:
        """Return an application with these of the above after the site's own."""
        settings.MIDDLEWARE = [*django_settings.MIDDLEWARE, *(f"{__name__}.{name}" for name in names)]
        settings.ROOT_URLCONF = __name__
        return wrap(get_asgi_application())

    return made


def scope(path: str, **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": [], **more}


def test_only_the_stream_is_taken(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    assert Admission.takes(scope(STREAM))
    assert Admission.takes(scope(f"/prefix{STREAM}", root_path="/prefix"))
    assert not Admission.takes(scope(STREAM, method="POST"))
    for other in ("/notifications/", "/notifications/events/", "/mine/stream/", "/nowhere/stream/", "/other/"):
        assert not Admission.takes(scope(other))


def test_path_of_the_stream_is_looked_up_once(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    admission._is_stream.cache_clear()
    with mock.patch.object(admission, "resolve", side_effect=resolve) as resolved:
        assert Admission.takes(scope(STREAM)) and Admission.takes(scope(STREAM))
        assert not Admission.takes(scope("/mine/stream/")) and not Admission.takes(scope("/mine/stream/"))
        assert resolved.call_count == 2
        settings.ROOT_URLCONF = "tests.without_urls"
        with pytest.raises(ModuleNotFoundError):
            Admission.takes(scope(STREAM))


async def test_view_that_took_the_place_of_the_stream_answers(alice: dict[str, str], middleware: Any) -> None:
    with mock.patch.object(admission, "_is_stream", return_value=True):  # It was, when it was looked up.
        async with InProcess(middleware("ordinary")).get("/mine/stream/", alice) as response:
            assert (response.status, await anext(response.chunks)) == (200, b"mine")
    assert calls == [("ordinary", False)]


def test_settings_are_not_read_while_the_application_is_made(settings: Any) -> None:
    settings.NOTIFICATIONS = ["not a dict"]  # It is the system check's to say so.
    wrap(get_asgi_application())


async def test_every_middleware_has_its_say_in_one_thread(alice: dict[str, str], middleware: Any) -> None:
    async with InProcess(middleware("ordinary")).get(STREAM, alice) as response:
        assert (response.status, response.headers["x-ordinary"]) == (200, "yes")
        assert response.headers["set-cookie"].startswith("seen=1")
        assert await anext(response.chunks)
    assert calls == [("ordinary", False)]


async def test_middleware_that_is_only_asynchronous_runs_too(alice: dict[str, str], middleware: Any) -> None:
    async with InProcess(middleware("Asynchronous", "ordinary")).get(STREAM, alice) as response:
        assert (response.status, response.headers["x-asynchronous"], response.headers["x-ordinary"]) == (
            200,
            "yes",
            "yes",
        )
        assert await anext(response.chunks)
    assert [name for name, _ in calls] == ["asynchronous", "ordinary"]


async def test_middleware_that_fails_is_an_error_of_the_server(
    alice: dict[str, str], middleware: Any, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DEBUG_PROPAGATE_EXCEPTIONS = False
    async with InProcess(middleware("failing")).get(STREAM, alice) as response:
        assert response.status == 500
    assert "a middleware of the site's failed" in caplog.text


async def test_middleware_that_answers_itself_is_heard(alice: dict[str, str], middleware: Any) -> None:
    async with InProcess(middleware("maintenance")).get(STREAM, alice) as response:
        assert (response.status, await response.text()) == (503, "back soon")


async def test_request_begins_and_ends_for_django(alice: dict[str, str], middleware: Any) -> None:
    told: list[str] = []

    def started(**named: Any) -> None:
        told.append("started")

    def finished(**named: Any) -> None:
        told.append("finished")

    request_started.connect(started)
    request_finished.connect(finished)
    try:
        async with InProcess(middleware()).get(STREAM, alice) as response:
            assert await anext(response.chunks)
            assert told == ["started", "finished"]  # While the stream is open.
    finally:
        request_started.disconnect(started)
        request_finished.disconnect(finished)


async def test_other_requests_go_the_ordinary_way(alice: dict[str, str], middleware: Any) -> None:
    application = InProcess(middleware())
    async with application.get("/mine/stream/", alice) as response:
        assert await response.text() == "mine"
    async with application.get("/other/", alice) as response:  # The same view, elsewhere: still a stream.
        assert response.headers["content-type"].startswith("text/event-stream")
        assert await anext(response.chunks)


async def test_user_whom_the_site_tells_in_its_own_way(alice: dict[str, str], middleware: Any, settings: Any) -> None:
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.OwnBackend"]
    browser = Browser()
    user = await User.objects.acreate(username="bob")
    await sync_to_async(browser.force_login)(user, backend=f"{__name__}.OwnBackend")
    headers = {"cookie": f"sessionid={browser.cookies['sessionid'].value}"}
    async with InProcess(middleware()).get(STREAM, headers) as response:
        assert response.status == 200
        assert await anext(response.chunks)
    assert not any(connection.in_atomic_block for connection in connections.all(initialized_only=True))


class OwnBackend:
    """A backend that finds users in a way of its own."""

    def get_user(self, pk: Any) -> User | None:
        return User.objects.filter(pk=pk).first()


async def test_middleware_that_is_stuck_holds_nobody_up_for_long(
    alice: dict[str, str], middleware: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "SOON", 0.05)
    monkeypatch.setattr(admission, "PATIENCE", 0.2)
    settings.NOTIFICATIONS = {"REQUEST_THREADS": 1}
    release.clear()
    application = middleware("stuck")
    try:
        for _ in range(3):
            async with asyncio.timeout(5), InProcess(application).get(STREAM, alice) as response:
                assert response.status == 503
                assert int(response.headers["retry-after"]) > 0
                assert b"could not be opened" in b"".join([chunk async for chunk in response.chunks])
        assert calls == [("stuck", False)]  # The others needed no thread in the end.
    finally:
        release.set()
    async with asyncio.timeout(5), InProcess(application).get(STREAM, alice) as response:
        assert response.status == 200
        assert await anext(response.chunks)


@pytest.fixture
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "AT_ONCE", 1)
    monkeypatch.setattr(turns, "LEASE", 60.0)
    monkeypatch.setattr(turns, "PATIENCE", 60.0)


async def test_turn_ends_when_the_stream_is_open(alice: dict[str, str], middleware: Any, one_turn: None) -> None:
    application = InProcess(middleware())
    async with AsyncExitStack() as streams, asyncio.timeout(10):
        for _ in range(3):
            response = await streams.enter_async_context(application.get(STREAM, alice))
            assert await anext(response.chunks)


@pytest.mark.parametrize(
    ("name", "cookie", "status"),
    [("ordinary", None, 401), ("maintenance", None, 503), ("failing", None, 500), ("ordinary", "sessionid=gone", 401)],
)
async def test_turn_ends_when_there_is_no_stream(
    alice: dict[str, str], middleware: Any, settings: Any, one_turn: None, name: str, cookie: str | None, status: int
) -> None:
    settings.DEBUG_PROPAGATE_EXCEPTIONS = False
    # The hub, and so its turns, are those of the loop, whatever application asks.
    application, refusing = InProcess(middleware()), InProcess(middleware(name))
    async with refusing.get(STREAM, {"cookie": cookie} if cookie else {}) as response:
        assert response.status == status
    async with asyncio.timeout(10), application.get(STREAM, alice) as response:
        assert response.status == 200
        assert await anext(response.chunks)


async def test_turn_ends_when_the_client_goes_first(
    alice: dict[str, str], middleware: Any, monkeypatch: pytest.MonkeyPatch, one_turn: None
) -> None:
    monkeypatch.setattr(admission, "SOON", 0.05)
    release.clear()
    try:
        application, hanging = InProcess(middleware()), InProcess(middleware("stuck"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), hanging.get(STREAM, alice):
                pass
        async with asyncio.timeout(10), application.get(STREAM, alice) as response:
            assert response.status == 200
            assert await anext(response.chunks)
    finally:
        release.set()


async def test_full_process_keeps_nobody_in_line(
    alice: dict[str, str], middleware: Any, settings: Any, one_turn: None
) -> None:
    application = InProcess(middleware())
    async with application.get(STREAM, alice) as response:
        assert await anext(response.chunks)
        settings.NOTIFICATIONS = {"STREAMS_PER_PROCESS": 1}
        with await current_hub().turns.take():
            async with asyncio.timeout(10), application.get(STREAM, alice) as refused:
                assert refused.status == 503
