"""No secrets in messages, logs, recipes and records: where they hide in texts, and how they are taken out."""

from __future__ import annotations

import logging
import re

HIDDEN = "***"
"""What stands in the place of a secret."""

# Parameters of signed addresses: AWS (Signature versions 2 and 4), Google Cloud Storage, Azure, and what others call theirs.
_SIGNED = (
    r"x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig|awsaccesskeyid|"
    r"googleaccessid|access_token|auth_token|token|api_?key|apikey|password|passwd|pwd|secret"
)
_USER = re.compile(r"(?<=://)[^/\s@'\"]+@")
_QUERY = re.compile(rf"([?&](?:{_SIGNED})=)[^&\s'\"<>]+", re.IGNORECASE)
_NAMES = ("secret_access_key", "session_token", "access_key_id", "ray_auth_token", "authorization")
_PAIR = re.compile(
    rf"({'|'.join(_NAMES)})"
    r"(['\"]?\s*[=:]\s*['\"]?(?:bearer\s+)?)[^\s'\",}]+",
    re.IGNORECASE,
)


# Options and variables that are passwords or keys by their names. What names a file or a way of logging in is none of these:
# RAY_AUTH_TOKEN_PATH, RAY_AUTH_MODE=token, GOOGLE_APPLICATION_CREDENTIALS.
_SETTING = re.compile(
    r"((?:[\w.-]*(?:secret|password|passwd|passphrase|token|signature)|[\w.-]*(?:api|access|account|secret|private)_?key"
    r"|(?:[\w-]+\.)*(?<![\w-])(?:key|sig))['\"]?\s*[=:]\s*)['\"]?[^\s'\",}\]]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return a text with user names and passwords of addresses, signatures and keys replaced by ``***``.

    Parameters
    ----------
    text : str
        A message, an address, a line of a log.
    """
    # The record of every frame goes through here, and hardly any holds even the beginning of a secret.
    if "://" in text and "@" in text:
        text = _USER.sub(f"{HIDDEN}@", text)
    if "?" in text or "&" in text:
        text = _QUERY.sub(rf"\g<1>{HIDDEN}", text)
    lowered = text.lower()
    if any(name in lowered for name in _NAMES):
        text = _PAIR.sub(rf"\g<1>\g<2>{HIDDEN}", text)
    return text


def has_secret(text: str) -> bool:
    """Whether :func:`redact` would change a text."""
    return redact(text) != text


def redact_setting(text: str) -> str:
    """Return an argument of a command line with secrets replaced: :func:`redact`, and values of options named like keys.

    Parameters
    ----------
    text : str
        For example ``source.storage_options.secret=...`` or ``DB_PASSWORD=...``.
    """
    return _SETTING.sub(rf"\g<1>{HIDDEN}", redact(text))


class DiscreetFormatter(logging.Formatter):
    """Takes passwords and signatures out of what is logged, tracebacks and messages of libraries included."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return redact(super().format(record))
