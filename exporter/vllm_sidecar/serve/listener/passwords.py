"""Basic authentication with bcrypt, whose comparisons take long on purpose: they are queued, and results are cached."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING

from vllm_sidecar.vllm.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import SecretStr

MOST_WAITING = 16
"""Comparisons that wait; further clients are refused until later."""
MOST_CACHED = 100
"""Results that are remembered, of right and of wrong passwords each."""
_BCRYPT_BYTES = 72
"""bcrypt ignores the rest of a password, and newer releases refuse longer ones."""
_NOBODY = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
"""Compared for unknown users, so that the time does not show which users exist."""


class TooManyError(Exception):
    """More passwords arrive than can be compared."""


class Passwords:
    """Compares the passwords of requests."""

    def __init__(self, compare: Callable[[bytes, bytes], bool] | None = None) -> None:
        self._compare = compare or _compare
        self._key = secrets.token_bytes(32)
        """Cached passwords are hashed with it, so that the memory of the process does not hold them."""
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()
        self._waiting = 0

    async def check(self, users: Mapping[str, SecretStr], authorization: str) -> bool:
        """Return whether a header has the password of one of the users.

        Raises:
            TooManyError: Too many other passwords are being compared.
        """
        pair = _credentials(authorization)
        if pair is None:
            return False
        user, password = pair
        known = users.get(user)
        stored = known.get_secret_value() if known else _NOBODY
        parts = (user.encode("utf-8", "surrogateescape"), stored.encode(), password)
        digest = hashlib.blake2b(b"\0".join(parts), key=self._key).digest()
        if digest in self._right:
            self._right.move_to_end(digest)
            return True
        if digest in self._wrong:
            return False
        if self._waiting >= MOST_WAITING:
            raise TooManyError
        self._waiting += 1
        try:
            # In a thread, one at a time: one core at most, and polls continue.
            async with self._one_at_a_time:
                right = await in_daemon_thread("password", lambda: self._compare(password, stored.encode()))
        finally:
            self._waiting -= 1
        cache = self._right if right and known else self._wrong
        cache[digest] = None
        if len(cache) > MOST_CACHED:
            cache.popitem(last=False)
        return right and known is not None


def _compare(password: bytes, stored: bytes) -> bool:
    import bcrypt  # only loaded where passwords are set

    try:
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], stored)
    except ValueError:  # a NUL in the password
        return False


def _credentials(authorization: str) -> tuple[str, bytes] | None:
    """Read a header `Basic ...`; None for any other."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user.decode("utf-8", "surrogateescape"), password) if colon else None
