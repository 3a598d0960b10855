"""The ASGI application, and what ``runserver`` makes of it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from inspect import isfunction, ismethod
from types import ModuleType
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register
from django.core.handlers.base import BaseHandler
from django.core.management import get_commands
from django.utils.module_loading import import_string

from notifications.settings import configured

__all__: list[str] = []

#: The apps whose ``runserver`` is a WSGI server.
DJANGO_RUNSERVERS = ("django.core", "django.contrib.staticfiles")
#: Objects of an ASGI application that are looked at before it is believed to be wrapped.
APPLICATION_PARTS = 2000


@register(Tags.compatibility)
def check_asgi(**_: Any) -> list[CheckMessage]:
    """The ASGI application: whether there is one, and whether it is wrapped."""
    if not streams():
        return []
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        return [
            Warning(
                "ASGI_APPLICATION is not set: runserver serves WSGI, where there are neither event streams nor "
                "WebSockets, and browsers poll.",
                hint=(
                    f'Set ASGI_APPLICATION = "{project()}.asgi.application", and put "daphne" first in '
                    "INSTALLED_APPS, so that runserver uses it."
                ),
                id="notifications.W008",
            )
        ]
    try:
        application = import_string(path)
    except (Exception, SystemExit) as error:
        return [
            Warning(
                f"ASGI_APPLICATION, {path!r}, can not be imported: {error!r}.",
                hint="A server that is to serve it will fail as well; see docs/install.md for what asgi.py looks like.",
                id="notifications.W017",
            )
        ]
    messages: list[CheckMessage] = []
    if not is_wrapped(application):
        messages.append(
            Warning(
                f"ASGI_APPLICATION, {path!r}, is not wrapped: there is no WebSocket, and each open event stream holds "
                "a request of Django.",
                hint=(
                    f"In {path.rpartition('.')[0]}: application = notifications.asgi.wrap(get_asgi_application()), or "
                    "wrap() around the HTTP part of a router of your own."
                ),
                id="notifications.W007",
            )
        )
    if asked_about_runserver(sys.argv) and get_commands()["runserver"] in DJANGO_RUNSERVERS:
        messages.append(
            Warning(
                "runserver serves WSGI, although ASGI_APPLICATION is set: there are neither event streams nor "
                "WebSockets, and browsers poll.",
                hint=(
                    'Put "daphne" first in INSTALLED_APPS, or run an ASGI server instead of runserver and silence this.'
                ),
                id="notifications.W009",
            )
        )
    return messages


def asked_about_runserver(arguments: Sequence[str]) -> bool:
    """Return whether a command line is that of ``runserver``, or of a check of the site as it is developed.

    Any other command, and a deployment, has nothing to do with ``runserver``.
    """
    return arguments[1:2] == ["runserver"] or (arguments[1:2] == ["check"] and "--deploy" not in arguments)


def streams() -> bool:
    """Return whether any browser of this site is to open a stream."""
    own: object = configured()
    transports = own.get("TRANSPORTS") if isinstance(own, Mapping) else None
    return not isinstance(transports, list | tuple) or any(name != "polling" for name in transports)


def project() -> str:
    """Return what the site's project package is called."""
    return str(getattr(settings, "ROOT_URLCONF", None) or "project").partition(".")[0]


def is_wrapped(application: object) -> bool:
    """Return whether there is a ``StreamHandover`` somewhere in an ASGI application.

    Looks into closures, attributes, dicts and the globals that functions use, but not into Django's own application.
    An application with more parts than can be looked at is believed.
    """
    from notifications.handover import StreamHandover

    seen: set[int] = set()
    waiting: list[object] = [application]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, StreamHandover) or len(seen) > APPLICATION_PARTS:
            return True
        if id(part) in seen or isinstance(part, ModuleType | type | str | bytes | int | float):
            continue
        seen.add(id(part))
        waiting.extend(parts_of(part))
    return False


def parts_of(part: Any) -> Iterator[object]:
    """Yield what an application, or a part of one, is made of."""
    if isinstance(part, BaseHandler):
        # Of Django's handlers only the one for static files has another application within.
        yield getattr(part, "application", None)
    elif isinstance(part, Mapping):
        yield from part.values()
    elif isinstance(part, list | tuple | set | frozenset):
        yield from part
    elif isinstance(part, functools.partial):
        yield from (part.func, part.args, part.keywords)
    elif ismethod(part):
        yield from (part.__self__, part.__func__)
    elif isfunction(part):
        for cell in part.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # Empty as yet.
                continue
        yield from (part.__globals__[name] for name in part.__code__.co_names if name in part.__globals__)
        yield from vars(part).values()
    elif hasattr(part, "__dict__"):
        yield from vars(part).values()
