"""What the shop sells and what its customers ordered."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils.translation import gettext_lazy as _


class Product(models.Model):
    """One thing on the shelf."""

    name = models.CharField(_("name"), max_length=60, unique=True)
    blurb = models.CharField(_("description"), max_length=120)
    price = models.DecimalField(_("price in euro"), max_digits=6, decimal_places=2)
    picture = models.CharField(
        _("picture"), max_length=100, help_text=_("A static file, such as shop/products/mug.svg.")
    )

    class Meta:
        verbose_name = _("product")
        verbose_name_plural = _("products")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Status(models.TextChoices):
    """The steps of an order, in their order."""

    PLACED = "placed", _("placed")
    PACKED = "packed", _("packed")
    SHIPPED = "shipped", _("shipped")
    DELIVERED = "delivered", _("delivered")

    @property
    def following(self) -> Status | None:
        """The step after this one; None after the last."""
        steps = list(Status)
        place = steps.index(self) + 1
        return steps[place] if place < len(steps) else None

    @property
    def task(self) -> str:
        """What staff do so that an order gets here, as a button says it; empty for the first step."""
        tasks = {Status.PACKED: _("Pack"), Status.SHIPPED: _("Ship"), Status.DELIVERED: _("Deliver")}
        return str(tasks.get(self, ""))


class Order(models.Model):
    """One product on its way to one customer."""

    customer = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="orders", verbose_name=_("customer")
    )
    product = models.ForeignKey(Product, models.PROTECT, related_name="orders", verbose_name=_("product"))
    status = models.CharField(_("status"), max_length=12, choices=Status.choices, default=Status.PLACED)
    placed_at = models.DateTimeField(_("placed at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed at"), auto_now=True)

    class Meta:
        verbose_name = _("order")
        verbose_name_plural = _("orders")
        ordering = ["-pk"]
        indexes = [models.Index(fields=["status", "-updated_at"], name="shop_order_desk")]

    def __str__(self) -> str:
        return f"{self.number} · {self.product}"

    def get_absolute_url(self) -> str:
        """Return the page on which the customer follows this order."""
        return reverse("shop:order", args=[self.pk])

    @property
    def number(self) -> str:
        """What customer and staff call this order by."""
        return f"N{1000 + self.pk}"

    @property
    def steps(self) -> list[tuple[Status, str]]:
        """Each step with ``done``, ``current`` or ``next``, as the stepper draws it."""
        steps = list(Status)
        reached = steps.index(Status(self.status))
        last = len(steps) - 1
        return [
            (step, "done" if place < reached or reached == last else "current" if place == reached else "next")
            for place, step in enumerate(steps)
        ]

    @property
    def following(self) -> Status | None:
        """The status that :meth:`advance` leads to; None when delivered."""
        return Status(self.status).following

    def advance(self) -> bool:
        """Move this order one step on and save it; return False when it is already delivered."""
        following = self.following
        if following is None:
            return False
        self.status = following
        self.save()
        return True
