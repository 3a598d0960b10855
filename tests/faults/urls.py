"""The tests' own site, and a page that publishes as a site's views do."""

from __future__ import annotations

import time
from typing import Any

from django.contrib.auth import logout
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from notifications import notify
from tests.urls import urlpatterns as site


def own_topics(user: Any) -> list[str]:
    """Topics of the site's own: many for each person, so that many are joined."""
    return [f"own:{user.pk}:{number}" for number in range(25)]


def page(request: HttpRequest) -> JsonResponse:
    """An ordinary page: it looks up who asks."""
    return JsonResponse({"user": request.user.pk})


@csrf_exempt
def order(request: HttpRequest) -> JsonResponse:
    """An ordinary view that notifies its user; tells how long that took."""
    assert request.user.is_authenticated
    began = time.monotonic()
    data: dict[str, Any] = {"n": f"view-{time.time_ns()}-{request.user.pk}", "at": time.time()}
    notify(request.user, "Ordered", data=data)
    return JsonResponse({"seconds": time.monotonic() - began})


@csrf_exempt
def leave(request: HttpRequest) -> JsonResponse:
    """Log out."""
    logout(request)
    return JsonResponse({})


urlpatterns = [*site, path("page/", page), path("order/", order), path("leave/", leave)]
