"""The values of a few XMP properties, read by expat: no entities, limited depth, limited values (ISO 16684-1)."""

from contextlib import suppress
from xml.parsers import expat

MAX_DEPTH = 64  # usual packets have at most 12
MAX_VALUES, MAX_CHARACTERS = 8, 800
_IPTC, _XMP = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/", "http://ns.adobe.com/xap/1.0/"
_PHOTOSHOP, _TIFF = "http://ns.adobe.com/photoshop/1.0/", "http://ns.adobe.com/tiff/1.0/"
_RESOURCE = "http://www.w3.org/1999/02/22-rdf-syntax-ns# resource"
PROPERTIES = {
    f"{_IPTC} DigitalSourceType": "DigitalSourceType",
    f"{_IPTC} AISystemUsed": "AISystemUsed",
    f"{_XMP} CreatorTool": "CreatorTool",
    f"{_PHOTOSHOP} Credit": "Credit",
    f"{_TIFF} Make": "Make",
    f"{_TIFF} Model": "Model",
    f"{_TIFF} Software": "Software",
}


class _Stop(Exception):
    """The packet is not what an XMP packet may be."""


class _Collector:
    """Collects the values of `PROPERTIES`, which are attributes, texts or references."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self._depth, self._inside, self._text = 0, "", ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Stop
        for attribute, value in attributes.items():
            if attribute in PROPERTIES:
                self._add(PROPERTIES[attribute], value)
        if name in PROPERTIES:
            self._inside, self._text = name, attributes.get(_RESOURCE, "")

    def end(self, name: str) -> None:
        self._depth -= 1
        if name == self._inside:
            self._add(PROPERTIES[name], self._text)
            self._inside = ""

    def characters(self, text: str) -> None:
        if self._inside and len(self._text) < MAX_CHARACTERS:
            self._text += text

    def refuse(self, *_: object) -> None:
        """Refuse a document type: entities are declared there, and XMP has none."""
        raise _Stop

    def _add(self, name: str, value: str) -> None:
        found = self.values.setdefault(name, [])
        if value.strip() and len(found) < MAX_VALUES:
            found.append(value[:MAX_CHARACTERS])


def read_properties(packet: bytes) -> dict[str, list[str]]:
    """Return the values of `PROPERTIES` in an XMP packet by name; of a damaged packet, those before the damage."""
    collector = _Collector()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = collector.start, collector.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = collector.characters, collector.refuse
    with suppress(expat.ExpatError, _Stop, ValueError, LookupError):  # ValueError, LookupError: an unknown encoding
        parser.Parse(packet.strip(b"\0 \t\r\n"), True)  # noqa: FBT003 - positional only
    return collector.values
