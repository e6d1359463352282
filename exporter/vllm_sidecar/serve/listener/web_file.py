"""The web file in use: loaded at the start, and again when it or one of its certificates changes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from vllm_sidecar.config import ConfigError
from vllm_sidecar.config.web_file import WebFile, load_web_file
from vllm_sidecar.logs import event
from vllm_sidecar.serve.listener.tls import make_context
from vllm_sidecar.vllm.threads import in_daemon_thread
from vllm_sidecar.vllm.validity import earliest_in_file, earliest_in_text

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable
    from pathlib import Path

    from vllm_sidecar.vllm.validity import Validity

CHECK_SECONDS = 1.0
"""How often files are looked at; a certificate that was replaced is used after this time."""

_Signature = tuple[tuple[int, int, int] | None, ...]
_log = logging.getLogger(__name__)


class WebFileInUse:
    """The file of `web.config_file`; without one, everything is open and plain HTTP."""

    def __init__(self, path: Path | None) -> None:
        """Load the file.

        Raises:
            ConfigError: With every mistake found.
        """
        self._path = path
        self.content, self.context, self.validity = _load(path) if path else (WebFile(), None, None)
        self._signature = self._sign()
        self.successful = True
        """Whether the last load succeeded; otherwise the content is that of an earlier one."""

    @property
    def names_are_safe(self) -> bool:
        """Whether no page of an attacker can have the address of this program: it has TLS or asks for a password."""
        return self.context is not None or bool(self.content.basic_auth_users)

    def tls(self) -> ssl.SSLContext | None:
        """Return the context for the next connection; None for plain HTTP."""
        return self.context

    async def follow(self) -> None:
        """Load the file again after each change, until canceled."""
        path = self._path
        if path is None:
            return
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            # In a thread, because the files may be on a file system that hangs; nothing else waits for it.
            signature = await in_daemon_thread("web file", self._sign)
            if signature == self._signature:
                continue
            self._signature = signature
            try:
                self._use(*await in_daemon_thread("web file", lambda: _load(path)))
                self.successful = True
                event(_log, logging.INFO, "web_config_reloaded", file=str(path))
            except ConfigError as error:
                self.successful = False
                event(_log, logging.ERROR, "web_config_failed", file=str(path), mistakes="; ".join(error.mistakes))

    def _use(self, content: WebFile, context: ssl.SSLContext | None, validity: Validity | None) -> None:
        if (context is None) != (self.context is None):
            raise ConfigError(self._path, ["TLS is turned on and off only by a restart"])
        self.content, self.context, self.validity = content, context, validity

    def _sign(self) -> _Signature:
        """Return what changes when a file is replaced or written."""
        return tuple(map(_signature, self._files())) if self._path else ()

    def _files(self) -> Iterable[Path]:
        tls = self.content.tls_server_config
        return [each for each in (self._path, tls.cert_file, tls.key_file, tls.client_ca_file) if each is not None]


def _load(path: Path) -> tuple[WebFile, ssl.SSLContext | None, Validity | None]:
    content = load_web_file(path)
    if content.basic_auth_users:
        import bcrypt  # noqa: F401 - so that a missing package fails at the start, not at the first request
    if not content.tls_server_config.enabled:
        return content, None, None
    tls = content.tls_server_config
    try:
        found = earliest_in_file(tls.cert_file) if tls.cert_file else earliest_in_text(tls.cert)
        return content, make_context(tls), found
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        raise ConfigError(path, [f"tls_server_config: the certificate or key cannot be used: {reason}"]) from None


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
