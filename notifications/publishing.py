"""Publishing: what server code calls. It writes rows in the caller's transaction; everything else follows the commit.

Runs anywhere: views, signal handlers, commands, threads, workers; under WSGI, ASGI or neither. Nothing here waits for
the channel layer or fails because it is away. Programming errors (an unsaved user, a bad link, data that is not JSON)
raise at once, before anything is written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from asgiref.sync import sync_to_async
from django.contrib.auth.models import AbstractBaseUser, Group
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, connections, models, router, transaction
from django.db.models.signals import post_save, pre_save
from django.utils import timezone
from django.utils.functional import Promise

from . import log, postgresql
from .access import EVERYONE, STAFF, group_topic, topic_name, user_topic
from .broadcasts import recipients
from .envelope import dumps, valid_type
from .models import REFERENCE_LENGTH, Broadcast, Level, Notification
from .signals import notification_published, tell
from .statements import insert

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser

__all__ = [
    "abroadcast",
    "anotify",
    "broadcast",
    "notification_payload",
    "notify",
    "notify_many",
    "publish",
    "recall",
    "send",
    "send_due",
]

logger = logging.getLogger("notifications")

#: Rows per INSERT when a message is written per user.
BATCH = 1000

FORBIDDEN = re.compile("[\x00\ud800-\udfff]")
NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
KIND = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)


def notify(
    to: AbstractBaseUser | AnonymousUser | Group | str,
    title: str,
    body: str = "",
    *,
    kind: str = "message",
    level: str = Level.INFO,
    url: str = "",
    data: dict[str, Any] | None = None,
    tag: str = "",
    actor: models.Model | None = None,
    target: models.Model | None = None,
    expires_at: datetime | None = None,
) -> Notification:
    """Notify a user, a group or the readers of a topic; return the row.

    Two INSERTs in the caller's transaction, on PostgreSQL one statement for both (and, for a group, a look whether it
    is still there). After commit it is numbered and shown in every open browser concerned; if the transaction is
    rolled back, nothing ever happened.

    :param to: a saved user, a :class:`~django.contrib.auth.models.Group`, or a topic name (``"everyone"``,
        ``"staff"``, ``"order:9"``).
    :param title: up to 200 characters of plain text. Translated lazily-translated text is stored as it reads now.
    :param kind: dotted name of what it is about (``"order.shipped"``), by which a site styles, and people mute.
    :param level: ``"info"``, ``"success"``, ``"warning"`` or ``"error"``.
    :param url: where a click leads: a path on this site, or an ``http(s)`` address.
    :param data: a JSON object for the site's own scripts.
    :param tag: a newer notification with the same tag on the same topic replaces this one.
    :param actor: the model instance that caused it. ``target``: the one it is about.
    :param expires_at: aware time after which nobody is shown it any more.
    :raises ValueError: if text, link, kind, level or data can not be stored or shown, or the group was deleted.
        ``InvalidTopic`` is one.
    :raises TypeError: if ``to`` is an anonymous or unsaved user, or no user at all.
    """
    notification = Notification(
        topic=_existing(to),
        **_fields(title, body, kind, level, url, data, tag, actor, target, expires_at),
    )
    _publish_all([notification])
    return notification


anotify = sync_to_async(notify)
anotify.__doc__ = "Like :func:`notify`, awaitable."


def notify_many(users: Iterable[AbstractBaseUser], title: str, body: str = "", **fields: Any) -> int:
    """Notify each of ``users`` of their own; return how many there were. Arguments as for :func:`notify`.

    Written in batches: two INSERTs per thousand users. For everybody, the staff or a group, one row is enough: use
    :func:`broadcast`, or :func:`notify` with the topic.
    """
    if isinstance(users, str):
        raise TypeError(f"notify_many takes users; for the topic {users!r} use notify")
    checked = _fields(title, body, **{**DEFAULTS, **_known(fields)})
    # All of them first: who can not be notified is found before anything is written, who is named twice is told once.
    topics = dict.fromkeys(map(topic_name, users))
    with transaction.atomic(using=log.database(), savepoint=False):
        for batch in _batched(topics, BATCH):
            _publish_all([Notification(topic=topic, **checked) for topic in batch])
    return len(topics)


def broadcast(
    title: str,
    body: str = "",
    *,
    audience: str | Group | Iterable[AbstractBaseUser] = EVERYONE,
    sender: Any = None,
    **fields: Any,
) -> Broadcast:
    """Send a message to an audience, and keep it as a :class:`~notifications.models.Broadcast`; return that.

    To everyone, the staff or a group it is one notification, one event and one hint, whatever the number of people.

    :param audience: ``"everyone"``, ``"staff"``, a group, or an iterable of users (a queryset is fine).
    :param sender: who sends it, for the record.
    :raises ValueError, TypeError: as :func:`notify`, whose other arguments are taken too (not actor and target).
    """
    checked = _fields(title, body, **{**DEFAULTS, "kind": "broadcast", **_known(fields, but=("actor", "target"))})
    row = Broadcast(**{name: value for name, value in checked.items() if name in BROADCAST_FIELDS}, sender=sender)
    users: list[Any] = []
    if isinstance(audience, str):
        if audience not in (EVERYONE, STAFF):
            raise ValueError(f'an audience is "everyone", "staff", a group or users, not {audience!r}')
        row.audience = audience
    elif isinstance(audience, Group):
        _existing(audience)
        row.audience, row.group = Broadcast.Audience.GROUP, audience
    else:
        row.audience, users = Broadcast.Audience.USERS, list(audience)
        for user in users:
            topic_name(user)
    with transaction.atomic(using=log.database()):
        row.save()
        if users:
            row.users.add(*users)
        _send(row)
    return row


abroadcast = sync_to_async(broadcast)
abroadcast.__doc__ = "Like :func:`broadcast`, awaitable."


def send(broadcast: Broadcast, *, sender: Any = None) -> bool:
    """Send a composed broadcast now; return False if it had been sent already (by another click, or the schedule)."""
    alias = log.database()
    with transaction.atomic(using=alias):
        rows = Broadcast.objects.using(alias).filter(
            pk=broadcast.pk, state__in=[Broadcast.State.DRAFT, Broadcast.State.SCHEDULED]
        )
        # The conditional UPDATE is the lock: of two senders, one finds nothing to change.
        if not rows.update(state=Broadcast.State.SENT):
            return False
        broadcast.refresh_from_db(using=alias)
        if sender is not None:
            broadcast.sender = sender
        _send(broadcast)
    return True


def send_due() -> int:
    """Send the scheduled broadcasts whose time has come; return how many. Every serving process calls it."""
    due = Broadcast.objects.using(log.database()).filter(
        state=Broadcast.State.SCHEDULED, scheduled_at__lte=timezone.now()
    )
    sent = 0
    for row in due.order_by("scheduled_at")[:10]:
        try:
            sent += send(row)
        except DatabaseError:
            raise  # It is not this broadcast's fault; tried again.
        except Exception:
            # Its group is gone, say: back to the administrator, so that it does not stand in the way of the others.
            logger.exception("the scheduled broadcast %s can not be sent; it is a draft again", row.pk)
            Broadcast.objects.using(log.database()).filter(pk=row.pk).update(state=Broadcast.State.DRAFT)
    return sent


def recall(what: Notification | Broadcast) -> None:
    """Take back a notification, or all of a broadcast: it disappears from every inbox and every open browser.

    :raises ValueError: if the broadcast was never sent.
    """
    alias = log.database()
    with transaction.atomic(using=alias):
        if isinstance(what, Broadcast):
            if what.state in (Broadcast.State.DRAFT, Broadcast.State.SCHEDULED):
                raise ValueError("this broadcast was not sent; there is nothing to take back")
            rows = Notification.objects.using(alias).filter(broadcast=what)
            Broadcast.objects.using(alias).filter(pk=what.pk).update(state=Broadcast.State.RECALLED)
            what.state = Broadcast.State.RECALLED
        else:
            rows = Notification.objects.using(alias).filter(pk=what.pk)
            what.recalled_at = what.recalled_at or timezone.now()
        recalled = list(rows.filter(recalled_at=None).values_list("topic", "pk"))
        rows.filter(recalled_at=None).update(recalled_at=timezone.now())
        log.append((topic, "recalled", dumps({"ids": [pk]})) for topic, pk in recalled)


def publish(topic: AbstractBaseUser | Group | str, type: str, data: dict[str, Any]) -> None:
    """Send an event of the site's own (progress, "order 9 moved" …) to a topic: live and replayed, but in no inbox.

    :param type: letters, digits, ``_``, ``.``, ``-``, up to 64, beginning with a letter; not one of the protocol's.
    :param data: a JSON object; ``seq`` and ``topic`` are added.
    :raises ValueError: if the type or the data can not be sent, or the group was deleted.
    """
    if not valid_type(type):
        raise ValueError(f"{type!r} can not be an event's type: a letter, then letters, digits, _ . -, up to 64")
    text = _rendered(data)
    if reserved := sorted({"seq", "topic"} & data.keys()):
        raise ValueError(f"data may not have {reserved[0]!r}: the protocol adds it to each event")
    log.append([(_existing(topic), type, text)])


def notification_payload(notification: Notification) -> dict[str, Any]:
    """Return what clients see of a notification, the same in an event and in the inbox; absent values are left out."""
    payload: dict[str, Any] = {
        "id": notification.pk,
        "kind": notification.kind,
        "level": str(notification.level),
        "title": notification.title,
        "body": notification.body,
        "url": notification.url,
        "data": notification.data,
        "tag": notification.tag,
        "created_at": notification.created_at.isoformat(),
    }
    if notification.expires_at is not None:
        payload["expires_at"] = notification.expires_at.isoformat()
    for role in ("actor", "target"):
        type_id = getattr(notification, f"{role}_type_id")
        if type_id is not None:
            payload[role] = {
                "type": ContentType.objects.get_for_id(type_id).model,
                "id": getattr(notification, f"{role}_id"),
            }
    return payload


DEFAULTS: dict[str, Any] = {
    "kind": "message",
    "level": Level.INFO,
    "url": "",
    "data": None,
    "tag": "",
    "actor": None,
    "target": None,
    "expires_at": None,
}
LEVELS = Level.values
BROADCAST_FIELDS = frozenset({"title", "body", "level", "url", "kind", "data", "tag", "expires_at"})


def _existing(to: Any) -> str:
    """Return the topic that ``to`` stands for.

    :raises ValueError: if it is a group that was deleted: nobody reads its topic, and the next group may get its key.
    """
    topic = topic_name(to)
    if isinstance(to, Group):
        # Where it would be written: a replica may not know of a group that was made a moment ago.
        groups = Group._default_manager.using(router.db_for_write(Group, instance=to))
        if not groups.filter(pk=to.pk).exists():
            raise ValueError(f"the group {to.name!r} does not exist any more; nobody would read this")
    return topic


def _known(fields: dict[str, Any], but: Iterable[str] = ()) -> dict[str, Any]:
    known = [name for name in DEFAULTS if name not in but]
    unknown = sorted(fields.keys() - set(known))
    if unknown:
        raise TypeError(f"unexpected argument {unknown[0]!r}; known are {', '.join(known)}")
    return fields


def _send(broadcast: Broadcast) -> None:
    """Publish a broadcast's notifications and record what became of it, in the caller's transaction."""
    topics: Iterable[str]
    match broadcast.audience:
        case Broadcast.Audience.GROUP if broadcast.group is None:
            raise ValueError("the broadcast's group does not exist any more; choose another audience")
        case Broadcast.Audience.GROUP:
            topics = [group_topic(broadcast.group)]
        case Broadcast.Audience.USERS:
            topics = map(user_topic, broadcast.users.order_by().values_list("pk", flat=True))
        case shared:  # "everyone" and "staff" are the topics' names, too.
            topics = [shared]
    checked = _fields(
        broadcast.title,
        broadcast.body,
        broadcast.kind,
        broadcast.level,
        broadcast.url,
        broadcast.data,
        broadcast.tag,
        None,
        None,
        broadcast.expires_at,
    )
    for batch in _batched(topics, BATCH):
        _publish_all([Notification(topic=topic, broadcast=broadcast, **checked) for topic in batch])
    broadcast.state = Broadcast.State.SENT
    broadcast.sent_at = timezone.now()
    broadcast.recipients = recipients(broadcast).count()
    broadcast.save(update_fields=["state", "sent_at", "recipients", "sender"])


def _publish_all(notifications: list[Notification]) -> None:
    """Insert notifications and their events: two INSERTs, whatever their number; PostgreSQL does one pair at once."""
    alias = log.database()
    pair = _columns(notifications[0]) if len(notifications) == 1 and postgresql.understood_by(alias) else None
    # One statement needs no transaction of its own. One that is open already is to be marked as broken if that fails.
    whole = pair is not None and connections[alias].get_autocommit()
    with nullcontext() if whole else transaction.atomic(using=alias, savepoint=False):
        if pair is not None:
            _insert_pair(notifications[0], pair, alias)
        else:
            _insert(notifications, alias)
        if whole:
            _announce(notifications)  # It is committed, and the drain may have lost the connection.
        else:
            transaction.on_commit(partial(_announce, notifications), using=alias, robust=True)


def _insert(notifications: list[Notification], alias: str) -> None:
    if len(notifications) == 1 or not connections[alias].features.can_return_rows_from_bulk_insert:
        for notification in notifications:
            _save(notification, alias)
    else:
        Notification.objects.using(alias).bulk_create(notifications)
    log.append(
        (notification.topic, "notification", _rendered(notification_payload(notification)))
        for notification in notifications
    )


def _insert_pair(notification: Notification, values: dict[str, Any], alias: str) -> None:
    before, _, after = _rendered(notification_payload(notification)).partition("null")
    assert before == '{"id":', before  # Its id is not known yet.
    key = postgresql.insert_with_event(alias, Notification, values, (notification.topic, "notification", before, after))
    _saved(notification, key, alias)
    log.drain_after_commit(alias, [notification.topic])


def _save(notification: Notification, alias: str) -> None:
    """Save a new notification; without the ORM, which writes its statement anew each time, where nobody can tell."""
    values = _columns(notification)
    if values is None or not connections[alias].features.can_return_rows_from_bulk_insert:
        return notification.save(using=alias, force_insert=True)
    _saved(notification, insert(alias, Notification, **values), alias)


def _columns(notification: Notification) -> dict[str, Any] | None:
    """Return what is to be inserted, by ``attname``; None if only the ORM may do it, since somebody could tell."""
    if pre_save.has_listeners(Notification) or post_save.has_listeners(Notification):
        return None
    fields = Notification._meta.concrete_fields
    values = {f.attname: f.pre_save(notification, True) for f in fields if not (f.primary_key or f.generated)}
    if any(hasattr(value, "resolve_expression") for value in values.values()):  # A field that the site added, say.
        return None
    return values


def _saved(notification: Notification, key: Any, alias: str) -> None:
    notification.pk = key
    notification._state.adding, notification._state.db = False, alias


def _announce(notifications: list[Notification]) -> None:
    if notification_published.has_listeners(Notification):
        for notification in notifications:
            tell(notification_published, sender=Notification, notification=notification)


def _fields(
    title: str,
    body: str,
    kind: Any,
    level: str,
    url: str,
    data: dict[str, Any] | None,
    tag: str,
    actor: models.Model | None,
    target: models.Model | None,
    expires_at: Any,
) -> dict[str, Any]:
    """Check what was given, before anything is written, and return it as the fields of a Notification."""
    title, body, url = _text("title", title, 200), _text("body", body), _text("url", url, 2000)
    if not title.strip():
        raise ValueError("a notification needs a title")
    if not isinstance(kind, str) or not KIND.fullmatch(kind) or len(kind) > 100:
        raise ValueError(f'a kind is dotted words such as "order.shipped", not {kind!r}')
    if level not in LEVELS:
        raise ValueError(f"a level is one of {', '.join(LEVELS)}, not {level!r}")
    if expires_at is not None and (not isinstance(expires_at, datetime) or timezone.is_naive(expires_at)):
        raise ValueError("expires_at must be an aware datetime (django.utils.timezone.now() + …)")
    check_url(url)
    # JSON has a word for NUL, PostgreSQL's jsonb can not hold it.
    if data is not None and NUL_ESCAPE.search(_rendered(data)):
        raise ValueError("data contains NUL, which not every database stores")
    return {
        "title": title,
        "body": body,
        "kind": kind,
        "level": str(level),
        "url": url,
        "data": data or {},
        "tag": _text("tag", tag, 100),
        "expires_at": expires_at,
        **_reference("actor", actor),
        **_reference("target", target),
    }


def _text(name: str, value: Any, limit: int | None = None) -> str:
    if not isinstance(value, str | Promise):
        raise TypeError(f"{name} must be text, not {value!r}")
    text = str(value)
    if limit is not None and len(text) > limit:
        raise ValueError(f"{name} is {len(text)} characters long, more than {limit}")
    if FORBIDDEN.search(text):
        raise ValueError(f"{name} contains NUL or half of a surrogate pair, which no database stores")
    return text


def check_url(url: str) -> None:
    """Links lead to this site or to the web: what a browser would run or could mistake for it is refused."""
    if not url:
        return
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise ValueError(f"url contains white space, control characters or a backslash: {url!r}")
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.netloc:
        return
    # Two slashes begin another host, as browsers read it, however many follow.
    if not parts.scheme and not parts.netloc and url[0] in "/?#" and not url.startswith("//"):
        return
    raise ValueError(f"url must be a path on this site (/orders/9/) or an http(s) address, not {url!r}")


def _rendered(data: dict[str, Any]) -> str:
    if not isinstance(data, dict):
        raise ValueError(f"data must be a JSON object (a dict), not {data!r}")
    try:
        text = dumps(data)
        text.encode()
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"data can not be written as JSON: {error}") from error
    return text


def _reference(role: str, instance: models.Model | None) -> dict[str, Any]:
    if instance is None:
        return {}
    if not isinstance(instance, models.Model):
        raise TypeError(f"{role} must be a model instance, not {instance!r}")
    if instance.pk is None:
        raise ValueError(f"{role} must be saved before it can be referred to: {instance!r}")
    key = str(instance.pk)
    if len(key) > REFERENCE_LENGTH:
        raise ValueError(f"the primary key of {role} is {len(key)} characters long, more than {REFERENCE_LENGTH}")
    return {f"{role}_type": ContentType.objects.get_for_model(instance), f"{role}_id": key}


def _batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
