"""The newest report of a rehearsal, for those who may read the state.

A link carries no token; so the state, which only those are told, has an address with a key
that opens this one report, until there is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import Response

from server.control.command import CommandError
from server.web.services import services

_REPORT_POLICY: Final = (
    "default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox allow-scripts allow-modals allow-downloads allow-popups"
)
"""A report is one page that brings all it needs. It is a stranger here: nothing of ours, such as
the token that a technician's page keeps, can be reached from it."""


async def page(request: Request) -> Response:
    """`GET /rehearsal/report.html`."""
    headers = {"content-security-policy": _REPORT_POLICY}
    return await _file(request, "report.html", "text/html", headers)


async def data(request: Request) -> Response:
    """`GET /rehearsal/report.json`."""
    return await _file(request, "report.json", "application/json", {})


async def _file(
    request: Request,
    file: Literal["report.html", "report.json"],
    media_type: str,
    headers: Mapping[str, str],
) -> Response:
    access, rehearsals = services(request).access, services(request).rehearsals
    if rehearsals.opens(request.query_params.get("key")):
        access.check_origin(request)
    else:
        access.role_of(request)
    content = await rehearsals.read(file)
    if content is None:
        raise CommandError("no_report", "nothing has been rehearsed from here yet")
    return Response(
        content, media_type=media_type, headers={**headers, "cache-control": "no-store"}
    )
