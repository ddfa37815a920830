"""What every form of a pack promises: the same pack is the same bytes, wherever and whenever it is written."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentgate.ports.evidence import PackWriter
from tests.evidence_samples import SAMPLES, sample

SMALL = sorted(set(SAMPLES) - {"large"})
every_small_sample = pytest.mark.parametrize("name", SMALL)


class PackWriterContract:
    """Subclasses give `writer`, and `text_of` what it wrote, as a person or a program reads it."""

    writer: PackWriter

    def text_of(self, written: bytes) -> str:
        raise NotImplementedError

    def test_it_says_what_it_writes(self) -> None:
        assert re.fullmatch(r"[a-z]+/[a-z.+-]+(; charset=utf-8)?", self.writer.media_type)
        assert re.fullmatch(r"[a-z]{2,5}", self.writer.extension)

    @every_small_sample
    def test_the_same_pack_is_the_same_bytes(self, name: str) -> None:
        assert self.writer.write(sample(name)) == self.writer.write(sample(name))

    def test_threads_do_not_get_in_each_others_way(self) -> None:
        names = ["rich", "one_call", "empty", "unsigned"]
        alone = [self.writer.write(sample(name)) for name in names]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(self.writer.write, map(sample, names))) == alone

    def test_two_packs_are_never_the_same_bytes(self) -> None:
        written = [self.writer.write(sample(name)) for name in SMALL]
        assert len(set(written)) == len(written)

    @pytest.mark.parametrize("name", ["rich", "one_call", "unsigned"])
    def test_a_reader_finds_who_did_what_and_what_became_of_it(self, name: str) -> None:
        pack = sample(name)
        text = re.sub(r"\s", "", self.text_of(self.writer.write(pack)))
        for entry in pack.body["timeline"]:
            for what in ("agent_id", "tool_name", "reason_code"):
                assert entry[what] in text, (what, entry[what])
        for kill in pack.body["summary"]["kills"]:
            assert kill["kill_id"] in text
