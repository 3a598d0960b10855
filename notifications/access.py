"""Who may read which topic, and from where on. The only place that answers this, for streams, replays and inboxes.

A person reads ``user:<pk>``, ``everyone``, ``staff`` if on the staff, ``group:<pk>`` for each group, and whatever the
site's own function adds (setting ``TOPICS``). Topic names always come from here, never from a request.

People join and leave ``staff`` and groups: a :class:`~notifications.models.Membership` remembers the number at which
they joined, so that neither a replay nor a forged cursor shows what was said before. Without such a row (a member since
before the app was installed) the whole log may be read.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, get_user_model
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, Group
from django.db import connections, router, transaction
from django.db.models import CharField
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.module_loading import import_string

from .cursor import Position, format_cursor
from .kinds import NONE_MUTED, mutable
from .models import TOPIC_NAME_LENGTH, Membership, Preference, Topic
from .settings import conf
from .statements import among

__all__ = [
    "EVERYONE",
    "STAFF",
    "Access",
    "InvalidTopic",
    "Principal",
    "TopicsUnknown",
    "authorize",
    "cursor_for",
    "ended",
    "group_topic",
    "is_for",
    "known_topics",
    "principal_of",
    "record_membership",
    "topic_name",
    "topics_for",
    "user_key",
    "user_topic",
]

EVERYONE = "everyone"
STAFF = "staff"

logger = logging.getLogger("notifications")

NAME = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


class InvalidTopic(ValueError):
    """The text can not name a topic: it is empty, too long, or contains white space or control characters."""


class TopicsUnknown(Exception):
    """The site's own ``TOPICS`` function failed; what it raised is in the log."""


class Principal(NamedTuple):
    """Who a connection acts for: a user, and the session that proved it (None: proved some other way)."""

    user: Any
    session: str | None = None
    hash: str | None = None


@dataclass(frozen=True)
class Access:
    """What one principal may read now: topic names in a fixed order, and the numbers some of them begin after.

    ``muted`` are the kinds of notifications that they do not want. Without any topic it could not be told, because the
    site's own function failed.
    """

    topics: tuple[str, ...]
    since: dict[str, int] = field(default_factory=dict)
    muted: frozenset[str] = NONE_MUTED


def user_key(user: AbstractBaseUser | Any) -> str:
    """Return what tells the pages of different users apart without telling who they are (a user, or a primary key)."""
    return salted_hmac("notifications.user", str(getattr(user, "pk", user)), algorithm="sha256").hexdigest()[:16]


def is_for(user: AbstractBaseUser | Any, key: str | None) -> bool:
    """Return whether what is asked for the user of ``key`` (None or empty: for anybody) may be answered for ``user``.

    A page that stays open while somebody else logs in, in another tab, must not become theirs.
    """
    return not key or constant_time_compare(key, user_key(user))


def user_topic(user: AbstractBaseUser | Any) -> str:
    """Return the topic that only ``user`` (a user, or a primary key) reads."""
    return f"user:{getattr(user, 'pk', user)}"


def group_topic(group: Group | Any) -> str:
    """Return the topic of a group (a group, or a primary key)."""
    return f"group:{getattr(group, 'pk', group)}"


def topic_name(to: Any) -> str:
    """Return the topic that ``to`` stands for: a saved user, a group, or a topic's name as it is.

    :raises InvalidTopic: if a name is not one.
    :raises TypeError: for anything else; an anonymous or unsaved user has no topic.
    """
    if isinstance(to, str):
        if len(to) > TOPIC_NAME_LENGTH or NAME.fullmatch(to) is None:
            raise InvalidTopic(
                f"{to[:200]!r} is not a topic: 1 to {TOPIC_NAME_LENGTH} characters, no white space or controls"
            )
        return to
    if isinstance(to, Group) and to.pk is not None:
        return group_topic(to)
    # A lazy request.user passes as the user behind it.
    if getattr(to, "is_authenticated", False) is True and not isinstance(to, AnonymousUser) and to.pk is not None:
        return user_topic(to)
    raise TypeError(f"a notification goes to a saved user, a group or a topic name, not to {to!r}")


def topics_for(user: AbstractBaseUser | AnonymousUser) -> list[str]:
    """Return the names of the topics that ``user`` may read now; none for anonymous and inactive users.

    What the site's own function raises is raised here; see :func:`known_topics`.
    """
    if not user.is_authenticated or not user.is_active:
        return []
    return list(_topics(user, _group_pks([user.pk])[user.pk]))


def known_topics(user: AbstractBaseUser | AnonymousUser) -> tuple[list[str], bool]:
    """Return what :func:`topics_for` does, and True; without the site's own topics, and False, if their function fails.

    For pages, which must stand whatever becomes of a bell on them. The failure is logged.
    """
    if not user.is_authenticated or not user.is_active:
        return [], True
    groups = _group_pks([user.pk])[user.pk]
    connection = connections[router.db_for_read(Topic)]
    try:
        # Inside of a transaction of the page's a query that fails would make all that follow fail on PostgreSQL.
        with (
            transaction.atomic(using=connection.alias) if conf.topics and connection.in_atomic_block else nullcontext()
        ):
            return list(_topics(user, groups)), True
    except Exception:
        logger.exception("TOPICS failed for user %s; the site's own topics are left out", user.pk)
        return list(_topics(user, groups, own=False)), False


def authorize(principals: Sequence[Principal]) -> dict[Principal, Access | None]:
    """Return what each principal may read now; None for those whom nothing may be sent to any more.

    Asks at the start of a stream and again while it is open: the user exists and is active, the session was neither
    ended nor outdated by a new password. Four queries, however many principals, one more on a site that lets people
    mute kinds, and those of the site's function.
    """
    users = get_user_model()._default_manager.in_bulk({principal.user for principal in principals})
    sessions = _live_sessions({principal.session for principal in principals if principal.session})
    valid = [
        principal
        for principal in principals
        if (user := users.get(principal.user)) is not None
        and user.is_active
        and (principal.session is None or principal.session in sessions)
        and _hash_is_current(user, principal.hash)
    ]
    pks = {principal.user for principal in valid}
    groups = _group_pks(pks)
    since: dict[Any, dict[str, int]] = defaultdict(dict)
    for user_pk, topic, number in Membership.objects.filter(user_id__in=pks).values_list("user_id", "topic", "since"):
        since[user_pk][topic] = number
    muted = _muted(pks)
    answer: dict[Principal, Access | None] = dict.fromkeys(principals)
    for principal in valid:
        try:
            topics = _topics(users[principal.user], groups[principal.user])
        except Exception:
            # The site's own function: its failure for one user must not decide about the others in this batch.
            logger.exception("TOPICS failed for user %s; what this user may read is not known", principal.user)
            topics = ()
        begin = {name: since[principal.user].get(name, 0) for name in topics}
        answer[principal] = Access(topics, begin, muted.get(principal.user, NONE_MUTED))
    return answer


def ended(principals: Collection[Principal]) -> set[Principal]:
    """Return those whose session is not there any more; one query, if sessions are in the database, else none.

    Much cheaper than :func:`authorize`, so that it can be asked all the time; what else there is to lose, Django tells.
    As a rule nobody's has ended, and then a number says so; only otherwise a second query tells whose.
    """
    store = import_module(settings.SESSION_ENGINE).SessionStore
    keys = {principal.session for principal in principals if principal.session}
    if not keys or not hasattr(store, "get_model_class") or _session_rows(store, keys).count() == len(keys):
        return set()
    live = _live_sessions(keys)
    return {principal for principal in principals if principal.session and principal.session not in live}


def principal_of(user: AbstractBaseUser, session: Any) -> Principal:
    """Return the principal of a request or connection: its logged-in user and its session, if it has one."""
    key = getattr(session, "session_key", None)
    return Principal(user.pk, key, session.get(HASH_SESSION_KEY) if key else None)


def cursor_for(user: AbstractBaseUser) -> str:
    """Return the cursor of somebody who knows all there is now. Two queries, and those of the site's function.

    Empty, so that the stream begins when it is opened, if that function fails: a cursor without the site's own topics
    would bring all that their logs still hold as if it were new.

    Take it before reading the rows that a page shows: what is published in between is then shown twice at the worst,
    and the client drops the second, instead of never.
    """
    topics, certain = known_topics(user)
    if not certain:
        return ""
    rows = Topic.objects.filter(name__in=topics).values_list("id", "epoch", "head")
    return format_cursor(Position(*row) for row in sorted(rows))


def record_membership(user_pks: Iterable[Any], topics: Iterable[str]) -> None:
    """Remember that these users may read these topics from now on, and not what is in them already."""
    names = list(topics)
    heads = dict(Topic.objects.filter(name__in=names).values_list("name", "head"))
    now = timezone.now()
    # MySQL and MariaDB update on a conflict with any unique key and do not let one name it.
    named = connections[router.db_for_write(Membership)].features.supports_update_conflicts_with_target
    Membership.objects.bulk_create(
        [
            Membership(user_id=user_pk, topic=name, since=heads.get(name, 0), created_at=now)
            for user_pk in dict.fromkeys(user_pks)
            for name in dict.fromkeys(names)
        ],
        batch_size=500,
        update_conflicts=True,
        unique_fields=["user", "topic"] if named else None,
        update_fields=["since", "created_at"],
    )


def _topics(user: Any, group_pks: Iterable[Any], *, own: bool = True) -> tuple[str, ...]:
    names = [user_topic(user), EVERYONE]
    if getattr(user, "is_staff", False):
        names.append(STAFF)
    names.extend(map(group_topic, group_pks))
    if own and conf.topics:
        function: Callable[[Any], Iterable[str]] = import_string(conf.topics)
        names.extend(map(topic_name, function(user)))
    topics = tuple(dict.fromkeys(names))
    if len(topics) > conf.topics_per_stream:
        logger.warning("user %s may read %d topics; TOPICS_PER_STREAM cuts them to %d",
                       user.pk, len(topics), conf.topics_per_stream)  # fmt: skip
    return topics[: conf.topics_per_stream]


def _group_pks(user_pks: Iterable[Any]) -> dict[Any, list[Any]]:
    """Return the groups of each user in one query; a user model without groups has none."""
    answer: dict[Any, list[Any]] = defaultdict(list)
    groups = getattr(get_user_model(), "groups", None)
    if groups is not None:
        users = groups.field.m2m_column_name()
        rows = groups.through._default_manager.filter(**{f"{users}__in": list(user_pks)})
        for user_pk, group_pk in rows.order_by("pk").values_list(users, groups.field.m2m_reverse_name()):
            answer[user_pk].append(group_pk)
    return answer


def _muted(user_pks: Iterable[Any]) -> dict[Any, frozenset[str]]:
    """Return the kinds that each user muted, without those who muted none; no query where nothing can be muted."""
    if not mutable():
        return {}
    rows = Preference.objects.filter(user_id__in=user_pks)
    return {row.pk: muted for row in rows if (muted := row.muted_kinds)}


def _live_sessions(keys: set[str]) -> set[str]:
    """Return those session keys that still stand for a session; one query with a database engine."""
    if not keys:
        return set()
    if settings.SESSION_ENGINE == "django.contrib.sessions.backends.signed_cookies":
        return keys  # The cookie is the session: there is nothing on the server that could end.
    store = import_module(settings.SESSION_ENGINE).SessionStore
    if hasattr(store, "get_model_class"):
        return set(_session_rows(store, keys).values_list("session_key", flat=True))
    return {key for key in keys if store().exists(key)}


def _session_rows(store: Any, keys: set[str]) -> Any:
    sessions = store.get_model_class()._default_manager
    # A model of the site's own may keep keys in a form of its own.
    plain = type(sessions.model._meta.get_field("session_key")) is CharField
    wanted = among(keys, sessions.db) if plain else keys
    return sessions.filter(session_key__in=wanted, expire_date__gt=timezone.now())


def _hash_is_current(user: Any, hash: str | None) -> bool:
    """Return whether a session's hash still fits the user's password (and the fallback secrets)."""
    if hash is None or not hasattr(user, "get_session_auth_hash"):
        return True
    fallbacks = getattr(user, "get_session_auth_fallback_hash", tuple)
    return constant_time_compare(hash, user.get_session_auth_hash()) or any(
        constant_time_compare(hash, old) for old in fallbacks()
    )
