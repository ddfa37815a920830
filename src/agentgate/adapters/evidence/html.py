"""The HTML view of an evidence pack: one file that needs nothing, runs nothing and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from agentgate.core.evidence.pack import Pack

if TYPE_CHECKING:
    from jinja2 import Template


def _shipped(name: str) -> str:
    return files("agentgate.adapters.evidence").joinpath(name).read_text(encoding="utf-8")


_STYLE: Final = _shipped("pack.css")
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

CONTENT_SECURITY_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
"""What the page may do: be shown in its own style. The page says so itself."""
HEADERS: Final = {
    "Content-Security-Policy": f"{CONTENT_SECURITY_POLICY}; frame-ancestors 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What a route sends with the page; a page cannot say of itself that it is in no frame."""


class HtmlPack:
    """Writes a pack as one HTML file."""

    media_type = "text/html; charset=utf-8"
    extension = "html"
    headers: Final = HEADERS
    """What a route sends along."""

    def write(self, pack: Pack) -> bytes:
        """The page in UTF-8. The same pack makes the same bytes."""
        # With the first page, because every start would wait for all this, and few give out a page.
        from agentgate.adapters.evidence._html_pictures import picture  # as above
        from agentgate.adapters.evidence._view import view  # as above

        shown = view(pack)
        drawn = None if shown.timeline is None else picture(shown.timeline)
        return _template().render(view=shown, picture=drawn).encode()


@cache
def _template() -> Template:
    """The page. Whatever is put into it is escaped; what it does not know is an error, not an empty space."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # as in `write`
    from markupsafe import Markup  # as in `write`

    from agentgate.adapters.evidence._html_pictures import path_of  # as in `write`
    from agentgate.adapters.evidence._parts.marks import Mark  # as in `write`
    from agentgate.adapters.evidence._parts.words import count, inner, listed  # as in `write`

    environment = Environment(
        loader=FunctionLoader(_shipped),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "style": Markup(_STYLE),  # noqa: S704 - our own file, and its hash is what the policy allows
        "policy": CONTENT_SECURITY_POLICY,
        "signs": {mark: path_of(mark.shape, 6, 6, 4.6) for mark in Mark},
        "count": count,
        "inner": inner,
        "listed": listed,
    }
    return environment.get_template("pack.html.jinja")
