"""The parts of a pack as people read it: the one model behind the HTML and the PDF. `_view.view` fills it.

Every string here is safe to look at (`core.visible`), none is escaped for a format: that is the writer's part. What
is not there is an empty string, and times are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

MAX_CALLS: Final = 2_000
"""Rows of the table of calls and of the table of leaves; what is beyond them is in the JSON only, and said to be."""
MAX_ROWS: Final = 300
"""Rows of every other table."""
FIRST_FEW: Final = 8
"""Calls that a row names of those that it is about."""

T = TypeVar("T")


# --- the parts --------------------------------------------------------------------------------------------


class Mark(Enum):
    """How one call ended, as pictures and tables show it: a letter and a shape besides any colour."""

    RAN = ("R", "circle", "Ran")
    FAILED = ("F", "triangle", "Failed at the tool")
    REFUSED = ("D", "square", "Refused")
    WAITED = ("W", "diamond", "Waited for a person")
    CUT = ("C", "cross", "Cut while running")
    UNKNOWN = ("U", "ring", "Effect unknown")
    OPEN = ("O", "ring", "Still open")
    NOT_SENT = ("N", "bar", "Allowed, not sent")

    def __init__(self, letter: str, shape: str, label: str) -> None:
        self.letter = letter
        self.shape = shape
        self.label = label


EFFECT_UNKNOWN: Final = (Mark.CUT, Mark.UNKNOWN, Mark.OPEN)
"""What the tool did is not known: the call may have had its effect."""


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """The rows that are shown, and how many there are."""

    rows: tuple[T, ...]
    total: int

    @property
    def hidden(self) -> int:
        """How many are in the JSON only."""
        return self.total - len(self.rows)


@dataclass(frozen=True, slots=True)
class Title:
    """The head of the first page. Times are UTC."""

    heading: str
    """Such as `Session s-1`, `Agent bot`, `Tenant default`."""
    tenant: str
    sessions: tuple[str, ...]
    agents: tuple[str, ...]
    start: str
    end: str
    span: str
    """The time between first and last event, in words; empty without events."""
    asked_for: str
    """The limits of time that the pack was asked with, or empty."""
    generated_at: str
    generator: str
    version: str
    policies: tuple[str, ...]
    pack_id: str
    """SHA-256 of the signed bytes (pack.json of the zip), in hex."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number for the first page."""

    label: str
    value: str
    note: str = ""
    is_alarming: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `number` counts the calls of the pack from 1; other parts refer to it."""

    number: int
    at: str
    session: str
    agent: str
    tool: str
    server: str
    mark: Mark
    code: str
    plain: str
    """What the code means, in a sentence."""
    said: str
    """What policy or the gateway gave as its reason, or empty; and `(pruned)` once the text was deleted."""
    rule: str
    is_write: bool
    error: str
    duration: str
    trace_id: str
    index: int
    """The place of its decision in the log."""
    approved_by: str
    kill_id: str
    upstream_status: str
    credential: str


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did what: one agent and one tool."""

    agent: str
    tool: str
    total: int
    marks: tuple[tuple[Mark, int], ...]
    """Only what occurs, in the order of Mark."""
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Calls that were refused, or waited, for one reason by one rule."""

    mark: Mark
    code: str
    plain: str
    rule: str
    said: str
    total: int
    agents: tuple[str, ...]
    tools: tuple[str, ...]
    first: str
    last: str
    calls: tuple[int, ...]
    """Numbers of the first few."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill from order to release. Times are empty for what has not happened, or not in this pack."""

    label: str
    """K1, K2, … in the order of time; the timeline says the same."""
    kill_id: str
    target: str
    """Such as `session s-1`, `everything`."""
    ordered_by: str
    at: str
    reason: str
    standing: str
    """Drained, drained except for some, or not known to be: a sentence."""
    is_drained: bool
    drained_at: str
    expires_at: str
    """When it ends by itself, if it does."""
    excepted: tuple[str, ...]
    attested: tuple[str, ...]
    asks: tuple[str, ...]
    """Who asked for its release, and when, where more than one person is needed."""
    released_by: str
    released_at: str
    cut: int
    """Running calls that ended by it."""
    refused: int
    """Calls in its scope that were refused for a kill while it was in force."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One question to a person. Empty where the pack does not say."""

    approval_id: str
    tool: str
    asked_by: str
    asked_at: str
    standing: str
    """Approved, Denied, Expired, Void, Pending."""
    decided_by: str
    decided_at: str
    notes: tuple[str, ...]
    """Votes, reasons, edits, and what made it void, each in a sentence."""
    asking_calls: tuple[int, ...]
    carried_call: int | None
    """The number of the call that it let through."""


@dataclass(frozen=True, slots=True)
class Write:
    """A call that writes and went out: what it did may stand."""

    call: int | None
    at: str
    tool: str
    ended: str
    approved_by: str
    is_certain: bool


@dataclass(frozen=True, slots=True)
class Anomaly:
    kind: str
    description: str
    calls: tuple[int, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something else that happened to the records: an export, a prune, a hold."""

    at: str
    what: str
    by: str


@dataclass(frozen=True, slots=True)
class Bin:
    """Calls with one end, in one lane and one column of the timeline."""

    column: int
    lane: int
    mark: Mark
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A kill over the picture: from its order to its release (None: still in force at the end)."""

    label: str
    start: float
    end: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Time on x from 0 to 1, cut into `columns`; one lane for each tool. Within a lane and column several bins pile up.

    With `peak` (most calls in one lane and column) up to PILE a writer draws every call as its shape; above, columns
    whose height follows the count.
    """

    columns: int
    lanes: tuple[str, ...]
    bins: tuple[Bin, ...]
    peak: int
    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    day: str
    """What the ticks leave out: the date, where it is one."""
    description: str


PILE: Final = 4
COLUMNS: Final = 120


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    total: int
    parts: tuple[tuple[Mark, int], ...]
    """Only what occurs, in the order of Mark."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    name: str
    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """One kind of protection, there or not."""

    name: str
    is_there: bool
    key_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Claim:
    claim: str
    by: str
    convinces: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    origin: str
    size: int
    root: str
    note: tuple[str, ...]
    """The signed note, line by line."""


@dataclass(frozen=True, slots=True)
class Leaf:
    number: int
    index: int
    event_id: str
    leaf_hash: str


@dataclass(frozen=True, slots=True)
class Step:
    what: str
    command: str


@dataclass(frozen=True, slots=True)
class Integrity:
    """What is proven, by what, to whom, and what is not."""

    is_signed: bool
    headline: str
    """For large type."""
    explanation: str
    signatures: tuple[Signature, ...]
    proves: tuple[Claim, ...]
    limits: tuple[str, ...]
    checkpoint: Checkpoint | None
    pack_id: str
    hmac: str
    """The HMAC-SHA256 of the signed bytes in hex, or empty."""
    signed_at: str
    events_hash: str
    event_count: int
    leaves: Listing[Leaf]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class View:
    title: Title
    narrative: tuple[str, ...]
    figures: tuple[Figure, ...]
    timeline: Timeline | None
    """None without calls."""
    charts: tuple[Chart, ...]
    actors: Listing[Actor]
    refusals: Listing[Refusal]
    failures: Listing[Refusal]
    """Allowed calls that ended otherwise than by an answer, by reason."""
    refused_before: int
    """Calls turned away before they were looked at one by one: counted, not listed."""
    kills: Listing[Kill]
    approvals: Listing[Approval]
    writes: Listing[Write]
    unknown: Listing[Call]
    """Calls whose effect is not known."""
    anomalies: Listing[Anomaly]
    notes: Listing[Note]
    calls: Listing[Call]
    has_many_sessions: bool
    integrity: Integrity
