"""What a header says about whether its frame can be used."""

from __future__ import annotations

from typing import Any

# AIA/SDO FITS Keyword Document (JSOC, AIA02840), keyword QUALITY: bits that concern the Sun being covered. All other
# bits reject a frame as well; they only have no name here.
ECLIPSE_BITS = (1 << 16) | (1 << 17)


def in_eclipse(header: dict[str, Any]) -> bool:
    """Whether the attitude control or the quality bits say that something covers the Sun."""
    flag = header.get("ACS_ECLP")
    flagged = flag.strip().upper() in ("YES", "T") if isinstance(flag, str) else bool(flag)
    quality = header.get("QUALITY")
    return flagged or (isinstance(quality, int) and bool(quality & ECLIPSE_BITS))


def bits(quality: int) -> list[int]:
    """Return the numbers of the bits that are set, from 0."""
    return [bit for bit in range(32) if quality >> bit & 1]
