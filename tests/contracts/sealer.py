"""What every sealer promises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentgate.ports.keys import Sealer


class SealerContract:
    sealer: Sealer

    @given(plain=st.binary(max_size=200), about=st.binary(max_size=40))
    def test_opens_what_it_sealed(self, plain: bytes, about: bytes) -> None:
        assert self.sealer.unseal(self.sealer.seal(plain, about), about) == plain

    @given(plain=st.binary(min_size=8, max_size=200))
    def test_a_sealed_text_does_not_show_its_plain_text(self, plain: bytes) -> None:
        assert plain not in self.sealer.seal(plain, b"")

    @given(plain=st.binary(max_size=200), at=st.integers(min_value=0), bit=st.integers(0, 7))
    def test_any_changed_bit_is_noticed(self, plain: bytes, at: int, bit: int) -> None:
        sealed = bytearray(self.sealer.seal(plain, b"a"))
        sealed[at % len(sealed)] ^= 1 << bit
        assert self.sealer.unseal(bytes(sealed), b"a") is None

    def test_a_text_cannot_be_passed_off_as_anothers(self) -> None:
        assert self.sealer.unseal(self.sealer.seal(b"x", b"apr-1"), b"apr-2") is None

    def test_nonsense_is_none(self) -> None:
        assert self.sealer.unseal(b"", b"") is None
        assert self.sealer.unseal(b"short", b"") is None
