"""For the site's own views: who opens the page of what a notification is about has read that notification."""

from __future__ import annotations

import logging
from typing import Any

from django.db import models
from django.http import HttpRequest, HttpResponseBase
from django.template.response import SimpleTemplateResponse

from .inbox import target_opened

__all__ = ["MarksTargetReadMixin", "mark_target_read"]

logger = logging.getLogger("notifications")


class MarksTargetReadMixin:
    """Mark the person's notifications about the view's object read when its page is shown.

    ::

        class OrderDetail(LoginRequiredMixin, MarksTargetReadMixin, DetailView):
            model = Order

    Put it before the view class. It follows a GET that was answered with 200, after the page was rendered; what a
    browser fetches ahead, without anybody looking, reads nothing. The bells of that page and of all others hear of it.
    """

    request: HttpRequest

    def get_notification_target(self) -> models.Model | None:
        """Return what the page is about: ``self.object``, unless a view says otherwise. None: nothing."""
        return getattr(self, "object", None)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response: HttpResponseBase = super().dispatch(request, *args, **kwargs)  # type: ignore[misc]
        if response.status_code == 200 and (target := self.get_notification_target()) is not None:
            if isinstance(response, SimpleTemplateResponse):
                response.add_post_render_callback(lambda _: mark_target_read(request, target))
            else:
                mark_target_read(request, target)
        return response


def mark_target_read(request: HttpRequest, target: models.Model) -> int:
    """Mark the unread notifications about ``target`` read for whoever asks for its page; return how many there were.

    For views that are functions. Does nothing for people who are not logged in, for other methods than GET, and for
    pages that are fetched ahead. What fails here, the database or the site's ``TOPICS``, does not take the page along:
    that is logged.
    """
    if request.method != "GET" or is_prefetch(request) or not request.user.is_authenticated:
        return 0
    try:
        return target_opened(request.user, target)
    except Exception:
        logger.exception("notifications about %r could not be marked read", target)
        return 0


def is_prefetch(request: HttpRequest) -> bool:
    """Return whether a browser asks ahead of its person (``Sec-Purpose``, and what came before it)."""
    purposes = (request.headers.get(name, "") for name in ("Sec-Purpose", "Purpose", "X-Moz"))
    return any("prefetch" in purpose.lower() for purpose in purposes)
