"""Reads Secrets in the protobuf form of Kubernetes, in which Helm sends those that keep its releases.

https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding; the numbers of the fields are those of
`generated.proto` of k8s.io/api/core/v1 and k8s.io/apimachinery.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from typing import Any

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_NUMBER, _BYTES = 0, 2
Fields = dict[int, list[bytes]]


def secret(body: bytes) -> dict[str, Any]:
    """Return a Secret as it is in JSON."""
    assert body.startswith(_MAGIC)
    envelope = _fields(body.removeprefix(_MAGIC))
    kind = _text(_fields(envelope[1][0]), 2)
    assert kind == "Secret", kind
    found = _fields(envelope[2][0])
    metadata = _fields(found[1][0])
    data = {_text(entry, 1): base64.b64encode(entry[2][0]).decode() for entry in map(_fields, found[2])}
    labels = {_text(entry, 1): _text(entry, 2) for entry in map(_fields, metadata[11])}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _text(metadata, 1), "namespace": _text(metadata, 3), "labels": labels},
        "type": _text(found, 3),
        "data": data,
    }


def _fields(message: bytes) -> Fields:
    """Return the texts, bytes and messages of a message by their number; numbers are left out."""
    found: Fields = defaultdict(list)
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        value, place = _varint(message, place)
        if key & 7 == _BYTES:
            found[key >> 3].append(message[place : place + value])
            place += value
        else:
            assert key & 7 == _NUMBER, key
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        shift, place = shift + 7, place + 1
        if byte < 0x80:
            return value, place


def _text(fields: Fields, number: int) -> str:
    return fields[number][0].decode() if fields[number] else ""
