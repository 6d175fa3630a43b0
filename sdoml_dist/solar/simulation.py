"""What is simulated: the Sun, the spacecraft, and the faults."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FaultKind = Literal["missing", "flagged", "eclipse", "corrupt", "not_fits", "dark", "no_keyword", "wrong_channel"]


class Fault(BaseModel):
    """One fault at one place."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    channel: str
    """Channel, or ``*`` for all."""
    time: str
    """Nominal time of the frame, UTC."""
    kind: FaultKind
    """What is wrong with the frame."""


class SimulationConfig(BaseModel):
    """The simulated mission."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seed: int = 0
    """Seed of everything random: same seed, same bytes."""
    pixels: int = Field(4096, ge=32, le=4096)
    """Pixels per axis of the level-1 frames; the field of view is always AIA's."""
    frame_cadence_s: int = Field(360, ge=12)
    """Spacing of the frames; it divides a day."""
    jitter_s: float = Field(2.0, ge=0, lt=6)
    """Largest distance between a frame's nominal time and T_OBS."""
    noise: bool = True
    """Photon and read noise."""
    pointing_error_pixels: float = Field(0.8, ge=0)
    """How far the header's pointing is from the true one, which the master pointing table has (pixels of 4096)."""
    roll_deg: float = 0.057
    """Rotation of the spacecraft (SAT_ROT); each telescope adds some hundredths of a degree."""
    missing_rate: float = Field(0.0, ge=0, le=1)
    """Share of frames that do not exist."""
    flagged_rate: float = Field(0.0, ge=0, le=1)
    """Share of frames with QUALITY != 0."""
    corrupt_rate: float = Field(0.0, ge=0, le=1)
    """Share of frames whose file is cut off."""
    faults: tuple[Fault, ...] = ()
    """Faults at given places."""
