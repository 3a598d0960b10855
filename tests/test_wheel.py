"""The wheel: what is in it, and that a fresh site on which it is installed has a live bell after the README's lines."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, expect

from tests.servers import ROOT, Site

SETTINGS = """
INSTALLED_APPS += ["notifications"]
TEMPLATES[0]["DIRS"] = [BASE_DIR]
"""
URLS = """
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import include
from django.views.generic import TemplateView

urlpatterns += [path("notifications/", include("notifications.urls"))]
urlpatterns += [path("", TemplateView.as_view(template_name="page.html")), *staticfiles_urlpatterns()]
"""
ASGI = """
import notifications.asgi

application = notifications.asgi.wrap(application)
"""
PAGE = "<!doctype html><title>A page</title>{% load notifications %}{% notification_bell %}"
NOTIFY = """
from django.contrib.auth.models import User
from notifications import notify

notify(User.objects.get(username="alice"), "hi")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that this checkout builds."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT],
        check=True,
    )
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def fresh_site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """What ``django-admin startproject`` makes, with the wheel installed beside it and the README's lines applied."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel], check=True
    )
    # What the wheel depends on is taken from here: the network is not what is tested.
    packages = folder / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    site = Site(
        f"sqlite:///{folder / 'project' / 'db.sqlite3'}",
        settings="fresh.settings",
        app="fresh.asgi:application",
        python=python,
        directory=folder / "project",
    )
    site.directory.mkdir()
    subprocess.run([python, "-m", "django", "startproject", "fresh", site.directory], check=True)
    for name, lines in {"settings": SETTINGS, "urls": URLS, "asgi": ASGI}.items():
        with (site.directory / "fresh" / f"{name}.py").open("a") as source:
            source.write(lines)
    (site.directory / "page.html").write_text(PAGE)
    site.prepare()
    return site


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "notifications"],
        cwd=ROOT,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    assert packed == set(listed.stdout.split())


@pytest.mark.parametrize("needed", ["py.typed", "migrations/0001_initial.py", "static/", "templates/"])
def test_wheel_holds(wheel: Path, needed: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.startswith(f"notifications/{needed}") for name in archive.namelist())


def test_fresh_site_imports_the_wheel(fresh_site: Site) -> None:
    with fresh_site.worker() as worker:
        path = worker.run("import notifications; result = notifications.__file__")
    assert Path(path).is_relative_to(Path(fresh_site.python).parent.parent)


async def test_fresh_site_streams_what_another_process_notifies(fresh_site: Site) -> None:
    with fresh_site.server() as server, fresh_site.worker() as worker:
        async with (
            httpx.AsyncClient(base_url=server.url, headers=fresh_site.headers("alice"), timeout=10) as client,
            asyncio.timeout(20),
            client.stream("GET", "/notifications/stream/") as response,
        ):
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.aiter_lines()
            async for line in lines:
                if line == "event: ready":
                    break
            await asyncio.to_thread(worker.run, NOTIFY)
            async for line in lines:
                if line == "event: notification":
                    break
            data = await anext(lines)
    assert '"title":"hi"' in data


async def test_fresh_site_bell_shows_what_another_process_notifies(fresh_site: Site, browser: Browser) -> None:
    with fresh_site.server() as server, fresh_site.worker() as worker:
        context = await browser.new_context()
        await fresh_site.log_in(context, "bob", server)
        page = await context.new_page()
        async with page.expect_response("**/notifications/stream/**"):
            await page.goto(server.url)
        await asyncio.to_thread(worker.run, NOTIFY.replace("alice", "bob"))
        await expect(page.get_by_text("hi", exact=True).first).to_be_visible(timeout=10_000)
