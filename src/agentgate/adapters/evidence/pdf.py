"""The PDF view of an evidence pack: what a board member reads, prints and files.

The pack's body is attached as `pack.json`, byte for byte, and its SHA-256 is printed; whoever doubts the pages has
what they were made from. No string of a pack is read as markup, and nothing is fetched or opened because of one.
"""

from __future__ import annotations

from threading import Lock
from typing import Final

from agentgate.core.evidence.pack import Pack

# reportlab's fonts carry a reading position and belong to one document at a time; packs are written in several threads.
_ONE_AT_A_TIME: Final = Lock()


class PdfPack:
    """Writes a pack as PDF 1.7, A4."""

    media_type = "application/pdf"
    extension = "pdf"

    def write(self, pack: Pack) -> bytes:
        """The file. The same pack makes the same bytes."""
        # With the first PDF, because every start would wait for reportlab, and few write one.
        from agentgate.adapters.evidence._pdf.faces import faces  # as above
        from agentgate.adapters.evidence._pdf.paint import About, paint  # as above
        from agentgate.adapters.evidence._pdf.sections import lay_out  # as above
        from agentgate.adapters.evidence._pdf.sheet import Sheet  # as above
        from agentgate.adapters.evidence._view import view  # as above

        shown = view(pack)
        with _ONE_AT_A_TIME:
            fonts = faces()
            sheet = Sheet(fonts)
            lay_out(sheet, shown)
            title = shown.title
            about = About(
                title=f"AgentGate evidence: {title.heading}",
                subject=f"Evidence pack {title.pack_id}, made {title.generated_at}",
                creator=title.generator,
                keywords=f"{title.tenant}, {title.heading}, SHA-256 {title.pack_id}",
                at=pack.body["metadata"]["generated_at"],
                footer=f"AgentGate evidence · {title.heading} · pack {title.pack_id[:16]}",
            )
            return paint(sheet.pages, fonts, about, pack.raw)
