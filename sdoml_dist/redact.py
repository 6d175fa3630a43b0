"""No secrets in messages, logs, recipes and records: where they hide in texts, and how they are taken out."""

from __future__ import annotations

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
