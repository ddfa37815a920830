"""A small witness (c2sp.org/tlog-witness) on a real socket, and a webhook that keeps checkpoints. Both can lie."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentgate.core import merkle
from agentgate.core.note import COSIGNATURE_V1, NoteInvalid, NoteKey, checkpoint_of, cosign, open_note
from agentgate.core.tiles import TileInvalid, parse_consistency_body

Handler = Callable[[web.Request], Awaitable[web.Response]]
SEEN_AT = 1_790_000_000


class TestWitness:
    """`instead` answers in its place while it is set; `asked` are the bodies that it was sent."""

    __test__ = False

    def __init__(
        self, logs: Sequence[NoteKey], secret: bytes = bytes(range(2, 34)), name: str = "witness.test/w1"
    ) -> None:
        self._secret = Ed25519PrivateKey.from_private_bytes(secret)
        self.key = NoteKey(name, self._secret.public_key().public_bytes_raw(), COSIGNATURE_V1)
        self._logs = logs
        self.seen: dict[str, tuple[int, bytes]] = {}
        self.asked: list[bytes] = []
        self.instead: Handler | None = None
        self.cosigned = asyncio.Event()
        self.url = ""

    async def add_checkpoint(self, request: web.Request) -> web.Response:  # noqa: PLR0911 - each is a rule of the protocol
        self.asked.append(await request.read())
        if self.instead is not None:
            return await self.instead(request)
        try:
            asked = parse_consistency_body(self.asked[-1])
            new = checkpoint_of(asked.checkpoint)
        except (TileInvalid, NoteInvalid):
            return web.Response(status=400)
        keys = [key for key in self._logs if key.name == new.origin]
        if not keys:
            return web.Response(status=404)
        try:
            text = open_note(asked.checkpoint, keys).text
        except NoteInvalid:
            return web.Response(status=403)
        if asked.old > new.size:
            return web.Response(status=400)
        size, root = self.seen.get(new.origin, (0, merkle.EMPTY_ROOT))
        is_fork = size == asked.old == new.size and root != new.root
        if asked.old != size or is_fork:
            return web.Response(status=409, body=f"{size}\n".encode(), headers={"Content-Type": "text/x.tlog.size"})
        if size and not merkle.continues(root, size, new.root, new.size, asked.hashes):
            return web.Response(status=422)
        if not size and asked.hashes:
            return web.Response(status=422)
        self.seen[new.origin] = (new.size, new.root)
        self.cosigned.set()
        return web.Response(body=cosign(text, self.key, self._secret.sign, SEEN_AT).encode())

    def cosigning_more(self, more: bytes = b"") -> Handler:
        """Cosigns the note's signatures and `more` with its text, as if all that were the text."""

        async def answer(_: web.Request) -> web.Response:
            text = (parse_consistency_body(self.asked[-1]).checkpoint + more).decode()
            return web.Response(body=more + b"\n" + cosign(text, self.key, self._secret.sign, SEEN_AT).encode())

        return answer


class TestKeeper:
    """A checkpoint webhook: keeps what it is sent, and shows it."""

    __test__ = False

    def __init__(self) -> None:
        self.kept: bytes | None = None
        self.got: asyncio.Queue[tuple[bytes, str]] = asyncio.Queue()
        self.status = 200
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.status == 200:
            self.kept = body
            await self.got.put((body, request.headers.get("X-AgentGate-Signature", "")))
        return web.Response(status=self.status)

    async def show(self, _: web.Request) -> web.Response:
        if self.kept is None:
            return web.Response(status=404)
        return web.Response(status=self.status, body=self.kept, content_type="text/plain")


@contextlib.asynccontextmanager
async def serving(*parts: TestWitness | TestKeeper) -> AsyncIterator[None]:
    """Each on an address of its own, which is in its `url`."""
    async with contextlib.AsyncExitStack() as stack:
        for part in parts:
            app = web.Application()
            if isinstance(part, TestWitness):
                app.router.add_post("/add-checkpoint", part.add_checkpoint)
            else:
                app.router.add_post("/checkpoint", part.take)
                app.router.add_get("/checkpoint", part.show)
            runner = web.AppRunner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            part.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            if isinstance(part, TestKeeper):
                part.url += "/checkpoint"
        yield


@contextlib.contextmanager
def serving_in_thread(*parts: TestWitness | TestKeeper) -> Iterator[None]:
    """The same for a test without an event loop."""
    ready, loop, done = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with serving(*parts):
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(10)
        yield
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)
        loop.close()


def answering(status: int, body: bytes = b"", content_type: str = "text/plain") -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type=content_type)

    return answer


def garbled(line: bytes) -> bytes:
    """A signature line with one bit of its signature changed."""
    name, _, encoded = line.rstrip(b"\n").rpartition(b" ")
    raw = bytearray(base64.b64decode(encoded))
    raw[-1] ^= 1
    return name + b" " + base64.b64encode(raw) + b"\n"
