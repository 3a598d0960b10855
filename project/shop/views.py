"""The shop's pages. None of them knows of notifications but :func:`announce`, which sends one to everybody."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import get_user_model, login
from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, QuerySet
from django.forms import ModelChoiceField
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from notifications import broadcast
from notifications.models import Level
from project.shop.demo import PEOPLE
from project.shop.forms import AnnouncementForm
from project.shop.models import Order, Product, Status

DESK_ORDERS = 25  # of each status; older ones are in the admin


class Request(HttpRequest):
    """A request behind ``login_required``."""

    user: User


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """What this is and what to try; with ``DEBUG``, a button for each demo login."""
    return render(request, "shop/home.html", {"people": PEOPLE if settings.DEBUG else []})


@login_required
@require_safe
def start(request: Request) -> HttpResponse:
    """Where a person lands after logging in: staff at the desk, customers at their orders."""
    return redirect("shop:desk" if request.user.has_perm("shop.change_order") else "shop:orders")


@require_POST
def demo_login(request: HttpRequest) -> HttpResponse:
    """Log in as one of the demo's people without a password; only with ``DEBUG``."""
    name = request.POST.get("username", "")
    if not settings.DEBUG or name not in {person.username for person in PEOPLE}:
        raise Http404
    user = get_user_model().objects.filter(username=name, is_active=True).first()
    if user is None:
        messages.warning(request, _("There is no %(name)s yet: run “python manage.py demo” first.") % {"name": name})
        return redirect("shop:home")
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return redirect("shop:start")


def orders_of(user: User) -> QuerySet[Order]:
    """Return the orders that ``user`` may see: their own, or all of them for those who may change orders."""
    every = Order.objects.select_related("product", "customer")
    return every if user.has_perm("shop.view_order") else every.filter(customer=user)


@login_required
@require_safe
def orders(request: Request) -> HttpResponse:
    """A customer's own orders, and the shelf to order from."""
    mine = Order.objects.filter(customer=request.user).select_related("product")
    return render(request, "shop/orders.html", {"orders": mine[:20], "products": Product.objects.all()})


@login_required
@require_safe
def order(request: Request, pk: int) -> HttpResponse:
    """One order; another customer's does not exist."""
    return render(request, "shop/order.html", {"order": get_object_or_404(orders_of(request.user), pk=pk)})


@login_required
@require_POST
def place(request: Request) -> HttpResponse:
    """Order one product for the logged-in customer."""
    try:
        product = ModelChoiceField(Product.objects.all()).clean(request.POST.get("product"))
    except ValidationError as error:
        raise Http404 from error
    Order.objects.create(customer=request.user, product=product)
    return redirect("shop:orders")


@login_required
@permission_required("shop.change_order", raise_exception=True)
@require_safe
def desk(request: Request) -> HttpResponse:
    """The staff's desk: orders by status, each to be moved on, and the form for announcements."""
    return render(request, "shop/desk.html", desk_context(AnnouncementForm()))


def desk_context(form: AnnouncementForm) -> dict[str, object]:
    """Return what the desk shows, with ``form`` as its announcement."""
    counts = dict(Order.objects.order_by().values_list("status").annotate(Count("pk")))
    orders = Order.objects.select_related("product", "customer").order_by("-updated_at", "-pk")
    columns = [(step, counts.get(step.value, 0), orders.filter(status=step)[:DESK_ORDERS]) for step in Status]
    return {"columns": columns, "form": form}


@login_required
@permission_required("shop.change_order", raise_exception=True)
@require_POST
def advance(request: Request, pk: int) -> HttpResponse:
    """Move one order to the status that the button named, if that is still the next one.

    Two people at two desks who press the same button move the order by one step, not by two.
    """
    with transaction.atomic():
        order = get_object_or_404(Order.objects.select_for_update(), pk=pk)
        if order.following is None or request.POST.get("to") != order.following:
            messages.info(request, _("%(order)s has already been moved on.") % {"order": order.number})
        else:
            order.advance()
    return redirect("shop:desk")


@login_required
@permission_required("notifications.send_broadcast", raise_exception=True)
@require_POST
def announce(request: Request) -> HttpResponse:
    """Send the announcement to its audience."""
    form = AnnouncementForm(request.POST)
    if not form.is_valid():
        return render(request, "shop/desk.html", desk_context(form), status=422)
    data = form.cleaned_data
    # What is more than news stands in a banner on every page until each person has dismissed it.
    kind = "shop.notice" if data["level"] in (Level.WARNING, Level.ERROR) else "broadcast"
    broadcast(
        data["title"], data["body"], audience=data["audience"], kind=kind, level=data["level"], sender=request.user
    )
    messages.success(request, _("Sent: %(title)s") % {"title": data["title"]})
    return redirect("shop:desk")
