"""Passwords: right ones are cached, wrong ones are slow only once, and a flood of them holds nobody up."""

from __future__ import annotations

import asyncio
import base64
import threading
import time

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from vllm_sidecar.serve.listener.passwords import MOST_CACHED, MOST_WAITING, Passwords, TooManyError, _credentials

HASH = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
USERS = {"prom": SecretStr(HASH)}


def header(user: str, password: str, scheme: str = "Basic") -> str:
    return f"{scheme} " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Counted:
    """Compares as bcrypt does, in no time."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.release: threading.Event | None = None

    def __call__(self, password: bytes, stored: bytes) -> bool:
        self.calls.append(password)
        if self.release:
            self.release.wait(5)
        return password == b"s3cret" and stored == HASH.encode()


@pytest.mark.parametrize(
    ("authorization", "right"),
    [
        (header("prom", "s3cret"), True),
        (header("prom", "s3cret", "bAsIc"), True),
        (header("prom", "wrong"), False),
        (header("other", "s3cret"), False),
        (header("prom", "s3cret\0"), False),
        (header("prom", "x" * 500), False),
        (header("prom", "s3cret", "Bearer"), False),
        ("Basic !!", False),
        ("Basic " + base64.b64encode(b"prom").decode(), False),
        ("", False),
    ],
)
async def test_a_request_passes_with_the_password_of_its_user_only(authorization: str, right: bool) -> None:
    passwords = Passwords()
    for _ in range(2):
        assert await passwords.check(USERS, authorization) is right


async def test_a_password_is_compared_once_and_again_after_its_hash_changed() -> None:
    compare = Counted()
    passwords = Passwords(compare)
    for _ in range(5):
        assert await passwords.check(USERS, header("prom", "s3cret"))
        assert not await passwords.check(USERS, header("prom", "wrong"))
    assert compare.calls == [b"s3cret", b"wrong"]
    assert not await passwords.check({"prom": SecretStr("other")}, header("prom", "s3cret"))


async def test_an_unknown_user_takes_a_comparison_too_and_never_passes() -> None:
    passwords = Passwords(lambda *_: True)

    assert not await passwords.check(USERS, header("nobody", "anything"))
    assert not await passwords.check(USERS, header("nobody", "anything"))
    assert await passwords.check(USERS, header("prom", "anything"))


async def test_beyond_some_that_wait_clients_are_told_to_come_back_and_known_ones_pass() -> None:
    compare = Counted()
    passwords = Passwords(compare)
    assert await passwords.check(USERS, header("prom", "s3cret"))
    compare.release = threading.Event()
    waiting = [
        asyncio.create_task(passwords.check(USERS, header("prom", f"guess {number}"))) for number in range(MOST_WAITING)
    ]
    await asyncio.sleep(0.05)
    with pytest.raises(TooManyError):
        await passwords.check(USERS, header("prom", "one more"))
    assert await passwords.check(USERS, header("prom", "s3cret"))
    compare.release.set()

    assert await asyncio.gather(*waiting) == [False] * MOST_WAITING


async def test_wrong_passwords_do_not_push_the_right_one_out_of_a_bounded_cache() -> None:
    compare = Counted()
    passwords = Passwords(compare)
    await passwords.check(USERS, header("prom", "s3cret"))
    for number in range(3 * MOST_CACHED):
        await passwords.check(USERS, header("prom", str(number)))
    calls = len(compare.calls)

    assert await passwords.check(USERS, header("prom", "s3cret"))
    assert len(compare.calls) == calls
    assert len(passwords._wrong) == MOST_CACHED


async def test_a_comparison_does_not_hold_the_event_loop() -> None:
    longest, last = 0.0, time.monotonic()
    task = asyncio.create_task(
        Passwords(lambda *_: time.sleep(0.3) or True).check(USERS, header("prom", "s3cret"))  # type: ignore[func-returns-value]
    )
    while not task.done():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest, last = max(longest, now - last), now

    assert longest < 0.25


@given(st.text())
def test_no_header_breaks_it(authorization: str) -> None:
    assert _credentials(authorization) is None or ":" not in _credentials(authorization)[0]
