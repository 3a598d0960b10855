"""What is waiting to be numbered: forgotten with the transaction that named it."""

from __future__ import annotations

from unittest import mock

import pytest
from django.db import transaction

from notifications import log, notify
from notifications.models import Event, Topic

pytestmark = pytest.mark.django_db(transaction=True)


def append(topic: str) -> None:
    log.append([(topic, "moved", "{}")])


def topics() -> set[str]:
    return set(Topic.objects.values_list("name", flat=True))


def test_rolled_back_topic_is_not_made_by_the_next_commit() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        append("rolled-back")
        raise ZeroDivisionError
    append("committed")
    assert topics() == {"committed"}


def test_topics_of_one_transaction_are_drained_together() -> None:
    with mock.patch.object(log, "drain", side_effect=log.drain) as drain, transaction.atomic():
        append("one")
        transaction.on_commit(lambda: None)
        append("two")
        notify("three", "Together")
        with transaction.atomic():
            notify("one", "Together")
    assert [sorted(call.args[0]) for call in drain.call_args_list] == [["one", "three", "two"]]
    assert topics() == {"one", "two", "three"}
    assert not Event.objects.filter(seq=None).exists()


def test_topic_of_a_savepoint_that_is_rolled_back_takes_no_other_with_it() -> None:
    with transaction.atomic():
        append("before")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            append("within")
            raise ZeroDivisionError
        append("after")
    assert {"before", "after"} <= topics()
    assert not Event.objects.filter(seq=None).exists()


def test_callback_that_publishes_leaves_the_topics_of_its_transaction_to_their_drain() -> None:
    with transaction.atomic():
        transaction.on_commit(lambda: append("by-the-callback"))
        append("before")
        append("before-too")
    assert topics() == {"by-the-callback", "before", "before-too"}
    assert not Event.objects.filter(seq=None).exists()
