"""Read an XML file that may come from anywhere."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from coordexp.errors import UserError
from coordexp.storage.files import read_bytes

# A document type may define entities that expand to gigabytes, or name files of this machine. No
# annotation tool writes one.
NO_DOCTYPE = "holds a document type definition, which annotations do not need: remove it"
MAX_BYTES = 2**29


class DoctypeError(Exception):
    """The file holds a document type definition."""


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file.

    Raises:
        UserError: it is missing, too large, not XML, or holds a document type definition.
    """
    text = read_bytes(path)
    if len(text) > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES // 2**20} MiB: split it")
    try:
        refuse_doctype(text)
        return ElementTree.fromstring(text)
    except DoctypeError as error:
        raise UserError(f"{path}: {NO_DOCTYPE}") from error
    except (ElementTree.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not valid XML ({error}): mend it, or export it again") from error


def refuse_doctype(text: bytes) -> None:
    """Stop at a document type definition, before any entity of it is expanded."""

    def refuse(*_: object) -> None:
        raise DoctypeError

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(text, True)
