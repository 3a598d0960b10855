from __future__ import annotations

from django.contrib import admin

from project.shop.models import Order, Product


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Orders as staff correct them; a changed status notifies the customer like any other save."""

    list_display = ["number", "product", "customer", "status", "updated_at"]
    list_display_links = ["number"]
    list_editable = ["status"]
    list_filter = ["status", "customer"]
    list_select_related = ["product", "customer"]
    search_fields = ["customer__username", "product__name"]
    autocomplete_fields = ["product"]
    readonly_fields = ["placed_at", "updated_at"]


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The shelf."""

    list_display = ["name", "price", "blurb"]
    search_fields = ["name"]
