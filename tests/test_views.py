"""The stream's and the polling view: who is let in, with which headers, and what a client is told that is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.contrib.auth.models import User
from django.db import connections
from django.test import AsyncClient, Client as Browser, RequestFactory
from django.urls import reverse

from notifications import notify, stream, views
from notifications.access import user_key
from notifications.hub import AccessUnknown, HubFull, NotAuthorized
from tests.asgi import application, django_application
from tests.clients import Call, InProcess, Refused, Response, connect
from tests.fakes import eventually
from tests.reference import Dispatched, EventStreamParser

STREAM = "/notifications/stream/"
EVENTS = "/notifications/events/"


@pytest.fixture
async def browser(serving: None) -> AsyncIterator[Browser]:
    browser = Browser()
    user = await User.objects.acreate(username="alice")
    await sync_to_async(browser.force_login)(user)
    yield browser


def cookie(browser: Browser) -> dict[str, str]:
    return {"cookie": f"sessionid={browser.cookies['sessionid'].value}"}


async def asked(path: str, headers: dict[str, str], application: Any = application) -> tuple[Response, str]:
    """Return an answer that ends."""
    async with InProcess(application).get(path, headers) as response:
        return response, await response.text()


async def first_event(response: Response) -> Dispatched:
    return next(EventStreamParser().feed(await anext(response.chunks)))


# --- The stream


async def test_stream_has_the_headers_of_one(browser: Browser) -> None:
    async with InProcess(application).get(STREAM, cookie(browser)) as response:
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["content-encoding"] == "identity"
        assert response.headers["cache-control"] == "private, no-cache, no-store, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        # Django's own middleware has had its say.
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "content-length" not in response.headers
        assert "access-control-allow-origin" not in response.headers
        assert (await first_event(response)).type == "ready"


async def test_stream_of_a_gzip_site_is_not_compressed(browser: Browser, settings: Any) -> None:
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    from django.core.asgi import get_asgi_application

    import notifications.asgi

    zipping = notifications.asgi.wrap(get_asgi_application())
    headers = {**cookie(browser), "accept-encoding": "gzip"}
    async with InProcess(zipping).get(STREAM, headers) as response:
        assert response.headers["content-encoding"] == "identity"
        assert (await first_event(response)).type == "ready"


async def test_stream_opens_no_connection_of_the_request_s_own(browser: Browser) -> None:
    await sync_to_async(connections.close_all)()
    async with InProcess(application).get(STREAM, cookie(browser)) as response:
        await first_event(response)
        opened = await sync_to_async(lambda: [c.connection for c in connections.all(initialized_only=True)])()
        assert opened in ([], [None])
        # Nor is there a thread that Django gave to the request.
        assert not SyncToAsync.context_to_thread_executor


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_stream_is_for_get_only(browser: Browser, method: str) -> None:
    factory = RequestFactory(enforce_csrf_checks=False)
    request = getattr(factory, method.lower())(STREAM)
    request.scope = {"type": "http", "headers": []}
    response = await views.stream(request)
    assert (response.status_code, response["Allow"]) == (405, "GET")


async def problem(path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
    response, text = await asked(path, headers)
    assert response.headers["content-type"] == "application/json"
    assert "no-store" in response.headers["cache-control"]
    sentence: str = json.loads(text)["error"]
    assert sentence.endswith(".")
    return response.status, response.headers, sentence


@pytest.mark.parametrize("path", [STREAM, EVENTS])
async def test_who_is_not_logged_in_is_told(serving: None, path: str) -> None:
    for headers in ({}, {"cookie": "sessionid=nonsense"}, {"cookie": ""}):
        status, _, sentence = await problem(path, headers)
        assert (status, "Log in" in sentence) == (401, True)


@pytest.mark.parametrize("application", [application, django_application], ids=["wrapped", "not wrapped"])
@pytest.mark.parametrize("path", [STREAM, EVENTS])
async def test_page_of_one_user_is_not_served_for_another(browser: Browser, path: str, application: Any) -> None:
    user = await User.objects.aget(username="alice")
    async with InProcess(application).get(f"{path}?for={user_key(user)}", cookie(browser)) as response:
        assert response.status == 200
    async with InProcess(application).get(f"{path}?for={user_key(user.pk + 1)}", cookie(browser)) as response:
        assert response.status == 401
        assert "Log in" in await response.text()


@pytest.mark.parametrize("path", [STREAM, EVENTS])
async def test_too_long_a_cursor_is_told(browser: Browser, path: str) -> None:
    status, _, _ = await problem(f"{path}?cursor={'1' * 4097}", cookie(browser))
    assert status == 400


async def test_too_long_a_last_event_id_is_told(browser: Browser) -> None:
    status, _, _ = await problem(STREAM, {**cookie(browser), "last-event-id": "1" * 4097})
    assert status == 400


async def test_foreign_page_is_told_without_a_query(browser: Browser) -> None:
    with mock.patch.object(views, "_who", side_effect=AssertionError("nobody is looked up")):
        status, headers, _ = await problem(STREAM, {**cookie(browser), "origin": "https://evil.example"})
    assert status == 403
    assert "access-control-allow-origin" not in headers


async def test_full_process_says_when_to_return(browser: Browser, settings: Any) -> None:
    settings.NOTIFICATIONS = {"STREAMS_PER_PROCESS": 1}
    async with InProcess(application).get(STREAM, cookie(browser)) as response:
        await first_event(response)
        status, headers, _ = await problem(STREAM, cookie(browser))
        assert status == 503
        assert 2 <= int(headers["retry-after"]) <= 10


async def test_stopping_process_says_when_to_return(browser: Browser) -> None:
    stream.current_hub().shutdown()
    status, headers, _ = await problem(STREAM, cookie(browser))
    assert (status, "retry-after" in headers) == (503, True)


@pytest.mark.parametrize(
    "key",
    ['"\\000\\000234567890"', "0123456789\0", "\0" * 32, "x" * 5000, "é" * 32],
    ids=["escaped", "nul", "nuls", "long", "latin"],
)
async def test_session_key_that_no_database_takes(browser: Browser, key: str) -> None:
    carrier = InProcess(application)
    # Together with somebody's who is looked up in the same query.
    good, bad = carrier.get(STREAM, cookie(browser)), carrier.get(STREAM, {"cookie": f"sessionid={key}"})
    async with good as welcome, bad as unknown:
        assert (welcome.status, unknown.status) == (200, 401)
    with pytest.raises(Refused) as refused:
        await connect("websocket", carrier, key)
    assert refused.value.code == 4401


@pytest.mark.django_db
def test_stream_under_wsgi_is_one_clear_sentence(client: Browser) -> None:
    response = client.get(reverse("notifications:stream"))
    assert response.status_code == 501
    assert "ASGI" in response.json()["error"]


# --- The stream without the wrapper


async def test_stream_by_itself_gives_its_thread_back(browser: Browser) -> None:
    async with InProcess(django_application).get(STREAM, cookie(browser)) as response:
        assert (await first_event(response)).type == "ready"
        assert not SyncToAsync.context_to_thread_executor


async def test_stream_by_itself_delivers(browser: Browser) -> None:
    async with InProcess(django_application).get(STREAM, cookie(browser)) as response:
        await first_event(response)
        await sync_to_async(notify)("everyone", "hi")
        event = await first_event(response)
        assert (event.type, json.loads(event.data)["title"]) == ("notification", "hi")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotAuthorized(), "revoked"),
        (HubFull(), "capacity"),
        (TimeoutError(), "error"),
        (AccessUnknown(), "error"),
        (TypeError("a mistake"), "error"),
    ],
)
async def test_stream_by_itself_that_can_not_begin_says_bye(
    browser: Browser, error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Its head has been sent, with status 200.
    with mock.patch.object(views, "open_stream", side_effect=error):
        async with InProcess(django_application).get(STREAM, cookie(browser)) as response:
            event = await first_event(response)
            data = json.loads(event.data)
            assert (event.type, data["reason"]) == ("bye", reason)
            assert data["retry"] is None if reason == "revoked" else 1000 <= data["retry"] <= 10_000
            assert await response.text() == ""
    assert ("a stream failed" in caplog.text) == isinstance(error, TypeError)


async def test_stream_by_itself_is_left_when_its_client_goes(browser: Browser) -> None:
    async with InProcess(django_application).get(STREAM, cookie(browser)) as response:
        await first_event(response)
        hub = stream.current_hub()
        assert len(hub.subscriptions) == 1
    await eventually(lambda: not hub.subscriptions)


# --- A site of its own ways


async def test_stream_with_another_way_to_log_in(serving: None, settings: Any) -> None:
    user = await User.objects.acreate(username="alice")
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "tests.test_views.by_header"]
    from django.core.asgi import get_asgi_application

    import notifications.asgi

    own = notifications.asgi.wrap(get_asgi_application())
    async with InProcess(own).get(STREAM, {"x-user": str(user.pk)}) as response:
        assert (await first_event(response)).type == "ready"
    response, _ = await asked(STREAM, {}, own)
    assert response.status == 401


def by_header(get_response: Any) -> Any:
    """A middleware that knows users by a header."""

    def middleware(request: Any) -> Any:
        if (pk := request.headers.get("X-User")) is not None:
            request.user = User.objects.get(pk=pk)
        return get_response(request)

    return middleware


async def test_many_that_connect_at_once_look_up_their_sessions_together(browser: Browser) -> None:
    hub = stream.current_hub()
    calls = 0
    identify = hub.log.identify

    async def counted(keys: Any) -> Any:
        nonlocal calls
        calls += 1
        return await identify(keys)

    with mock.patch.object(hub.log, "identify", counted):
        carrier = InProcess(application)
        streams = [carrier.get(STREAM, cookie(browser)) for _ in range(15)]
        responses = await asyncio.gather(*(one.__aenter__() for one in streams))
        assert [response.status for response in responses] == [200] * 15
        await asyncio.gather(*(one.__aexit__(None, None, None) for one in streams))
    assert calls <= 8


# --- Polling


async def test_events_are_nobody_s_cache_s(browser: Browser) -> None:
    response, text = await asked(EVENTS, cookie(browser))
    assert response.headers["cache-control"] == "private, no-store"
    answer = json.loads(text)
    assert answer.keys() == {"events", "cursor", "retry"}
    assert answer["events"][0]["type"] == "ready"


async def test_events_are_for_get_only(browser: Browser) -> None:
    client = Browser()
    client.cookies = browser.cookies
    response = await sync_to_async(client.post)(EVENTS)
    assert (response.status_code, response["Allow"]) == (405, "GET")
    assert response.json() == {"error": "Only GET is allowed here."}


@pytest.mark.parametrize("path", [EVENTS, STREAM])
async def test_who_posts_without_a_token_is_told_that_nobody_can(path: str) -> None:
    client = AsyncClient(enforce_csrf_checks=True)
    assert (await client.post(path)).status_code == 405


def test_views_are_exempt_from_atomic_requests() -> None:
    for view in (views.stream, views.events):
        assert "default" in vars(view)["_non_atomic_requests"]


async def test_other_pages_pass_through_the_wrapper(serving: None) -> None:
    response, _ = await asked("/admin/login/", {})
    assert response.status == 200
    response, _ = await asked("/nothing/", {})
    assert response.status == 404


async def test_lifespan_is_answered(serving: None) -> None:
    call = Call(application, {"type": "lifespan"})
    call.tell("lifespan.startup")
    assert (await call.said())["type"] == "lifespan.startup.complete"
    call.tell("lifespan.shutdown")
    assert (await call.said())["type"] == "lifespan.shutdown.complete"
    await call.task
