"""What became of a frame: one status code per channel and time slot.

The codes are stored in the dataset, so they never change their meaning; new ones are added at the end of their class.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class FrameStatus(IntEnum):
    """Outcome for one slot. ``planned = ok + missing + rejected + failed`` once nothing is pending."""

    PENDING = 0

    OK = 1

    MISSING_NO_FRAME = 10
    """No frame lies within the tolerance of the slot."""
    MISSING_AT_SOURCE = 11
    """The source announced a frame but no longer has it (for example HTTP 404)."""
    MISSING_NO_SAMPLE = 12
    """The instrument gave no valid sample: it was switched off, or its value is marked missing."""
    MISSING_TOO_FEW = 13
    """Fewer frames than the recipe asks for could be averaged."""

    REJECTED_QUALITY = 20
    """QUALITY is not 0."""
    REJECTED_ECLIPSE = 21
    """The Earth or the Moon covers the Sun (ACS_ECLP, or bit 13 or 23 of QUALITY)."""
    REJECTED_EXPOSURE = 22
    """EXPTIME is not positive or outside the recipe's limits."""
    REJECTED_CHANNEL = 23
    """WAVELNTH is not that of the channel."""
    REJECTED_NOT_LIGHT = 24
    """IMG_TYPE says that this is not a light image (dark, LED, ...)."""
    REJECTED_DEGRADATION = 25
    """The degradation factor at this time is not positive."""

    FAILED_READ = 40
    """The file is truncated or damaged."""
    FAILED_NOT_FITS = 41
    """The file is not FITS or holds no image."""
    FAILED_SHAPE = 42
    """The image does not have the expected shape."""
    FAILED_KEYWORD = 43
    """A keyword that the calibration needs is absent or not a finite number."""
    FAILED_NO_DATA = 44
    """No pixel of the image is valid."""
    FAILED_DOWNLOAD = 45
    """The source did not deliver after all retries."""
    FAILED_TIME = 46
    """The header's observation time is unreadable or contradicts the index."""
    FAILED_CHECKSUM = 47
    """The bytes differ from the checksum or size that the source announced."""
    FAILED_UNEXPECTED = 49
    """An error that none of the above describes; its text is kept in the frame's header record."""

    @property
    def outcome(self) -> str:
        """One of ``pending``, ``ok``, ``missing``, ``rejected``, ``failed``."""
        return self.name.split("_", 1)[0].lower()

    @property
    def label(self) -> str:
        """The name in lower case, as in the CF ``flag_meanings``."""
        return self.name.lower()


def has_outcome(codes: np.ndarray, *outcomes: str) -> np.ndarray:
    """Return which status codes have one of some outcomes, for example ``"missing"``: booleans of the shape of `codes`."""
    table = np.zeros(256, dtype=bool)
    for code in FrameStatus:
        table[int(code)] = code.outcome in outcomes
    found: np.ndarray = table[codes]
    return found


class FrameError(Exception):
    """A frame that cannot become part of the dataset, with the status to record.

    Parameters
    ----------
    status : FrameStatus
        What to record.
    detail : str
        What was found, with values.
    """

    def __init__(self, status: FrameStatus, detail: str) -> None:
        super().__init__(status, detail)
        self.status, self.detail = status, detail

    def __str__(self) -> str:
        return f"{self.status.label}: {self.detail}"
