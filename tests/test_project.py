"""The demo site: its settings from the environment, its pages over a real daphne, and who may see what."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured

from project.environment import channel_layers, database, flag, words
from tests.servers import ROOT, AsgiServer, Site, Worker

Person = Callable[[str], httpx.Client]


# Settings


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        (None, True, True),
        ("", False, False),
        ("1", False, True),
        (" Yes ", False, True),
        ("on", False, True),
        ("0", True, False),
        ("FALSE", True, False),
        ("off", True, False),
    ],
)
def test_flag_reads(value: str | None, default: bool, expected: bool) -> None:
    assert flag("DEBUG", value, default) is expected


def test_flag_refuses_what_is_neither() -> None:
    with pytest.raises(ImproperlyConfigured, match="DEBUG must be 1 or 0, not 'flase'"):
        flag("DEBUG", "flase", True)


@pytest.mark.parametrize(("value", "expected"), [(None, []), ("", []), ("a", ["a"]), (" a, b ,,c", ["a", "b", "c"])])
def test_words_are_split_at_commas(value: str | None, expected: list[str]) -> None:
    assert words(value) == expected


def test_database_sqlite_takes_the_write_lock_first() -> None:
    entry = database("sqlite:////srv/shop/db.sqlite3")
    assert entry["ENGINE"] == "django.db.backends.sqlite3"
    assert entry["NAME"] == "/srv/shop/db.sqlite3"
    assert entry["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert entry["OPTIONS"]["timeout"] == 20
    assert "journal_mode=WAL" in entry["OPTIONS"]["init_command"]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_database_postgresql_keeps_no_connection(scheme: str) -> None:
    entry = database(f"{scheme}://shop:p%40ss@db.example:5433/orders?sslmode=require")
    assert entry["ENGINE"] == "django.db.backends.postgresql"
    assert (entry["NAME"], entry["USER"], entry["PASSWORD"]) == ("orders", "shop", "p@ss")
    assert (entry["HOST"], entry["PORT"]) == ("db.example", 5433)
    assert entry["OPTIONS"] == {"sslmode": "require"}
    assert entry["CONN_MAX_AGE"] == 0


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/name"])
def test_database_refuses_other_urls(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL"):
        database(url)


@pytest.mark.parametrize("url", [None, "", " , "])
def test_channel_layer_is_in_memory_without_redis(url: str | None) -> None:
    assert channel_layers(url) == {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


def test_channel_layer_is_pubsub_on_each_redis() -> None:
    layer = channel_layers("redis://one:6379/0, rediss://two:6380/1")["default"]
    assert layer["BACKEND"] == "channels_redis.pubsub.RedisPubSubChannelLayer"
    assert layer["CONFIG"] == {"hosts": ["redis://one:6379/0", "rediss://two:6380/1"]}


def test_channel_layer_refuses_what_is_no_redis() -> None:
    with pytest.raises(ImproperlyConfigured, match="REDIS_URL must be"):
        channel_layers("localhost:6379")


SHOW = """
import json
from project import settings
names = ["DEBUG", "SECRET_KEY", "ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "DATABASES", "CHANNEL_LAYERS"]
print(json.dumps({name: getattr(settings, name) for name in names}, default=str))
"""


def settings_with(**environment: str) -> subprocess.CompletedProcess[str]:
    """Import the settings in a process that has nothing but ``environment``."""
    return subprocess.run([sys.executable, "-c", SHOW], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_settings_without_environment_embed_everything() -> None:
    settings = json.loads(settings_with().stdout)
    assert settings["DEBUG"] is True
    assert settings["ALLOWED_HOSTS"] == ["localhost", "127.0.0.1", "[::1]"]
    assert settings["DATABASES"]["default"]["NAME"] == str(ROOT / "db.sqlite3")
    assert settings["CHANNEL_LAYERS"]["default"]["BACKEND"] == "channels.layers.InMemoryChannelLayer"


def test_settings_follow_the_environment() -> None:
    done = settings_with(
        DEBUG="0",
        SECRET_KEY="long and random",
        ALLOWED_HOSTS="shop.example,www.shop.example",
        CSRF_TRUSTED_ORIGINS="https://shop.example",
        DATABASE_URL="postgres://shop@db/orders",
        REDIS_URL="redis://one,redis://two",
    )
    settings = json.loads(done.stdout)
    assert settings["DEBUG"] is False
    assert settings["SECRET_KEY"] == "long and random"
    assert settings["ALLOWED_HOSTS"] == ["shop.example", "www.shop.example"]
    assert settings["CSRF_TRUSTED_ORIGINS"] == ["https://shop.example"]
    assert settings["DATABASES"]["default"]["NAME"] == "orders"
    assert settings["CHANNEL_LAYERS"]["default"]["CONFIG"]["hosts"] == ["redis://one", "redis://two"]


def test_settings_without_debug_want_a_secret() -> None:
    done = settings_with(DEBUG="0")
    assert done.returncode != 0
    assert "Without DEBUG, set SECRET_KEY" in done.stderr


def test_settings_with_hosts_do_not_offer_demo_logins_to_the_world() -> None:
    done = settings_with(ALLOWED_HOSTS="shop.example", SECRET_KEY="long and random")
    assert json.loads(done.stdout)["DEBUG"] is False


# Pages


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site on SQLite with what ``manage.py demo`` creates, and nothing else."""
    site = Site(f"sqlite:///{tmp_path_factory.mktemp('demo') / 'demo.sqlite3'}")
    site.manage("migrate", "--verbosity=0")
    site.manage("demo")
    return site


@pytest.fixture(scope="module")
def worker(demo: Site) -> Iterator[Worker]:
    with demo.worker() as process:
        yield process


@pytest.fixture(scope="module")
def server(demo: Site) -> Iterator[AsgiServer]:
    with demo.server() as process:
        yield process


@pytest.fixture(scope="module")
def person(server: AsgiServer) -> Iterator[Person]:
    """A function that returns the browser of somebody who logged in by the button on the landing page."""
    clients: dict[str, httpx.Client] = {}

    def logged_in(name: str) -> httpx.Client:
        if name not in clients:
            clients[name] = client = httpx.Client(base_url=server.url, follow_redirects=True)
            client.get("/")
            assert post(client, "/demo-login/", username=name).status_code == 200
        return clients[name]

    yield logged_in
    for client in clients.values():
        client.close()


def post(client: httpx.Client, path: str, **data: Any) -> httpx.Response:
    return client.post(path, data=data, headers={"X-CSRFToken": client.cookies["csrftoken"]})


def order_of(worker: Worker, name: str, **fields: str) -> int:
    """Create an order of ``name`` in another process and return its number."""
    code = """
from django.contrib.auth.models import User
from project.shop.models import Order, Product
result = Order.objects.create(customer=User.objects.get(username=name), product=Product.objects.first(), **fields).pk
"""
    return int(worker.run(code, name=name, fields=fields))


def status_of(worker: Worker, pk: int) -> str:
    return str(worker.run("from project.shop.models import Order\nresult = Order.objects.get(pk=pk).status", pk=pk))


def test_check_is_clean(demo: Site) -> None:
    assert "no issues" in demo.manage("check", "--fail-level", "INFO")


def test_demo_is_repeatable_and_prints_the_logins(demo: Site, worker: Worker) -> None:
    count = """
from django.apps import apps
labels = ["auth.User", "auth.Group", "shop.Product", "shop.Order", "notifications.Notification"]
result = [apps.get_model(label).objects.count() for label in labels]
"""
    before = worker.run(count)
    output = demo.manage("demo", "--address", "http://127.0.0.1:8000/")
    assert worker.run(count) == before
    assert before[:3] == [3, 2, 6]
    assert "http://127.0.0.1:8000/" in output
    for name in ("alice", "bob", "carol"):
        assert re.search(rf"{name} +/ {name}-demo ", output)


def test_demo_passwords_let_in(server: AsgiServer) -> None:
    with httpx.Client(base_url=server.url) as client:
        client.get("/login/")
        assert post(client, "/login/", username="alice", password="alice-demo").headers["Location"] == "/start/"
        assert client.get("/start/").headers["Location"] == "/orders/"


def test_home_offers_a_button_for_each_person(server: AsgiServer) -> None:
    page = httpx.get(f"{server.url}/").text
    assert re.findall(r'name="username" value="(\w+)"', page) == ["alice", "bob", "carol"]


@pytest.mark.parametrize("path", ["/orders/", "/start/", "/desk/", "/notifications/"])
def test_page_sends_strangers_to_login(server: AsgiServer, path: str) -> None:
    response = httpx.get(server.url + path)
    assert response.status_code == 302
    assert response.headers["Location"].startswith("/login/")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("alice", "/"),
        ("alice", "/orders/"),
        ("alice", "/notifications/"),
        ("carol", "/desk/"),
        ("carol", "/notifications/"),
        ("carol", "/admin/"),
        ("carol", "/admin/shop/order/"),
        ("carol", "/admin/notifications/broadcast/add/"),
    ],
)
def test_page_opens_under_a_strict_policy(person: Person, name: str, path: str) -> None:
    response = person(name).get(path)
    assert response.status_code == 200
    assert response.url.path == path
    assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    assert response.headers["Content-Encoding"] == "gzip"
    # The policy would make all of these dead letters.
    assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)", response.text)
    assert not re.search(r"<[^>]+\s(style|on\w+)=", response.text)


@pytest.mark.parametrize("path", ["/orders/", "/desk/", "/notifications/"])
def test_page_carries_the_bell(person: Person, path: str) -> None:
    assert person("carol").get(path).text.count("<notification-bell") == 1


def test_order_is_another_customers_secret(person: Person, worker: Worker) -> None:
    pk = order_of(worker, "alice")
    assert person("alice").get(f"/orders/{pk}/").status_code == 200
    assert person("carol").get(f"/orders/{pk}/").status_code == 200
    assert person("bob").get(f"/orders/{pk}/").status_code == 404
    assert f"N{1000 + pk}" in person("alice").get("/orders/").text
    assert f"N{1000 + pk}" not in person("bob").get("/orders/").text


@pytest.mark.parametrize("path", ["/desk/", "/desk/announce/", "/desk/1/advance/"])
def test_desk_is_closed_to_customers(person: Person, path: str) -> None:
    client = person("alice")
    response = client.get(path) if path == "/desk/" else post(client, path, title="hi", to="packed")
    assert response.status_code == 403


@pytest.mark.parametrize("path", ["/demo-login/", "/orders/place/", "/desk/1/advance/", "/desk/announce/"])
def test_change_is_made_by_post_alone(person: Person, path: str) -> None:
    assert person("carol").get(path).status_code == 405


def test_change_wants_a_token(person: Person) -> None:
    assert person("alice").post("/orders/place/", data={"product": "1"}).status_code == 403


@pytest.mark.parametrize("product", ["", "0", "abc", "9" * 30, "1,2"])
def test_product_that_is_not_there_can_not_be_ordered(person: Person, product: str) -> None:
    assert post(person("bob"), "/orders/place/", product=product).status_code == 404


NOTIFIED = """
from django.contrib.auth.models import User
from notifications.models import Notification
user = User.objects.get(username=name)
topics = [f"user:{user.pk}"] + (["staff"] if user.is_staff else [])
rows = Notification.objects.filter(topic__in=topics, body__contains=f"N{1000 + pk}").order_by("id")
result = [[row.kind, row.level, row.title, row.url] for row in rows]
"""


def test_order_placed_notifies_customer_and_staff(person: Person, worker: Worker) -> None:
    page = person("bob").get("/orders/").text
    product = re.search(r'name="product" value="(\d+)" aria-label="Order: Fern"', page)
    assert product is not None
    page = post(person("bob"), "/orders/place/", product=product[1]).text
    pk = max(int(number) for number in re.findall(r'id="order-(\d+)"', page))

    assert worker.run(NOTIFIED, name="bob", pk=pk) == [
        ["order.progress", "info", "Thank you! We have your order of “Fern”.", f"/orders/{pk}/"]
    ]
    assert worker.run(NOTIFIED, name="carol", pk=pk) == [["order.new", "info", "bob ordered “Fern”.", "/desk/"]]
    assert worker.run(NOTIFIED, name="alice", pk=pk) == []


def test_order_delivered_is_good_news(worker: Worker) -> None:
    pk = order_of(worker, "alice", status="shipped")
    worker.run("from project.shop.models import Order\nresult = Order.objects.get(pk=pk).advance()", pk=pk)
    assert [row[:2] for row in worker.run(NOTIFIED, name="alice", pk=pk)] == [
        ["order.progress", "info"],
        ["order.progress", "success"],
    ]


def test_order_saved_unchanged_says_nothing(worker: Worker) -> None:
    pk = order_of(worker, "alice")
    worker.run("from project.shop.models import Order\nOrder.objects.get(pk=pk).save()\nresult = None", pk=pk)
    assert len(worker.run(NOTIFIED, name="alice", pk=pk)) == 1


def test_advance_goes_step_by_step_to_the_end(person: Person, worker: Worker) -> None:
    pk = order_of(worker, "alice")
    for status in ("packed", "shipped", "delivered"):
        assert post(person("carol"), f"/desk/{pk}/advance/", to=status).url.path == "/desk/"
        assert status_of(worker, pk) == status
    assert f"N{1000 + pk} has already been moved on." in post(person("carol"), f"/desk/{pk}/advance/", to="x").text


def test_advance_pressed_at_two_desks_moves_once(person: Person, worker: Worker) -> None:
    pk = order_of(worker, "alice")
    for _ in range(2):
        post(person("carol"), f"/desk/{pk}/advance/", to="packed")
    assert status_of(worker, pk) == "packed"


def test_announcement_reaches_everybody(person: Person) -> None:
    response = post(
        person("carol"), "/desk/announce/", title="Free tea", body="Until Friday", level="success", audience="everyone"
    )
    assert "Sent: Free tea" in response.text
    for name in ("alice", "bob", "carol"):
        assert "Free tea" in person(name).get("/notifications/").text


def test_announcement_for_staff_stays_there(person: Person) -> None:
    post(person("carol"), "/desk/announce/", title="Stocktaking", level="info", audience="staff")
    assert "Stocktaking" in person("carol").get("/notifications/").text
    assert "Stocktaking" not in person("alice").get("/notifications/").text


def test_announcement_without_title_is_shown_again(person: Person) -> None:
    response = post(person("carol"), "/desk/announce/", title="", body="kept", level="info", audience="everyone")
    assert response.status_code == 422
    assert "kept" in response.text
    assert "errorlist" in response.text


def test_language_is_chosen_by_a_button(server: AsgiServer) -> None:
    with httpx.Client(base_url=server.url, follow_redirects=True) as client:
        assert '<html lang="en" dir="ltr">' in client.get("/").text
        assert '<html lang="de" dir="ltr">' in post(client, "/language/setlang/", language="de", next="/").text
        assert '<html lang="ar" dir="rtl">' in post(client, "/language/setlang/", language="ar", next="/").text


def test_static_file_is_asked_for_again_only_when_changed(server: AsgiServer) -> None:
    address = f"{server.url}/static/shop/shop.css"
    response = httpx.get(address)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/css"
    again = httpx.get(address, headers={"If-Modified-Since": response.headers["Last-Modified"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["missing.css", "shop", "", "../manage.py", "..%2f..%2fmanage.py", "%2e%2e/%2e%2e/manage.py", "/etc/passwd"]
)
def test_static_path_leads_nowhere_else(server: AsgiServer, path: str) -> None:
    # Not httpx.get(): it would tidy the path.
    request = httpx.Request("GET", server.url)
    request.url = request.url.copy_with(raw_path=f"/static/{path}".encode())
    with httpx.Client() as client:
        assert client.send(request).status_code in (400, 404)


def test_without_debug_no_demo_logins_but_static_files(demo: Site, person: Person) -> None:
    with demo.server(DEBUG="0") as server, httpx.Client(base_url=server.url) as client:
        assert 'name="username"' not in client.get("/").text
        client.get("/login/")
        assert post(client, "/demo-login/", username="carol").status_code == 404
        assert client.get("/login/").status_code == 200
        style = client.get("/static/shop/shop.css")
        assert style.status_code == 200
        assert style.headers["Cache-Control"] == "public, max-age=300"
        assert client.get("/static/admin/css/base.css").status_code == 200
        assert "There is nothing here" in client.get("/nowhere/").text


def test_demo_command_refuses_without_debug(demo: Site, tmp_path: Path) -> None:
    site = demo.copy(f"sqlite:///{tmp_path / 'empty.sqlite3'}", extra={"DEBUG": "0"})
    with pytest.raises(RuntimeError, match="only with DEBUG=1"):
        site.manage("demo")
