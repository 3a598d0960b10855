"""System checks: each way to set the app up wrong brings the message for it, and a right set-up brings none."""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from channels.layers import InMemoryChannelLayer
from channels.routing import ProtocolTypeRouter
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.core.checks import CheckMessage, Error, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

import notifications.asgi
from notifications.checks import database, layer, server
from notifications.handover import StreamHandover
from notifications.settings import Settings
from tests.asgi import django_application

# Some of Django's own checks look at the database.
pytestmark = pytest.mark.django_db

PACKAGE = Path(notifications.asgi.__file__).parent
MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
PUBSUB = {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": ["redis://localhost"]}}
CORE = "channels_redis.core.RedisChannelLayer"
PATIENT = {"address": "redis://localhost", "socket_timeout": 20}
SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": "site.sqlite3",
    "OPTIONS": {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL;"},
}


def found(*, deploy: bool = False) -> list[CheckMessage]:
    """What the whole set of checks says, as ``manage.py check`` would print it."""
    messages = run_checks(include_deployment_checks=deploy)
    return [message for message in messages if str(message.id).startswith("notifications.")]


def ids(*, deploy: bool = False) -> list[str]:
    return [str(message.id).removeprefix("notifications.") for message in found(deploy=deploy)]


def only(*, deploy: bool = False) -> CheckMessage:
    (message,) = found(deploy=deploy)
    return message


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that makes an importable module of some names, and returns what it is called."""

    def make(**names: Any) -> str:
        made = ModuleType(f"made_for_a_check_{len(sys.modules)}")
        vars(made).update(names)
        monkeypatch.setitem(sys.modules, made.__name__, made)
        return made.__name__

    return make


@pytest.fixture
def databases(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes the checks see another default database; nothing connects to it."""
    from django.conf import settings as django_settings

    def use(**changes: Any) -> None:
        monkeypatch.setattr(django_settings, "DATABASES", {"default": {**SQLITE, **changes}})

    return use


# ---------------------------------------------------------------- right set-ups


def test_site_of_the_tests_is_clean() -> None:
    assert ids() == []


def test_every_id_is_used_once_in_the_code() -> None:
    source = "".join(path.read_text() for path in (PACKAGE / "checks").glob("*.py"))
    used = set(re.findall(r'id="notifications\.([EW]\d{3})"', source))
    errors = sorted(name for name in used if name.startswith("E"))
    warnings = sorted(name for name in used if name.startswith("W"))
    assert errors == [f"E{number:03}" for number in range(1, len(errors) + 1)]
    assert warnings == [f"W{number:03}" for number in range(1, len(warnings) + 1)]


# ---------------------------------------------------------------- NOTIFICATIONS


def test_settings_not_a_dict(settings: Any) -> None:
    settings.NOTIFICATIONS = ["HEARTBEAT"]
    assert only().id == "notifications.E001"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HEARTBEAT", "15", "must be int or float, not '15'"),
        ("HEARTBEAT", 0, "must be at least 0.05"),
        ("HEARTBEAT", True, "must be int or float, not True"),
        ("RETENTION", 7, "must be timedelta"),
        ("RETENTION", timedelta(0), "longer than nothing"),
        ("STREAMS_PER_USER", 0, "at least 1"),
        ("STREAMS_PER_USER", 2.5, "must be int"),
        ("SOCKET_PATH", "ws/", "begin with a slash"),
        ("TOPICS", 7, "must be str or None"),
        ("TRANSPORTS", "sse", "must be list or tuple"),
        ("KINDS", ["order.shipped"], "must be dict"),
        ("FRAME_RATE", (20,), "two finite numbers"),
        ("FRAME_RATE", (20, 0), "two finite numbers above 0"),
        ("FRAME_RATE", (True, 40), "two finite numbers"),
        ("FRAME_RATE", (20, math.inf), "two finite numbers"),
        ("FRAME_RATE", (math.nan, 40), "two finite numbers"),
        ("CHANNEL_LAYER", None, "must be str"),
    ],
)
def test_settings_wrong_value(settings: Any, name: str, value: object, words: str) -> None:
    settings.NOTIFICATIONS = {name: value}
    message = only()
    assert (message.id, isinstance(message, Error)) == ("notifications.E002", True)
    assert name in message.msg
    assert words in message.msg


NUMBERS = sorted(name for name, key in Settings.keys().items() if {int, float} & set(key.types))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, -0.5])
@pytest.mark.parametrize("name", NUMBERS)
def test_settings_number_that_is_none_or_negative(settings: Any, name: str, value: float) -> None:
    settings.NOTIFICATIONS = {name: value}
    assert ids() == ["E002"]


def test_settings_defaults_are_right_themselves(settings: Any) -> None:
    settings.NOTIFICATIONS = {name: key.default for name, key in Settings.keys().items()}
    assert ids() == []


@pytest.mark.parametrize(("name", "hint"), [("HARTBEAT", '"HEARTBEAT"'), ("heartbeat", '"HEARTBEAT"')])
def test_settings_unknown_key_suggests(settings: Any, name: str, hint: str) -> None:
    settings.NOTIFICATIONS = {name: 15.0}
    message = only()
    assert message.id == "notifications.W013"
    assert hint in str(message.hint)


@pytest.mark.parametrize("name", ["FROBNICATE", 7])
def test_settings_unknown_key_like_no_other_lists_all(settings: Any, name: object) -> None:
    settings.NOTIFICATIONS = {name: 15.0}
    assert "Known are CHANNEL_LAYER, TOPICS" in str(only().hint)


def test_settings_unknown_key_hides_nothing_else(settings: Any) -> None:
    settings.NOTIFICATIONS = {"HARTBEAT": 15.0, "TOPICS": "no.such.function"}
    assert sorted(ids()) == ["E004", "W013"]


@pytest.mark.parametrize(
    "path", ["no.such.function", "nodots", "tests.test_checks.nothing", "tests.test_checks.MEMORY"]
)
def test_topics_not_a_function(settings: Any, path: str) -> None:
    settings.NOTIFICATIONS = {"TOPICS": path}
    assert only().id == "notifications.E004"


def test_topics_a_function(settings: Any) -> None:
    settings.NOTIFICATIONS = {"TOPICS": f"{__name__}.found"}
    assert ids() == []


@pytest.mark.parametrize("transports", [[], ["sse", "carrier-pigeon"], ["SSE"]])
def test_transports_unknown_or_none(settings: Any, transports: list[str]) -> None:
    settings.NOTIFICATIONS = {"TRANSPORTS": transports}
    assert only().id == "notifications.E005"


@pytest.mark.parametrize(
    "origin",
    ["*", "shop.example", "https://shop.example/", "https://*", "ws://shop.example", "https://a:b", "", None, "null"],
)
def test_origins_malformed(settings: Any, origin: object) -> None:
    settings.NOTIFICATIONS = {"ALLOWED_ORIGINS": [origin]}
    assert only().id == "notifications.E006"


@pytest.mark.parametrize(
    "origin", ["https://shop.example", "http://localhost:8000", "https://*.shop.example", "http://[::1]:8000"]
)
def test_origins_well_formed(settings: Any, origin: str) -> None:
    settings.NOTIFICATIONS = {"ALLOWED_ORIGINS": (origin,)}
    assert ids() == []


@pytest.mark.parametrize(
    "kinds",
    [
        {"order.shipped": "Shipped"},
        {"order shipped": {}},
        {7: {}},
        {"": {}},
        {"order.shipped": {"lable": "Shipped"}},
        {"order.shipped": {"mandatory": "no"}},
    ],
)
def test_kinds_malformed(settings: Any, kinds: dict[Any, Any]) -> None:
    settings.NOTIFICATIONS = {"KINDS": kinds}
    assert only().id == "notifications.E009"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"TOPICS_PER_STREAM": 500}, "CURSOR_LENGTH"),
        ({"CURSOR_LENGTH": 64}, "CURSOR_LENGTH"),
        ({"FRAME_BYTES": 512}, "FRAME_BYTES"),
        ({"LIFETIME": 10}, "LIFETIME"),
    ],
)
def test_limits_that_do_not_fit_together(settings: Any, own: dict[str, Any], words: str) -> None:
    settings.NOTIFICATIONS = own
    message = only()
    assert message.id == "notifications.W014"
    assert words in message.msg


# ---------------------------------------------------------------- the channel layer


@pytest.mark.parametrize("layers", [{}, None])
def test_layer_none_at_all(settings: Any, layers: dict[str, Any] | None) -> None:
    settings.CHANNEL_LAYERS = layers
    assert ids() == []
    assert ids(deploy=True) == ["W001"]


@pytest.mark.parametrize("deploy", [False, True])
def test_layer_none_at_all_and_several_processes(settings: Any, monkeypatch: pytest.MonkeyPatch, deploy: bool) -> None:
    settings.CHANNEL_LAYERS = {}
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    assert ids(deploy=deploy) == ["W002"]


def test_layer_alias_missing(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"other": MEMORY}
    message = only()
    assert message.id == "notifications.E003"
    assert "'other'" in str(message.hint)


def test_layer_alias_of_its_own(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": CORE}, "live": PUBSUB}
    settings.NOTIFICATIONS = {"CHANNEL_LAYER": "live"}
    assert ids(deploy=True) == []


@pytest.mark.parametrize("config", [{"BACKEND": "no.such.Layer"}, {}, "channels.layers.InMemoryChannelLayer"])
def test_layer_that_can_not_be_imported(settings: Any, config: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": config}
    assert only().id == "notifications.E010"


def test_memory_layer_in_deployment(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": MEMORY}
    assert ids() == []
    assert ids(deploy=True) == ["W003"]


@pytest.mark.parametrize("deploy", [False, True])
def test_memory_layer_and_several_processes(settings: Any, monkeypatch: pytest.MonkeyPatch, deploy: bool) -> None:
    settings.CHANNEL_LAYERS = {"default": MEMORY}
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    message = only(deploy=deploy)
    assert message.id == "notifications.W002"
    assert "4 server processes" in message.msg


def test_memory_layer_of_the_sites_own(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loud(InMemoryChannelLayer):  # type: ignore[misc]
        pass

    monkeypatch.setattr(sys.modules[__name__], "Loud", Loud, raising=False)
    monkeypatch.setenv("UVICORN_WORKERS", "2")
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{__name__}.Loud"}}
    assert ids() == ["W002"]


@pytest.mark.parametrize(
    ("environment", "arguments", "count"),
    [
        ({}, [], 1),
        ({"WEB_CONCURRENCY": "3"}, [], 3),
        ({"WEB_CONCURRENCY": ""}, [], 1),
        ({"WEB_CONCURRENCY": "many"}, [], 1),
        ({"GUNICORN_CMD_ARGS": "--bind :8000 --workers=4"}, [], 4),
        ({"GUNICORN_CMD_ARGS": "-w 2"}, [], 2),
        ({"GUNICORN_CMD_ARGS": "-w2"}, [], 2),
        ({}, ["/usr/bin/uvicorn", "--workers", "5", "site.asgi:application"], 5),
        ({}, ["/lib/uvicorn/__main__.py", "--workers=5"], 5),
        ({}, ["uvicorn", "site.asgi:application"], 1),
        ({}, ["manage.py", "load", "-w", "5"], 1),
    ],
)
def test_processes_that_are_asked_for(environment: dict[str, str], arguments: list[str], count: int) -> None:
    assert layer.count_processes(environment, arguments) == count


def core_layer(*hosts: Any) -> dict[str, Any]:
    return {"default": {"BACKEND": CORE, "CONFIG": {"hosts": list(hosts)} if hosts else {}}}


@pytest.mark.parametrize(
    "hosts",
    [
        (),
        ("redis://localhost",),
        (("localhost", 6379),),
        (PATIENT, "redis://localhost"),
        ({"address": "redis://localhost", "socket_timeout": 5},),
        ({"host": "localhost"},),
        ("redis://localhost?socket_timeout=3",),
        ({"address": "redis://localhost", "socket_timeout": "soon"},),
    ],
)
def test_core_layer_with_impatient_redis(
    settings: Any, monkeypatch: pytest.MonkeyPatch, hosts: tuple[Any, ...]
) -> None:
    monkeypatch.setattr(layer, "redis_major", lambda: 8)
    settings.CHANNEL_LAYERS = core_layer(*hosts)
    assert sorted(ids()) == ["E007", "W004"]


@pytest.mark.parametrize(
    "host",
    [
        PATIENT,
        {"address": "redis://localhost", "socket_timeout": None},
        {"address": "redis://localhost?socket_timeout=20"},
        "redis://localhost/0?socket_timeout=20",
        {"sentinels": [("localhost", 26379)], "master_name": "site", "socket_timeout": 20},
    ],
)
def test_core_layer_with_patient_redis(settings: Any, monkeypatch: pytest.MonkeyPatch, host: Any) -> None:
    monkeypatch.setattr(layer, "redis_major", lambda: 8)
    settings.CHANNEL_LAYERS = core_layer(host)
    assert ids() == ["W004"]


def test_core_layer_with_an_older_redis_client(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "redis_major", lambda: 7)
    settings.CHANNEL_LAYERS = core_layer("redis://localhost")
    assert ids() == ["W004"]


def test_redis_version_is_that_of_the_installed_client() -> None:
    import redis

    assert layer.redis_major() == int(redis.__version__.split(".")[0])


def test_pubsub_layer_is_right(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    settings.CHANNEL_LAYERS = {"default": PUBSUB}
    assert ids(deploy=True) == []


# ---------------------------------------------------------------- databases


@pytest.mark.parametrize("age", [60, None])
def test_connections_that_are_kept(databases: Callable[..., None], age: int | None) -> None:
    databases(CONN_MAX_AGE=age)
    assert only().id == "notifications.W005"


def test_connections_that_are_kept_under_wsgi(databases: Callable[..., None], settings: Any) -> None:
    databases(CONN_MAX_AGE=60)
    settings.ASGI_APPLICATION = None
    assert ids() == ["W008"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["IMMEDIATE", "WAL"]),
        ({"transaction_mode": "IMMEDIATE"}, ["WAL"]),
        ({"transaction_mode": "DEFERRED", "init_command": "PRAGMA journal_mode = wal"}, ["IMMEDIATE"]),
    ],
)
def test_sqlite_that_does_not_wait(
    databases: Callable[..., None], settings: Any, tmp_path: Path, options: dict[str, str], words: list[str]
) -> None:
    databases(NAME=tmp_path / "site.sqlite3", OPTIONS=options)
    assert ids() == []
    settings.CHANNEL_LAYERS = {"default": PUBSUB}
    message = only(deploy=True)
    assert message.id == "notifications.W006"
    assert [word for word in ("IMMEDIATE", "WAL") if word in str(message.hint)] == words


@pytest.mark.parametrize(("mode", "clean"), [("WAL", True), ("DELETE", False)])
def test_sqlite_journal_by_the_header_of_its_file(tmp_path: Path, mode: str, clean: bool) -> None:
    import sqlite3
    from contextlib import closing

    file = tmp_path / "site.sqlite3"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE t (x)")
    assert database.writes_ahead(str(file), "") is clean
    assert database.writes_ahead(f"file:{file}?cache=private", "") is clean


@pytest.mark.parametrize("name", ["", ":memory:", "file:x?mode=memory&cache=shared"])
def test_sqlite_in_memory_needs_no_journal(name: str) -> None:
    assert database.writes_ahead(name, "")


def test_postgresql_is_right(databases: Callable[..., None]) -> None:
    databases(ENGINE="django.db.backends.postgresql", OPTIONS={"pool": True}, CONN_MAX_AGE=0)
    assert ids() == []


def test_atomic_requests_spare_the_stream(databases: Callable[..., None]) -> None:
    databases(ATOMIC_REQUESTS=True)
    assert ids() == []


def test_atomic_requests_and_a_view_of_the_sites_own(
    databases: Callable[..., None], settings: Any, module: Callable[..., str]
) -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("stands in for the stream, and is not exempt")

    databases(ATOMIC_REQUESTS=True)
    own = ([path("stream/", view, name="stream")], "notifications")
    settings.ROOT_URLCONF = module(urlpatterns=[path("", include(own))])
    assert ids() == ["W016"]
    transaction.non_atomic_requests(view)
    assert ids() == []


def test_naive_times(settings: Any) -> None:
    settings.USE_TZ = False
    assert ids() == ["W015"]


# ---------------------------------------------------------------- the server


def test_asgi_application_missing(settings: Any) -> None:
    settings.ASGI_APPLICATION = None
    message = only()
    assert message.id == "notifications.W008"
    assert "tests.asgi.application" in str(message.hint)


def test_asgi_application_missing_where_browsers_only_poll(settings: Any) -> None:
    settings.ASGI_APPLICATION = None
    settings.NOTIFICATIONS = {"TRANSPORTS": ["polling"]}
    assert ids() == []


@pytest.mark.parametrize("path", ["no.such.application", "tests.asgi.nothing", "tests.broken_asgi.application"])
def test_asgi_application_that_can_not_be_imported(settings: Any, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    if "broken" in path:
        # Whatever a site's asgi.py does: a check must end with a message.
        def broken(name: str) -> None:
            raise ImproperlyConfigured("SECRET_KEY")

        monkeypatch.setattr(server, "import_string", broken)
    settings.ASGI_APPLICATION = path
    assert ids() == ["W017"]


def test_asgi_application_not_wrapped(settings: Any, module: Callable[..., str]) -> None:
    settings.ASGI_APPLICATION = module(application=django_application) + ".application"
    assert ids() == ["W007"]


def plain(application: Any) -> Any:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await application(scope, receive, send)

    return outer


class Outer:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


by_name = notifications.asgi.wrap(django_application)


async def function_with_globals(scope: Any, receive: Any, send: Any) -> None:
    await by_name(scope, receive, send)


WRAPPED = notifications.asgi.wrap(django_application)


@pytest.mark.parametrize(
    "application",
    [
        WRAPPED,
        plain(WRAPPED),
        plain(Outer(plain(WRAPPED))),
        Outer(WRAPPED),
        Outer(WRAPPED).__call__,
        functools.partial(WRAPPED),
        functools.partial(function_with_globals),
        function_with_globals,
        ProtocolTypeRouter({"http": StreamHandover(django_application)}),
        ASGIStaticFilesHandler(cast(Any, WRAPPED)),
    ],
)
def test_wrapper_is_found(application: Any) -> None:
    assert server.is_wrapped(application)


@pytest.mark.parametrize(
    "application",
    [
        django_application,
        plain(django_application),
        ProtocolTypeRouter({"http": django_application, "websocket": Outer(None)}),
        ASGIStaticFilesHandler(django_application),
        None,
    ],
)
def test_wrapper_is_missed(application: Any) -> None:
    assert not server.is_wrapped(application)


def test_wrapper_is_looked_for_in_what_refers_to_itself() -> None:
    outer = Outer(None)
    outer.app = [outer]
    assert not server.is_wrapped(outer)


def test_wrapper_is_not_looked_for_for_ever() -> None:
    assert server.is_wrapped([object() for _ in range(server.APPLICATION_PARTS + 10)])


def test_django_application_is_the_one_that_is_made_for_a_site() -> None:
    assert type(django_application) is type(get_asgi_application())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["runserver"], ["W009"]),
        (["check"], ["W009"]),
        (["check", "--tag", "compatibility"], ["W009"]),
        (["check", "--deploy"], []),
        (["migrate"], []),
        ([], []),
    ],
)
def test_runserver_of_django(monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["manage.py", *arguments])
    assert ids() == expected


@pytest.mark.parametrize("command", ["runserver", "check"])
def test_runserver_of_daphne(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(sys, "argv", ["manage.py", command])
    monkeypatch.setattr(server, "get_commands", lambda: {"runserver": "daphne"})
    assert ids() == []


# ---------------------------------------------------------------- the site around it


def test_urls_not_included(settings: Any, module: Callable[..., str]) -> None:
    settings.ROOT_URLCONF = module(urlpatterns=[])
    message = only()
    assert message.id == "notifications.W010"
    assert settings.ROOT_URLCONF in str(message.hint)


def test_urls_under_another_prefix_and_instance(settings: Any, module: Callable[..., str]) -> None:
    settings.ROOT_URLCONF = module(urlpatterns=[path("my/bells/", include("notifications.urls", namespace="bells"))])
    assert ids() == []


def test_urls_of_a_site_without_any(settings: Any) -> None:
    settings.ROOT_URLCONF = None
    assert ids() == []


@pytest.mark.parametrize("name", ["SessionMiddleware", "AuthenticationMiddleware"])
def test_middleware_missing(settings: Any, name: str) -> None:
    settings.MIDDLEWARE = [path for path in settings.MIDDLEWARE if not path.endswith(name)]
    message = only()
    assert message.id == "notifications.W011"
    assert name in message.msg


def test_middleware_derived(settings: Any, module: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Derived(AuthenticationMiddleware):
        pass

    own = f"{module(Derived=Derived)}.Derived"
    old = "django.contrib.auth.middleware.AuthenticationMiddleware"
    settings.MIDDLEWARE = ["no.such.middleware", *(own if path == old else path for path in settings.MIDDLEWARE)]
    assert ids() == []


def test_sessions_not_installed(settings: Any) -> None:
    settings.INSTALLED_APPS = [
        app for app in settings.INSTALLED_APPS if app not in ("django.contrib.sessions", "django.contrib.admin")
    ]
    assert ids() == ["E008"]
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    assert ids() == []


def test_request_not_in_the_context(settings: Any) -> None:
    engine = {**settings.TEMPLATES[0], "OPTIONS": {"context_processors": []}}
    settings.TEMPLATES = [engine]
    assert ids() == ["W012"]
    settings.TEMPLATES = []
    assert ids() == []
