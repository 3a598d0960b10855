"""Which pages may open a stream."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings

from notifications.origin import origin_allowed


def scope(origin: str | None, host: str = "example.com", scheme: str = "https", **headers: str) -> dict[str, Any]:
    pairs = [(b"host", host.encode())]
    pairs += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    if origin is not None:
        pairs.append((b"origin", origin.encode()))
    return {"scheme": scheme, "headers": pairs}


def allowed(origin: str | None, **given: str) -> bool:
    return origin_allowed(scope(origin, **given), required=True)


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        ("https://example.com", "example.com", "https"),
        ("https://example.com", "example.com", "wss"),
        ("https://example.com:443", "example.com", "https"),
        ("https://example.com", "example.com:443", "https"),
        ("http://example.com", "example.com", "http"),
        ("http://example.com", "EXAMPLE.com", "ws"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", "http"),
        ("http://[::1]:8000", "[::1]:8000", "http"),
    ],
)
def test_own_host(origin: str, host: str, scheme: str) -> None:
    assert allowed(origin, host=host, scheme=scheme)


@pytest.mark.parametrize(
    "origin",
    [
        "http://example.com",
        "https://example.com:8443",
        "https://evil.com",
        "https://example.com.evil.com",
        "https://evil-example.com",
        "https://sub.example.com",
        "https://example.com/",
        "https://example.com?x",
        "https://user@example.com",
        "https://",
        "null",
        "",
        "file://",
        "ftp://example.com",
        "javascript:alert(1)",
        "https://example.com:99999",
        "https://[::1",
        "\xff\xfe",
    ],
)
def test_other_origins(origin: str) -> None:
    assert not allowed(origin)


def test_missing_origin_is_for_the_caller_to_judge() -> None:
    assert not origin_allowed(scope(None), required=True)
    assert origin_allowed(scope(None), required=False)


def test_foreign_origin_is_refused_also_where_none_is_required() -> None:
    assert not origin_allowed(scope("https://evil.com"), required=False)


@override_settings(ALLOWED_HOSTS=["*"])
def test_allowed_hosts_say_nothing_about_origins() -> None:
    assert not allowed("https://evil.com")


@override_settings(CSRF_TRUSTED_ORIGINS=["https://shop.example.org", "https://*.example.net"])
@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        ("https://shop.example.org", True),
        ("https://shop.example.org:444", False),
        ("http://shop.example.org", False),
        ("https://a.example.net", True),
        ("https://a.b.example.net", True),
        ("https://example.net", False),
        ("https://evilexample.net", False),
    ],
)
def test_trusted_origins_as_for_csrf(origin: str, answer: bool) -> None:
    assert allowed(origin) is answer


@override_settings(NOTIFICATIONS={"ALLOWED_ORIGINS": ["https://app.example.org"]})
def test_allowed_origins_of_the_settings() -> None:
    assert allowed("https://app.example.org")
    assert not allowed("https://api.example.org")


@override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"))
def test_scheme_of_the_client_behind_a_proxy() -> None:
    assert allowed("https://example.com", scheme="http", x_forwarded_proto="https")
    assert not allowed("https://example.com", scheme="http", x_forwarded_proto="http")
    assert not allowed("https://example.com", scheme="http")


@override_settings(USE_X_FORWARDED_HOST=True)
def test_host_of_the_client_behind_a_proxy() -> None:
    assert allowed("https://example.com", host="10.0.0.1", x_forwarded_host="example.com")
    assert allowed("https://example.com", host="example.com")


def test_forwarded_host_counts_only_where_the_site_says_so() -> None:
    assert not allowed("https://evil.com", x_forwarded_host="evil.com")
