"""Content-Encoding, undone with a cap on what comes out."""

from __future__ import annotations

import zlib

from vllm_sidecar.model import PollError, Reason

_MEMBERS_LIMIT = 100  # each gzip member costs a copy of what follows: a body of empty ones would take minutes


def inflate(data: bytes, encoding: str, limit: int, where: str) -> bytes:
    """Undo a Content-Encoding without ever holding more than `limit` + 1 inflated bytes."""
    if encoding in ("gzip", "x-gzip"):
        bits = 16 + zlib.MAX_WBITS
    elif encoding == "deflate":
        # RFC 9110 means zlib's wrapping, but some servers send the raw stream: the check sum of the header tells.
        wrapped = data[:1] == b"\x78" and int.from_bytes(data[:2], "big") % 31 == 0
        bits = zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS
    else:
        raise PollError(Reason.BAD_ENCODING, f"{where}: unknown Content-Encoding {encoding[:40]!r}")
    parts: list[bytes] = []
    size = 0
    for _ in range(_MEMBERS_LIMIT):
        inflater = zlib.decompressobj(bits)
        try:
            parts.append(inflater.decompress(data, limit + 1 - size))
        except zlib.error as error:
            raise PollError(Reason.BAD_ENCODING, f"{where}: bad {encoding} data: {error}") from error
        size += len(parts[-1])
        if size > limit:
            raise PollError(Reason.TOO_LARGE, f"{where}: the body inflates to more than {limit} bytes (max_body_size)")
        if not inflater.eof:
            raise PollError(Reason.BAD_ENCODING, f"{where}: the {encoding} data ends too early")
        data = inflater.unused_data.lstrip(b"\0")  # padding between and after members is allowed
        if not data:
            return b"".join(parts)
    raise PollError(Reason.BAD_ENCODING, f"{where}: more than {_MEMBERS_LIMIT} {encoding} streams in one body")
