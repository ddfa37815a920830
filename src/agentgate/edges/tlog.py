"""The log's read side for monitors and witnesses: C2SP tlog-tiles under the prefix `/log`.

Checkpoint, keys and hashes are for anybody: they say how much was recorded, and nothing of what. Entries hold the names
of tenants and agents, and are for an auditor of all tenants.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response

from agentgate.core.errors import ReasonCode
from agentgate.core.tiles import Tile, TileInvalid, parse_tile
from agentgate.edges.desks import Auditor, Desks, TheDesks, anybody
from agentgate.edges.problem import Problem
from agentgate.edges.schemas import Responses

_FOR_ANYBODY: Final = [Depends(anybody)]
_FOREVER: Final = "max-age=31536000, immutable"
_NOT_KEPT: Final = {"Cache-Control": "no-store"}
_NOSNIFF: Final = {"X-Content-Type-Options": "nosniff"}
_CHECKPOINT: Final = (
    "agentgate.local/log/0\n70000\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— agentgate.local/log/0 Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOA"
    "YQ8=\n"
)


def _text(description: str, example: str) -> Responses:
    shown = {"schema": {"type": "string"}, "example": example}
    return {200: {"description": description, "content": {"text/plain": shown}}}


def _binary(description: str) -> Responses:
    shown = {"schema": {"type": "string", "format": "binary"}}
    return {
        200: {"description": description, "content": {"application/octet-stream": shown}},
        304: {"description": "The client has it already (`If-None-Match`)"},
        404: {"description": "Not in the log that is signed: no such tile, or not yet that wide"},
    }


_Index = Annotated[
    str,
    Path(
        description="In groups of three digits, with `.p/W` for a tile of W hashes: `x001/x234/067`, `273.p/112`",
        examples=["273.p/112"],
    ),
]

router = APIRouter(prefix="/log", tags=["log"], default_response_class=Response)


@router.get(
    "/checkpoint",
    dependencies=_FOR_ANYBODY,
    responses=_text("A signed note with the tree's size and root", _CHECKPOINT)
    | {404: {"description": "Nothing is signed yet"}},
)
async def checkpoint(desks: TheDesks) -> Response:
    """The newest checkpoint (C2SP tlog-checkpoint), with the cosignatures that witnesses gave for it."""
    note = await desks.tree.checkpoint()
    if note is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "nothing is signed yet", headers=_NOT_KEPT)
    return Response(note, media_type="text/plain; charset=utf-8", headers={**_NOT_KEPT, **_NOSNIFF})


@router.get(
    "/keys",
    dependencies=_FOR_ANYBODY,
    responses=_text(
        "C2SP vkeys, one in a line: the one that signs checkpoints now, then earlier ones, then witnesses'",
        "agentgate.local/log/0+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8\n",
    ),
)
async def keys(desks: TheDesks) -> Response:
    """The public keys to verify checkpoints with. A monitor should have them from elsewhere: this tells it which."""
    lines = "".join(f"{key.text}\n" for key in (*desks.tree.keys, *desks.tree.witnesses))
    return Response(lines, media_type="text/plain; charset=utf-8", headers={**_NOT_KEPT, **_NOSNIFF})


@router.get("/tile/entries/{index:path}", responses=_binary("Leaves, each after its length in two bytes"))
async def entries(request: Request, desks: TheDesks, auditor: Auditor, index: _Index) -> Response:
    """The leaves of a tile (C2SP tlog-tiles), for an auditor of all tenants: they name tenants and agents."""
    if not auditor.tenants_all:
        raise Problem(403, ReasonCode.FORBIDDEN, "Insufficient role: this needs an auditor of all tenants")
    return await _tile(request, desks, f"entries/{index}", "private")


@router.get("/tile/{level}/{index:path}", dependencies=_FOR_ANYBODY, responses=_binary("Hashes of 32 bytes"))
async def tile(
    request: Request,
    desks: TheDesks,
    level: Annotated[str, Path(description="0 for the leaves, to 63", examples=["0"])],
    index: _Index,
) -> Response:
    """A tile of the Merkle tree (C2SP tlog-tiles): 256 hashes, or fewer at the right edge."""
    return await _tile(request, desks, f"{level}/{index}", "public")


async def _tile(request: Request, desks: Desks, path: str, audience: str) -> Response:
    try:
        wanted: Tile = parse_tile(f"tile/{path}")
    except TileInvalid as error:
        raise Problem(404, ReasonCode.NOT_FOUND, str(error), headers=_NOT_KEPT) from None
    content = await desks.tree.tile(wanted)
    if content is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "the signed log does not fill this tile", headers=_NOT_KEPT)
    headers = {
        "Cache-Control": f"{audience}, {_FOREVER}",
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        **_NOSNIFF,
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/octet-stream", headers=headers)
