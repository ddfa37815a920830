"""What every slot promises: one holder at a time, and its word for who is certainly dead."""

from __future__ import annotations

from typing import Any


class SlotContract:
    """Subclasses give `take`, which always takes from the same place, and `die`: its holder ends without a word."""

    def take(self) -> Any:
        raise NotImplementedError

    def die(self, slot: Any) -> None:
        raise NotImplementedError

    def test_a_fresh_slot_names_nobody(self) -> None:
        slot = self.take()
        assert (slot.number, slot.predecessors) == (0, ())

    def test_two_takers_never_hold_one_slot(self) -> None:
        assert [self.take().number for _ in range(5)] == [0, 1, 2, 3, 4]

    def test_the_next_taker_learns_who_died(self) -> None:
        slot = self.take()
        slot.occupy("aaaa")
        self.die(slot)
        assert self.take().predecessors == ("aaaa",)

    def test_a_member_that_lives_is_never_named(self) -> None:
        living = self.take()
        living.occupy("aaaa")
        assert self.take().predecessors == ()

    def test_who_is_not_settled_stays_named_over_any_number_of_deaths(self) -> None:
        for member in ("aaaa", "bbbb", "cccc"):
            slot = self.take()
            slot.occupy(member)
            self.die(slot)
        assert self.take().predecessors == ("aaaa", "bbbb", "cccc")

    def test_who_is_settled_is_not_named_again(self) -> None:
        self.test_the_next_taker_learns_who_died()
        slot = self.take()
        slot.occupy("bbbb")
        slot.settle()
        self.die(slot)
        assert "aaaa" not in self.take().predecessors

    def test_a_new_incarnation_replaces_the_old_one_once_that_is_settled(self) -> None:
        slot = self.take()
        slot.occupy("aaaa")
        slot.occupy("bbbb")
        slot.settle()
        self.die(slot)
        assert self.take().predecessors == ("bbbb",)

    def test_what_died_in_other_slots_is_told_to_one_taker_alone(self) -> None:
        slots = [self.take() for _ in range(4)]
        for slot, member in zip(slots, ("aaaa", "bbbb", "cccc", "dddd"), strict=True):
            slot.occupy(member)
        for slot in slots[1:]:
            self.die(slot)
        first, second = self.take(), self.take()
        assert sorted(first.predecessors) == ["bbbb", "cccc", "dddd"]
        assert second.predecessors == ()

    def test_releasing_twice_is_releasing_once(self) -> None:
        slot = self.take()
        slot.release()
        again = self.take()
        slot.release()
        assert (again.number, self.take().number) == (0, 1)
