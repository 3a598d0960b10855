"""Which origin (scheme, host and port) a page is of, and which pages may open a stream: those of this site, exactly.

Channels' own validator ignores scheme and port and trusts everybody under ``ALLOWED_HOSTS = ["*"]``; cookies are sent
with a WebSocket handshake from any page, so this is what keeps other sites from reading a user's notifications.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest

from .settings import conf

__all__ = ["origin_allowed", "own_origin"]

SECURE = {"https": True, "wss": True, "http": False, "ws": False}
DEFAULT_PORTS = {True: 443, False: 80}

Origin = tuple[bool, str, int]


def origin_allowed(scope: Mapping[str, Any], *, required: bool) -> bool:
    """Return whether the request's ``Origin`` is this host's own, or one the site trusts.

    :param scope: the ASGI scope of the request.
    :param required: what a missing header means: browsers send one with each WebSocket handshake, but none with a
        same-origin ``GET``.
    """
    headers = dict(scope.get("headers", ()))
    given = headers.get(b"origin")
    if given is None:
        return not required
    origin = _parse(given.decode("latin-1"))
    if origin is None:
        return False
    secure, host, port = origin
    if _is_secure(scope, headers) in (secure, None) and _host(headers) in (
        f"{host}:{port}",
        host if port == DEFAULT_PORTS[secure] else None,
    ):
        return True
    return any(_matches(origin, trusted) for trusted in (*settings.CSRF_TRUSTED_ORIGINS, *conf.allowed_origins))


def own_origin(request: HttpRequest) -> str:
    """Return the origin of the page that was asked for, such as ``https://shop.example``; "" if it has no such host."""
    try:
        return f"{request.scheme}://{request.get_host()}".lower()
    except DisallowedHost:
        return ""


def _is_secure(scope: Mapping[str, Any], headers: dict[bytes, bytes]) -> bool | None:
    """Return whether the client used TLS; by the header of ``SECURE_PROXY_SSL_HEADER`` where the site set it."""
    if settings.SECURE_PROXY_SSL_HEADER:
        name, value = settings.SECURE_PROXY_SSL_HEADER
        header = name.removeprefix("HTTP_").replace("_", "-").lower().encode()
        return headers.get(header, b"").decode("latin-1").split(",")[0].strip() == value
    return SECURE.get(scope.get("scheme", "http"))


def _host(headers: dict[bytes, bytes]) -> str:
    name = b"x-forwarded-host" if settings.USE_X_FORWARDED_HOST and b"x-forwarded-host" in headers else b"host"
    return headers.get(name, b"").decode("latin-1").lower()


def _parse(text: str) -> Origin | None:
    try:
        parts = urlsplit(text)
        secure = SECURE.get(parts.scheme)
        if secure is None or not parts.hostname or parts.path or parts.query or parts.username:
            return None
        return secure, _bracketed(parts.hostname), parts.port or DEFAULT_PORTS[secure]
    except ValueError:
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _matches(origin: Origin, trusted: str) -> bool:
    """As Django's CSRF check: an entry may begin its host with ``*.`` for all subdomains."""
    wildcard = "://*." in trusted
    parsed = _parse(trusted.replace("://*.", "://"))
    if parsed is None or (parsed[0], parsed[2]) != (origin[0], origin[2]):
        return False
    return origin[1].endswith(f".{parsed[1]}") if wildcard else origin[1] == parsed[1]
