"""What looks like a secret is hidden, what does not is left, and no text takes longer than its length."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from vllm_sidecar.catalog.reasons import GPU_HINTS, HINTS
from vllm_sidecar.redaction import HIDDEN, MOST_SECRETS, Secrets, bare_url, public, redact, redact_body

SECRET = "hun9Ter2Zq"
FORMS = (
    "http://user:{}@h:1",
    "http://user:hun/{}@h:1/x",
    "http://user:{}?x@h:1",
    "http://user:a#{}@h",
    "http://u:{}:b@h",
    "http://u:a@{}@h:1/x",
    "http://user:12/{}@h",
    "https://{}@h/",
    "//user:{}@host/x",
    "http://h/x?token={}",
    "http://h/x#access_token={}",
    "s3://AKID:{}@bucket/x",
    "redis://:{}@h:6379/0",
    "postgresql+psycopg://u:{}@h/db",
    "proxy=bob:{}@proxy:3128",
    "--api-key {}",
    "--api-key={}",
    "--api_key '{}'",
    "--hf-token {}",
    "--ssl-keyfile-password {}",
    "['--api-key', '{}']",
    '["--api-key","{}","x"]',
    '--kv-transfer-config {{"password":"{}"}}',
    "VLLM_API_KEY={}",
    "HF_TOKEN={}",
    "AWS_SECRET_ACCESS_KEY={}",
    "password={}",
    "secret={};x",
    "token => {}",
    "api-key := {}",
    "token%3D{}",
    '{{"api_key": "{}"}}',
    r"{{\"token\": \"{}\"}}",
    "{{'password': '{}'}}",
    "Authorization: Bearer {}",
    "authorization: Basic {}",
    "Bearer {}",
    "Bearer%20{}",
    "X-Api-Key: {}",
    "Cookie: sid={}",
    "Set-Cookie: session_id={}; Path=/",
    "invalid token: {}",
    "Incorrect API key provided: {}.",
    "sk-{}abcdef1",
    "hf_{}abcdefgh",
    "eyJhbGciOiJIUzI1NiJ9.{}.x",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
)
HARMLESS = (
    "http://127.0.0.1:8000/metrics: status 503",
    "http://[::1]:8000/v1 and https://example.com:443/a/b",
    "hf://org/model@revision",
    "s3://bucket/model@v2",
    "/models/org/model@rev",
    "max_num_batched_tokens=8192 tokenizer=x num_speculative_tokens: 3",
    "time_to_first_token: 3, inter_token_latency=0.1, time_per_output_token: 2",
    "bearer_token_file /run/secrets/vllm-token: No such file or directory",
    "a file that can be read (/run/token: Permission denied)",
    "http://127.0.0.1:8000/token: status 404",
    "a bearer token is missing",
    "vllm.bearer_token: got ***; allowed: a token: printable ASCII without blanks",
    "mask-token-reduction disk-0123456789abcdef",
    *HINTS.values(),
    *GPU_HINTS.values(),
)


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_hidden_in_each_form(form: str) -> None:
    for around in ("{}", "400, message: {}, more", "got '{}'", "a=1 {} b=2"):
        text = around.format(form.format(SECRET))
        assert SECRET not in redact(text), redact(text)
        assert HIDDEN in redact(text)
        assert redact(redact(text)) == redact(text), "a text may pass two places"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_holds_no_secret_remains_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("http://user:a/b@h:1/p?x#y", "http://h:1/p"),
        ("hf://org/model@rev", "hf://org/model@rev"),
        ("s3://a:b/c@bucket/x", "s3://bucket/x"),
        ("ngram at http://u:p@h", "ngram at http://h"),
        ("org/model?x", "org/model?x"),
        ("http://[::1]:80/x@y", "http://y"),
    ],
)
def test_a_url_loses_its_user_query_and_fragment(text: str, bare: str) -> None:
    assert bare_url(text) == bare


def test_a_body_loses_the_users_of_its_urls_and_nothing_else() -> None:
    body = b'a{url="http://u:p%40@h:1/x?y=1",mail="a@b"} 1 # token=x\n'
    assert redact_body(body) == body.replace(b"u:p%40", b"***")


ODD = 'a/b"c%d+e\u00e9=='


@pytest.mark.parametrize("repeated", [ODD, 'a/b\\"c%d+e\\u00e9==', "a%2Fb%22c%25d%2Be%C3%A9%3D%3D"])
def test_a_known_secret_is_hidden_however_it_is_quoted(repeated: str) -> None:
    known = Secrets()
    known.add_header("X-Token", ODD)
    assert known.hide(f"no: {repeated}!") == f"no: {HIDDEN}!"
    assert known.hide_in_body(f"no: {repeated}!".encode()) == f"no: {HIDDEN}!".encode()


@pytest.mark.parametrize(
    ("name", "value", "hidden", "shown"),
    [
        ("Authorization", "Bearer abcdefgh", ["Bearer abcdefgh", "abcdefgh"], ["Bearer", "abcdefg"]),
        (
            "authorization",
            "Basic dXNlcjpwYXNzd29yZA==",
            ["user:password", "password", "dXNlcjpwYXNzd29yZA=="],
            ["user"],
        ),
        ("Cookie", 'sid="abcdefghi"; theme=dark', ["abcdefghi"], ["dark"]),
        ("X-Api-Key", "12345678", ["12345678"], ["1234567"]),
        ("X-Team", "a-long-name-of-a-team", ["a-long-name-of-a-team"], ["a-long-name"]),
        ("X-Team", "platform", [], ["platform"]),
    ],
)
def test_a_header_is_hidden_as_a_whole_and_in_parts_but_no_word_of_everybody(
    name: str, value: str, hidden: list[str], shown: list[str]
) -> None:
    known = Secrets()
    known.add_header(name, value)
    assert [text for text in (*hidden, *shown) if known.hide(text) == HIDDEN] == hidden


def test_the_oldest_secrets_are_forgotten_when_there_are_too_many() -> None:
    known = Secrets()
    for number in range(MOST_SECRETS + 1):
        known.add_header("X-Token", f"secret{number:06d}")
    assert known.hide("secret000000") == "secret000000"
    assert known.hide(f"secret{MOST_SECRETS:06d}") == HIDDEN


def test_the_log_shows_no_secret_of_the_program() -> None:
    from vllm_sidecar.redaction import KNOWN

    KNOWN.add_header("X-Token", "of-the-program-1")
    assert public("it was of-the-program-1") == f"it was {HIDDEN}"


@examples(300)
@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    assert isinstance(redact(text), str)
    assert isinstance(bare_url(text), str)


REPEATED = (
    *("://", "a", "a:", "token", "token: ", "--api-", "-a", "a@", "a:b@", 'token="', "eyJ", "bearer ", "a://b@", "//@"),
    *("http://a:b", "-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaaa.aaaaa", "sk-aaaaaaaaaaaaaaaa", " ", "api-key ", "[x@"),
)


@pytest.mark.parametrize("piece", REPEATED)
def test_a_hostile_text_takes_no_longer_than_its_length(piece: str) -> None:
    """A megabyte in quadratic time would be hours."""
    text = piece * (1_000_000 // len(piece))
    began = time.process_time()
    redact(text)
    bare_url(text)
    redact_body(text.encode())
    assert time.process_time() - began < 10.0
