"""What the site's database holds: the log (topics, events) and the inbox (notifications, receipts, broadcasts).

The log is append-only and the truth of what is delivered; the inbox is what a person reads later. Rows are written
by :mod:`notifications.publishing`, numbered by :mod:`notifications.log`, read by :mod:`notifications.inbox`.
"""

from __future__ import annotations

import secrets

from django.conf import settings
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from . import kinds

TOPIC_NAME_LENGTH = 150
#: Of another row's primary key, as text.
REFERENCE_LENGTH = 255


def new_epoch() -> str:
    """Return a fresh epoch: eight random hexadecimal digits, so that no two lives of a topic share one."""
    return secrets.token_hex(4)


class Topic(models.Model):
    """One named log: events 1, 2, 3 … ``head`` without holes, of which those up to ``floor`` are trimmed."""

    name = models.CharField(_("name"), max_length=TOPIC_NAME_LENGTH, unique=True)
    epoch = models.CharField(_("epoch"), max_length=16, default=new_epoch)
    head = models.BigIntegerField(_("head"), default=0)
    floor = models.BigIntegerField(_("floor"), default=0)
    advanced_at = models.DateTimeField(_("advanced at"), db_default=Now(), db_index=True)

    class Meta:
        verbose_name = _("topic")
        verbose_name_plural = _("topics")

    def __str__(self) -> str:
        return self.name


class Event(models.Model):
    """One entry of a topic's log. ``seq`` is NULL from the caller's INSERT until the drain numbers it.

    The topic is held by name: a foreign key would make the caller create, or lock, the shared topic row inside
    their own transaction, and two callers naming two new topics in opposite order would deadlock.
    """

    topic = models.CharField(_("topic"), max_length=TOPIC_NAME_LENGTH)
    seq = models.BigIntegerField(_("number"), null=True, editable=False)
    type = models.CharField(_("type"), max_length=64)
    payload = models.TextField(_("payload"), help_text=_("A JSON object, rendered once, when the event was published."))
    # The database's clock, not the host's: ages must not depend on which process inserted the row.
    created_at = models.DateTimeField(_("created at"), db_default=Now())

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        constraints = [models.UniqueConstraint(fields=["topic", "seq"], name="notifications_event_topic_seq")]
        indexes = [
            # In their order, so that a drain on PostgreSQL reads no more than it numbers, however many wait.
            models.Index(fields=["topic", "id"], condition=models.Q(seq=None), name="notifications_event_waiting"),
            models.Index(fields=["created_at"], name="notifications_event_age"),
        ]

    def __str__(self) -> str:
        return f"{self.topic} {self.seq or '–'} {self.type}"


class Level(models.TextChoices):
    """How much a notification matters, as colours and icons show it."""

    INFO = "info", _("info")
    SUCCESS = "success", _("success")
    WARNING = "warning", _("warning")
    ERROR = "error", _("error")


class Notification(models.Model):
    """What a person reads: one row, whatever the number of its readers."""

    topic = models.CharField(_("topic"), max_length=TOPIC_NAME_LENGTH)
    kind = models.CharField(_("kind"), max_length=100, default="message")
    level = models.CharField(_("level"), max_length=16, choices=Level.choices, default=Level.INFO)
    title = models.CharField(_("title"), max_length=200)
    body = models.TextField(_("body"), blank=True)
    url = models.CharField(_("link"), max_length=2000, blank=True)
    data = models.JSONField(_("data"), default=dict, blank=True)
    tag = models.CharField(_("tag"), max_length=100, blank=True)

    actor_type = models.ForeignKey(
        ContentType, models.SET_NULL, null=True, blank=True, related_name="+", db_index=False
    )
    actor_id = models.CharField(max_length=REFERENCE_LENGTH, blank=True)
    actor = GenericForeignKey("actor_type", "actor_id")
    target_type = models.ForeignKey(
        ContentType, models.SET_NULL, null=True, blank=True, related_name="+", db_index=False
    )
    target_id = models.CharField(max_length=REFERENCE_LENGTH, blank=True)
    target = GenericForeignKey("target_type", "target_id")

    broadcast = models.ForeignKey(
        "Broadcast", models.SET_NULL, null=True, blank=True, editable=False, related_name="notifications"
    )
    created_at = models.DateTimeField(_("created at"), default=timezone.now, db_index=True)
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    recalled_at = models.DateTimeField(_("recalled at"), null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("notification")
        verbose_name_plural = _("notifications")
        indexes = [
            models.Index(fields=["topic", "-id"], name="notifications_inbox"),
            models.Index(fields=["topic", "tag", "-id"], name="notifications_tag", condition=~models.Q(tag="")),
            models.Index(fields=["target_type", "target_id"], name="notifications_target"),
        ]

    def __str__(self) -> str:
        return self.title


class Receipt(models.Model):
    """What one person did with one notification; created only when something happens."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    notification = models.ForeignKey(Notification, models.CASCADE, related_name="receipts")
    seen_at = models.DateTimeField(_("seen at"), null=True)
    read_at = models.DateTimeField(_("read at"), null=True)
    archived_at = models.DateTimeField(_("archived at"), null=True)
    clicked_at = models.DateTimeField(_("clicked at"), null=True)

    class Meta:
        verbose_name = _("receipt")
        verbose_name_plural = _("receipts")
        constraints = [models.UniqueConstraint(fields=["user", "notification"], name="notifications_receipt_once")]
        indexes = [
            # What somebody has seen and still keeps unread: few rows among all that they ever read.
            models.Index(
                fields=["user", "notification"],
                name="notifications_kept_unread",
                condition=models.Q(read_at=None, archived_at=None),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} {self.notification_id}"


class ReadMark(models.Model):
    """ "All read up to here", one row a user: notifications with an id up to ``read_upto`` are read, whoever's receipt
    is missing; likewise ``seen_upto`` for the badge. The marks only ever move over rows old enough that no open
    transaction can still commit a smaller id (see :mod:`notifications.inbox`)."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="+")
    read_upto = models.BigIntegerField(_("read up to"), default=0)
    seen_upto = models.BigIntegerField(_("seen up to"), default=0)

    class Meta:
        verbose_name = _("read mark")
        verbose_name_plural = _("read marks")

    def __str__(self) -> str:
        return f"{self.user_id} ≤ {self.read_upto}"


class Preference(models.Model):
    """What one person wants of their notifications, one row a user; who never chose has no row, and the defaults."""

    class Transport(models.TextChoices):
        AUTO = "auto", _("Automatic")
        SSE = "sse", _("Event stream (SSE)")
        WEBSOCKET = "websocket", _("WebSocket")
        POLLING = "polling", _("Asking now and then (polling)")

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="+")
    muted = models.JSONField(_("muted kinds"), default=list, blank=True)
    transport = models.CharField(_("transport"), max_length=16, choices=Transport.choices, default=Transport.AUTO)
    toasts = models.BooleanField(_("toasts"), default=True)
    sound = models.BooleanField(_("sound"), default=False)
    system = models.BooleanField(_("notifications of the operating system"), default=False)

    class Meta:
        verbose_name = _("preference")
        verbose_name_plural = _("preferences")

    def __str__(self) -> str:
        return str(self.user_id)

    @property
    def muted_kinds(self) -> frozenset[str]:
        """The kinds that are muted in effect: a kind may have become mandatory, or be gone, since it was chosen."""
        return kinds.mutable().intersection(self.muted)


class Membership(models.Model):
    """Since when a user may read a topic that people join and leave (``staff``, ``group:7``).

    Its log, and its inbox, begin for this user after ``since``: who joins later does not read what was said before.
    Kept by Django's signals; people who join by raw SQL or in bulk have no row and may read what the log still holds.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    topic = models.CharField(_("topic"), max_length=TOPIC_NAME_LENGTH)
    since = models.BigIntegerField(_("since number"), default=0)
    created_at = models.DateTimeField(_("joined at"), default=timezone.now)

    class Meta:
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")
        constraints = [models.UniqueConstraint(fields=["user", "topic"], name="notifications_member_once")]

    def __str__(self) -> str:
        return f"{self.user_id} {self.topic} > {self.since}"


class Broadcast(models.Model):
    """A message to an audience: what was composed, by whom, when it goes out and what became of it."""

    class Audience(models.TextChoices):
        EVERYONE = "everyone", _("everyone")
        STAFF = "staff", _("staff")
        GROUP = "group", _("a group")
        USERS = "users", _("chosen users")

    class State(models.TextChoices):
        DRAFT = "draft", _("draft")
        SCHEDULED = "scheduled", _("scheduled")
        SENT = "sent", _("sent")
        RECALLED = "recalled", _("recalled")

    title = models.CharField(_("title"), max_length=200)
    body = models.TextField(_("body"), blank=True)
    level = models.CharField(_("level"), max_length=16, choices=Level.choices, default=Level.INFO)
    url = models.CharField(_("link"), max_length=2000, blank=True)
    kind = models.CharField(_("kind"), max_length=100, default="broadcast")
    data = models.JSONField(_("data"), default=dict, blank=True)
    tag = models.CharField(_("tag"), max_length=100, blank=True)
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)

    audience = models.CharField(_("audience"), max_length=16, choices=Audience.choices, default=Audience.EVERYONE)
    group = models.ForeignKey("auth.Group", models.SET_NULL, null=True, blank=True, related_name="+")
    users = models.ManyToManyField(settings.AUTH_USER_MODEL, blank=True, related_name="+")

    state = models.CharField(_("state"), max_length=16, choices=State.choices, default=State.DRAFT, editable=False)
    scheduled_at = models.DateTimeField(_("send at"), null=True, blank=True, db_index=True)
    sender = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    created_at = models.DateTimeField(_("composed at"), default=timezone.now, editable=False)
    sent_at = models.DateTimeField(_("sent at"), null=True, blank=True, editable=False)
    recipients = models.PositiveIntegerField(_("recipients"), null=True, editable=False)

    class Meta:
        verbose_name = _("broadcast")
        verbose_name_plural = _("broadcasts")
        ordering = ["-id"]
        permissions = [("send_broadcast", "Can send, schedule and recall broadcasts")]

    def __str__(self) -> str:
        return self.title
