"""Having a call as it may be written down."""

from __future__ import annotations

from functools import partial

from agentgate.core.decision import Decision, refusal
from agentgate.core.errors import ReasonCode
from agentgate.pipeline.calls.checks import cut
from agentgate.pipeline.calls.passage import Passage
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import LARGE_BYTES
from agentgate.ports.notices import Meter


async def redact(passage: Passage, recorder: Recorder, meter: Meter) -> Decision | None:
    """Have `passage` redacted; why it is refused where it is not.

    What is large waits for its turn. A kill does not wait for that, whenever it comes: of a call that is cut by then
    nothing is read, and nothing of what it says recorded.
    """
    flight, is_known = passage.flight, None
    if passage.call.size <= LARGE_BYTES:
        is_known = passage.redact(recorder.redactor)
    elif not flight.is_cut():
        is_known = await flight.outside(recorder.read(partial(passage.redact, recorder.redactor)))
    if is_known is None:
        return cut(flight)
    if is_known:
        return None
    meter.count("redaction_failed")
    return refusal(ReasonCode.REDACTION_FAILED, "The call could not be redacted for the log")
