"""The files of the zip: a pack's views with their HMACs, the log's part, the public keys, and how to check it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentgate.adapters.evidence._verify_md import verify_md
from agentgate.core.evidence.pack import Pack
from agentgate.ports.evidence import Enclosures, PackWriter
from agentgate.ports.keys import Signer


class Bundle:
    """`keys` are files of public keys; `hmac` signs each view over its bytes, where there is a key."""

    def __init__(self, views: Sequence[PackWriter], keys: Mapping[str, bytes], hmac: Signer | None) -> None:
        self._views = tuple(views)
        self._keys = dict(keys)
        self._hmac = hmac

    def files(self, pack: Pack, enclosures: Enclosures) -> dict[str, bytes]:
        """See `ports.Bundler`."""
        views = {"pack.json": pack.raw} | {f"pack.{view.extension}": view.write(pack) for view in self._views}
        files = dict(views)
        if self._hmac is not None:
            files |= {f"{name}.hmac": self._hmac.sign(view).hex().encode() + b"\n" for name, view in views.items()}
        files |= {"checkpoint": enclosures.checkpoint} | self._keys
        files |= {f"leaves/{index}.json": leaf for index, leaf in enclosures.leaves.items()}
        files |= {f"bodies/{index}.json": body for index, body in enclosures.bodies.items()}
        files |= {f"proofs/{index}.tlog-proof": proof for index, proof in enclosures.proofs.items()}
        files |= {f"consistency/{old}": proof for old, proof in enclosures.consistency.items()}
        files["VERIFY.md"] = verify_md(pack, files)
        return files
