from __future__ import annotations

from django.urls import path

from project.shop import views

app_name = "shop"
urlpatterns = [
    path("", views.home, name="home"),
    path("start/", views.start, name="start"),
    path("demo-login/", views.demo_login, name="demo-login"),
    path("orders/", views.orders, name="orders"),
    path("orders/place/", views.place, name="place"),
    path("orders/<int:pk>/", views.order, name="order"),
    path("desk/", views.desk, name="desk"),
    path("desk/<int:pk>/advance/", views.advance, name="advance"),
    path("desk/announce/", views.announce, name="announce"),
]
