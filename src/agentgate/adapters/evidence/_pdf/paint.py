"""Laid-out pages as the bytes of a PDF 1.7 file, through reportlab.

The same pages and facts make the same bytes: no clock, no chance, and a file identifier from what is attached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Final, NamedTuple
from xml.sax.saxutils import escape

from reportlab.pdfbase import pdfdoc
from reportlab.pdfgen.canvas import Canvas

from agentgate.adapters.evidence._pdf.faces import Faces
from agentgate.adapters.evidence._pdf.sheet import HEIGHT, LEFT, RIGHT, RULE, SOFT, WIDTH, Page, Shape, Style, Text

ATTACHED: Final = "pack.json"
PRODUCER: Final = "ReportLab PDF Library"


class About(NamedTuple):
    """What the file says of itself."""

    title: str
    subject: str
    creator: str
    keywords: str
    at: str
    """ISO 8601, when the pack was made: the file knows of no other moment."""
    footer: str
    """Stands at the foot of each page, left of the page's number."""


def paint(pages: Sequence[Page], faces: Faces, about: About, attachment: bytes) -> bytes:
    """The whole file, with `attachment` embedded as pack.json."""
    canvas: Any = Canvas(  # the stubs lack half of what is used here
        BytesIO(),
        pagesize=(WIDTH, HEIGHT),
        pageCompression=1,
        invariant=1,
        pdfVersion=(1, 7),
        initialFontName=faces.text.name,  # type: ignore[arg-type] # a name, whatever the stubs say
        lang="en-GB",
    )
    foot = Style(faces.text, 7.2, 9.0, SOFT)
    known = {anchor.key for page in pages for anchor in page.anchors}
    for number, page in enumerate(pages, 1):
        _shapes(canvas, page.shapes)
        _texts(canvas, [*page.texts, *_footer(about.footer, f"page {number} of {len(pages)}", foot)])
        for link in page.links:
            if link.key not in known:
                continue  # a row that is in the attachment only
            left, top, right, bottom = link.box
            box = (left, HEIGHT - bottom, right, HEIGHT - top)
            canvas.linkAbsolute(link.title, link.key, box, thickness=0)
        for anchor in page.anchors:
            canvas.bookmarkPage(anchor.key, fit="XYZ", left=0, top=HEIGHT - anchor.y + 12)
            if anchor.level is not None:
                canvas.addOutlineEntry(anchor.title, anchor.key, anchor.level)
        canvas.showPage()
    canvas.addPageLabel(0, style="ARABIC", start=1)
    canvas.showOutline()
    canvas.setViewerPreference("DisplayDocTitle", "true")
    _attach(canvas, attachment)
    _describe(canvas, about, attachment)
    data: bytes = canvas.getpdfdata()
    return data


def _footer(left: str, right: str, style: Style) -> list[Text]:
    y = HEIGHT - 34.0
    left = style.face.cut(style.face.settable(left), style.size, RIGHT - LEFT - 90)
    return [Text(LEFT, y, left, style), Text(RIGHT - style.face.width(right, style.size), y, right, style)]


def _shapes(canvas: Any, shapes: Sequence[Shape]) -> None:
    canvas.setStrokeColorRGB(*RULE)
    canvas.setLineWidth(0.5)
    canvas.line(LEFT, 46.0, RIGHT, 46.0)
    canvas.setLineJoin(1)
    for kind, points, fill, stroke, width in shapes:
        if fill is not None:
            canvas.setFillColorRGB(*fill)
        if stroke is not None:
            canvas.setStrokeColorRGB(*stroke)
            canvas.setLineWidth(width)
        drawn = {"stroke": int(stroke is not None), "fill": int(fill is not None)}
        (x, y), *others = points
        if kind == "circle":
            canvas.circle(x, HEIGHT - y, others[0][0] - x, **drawn)
            continue
        path = canvas.beginPath()
        path.moveTo(x, HEIGHT - y)
        for x, y in others:
            path.lineTo(x, HEIGHT - y)
        if kind == "closed":
            path.close()
        canvas.drawPath(path, **drawn)


def _texts(canvas: Any, texts: Sequence[Text]) -> None:
    """All text of a page in one text object. Fonts and colours are named when they change."""
    pen = canvas.beginText()
    last = ink = None
    for x, y, text, style in texts:
        if style is not last:
            pen.setFont(style.face.name, style.size, style.leading)
            last = style
            if style.colour != ink:
                pen.setFillColorRGB(*style.colour)
                ink = style.colour
        pen.setTextOrigin(x, HEIGHT - y)
        pen.textLine(text)
    canvas.drawText(pen)


def _attach(canvas: Any, raw: bytes) -> None:
    """Embed `raw`, byte for byte, where readers list attachments (ISO 32000-1, 7.11.4) and as the source of the
    document (ISO 32000-2, 14.13)."""
    document = canvas._doc  # reportlab has no public way to attach a file
    stream = pdfdoc.PDFStream(
        pdfdoc.PDFDictionary(
            {
                "Type": "/EmbeddedFile",
                "Subtype": "/application#2Fjson",
                "Params": pdfdoc.PDFDictionary({"Size": len(raw)}),
            }
        ),
        raw,
        [pdfdoc.PDFZCompress],
    )
    embedded = document.Reference(stream)
    specification = document.Reference(
        pdfdoc.PDFDictionary(
            {
                "Type": "/Filespec",
                "F": pdfdoc.PDFString(ATTACHED),
                "UF": pdfdoc.PDFString(ATTACHED),
                "EF": pdfdoc.PDFDictionary({"F": embedded, "UF": embedded}),
                "Desc": pdfdoc.PDFString("The evidence pack that this document is a view of"),
                "AFRelationship": "/Source",
            }
        )
    )
    names = pdfdoc.PDFDictionary({"Names": pdfdoc.PDFArray([pdfdoc.PDFString(ATTACHED), specification])})
    catalog = document.Catalog
    catalog.Names = pdfdoc.PDFDictionary({"EmbeddedFiles": names})
    catalog.AF = pdfdoc.PDFArray([specification])
    # reportlab writes the entries of this list, and knows none of PDF 2.0.
    catalog.__NoDefault__ = [*catalog.__NoDefault__, "AF"]


def _describe(canvas: Any, about: About, raw: bytes) -> None:
    """The metadata, in the old form and in XMP."""
    at = datetime.fromisoformat(about.at).astimezone(UTC)
    canvas.setTitle(about.title)
    canvas.setSubject(about.subject)
    canvas.setAuthor(about.creator)
    canvas.setCreator(about.creator)
    canvas.setProducer(PRODUCER)
    canvas.setKeywords(about.keywords)
    canvas.setDateFormatter(lambda *_: f"D:{at:%Y%m%d%H%M%S}Z")
    document = canvas._doc  # nor a way to name the file
    identifier = b"<%s>" % hashlib.sha256(raw).hexdigest()[:32].encode()
    document._ID = b"[" + identifier + identifier + b"]"
    packet = _xmp(about, f"{at:%Y-%m-%dT%H:%M:%SZ}")
    document.Catalog.Metadata = pdfdoc.PDFStream(
        pdfdoc.PDFDictionary({"Type": "/Metadata", "Subtype": "/XML"}), packet.encode()
    )


def _xmp(about: About, at: str) -> str:
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:pdf="http://ns.adobe.com/pdf/1.3/">
<dc:format>application/pdf</dc:format>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">{escape(about.title)}</rdf:li></rdf:Alt></dc:title>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(about.subject)}</rdf:li></rdf:Alt></dc:description>
<dc:creator><rdf:Seq><rdf:li>{escape(about.creator)}</rdf:li></rdf:Seq></dc:creator>
<dc:language><rdf:Bag><rdf:li>en-GB</rdf:li></rdf:Bag></dc:language>
<xmp:CreatorTool>{escape(about.creator)}</xmp:CreatorTool>
<xmp:CreateDate>{at}</xmp:CreateDate><xmp:ModifyDate>{at}</xmp:ModifyDate>
<pdf:Producer>{PRODUCER}</pdf:Producer><pdf:Keywords>{escape(about.keywords)}</pdf:Keywords>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
