"""Static files from the one serving process, with ``DEBUG`` or without, and without ``collectstatic``.

WhiteNoise knows no ASGI: its synchronous middleware would cost a thread hop for every request, streams included, and
its file responses are read whole with a warning. The demo has a few small files, so one view is enough; a large site
puts its web server or a CDN in front.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path
from posixpath import normpath

from django.conf import settings
from django.contrib.staticfiles import finders
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotModified
from django.utils.http import http_date
from django.views.decorators.http import require_safe
from django.views.static import was_modified_since

__all__ = ["serve"]


@require_safe
def serve(request: HttpRequest, path: str) -> HttpResponseBase:
    """Return the static file at ``path``, as the installed apps and ``STATICFILES_DIRS`` have it, or 304.

    :raises Http404: there is no such file.
    """
    # finders.find() refuses what leads out of the static folders.
    found = finders.find(normpath(path).lstrip("/"))
    if not found or not (file := Path(found)).is_file():
        raise Http404(f"There is no static file {path}.")
    modified = file.stat().st_mtime
    response: HttpResponseBase
    if was_modified_since(request.headers.get("If-Modified-Since"), modified):
        kind, encoding = mimetypes.guess_type(file.name)
        response = HttpResponse(file.read_bytes(), content_type=kind or "application/octet-stream")
        if encoding:
            response.headers["Content-Encoding"] = encoding
    else:
        response = HttpResponseNotModified()
    response.headers["Last-Modified"] = http_date(modified)
    response.headers["Cache-Control"] = "no-cache" if settings.DEBUG else "public, max-age=300"
    return response
