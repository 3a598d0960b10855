"""The addresses of the demo site."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import include, path
from django.utils.translation import gettext_lazy as _

from project.staticfiles import serve

admin.site.site_header = admin.site.site_title = _("Corner Shop")

urlpatterns = [
    path("", include("project.shop.urls")),
    path("notifications/", include("notifications.urls")),
    path("login/", auth_views.LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", auth_views.LogoutView.as_view(), name="logout"),
    path("language/", include("django.conf.urls.i18n")),
    path("admin/", admin.site.urls),
    path("static/<path:path>", serve),
]
