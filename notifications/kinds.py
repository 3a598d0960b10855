"""The kinds of notifications that the site declares (setting ``KINDS``), which is what people can mute.

::

    "KINDS": {
        "order.shipped": {"label": _("Shipped orders"), "description": _("When a parcel leaves us.")},
        "account.security": {"label": _("Security of your account"), "mandatory": True},
    }

A kind that is not declared can be sent all the same; it is not offered, so that nobody mutes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .settings import conf

__all__ = ["NONE_MUTED", "Kind", "declared", "mutable"]

#: What most people mute; one for all of them, because Python makes a new one each time.
NONE_MUTED: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Kind:
    """One kind as its readers see it, in their language."""

    name: str
    label: str
    description: str = ""
    #: Nobody may mute it.
    mandatory: bool = False


def declared() -> list[Kind]:
    """Return the kinds of the site in its own order, their texts in the language that is active now."""
    return [
        Kind(name, str(about.get("label") or name), str(about.get("description") or ""), bool(about.get("mandatory")))
        for name, about in conf.kinds.items()
    ]


def mutable() -> frozenset[str]:
    """Return the names of the kinds that people may mute."""
    return frozenset(name for name, about in conf.kinds.items() if not about.get("mandatory"))
