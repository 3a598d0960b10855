"""The inbox: what one person may read, how much of it is unread, and what they did with it.

Querysets and domain functions, no HTTP. Three rules carry everything:

- *Readable* is what the person's topics hold since they joined; *visible* is that without what was recalled, has
  expired, was replaced by a newer notification with the same topic and tag, or is of a kind that they muted. All of it
  is worked out when the inbox is read, so that publishing locks and updates nothing. What was replaced stays so, even
  when its successor is recalled or expires: news that was overtaken must not come back. What was muted comes back
  when it is not any more.
- *Read* and *seen* are told by the person's :class:`~notifications.models.Receipt` for the notification if there is
  one, and otherwise by their :class:`~notifications.models.ReadMark`. A receipt therefore always holds the whole state,
  and a receipt without ``read_at`` keeps a row unread below the mark.
- The mark only moves over rows older than an hour. Ids are not committed in the order in which they are given: a mark
  on the newest row would swallow one with a smaller id whose transaction is still open. Newer rows get receipts.

What a person does is serialised by a lock on their own mark and published to their own topic in the same transaction,
so that their other tabs and devices follow. Nothing changed, nothing published.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from django.contrib.auth.models import AbstractBaseUser
from django.contrib.contenttypes.models import ContentType
from django.db import connections, models, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from .access import EVERYONE, TopicsUnknown, known_topics, user_topic
from .envelope import dumps
from .kinds import mutable
from .log import append, database
from .models import Membership, Notification, Preference, ReadMark, Receipt
from .publishing import check_url, notification_payload
from .settings import conf

__all__ = [
    "CAP",
    "STATUSES",
    "Change",
    "Counts",
    "Inbox",
    "Page",
    "Row",
    "Status",
    "acting",
    "archive",
    "as_json",
    "clicked",
    "counts",
    "mark_read",
    "mark_seen",
    "page",
    "read_all",
    "readable",
    "target_opened",
    "unread_count",
    "unseen_count",
    "visible",
]

Status = Literal["all", "unread", "archived"]
STATUSES: tuple[Status, ...] = get_args(Status)

#: Counting stops here; clients show it as "99+".
CAP = 100
#: No transaction that publishes is expected to stay open for longer than this.
SETTLED = timedelta(hours=1)
#: How many of the newest notifications :meth:`Inbox.kinds` looks at.
RECENT = 100
#: Receipts written by one INSERT.
BATCH = 500
#: The largest id that a database can hold; anything above is nobody's notification.
LARGEST_ID = 2**63 - 1


@dataclass(frozen=True)
class Counts:
    """How many notifications are unread (neither read nor archived) and unseen; ``CAP`` means "that many or more"."""

    unread: int
    unseen: int


@dataclass(frozen=True)
class Row:
    """One notification as its inbox has it."""

    notification: Notification
    read: bool
    seen: bool
    archived: bool
    receipt: Receipt | None = None
    origin: str = ""

    @property
    def href(self) -> str:
        """The link, or nothing if it may not be followed: it leads to the page's own ``origin``, or elsewhere by https.

        The script asks the same (``safeURL`` in rows.js).
        """
        url: str = self.notification.url
        try:
            check_url(url)
        except ValueError:
            return ""
        parts = urlsplit(url)
        return url if parts.scheme != "http" or f"http://{parts.netloc}".lower() == self.origin else ""


@dataclass(frozen=True)
class Page:
    """Some rows, newest first, and the id below which the next page goes on (None: this is the last)."""

    rows: list[Row]
    next: int | None


@dataclass(frozen=True)
class Change:
    """What an action came to: which of the ids are this person's, which of those it changed, the counts after it."""

    found: tuple[int, ...]
    changed: tuple[int, ...]
    counts: Counts


# --- Reading


def readable(user: AbstractBaseUser) -> QuerySet[Notification]:
    """Return everything that ``user`` was ever sent and may still read, recalled and replaced rows included."""
    return Inbox(user).readable


def visible(user: AbstractBaseUser) -> QuerySet[Notification]:
    """Return what belongs in the inbox of ``user`` now, archived rows included. Two queries find out what that is,
    three on a site that lets people mute kinds."""
    return Inbox(user).visible


def unread_count(user: AbstractBaseUser, cap: int = CAP) -> int:
    """Return how many notifications ``user`` has neither read nor archived; ``cap`` means "that many or more"."""
    return Inbox(user).unread_count(cap)


def unseen_count(user: AbstractBaseUser, cap: int = CAP) -> int:
    """Return how many notifications came since ``user`` last looked; ``cap`` means "that many or more"."""
    return Inbox(user).unseen_count(cap)


def counts(user: AbstractBaseUser) -> Counts:
    """Return both counts, for less than asking for each."""
    return Inbox(user).counts()


def page(
    user: AbstractBaseUser, status: Status = "all", kind: str = "", before: int | None = None, limit: int = 20
) -> Page:
    """Return a page of the inbox of ``user``; see :meth:`Inbox.page`."""
    return Inbox(user).page(status, kind, before, limit)


def as_json(row: Row) -> dict[str, Any]:
    """Return a row of the inbox as it goes on the wire: the notification's payload and what its reader did with it."""
    return {
        **notification_payload(row.notification),
        "read": row.read,
        "seen": row.seen,
        "archived": row.archived,
    }


# --- Acting


def mark_read(user: AbstractBaseUser, ids: Iterable[int], read: bool = True) -> Change:
    """Mark these notifications read, or unread again. Publishes ``read``."""
    with acting(user) as inbox:
        rows = inbox.find(ids)
        changed = [row for row in rows if row.read != read]
        inbox.write(changed, read_at=timezone.now() if read else None)
        result = inbox.change(rows, changed)
        if changed:
            _tell(user, "read", {"ids": result.changed, "read": read, **asdict(result.counts)})
    return result


def target_opened(user: AbstractBaseUser, target: models.Model) -> int:
    """Mark the unread notifications about ``target`` read; return how many there were. Publishes ``read``.

    Reads only while there are none, for it is called whenever somebody opens a page.
    """
    about = {"target_type": ContentType.objects.get_for_model(target), "target_id": str(target.pk)}
    ids = [pk for part in Inbox(user).parts("unread") for pk in part.filter(**about).values_list("pk", flat=True)]
    return len(mark_read(user, ids).changed) if ids else 0


def archive(user: AbstractBaseUser, ids: Iterable[int], archived: bool = True) -> Change:
    """Put these notifications into the archive, or back into the inbox as they were. Publishes ``archived``."""
    with acting(user) as inbox:
        rows = inbox.find(ids)
        changed = [row for row in rows if row.archived != archived]
        inbox.write(changed, archived_at=timezone.now() if archived else None)
        result = inbox.change(rows, changed)
        if changed:
            data = {"ids": result.changed, "archived": archived, **asdict(result.counts)}
            _tell(user, "archived", data)
    return result


def clicked(user: AbstractBaseUser, id: int) -> Change:
    """Note that ``user`` followed the notification's link, the first time; that reads it. Publishes ``read``."""
    with acting(user) as inbox:
        rows = inbox.find([id])
        now = timezone.now()
        changed = [row for row in rows if not row.read]
        for row in rows:
            if row.receipt is None or row.receipt.clicked_at is None:
                inbox.write([row], clicked_at=now, read_at=row.receipt.read_at if row.receipt and row.read else now)
            elif not row.read:
                inbox.write([row], read_at=now)
        result = inbox.change(rows, changed)
        if changed:
            _tell(user, "read", {"ids": result.changed, "read": True, **asdict(result.counts)})
    return result


def mark_seen(user: AbstractBaseUser) -> Change:
    """Note that ``user`` has looked at the inbox, so that its badge begins anew. Publishes ``seen``."""
    with acting(user) as inbox:
        if not inbox.unseen.exists():
            return inbox.change((), ())
        newest = inbox.newest or 0
        changed = inbox.move_mark(newest, read=False)
        _tell(user, "seen", {"all": True, "before": newest})
        return inbox.change((), changed)


def read_all(user: AbstractBaseUser, before: int | None = None) -> Change:
    """Mark everything read that is visible now, seen as well. Publishes ``read`` with ``all``.

    :param before: only ids up to and including this one: what the person had on the screen. Default: all.
    """
    with acting(user) as inbox:
        parts = inbox.parts("unread")
        if before is not None:
            parts = [part.filter(pk__lte=before) for part in parts]
        if not any(part.exists() for part in parts):
            return inbox.change((), ())
        newest = inbox.newest or 0
        if before is not None:
            newest = min(newest, before)
        changed = inbox.move_mark(newest, read=True)
        result = inbox.change((), changed)
        data = {"all": True, "before": newest, **asdict(result.counts)}
        _tell(user, "read", data)
    return result


# --- One person's


class Inbox:
    """The inbox of one person. What they may read and where their mark stands is asked for once.

    Make one for each request; :func:`visible`, :func:`counts` and :func:`page` are for who needs only that.

    :param certain: whether it is an error, :exc:`~notifications.access.TopicsUnknown`, that the site's own function
        fails; otherwise its topics are left out.
    :param origin: of the page that shows the rows: its scheme and host, where links may lead without https.
    """

    def __init__(
        self, user: AbstractBaseUser, using: str | None = None, *, certain: bool = False, origin: str = ""
    ) -> None:
        self.user = user
        self.using = using
        self.certain = certain
        self.origin = origin

    @cached_property
    def topics(self) -> list[str]:
        topics, certain = known_topics(self.user)
        if self.certain and not certain:
            raise TopicsUnknown
        return topics

    @cached_property
    def since(self) -> dict[str, datetime]:
        """When each topic that does not begin at its beginning begins for this person."""
        rows = Membership.objects.using(self.using).filter(user_id=self.user.pk, topic__in=self.topics)
        since = dict(rows.values_list("topic", "created_at"))
        joined = getattr(self.user, "date_joined", None)
        if joined is not None:
            # Who signs up today was not addressed by what was announced last year.
            since.setdefault(EVERYONE, joined)
        return since

    @cached_property
    def mark(self) -> ReadMark:
        mark = ReadMark.objects.using(self.using).filter(user_id=self.user.pk).first()
        return mark or ReadMark(user_id=self.user.pk)

    @cached_property
    def preference(self) -> Preference:
        """What this person chose, or the defaults."""
        row = Preference.objects.using(self.using).filter(user_id=self.user.pk).first()
        return row or Preference(user_id=self.user.pk)

    @property
    def muted(self) -> frozenset[str]:
        """The kinds that this person does not want; not asked for where nothing can be muted."""
        return self.preference.muted_kinds if mutable() else frozenset()

    @cached_property
    def readable(self) -> QuerySet[Notification]:
        wanted = Q(topic__in=self.topics)
        for topic, moment in self.since.items():
            wanted &= ~Q(topic=topic, created_at__lt=moment)
        return Notification.objects.using(self.using).filter(wanted)

    @cached_property
    def visible(self) -> QuerySet[Notification]:
        # `exclude` repeats the condition of the partial index, which is not used otherwise.
        newer = Notification.objects.filter(topic=OuterRef("topic"), tag=OuterRef("tag"), pk__gt=OuterRef("pk"))
        wanted = self.readable.exclude(kind__in=muted) if (muted := self.muted) else self.readable
        return wanted.filter(
            Q(tag="") | ~Exists(newer.exclude(tag="")),
            Q(expires_at=None) | Q(expires_at__gt=timezone.now()),
            recalled_at=None,
        )

    @property
    def newest(self) -> int | None:
        """The id of the newest visible notification."""
        return self.visible.order_by("-pk").values_list("pk", flat=True).first()

    @property
    def receipts(self) -> QuerySet[Receipt]:
        return Receipt.objects.using(self.using).filter(user_id=self.user.pk)

    @property
    def unseen(self) -> QuerySet[Notification]:
        seen = self.receipts.filter(notification=OuterRef("pk")).exclude(seen_at=None)
        return self.visible.filter(~Exists(seen), pk__gt=self.mark.seen_upto)

    def parts(self, status: Status) -> list[QuerySet[Notification]]:
        """Return querysets that together are the rows of this status; all ids of one are above those of the next."""
        own = self.receipts.filter(notification=OuterRef("pk"))
        archived = own.exclude(archived_at=None)
        if status == "archived":
            return [self.visible.filter(Exists(archived))]
        if status == "all":
            return [self.visible.filter(~Exists(archived))]
        # Two querysets, because either is a short range of an index and their OR is not.
        done = own.exclude(archived_at=None, read_at=None)
        parts = [self.visible.filter(~Exists(done), pk__gt=self.mark.read_upto)]
        if self.mark.read_upto:
            kept = self.receipts.filter(read_at=None, archived_at=None, notification__lte=self.mark.read_upto)
            parts.append(self.visible.filter(pk__lte=self.mark.read_upto, pk__in=kept.values("notification")))
        return parts

    def unread_count(self, cap: int = CAP) -> int:
        count = 0
        for part in self.parts("unread"):
            if count < cap:
                count += part.order_by()[: cap - count].count()
        return count

    def unseen_count(self, cap: int = CAP) -> int:
        return self.unseen.order_by()[:cap].count()

    def counts(self) -> Counts:
        return Counts(self.unread_count(), self.unseen_count())

    def page(self, status: Status = "all", kind: str = "", before: int | None = None, limit: int = 20) -> Page:
        """Return a page of the inbox, newest first.

        :param status: ``all`` (what is not archived), ``unread`` (neither read nor archived) or ``archived``.
        :param kind: only notifications of this kind; empty: of any.
        :param before: only ids below this; the ``next`` of the page before.
        :param limit: how many rows at most.
        """
        notifications: list[Notification] = []
        for part in self.parts(status):
            if kind:
                part = part.filter(kind=kind)
            if before is not None:
                part = part.filter(pk__lt=before)
            notifications.extend(part.order_by("-pk")[: limit + 1 - len(notifications)])
            if len(notifications) > limit:
                break
        shown = notifications[:limit]
        return Page(self.rows(shown), shown[-1].pk if len(notifications) > limit else None)

    def kinds(self) -> list[str]:
        """Return, sorted, the kinds that the site declares and this person has not muted, and those of the newest rows.

        Older rows are not searched for kinds that are not declared: that would cost more the longer the inbox is.
        """
        recent = self.visible.order_by("-pk").values_list("kind", flat=True)[:RECENT]
        return sorted({*recent, *(conf.kinds.keys() - self.muted)})

    def rows(self, notifications: Sequence[Notification]) -> list[Row]:
        """Return the notifications as this person has them; one query."""
        pks = [notification.pk for notification in notifications]
        receipts = {receipt.notification_id: receipt for receipt in self.receipts.filter(notification__in=pks)}
        return [self._row(notification, receipts.get(notification.pk)) for notification in notifications]

    def _row(self, notification: Notification, receipt: Receipt | None) -> Row:
        seen = notification.pk <= self.mark.seen_upto
        if receipt is None:
            read = notification.pk <= self.mark.read_upto
            return Row(notification, read, seen, archived=False, origin=self.origin)
        return Row(
            notification,
            read=receipt.read_at is not None,
            seen=seen or receipt.seen_at is not None,
            archived=receipt.archived_at is not None,
            receipt=receipt,
            origin=self.origin,
        )

    def find(self, ids: Iterable[int]) -> list[Row]:
        """Return those of the ids that this person may read, newest first.

        Recalled, expired and replaced rows count: a page shown a minute ago may still offer them, and it is no error
        to act on one.
        """
        wanted = {id for id in ids if 0 < id <= LARGEST_ID}
        return self.rows(list(self.readable.filter(pk__in=wanted).order_by("-pk"))) if wanted else []

    def change(self, found: Iterable[Row], changed: Iterable[Row]) -> Change:
        ids = tuple(row.notification.pk for row in found), tuple(row.notification.pk for row in changed)
        return Change(*ids, self.counts())

    def write(self, rows: Collection[Row], **values: datetime | None) -> None:
        """Set ``values`` in the receipts of these rows; a new receipt takes over what the mark said of its row."""
        now = timezone.now()
        receipts = []
        for row in rows:
            old = row.receipt
            state = {
                # Whatever somebody does with a notification, they have seen it.
                "seen_at": (old and old.seen_at) or now,
                "read_at": old.read_at if old else now if row.read else None,
                "archived_at": old and old.archived_at,
                "clicked_at": old and old.clicked_at,
            }
            # Without its primary key, so that the row that exists is met by the constraint that the INSERT names.
            receipts.append(Receipt(user_id=self.user.pk, notification_id=row.notification.pk, **{**state, **values}))
        _upsert(receipts, ["seen_at", *values], self.using or database())

    def move_mark(self, newest: int, *, read: bool) -> list[Row]:
        """Mark everything up to the id ``newest`` seen and, with ``read``, read; return the unsettled rows changed."""
        old = self.readable.filter(pk__lte=newest, created_at__lte=timezone.now() - SETTLED)
        settled = old.order_by("-pk").values_list("pk", flat=True).first() or 0
        now = timezone.now()
        mark = self.mark
        seen_upto, read_upto = max(mark.seen_upto, settled), max(mark.read_upto, settled if read else 0)
        unsettled = self.visible.filter(pk__gt=settled, pk__lte=newest)
        rows = self.rows(list(unsettled.order_by("-pk")))
        changed = [row for row in rows if not row.seen or (read and not row.read)]
        if read:
            self.write(changed, read_at=now)
            # Those that had been kept unread below the mark.
            self.receipts.filter(read_at=None, notification__lte=settled).update(read_at=now)
        else:
            self.write(changed)
        if (seen_upto, read_upto) != (mark.seen_upto, mark.read_upto):
            mark.seen_upto, mark.read_upto = seen_upto, read_upto
            mark.save(using=self.using, update_fields=["seen_upto", "read_upto"])
        return changed


@contextmanager
def acting(user: AbstractBaseUser) -> Iterator[Inbox]:
    """Open a transaction in which nobody else acts for ``user``, so that the counts published come in order."""
    using = database()
    with transaction.atomic(using=using):
        # The INSERT comes first, so that SQLite takes its write lock at once instead of failing to upgrade a read.
        ReadMark.objects.using(using).bulk_create([ReadMark(user_id=user.pk)], ignore_conflicts=True)
        # "All read up to here" must not pass over rows that are only missing for the moment.
        inbox = Inbox(user, using, certain=True)
        inbox.mark = ReadMark.objects.using(using).select_for_update().get(user_id=user.pk)
        yield inbox


def _tell(user: AbstractBaseUser, type: str, data: dict[str, Any]) -> None:
    """Let the other tabs and devices of ``user`` follow."""
    append([(user_topic(user), type, dumps(data))])


def _upsert(receipts: Sequence[Receipt], fields: list[str], using: str) -> None:
    if not receipts:
        return
    # MySQL and MariaDB update on a conflict with any unique key and do not let one name it.
    named = connections[using].features.supports_update_conflicts_with_target
    Receipt.objects.using(using).bulk_create(
        receipts,
        batch_size=BATCH,
        update_conflicts=True,
        unique_fields=["user", "notification"] if named else None,
        update_fields=fields,
    )
