"""What whoever puts a bundle together promises."""

from __future__ import annotations

import hashlib
import hmac

from agentgate.core import archive
from agentgate.ports.evidence import Bundler, Enclosures
from tests.evidence_samples import KEY, a_checkpoint, rich, sample

ENCLOSURES = Enclosures(
    checkpoint=a_checkpoint(100),
    leaves={record.index: record.leaf for record in rich()},
    bodies={record.index: record.raw_body for record in rich()[1:] if record.raw_body is not None},
    proofs={record.index: b"proof" for record in rich()},
    consistency={7: b"old 7\n"},
)


class BundlerContract:
    """Subclasses give `bundler`, which signs views with `tests.evidence_samples.KEY`, and `unsigned` without a key."""

    bundler: Bundler
    unsigned: Bundler

    def test_every_file_is_one_that_a_pack_may_have_and_the_envelope_is_left_to_whoever_signs(self) -> None:
        files = self.bundler.files(sample("rich"), ENCLOSURES)
        archive.ordered(files)
        assert not set(files) & set(archive.ENVELOPE_FILES)
        assert {"VERIFY.md", "pack.json", "pack.html", "pack.pdf", "checkpoint", "keys/log.vkey"} <= set(files)

    def test_what_was_signed_is_in_it_byte_for_byte(self) -> None:
        files = self.bundler.files(sample("rich"), ENCLOSURES)
        assert files["pack.json"] == sample("rich").raw
        assert files["checkpoint"] == ENCLOSURES.checkpoint
        for index in ENCLOSURES.leaves:
            assert files[f"leaves/{index}.json"] == ENCLOSURES.leaves[index]
            assert files.get(f"bodies/{index}.json") == ENCLOSURES.bodies.get(index)
            assert files[f"proofs/{index}.tlog-proof"] == ENCLOSURES.proofs[index]
        assert files["consistency/7"] == b"old 7\n"

    def test_each_view_has_its_hmac_where_there_is_a_key(self) -> None:
        files = self.bundler.files(sample("rich"), ENCLOSURES)
        for view in ("pack.json", "pack.html", "pack.pdf"):
            made = hmac.new(KEY, files[view], hashlib.sha256).hexdigest()
            assert files[f"{view}.hmac"] == f"{made}\n".encode()
        assert not [name for name in self.unsigned.files(sample("rich"), ENCLOSURES) if name.endswith(".hmac")]

    def test_the_same_pack_is_the_same_files(self) -> None:
        assert self.bundler.files(sample("rich"), ENCLOSURES) == self.bundler.files(sample("rich"), ENCLOSURES)
