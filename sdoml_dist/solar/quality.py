"""What a header says about whether its frame can be used."""

from __future__ import annotations

from typing import Any

ECLIPSE_BIT = 13
"""Bit of the level-1 QUALITY that repeats ``ACS_ECLP == 'YES'``."""
LUNAR_TRANSIT_BIT = 23
"""Bit of the level-1 QUALITY that says that the Moon crosses the field of view (HMI sets it)."""
NEAR_REAL_TIME_BIT = 30
"""Bit of the level-1 QUALITY of a frame that was processed at once and will be processed again."""

# JSOC's level-1 processing (lm-jps/proj, lev0/apps/quallev1.h). All other bits reject a frame as well; they only have
# no name here.
_COVERED = (1 << ECLIPSE_BIT) | (1 << LUNAR_TRANSIT_BIT)


def in_eclipse(header: dict[str, Any]) -> bool:
    """Whether the attitude control or the quality bits say that something covers the Sun."""
    flag = header.get("ACS_ECLP")
    flagged = flag.strip().upper() in ("YES", "T") if isinstance(flag, str) else bool(flag)
    quality = header.get("QUALITY")
    return flagged or (isinstance(quality, int) and bool(quality & _COVERED))


def bits(quality: int) -> list[int]:
    """Return the numbers of the bits that are set, from 0."""
    return [bit for bit in range(32) if quality >> bit & 1]
