"""`/openapi.json`, `/docs` and `/redoc` from our own files: they work without the internet and fetch nothing from it.

The framework's own pages load scripts, fonts and a picture from other people's hosts. The scripts come from the
package fastapi-offline instead, and the Content-Security-Policy forbids the browser everything else.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response

from agentgate.core.errors import ReasonCode
from agentgate.edges.desks import anybody
from agentgate.edges.problem import Problem

_ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
    "favicon.png": "image/png",
}
_START: Final = """\
SwaggerUIBundle({
  url: "openapi.json", dom_id: "#ui", deepLinking: true, persistAuthorization: false, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""
_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>AgentGate API</title>
<link rel="icon" href="docs/assets/favicon.png">
{head}</head>
<body style="margin: 0">
{body}</body>
</html>
"""
_SWAGGER: Final = _PAGE.format(
    head='<link rel="stylesheet" href="docs/assets/swagger-ui.css">\n',
    body='<div id="ui"></div>\n<script src="docs/assets/swagger-ui-bundle.js"></script>\n'
    '<script src="docs/assets/start.js"></script>\n',
)
_REDOC: Final = _PAGE.format(
    head="", body='<redoc spec-url="openapi.json"></redoc>\n<script src="docs/assets/redoc.standalone.js"></script>\n'
)
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(include_in_schema=False, dependencies=[Depends(anybody)])


@router.get("/openapi.json")
async def openapi(request: Request) -> JSONResponse:
    document: dict[str, Any] = request.app.openapi()
    return JSONResponse(document)


@router.get("/docs")
async def swagger() -> HTMLResponse:
    return HTMLResponse(_SWAGGER, headers=_HEADERS)


@router.get("/redoc")
async def redoc() -> HTMLResponse:
    return HTMLResponse(_REDOC, headers=_HEADERS)


@router.get("/docs/assets/{name}")
async def asset(name: str) -> Response:
    headers = {**_HEADERS, "Cache-Control": "max-age=86400"}
    if name == "start.js":
        return Response(_START, media_type="text/javascript", headers=headers)
    if name not in _ASSETS:
        raise Problem(404, ReasonCode.NOT_FOUND, "no such file")
    path = Path(str(files("fastapi_offline"))) / "static" / name
    return FileResponse(path, media_type=_ASSETS[name], headers=headers)
