"""``tail``, ``sweep``, ``trim`` and ``rotate_epoch``: what they do to the log, what they print, how they end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path
from threading import Timer
from typing import IO, Any, cast

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.utils import timezone

from notifications import log, notify
from notifications.envelope import control, dumps, log_envelope
from notifications.management.commands import tail
from notifications.models import Broadcast, Event, Notification, Topic
from notifications.publishing import notification_payload
from tests.conftest import MakeSite
from tests.servers import Site, wait_until

NOTIFY = """
from django.contrib.auth.models import User
from notifications import notify

notify(User.objects.get(username=name), title)
"""
DEACTIVATE = """
from django.contrib.auth.models import User

user = User.objects.get(username=name)
user.is_active = False
user.save()
"""


def run(*args: str, **options: Any) -> str:
    out = StringIO()
    call_command(*args, stdout=out, no_color=True, **options)
    return out.getvalue()


def refused(*args: str) -> str:
    with pytest.raises(CommandError) as error:
        run(*args)
    return str(error.value)


def append(*topics: str) -> None:
    log.append([(topic, "moved", dumps({"to": "shipped"})) for topic in topics])


def forget_numbers(**which: Any) -> None:
    """Leave events as a crash between their commit and their drain does."""
    Event.objects.create(**{"type": "moved", "payload": "{}", **which})


# ---------------------------------------------------------------- sweep


@pytest.mark.django_db
def test_sweep_numbers_what_was_left_waiting() -> None:
    for _ in range(3):
        forget_numbers(topic="order:9")
    assert run("sweep") == "3 events delivered that had been left waiting; 0 broadcasts sent that had been due.\n"
    assert list(Event.objects.order_by("seq").values_list("seq", flat=True)) == [1, 2, 3]
    assert run("sweep").startswith("0 events")


@pytest.mark.django_db
def test_sweep_sends_a_broadcast_that_is_due(django_capture_on_commit_callbacks: Any) -> None:
    due, later = timezone.now() - timedelta(minutes=1), timezone.now() + timedelta(hours=1)
    for title, at in (("now", due), ("later", later)):
        Broadcast.objects.create(title=title, state=Broadcast.State.SCHEDULED, scheduled_at=at)
    with django_capture_on_commit_callbacks(execute=True):
        assert "1 broadcast sent" in run("sweep")
    assert Notification.objects.get().title == "now"


# ---------------------------------------------------------------- trim


@pytest.fixture
def old_and_new(django_capture_on_commit_callbacks: Any) -> Topic:
    """A topic with six events, of which the first four are ten days old."""
    with django_capture_on_commit_callbacks(execute=True):
        append(*["order:9"] * 6)
    Event.objects.filter(seq__lte=4).update(created_at=Now() - timedelta(days=10))
    return Topic.objects.get()


@pytest.mark.django_db
def test_trim_by_the_setting(old_and_new: Topic, settings: Any) -> None:
    assert run("trim") == "4 events deleted, older than 7 days.\n"
    assert list(Event.objects.order_by("seq").values_list("seq", flat=True)) == [5, 6]
    old_and_new.refresh_from_db()
    assert (old_and_new.floor, old_and_new.head) == (4, 6)
    settings.NOTIFICATIONS = {"RETENTION": timedelta(days=30)}
    assert run("trim") == "0 events deleted, older than 30 days.\n"


@pytest.mark.django_db
@pytest.mark.parametrize(("days", "kept"), [("11", 6), ("9.5", 2), ("1", 2)])
def test_trim_by_the_option(old_and_new: Topic, days: str, kept: int) -> None:
    run("trim", "--older-than", days)
    assert Event.objects.count() == kept


@pytest.mark.django_db
@pytest.mark.parametrize("days", ["week", "-1", "inf"])
def test_trim_refuses_an_age(days: str) -> None:
    assert "days" in refused("trim", f"--older-than={days}")


@pytest.mark.django_db
def test_trim_leaves_inboxes_alone(django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        notify("everyone", "hi")
    Event.objects.update(created_at=Now() - timedelta(days=10))
    assert run("trim") == "1 event deleted, older than 7 days.\n"
    assert Notification.objects.exists()


# ---------------------------------------------------------------- rotate_epoch


@pytest.fixture
def two_topics(django_capture_on_commit_callbacks: Any) -> dict[str, str]:
    """The epochs of two topics."""
    with django_capture_on_commit_callbacks(execute=True):
        append("order:9", "everyone")
    return dict(Topic.objects.values_list("name", "epoch"))


@pytest.mark.django_db
def test_rotate_epoch_of_all(two_topics: dict[str, str]) -> None:
    out = run("rotate_epoch")
    assert out == "2 topics began anew; every client of theirs fetches its inbox again.\n"
    after = dict(Topic.objects.values_list("name", "epoch"))
    assert after.keys() == two_topics.keys()
    assert not set(after.values()) & set(two_topics.values())


@pytest.mark.django_db
def test_rotate_epoch_of_one(two_topics: dict[str, str]) -> None:
    assert run("rotate_epoch", "everyone").startswith("1 topic began anew")
    after = dict(Topic.objects.values_list("name", "epoch"))
    assert after["order:9"] == two_topics["order:9"]
    assert after["everyone"] != two_topics["everyone"]


@pytest.mark.django_db
def test_rotate_epoch_of_an_unknown_topic_changes_nothing(two_topics: dict[str, str]) -> None:
    problem = refused("rotate_epoch", "order:9", "everybody")
    assert problem == "Nothing was ever sent to a topic 'everybody'. Did you mean 'everyone'?"
    assert dict(Topic.objects.values_list("name", "epoch")) == two_topics


# ---------------------------------------------------------------- tail: its lines


def line(type: str, **data: Any) -> str:
    command = tail.Command(no_color=True)
    text = command.line(log_envelope("user:1", 7, type, dumps(data)))
    return re.sub(r"^\d\d:\d\d:\d\d", "TIME", text)


@pytest.mark.parametrize(
    ("type", "data", "expected"),
    [
        ("notification", {"level": "info", "title": "hi"}, "TIME  notification  info     hi  [user:1]"),
        (
            "notification",
            {"level": "success", "title": "Shipped", "body": "by train", "url": "/orders/9/"},
            "TIME  notification  success  Shipped – by train → /orders/9/  [user:1]",
        ),
        (
            "read",
            {"ids": [3, 4], "read": True, "unread": 2},
            "TIME  read                   3, 4 read, 2 unread  [user:1]",
        ),
        (
            "read",
            {"ids": [3], "read": False, "unread": 100},
            "TIME  read                   3 unread again, 99+ unread  [user:1]",
        ),
        (
            "read",
            {"all": True, "before": 9, "unread": 0},
            "TIME  read                   all up to 9 read, 0 unread  [user:1]",
        ),
        ("seen", {"all": True, "before": 9}, "TIME  seen                   all up to 9 seen  [user:1]"),
        (
            "archived",
            {"ids": [3], "archived": True, "unread": 0},
            "TIME  archived               3 archived, 0 unread  [user:1]",
        ),
        (
            "archived",
            {"ids": [3], "archived": False, "unread": 1},
            "TIME  archived               3 back, 1 unread  [user:1]",
        ),
        ("recalled", {"ids": [3]}, "TIME  recalled               3 recalled  [user:1]"),
        ("order.moved", {"to": "packed"}, 'TIME  order.moved            {"to": "packed"}  [user:1]'),
    ],
)
def test_tail_line(type: str, data: dict[str, Any], expected: str) -> None:
    assert line(type, **data) == expected


def test_tail_line_of_a_reset() -> None:
    text = tail.Command(no_color=True).line(control("reset", topic="*", reason="malformed"))
    assert text.endswith("more was missed than the log can tell (malformed)  [*]")


def test_tail_line_cannot_command_the_terminal() -> None:
    text = line("notification", level="info", title="a\x1b[31mb\r\nc\x9b1md\u202ee", body="\n" * 3)
    assert text == "TIME  notification  info     a [31mb c 1md e –    [user:1]"


def test_tail_line_of_another_day_has_its_date() -> None:
    payload = dumps({"title": "hi", "created_at": "2026-01-02T03:04:05+00:00"})
    text = tail.Command(no_color=True).line(log_envelope("user:1", 7, "notification", payload))
    assert text.startswith("2026-01-0")


@pytest.mark.django_db
def test_tail_line_of_a_real_notification() -> None:
    payload = notification_payload(notify("everyone", "hi", level="warning"))
    assert line("notification", **payload) == "TIME  notification  warning  hi  [user:1]"


def test_tail_of_nobody(db: None) -> None:
    User.objects.create_user("alice")
    assert refused("tail", "--user", "alcie") == "There is no user called 'alcie'. Did you mean 'alice'?"


# ---------------------------------------------------------------- tail: a process of its own


class Tail:
    """A running ``manage.py tail``."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self._errors = errors

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def line(self) -> str:
        return cast(IO[str], self.process.stdout).readline()

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(10)


@contextmanager
def running(site: Site, folder: Path, *arguments: str) -> Iterator[Tail]:
    errors = folder / f"errors-{len(list(folder.iterdir()))}.txt"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [site.python, "-m", "django", "tail", "--no-color", *arguments],
            cwd=site.directory,
            env=site.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
        )
    watchdog = watch_over(process)
    try:
        tailed = Tail(process, errors)
        if "--json" not in arguments:
            wait_until(lambda: "Listening" in tailed.errors or process.poll() is not None, 20, what="tail")
        yield tailed
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        cast(IO[str], process.stdout).close()


def watch_over(process: subprocess.Popen[str]) -> Timer:
    """Kill a process that a test waits for too long, so that its ``readline`` ends."""
    timer = Timer(30, process.kill)
    timer.daemon = True
    timer.start()
    return timer


@pytest.mark.parametrize("redis", [False, True])
def test_tail_shows_what_another_process_publishes(make_site: MakeSite, tmp_path: Path, redis: bool) -> None:
    site = make_site(redis=redis)
    with site.worker() as worker, running(site, tmp_path, "--user", "alice") as tailed:
        assert "Listening for alice, 0 unread. Ctrl-C ends." in tailed.errors
        worker.run(NOTIFY, name="bob", title="not for alice")
        worker.run(NOTIFY, name="alice", title="hi")
        assert re.fullmatch(r"\d\d:\d\d:\d\d  notification  info     hi  \[user:\d+\]\n", tailed.line())
        assert tailed.end() == 0
        cursor = re.search(r"--cursor (\S+)\n", tailed.errors)
        assert cursor is not None
        assert "Traceback" not in tailed.errors
        worker.run(NOTIFY, name="alice", title="meanwhile")
        with running(site, tmp_path, "--user", "alice", "--cursor", cursor[1]) as resumed:
            assert "meanwhile" in resumed.line()
            assert resumed.end() == 0


def test_tail_as_json_is_what_a_websocket_carries(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site()
    with site.worker() as worker, running(site, tmp_path, "--user", "alice", "--json") as tailed:
        ready = json.loads(tailed.line())
        assert (ready["type"], ready["data"]["transport"]) == ("ready", "terminal")
        worker.run(NOTIFY, name="alice", title="hi")
        event = json.loads(tailed.line())
        assert event.keys() == {"type", "cursor", "data"}
        assert (event["type"], event["data"]["title"]) == ("notification", "hi")
        assert tailed.end() == 0
    assert "Traceback" not in tailed.errors


def test_tail_goes_on_over_the_end_of_a_stream(make_site: MakeSite, tmp_path: Path) -> None:
    (tmp_path / "short_lives.py").write_text(
        'from project.settings import *\n\nNOTIFICATIONS = {"LIFETIME": 0.3, "HEARTBEAT": 0.1}\n'
    )
    site = make_site(PYTHONPATH=str(tmp_path))
    site = site.copy(site.database_url, settings="short_lives", extra={"PYTHONPATH": str(tmp_path)})
    with site.worker() as worker, running(site, tmp_path, "--user", "alice", "--json") as tailed:
        assert [json.loads(tailed.line())["type"] for _ in range(4)] == ["ready", "bye", "ready", "bye"]
        worker.run(NOTIFY, name="alice", title="hi")
        while (event := json.loads(tailed.line()))["type"] != "notification":
            assert event["type"] in ("ready", "bye")
        assert tailed.end() == 0


def test_tail_where_the_site_can_not_tell_what_may_be_read(make_site: MakeSite, tmp_path: Path) -> None:
    (tmp_path / "broken_topics.py").write_text(
        'from project.settings import *\n\nNOTIFICATIONS = {"TOPICS": "broken_topics.of"}\n\n\n'
        'def of(user):\n    raise RuntimeError("no such shop")\n'
    )
    site = make_site(DJANGO_SETTINGS_MODULE="broken_topics", PYTHONPATH=str(tmp_path))
    with running(site, tmp_path, "--user", "alice", "--cursor", "1") as tailed:
        assert tailed.process.wait(20) == 1
    assert "CommandError: The events can not be read: what user" in tailed.errors


def test_tail_ends_when_the_user_is_deactivated(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site(redis=True)
    with site.worker() as worker, running(site, tmp_path, "--user", "alice") as tailed:
        worker.run(DEACTIVATE, name="alice")
        assert tailed.process.wait(15) == 1
        assert "CommandError: alice may not read any more (revoked)." in tailed.errors
        with running(site, tmp_path, "--user", "alice") as again:
            assert again.process.wait(15) == 1
            assert "alice is not active" in again.errors
        assert "Traceback" not in tailed.errors + again.errors


def test_tail_into_a_pipe_that_ends(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site()
    with site.worker() as worker, running(site, tmp_path, "--user", "alice") as tailed:
        cast(IO[str], tailed.process.stdout).close()
        worker.run(NOTIFY, name="alice", title="hi")
        assert tailed.process.wait(15) == 0
        assert "Error" not in tailed.errors
        assert "Traceback" not in tailed.errors
