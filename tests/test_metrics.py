"""Metrics of a run: what is counted, and what a real head shows in the format of Prometheus."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import sdoml_dist
from sdoml_dist.emergence_plan import PowerUnit, TrackUnit
from sdoml_dist.engine.metrics import Meters
from sdoml_dist.errors import ExitCode
from sdoml_dist.plan import Unit
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.store.emergence import StageReceipt
from sdoml_dist.store.receipt import FileReceipt, Receipt
from tests.conftest import small
from tests.servers.alone import run_alone


class Recorder:
    """Stands for a metric of Ray and keeps what it is told."""

    made: dict[str, Recorder] = {}

    def __init__(self, name: str, description: str, *rest: Any) -> None:
        self.keys: tuple[str, ...] = rest[-1]
        self.told: list[tuple[float, dict[str, str]]] = []
        Recorder.made[name] = self

    def inc(self, value: float, labels: dict[str, str]) -> None:
        assert set(labels) == set(self.keys)
        self.told.append((value, labels))

    set = observe = inc


def test_what_a_receipt_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(f"sdoml_dist.engine.metrics.{kind}", Recorder)
    status = np.array([[1, 40], [1, 20], [10, 1]], np.uint8)
    receipt = Receipt(
        Unit(2011, 3, "both", 0, 3), np.arange(3), ("171A", "304A"), status, {}, {}, seconds=4.0,
        read_bytes=1000, peak_memory_bytes=7, phases={"source": 1.0, "decode": 2.0},
    )  # fmt: skip
    meters = Meters("build", 2, 12)
    meters.add(receipt)
    frames: Counter[tuple[str, str]] = Counter()
    for value, labels in Recorder.made["sdoml_frames"].told:
        frames[labels["channel"], labels["outcome"]] += int(value)
    assert frames == {
        ("171A", "ok"): 2, ("171A", "missing"): 1, ("304A", "ok"): 1, ("304A", "failed"): 1, ("304A", "rejected"): 1,
    }  # fmt: skip
    reasons = {labels["reason"] for _, labels in Recorder.made["sdoml_failures"].told}
    assert reasons == {FrameStatus.FAILED_READ.label, FrameStatus.REJECTED_QUALITY.label}
    assert shares() == {("both", "source"): 0.25, ("both", "decode"): 0.5, ("both", "other"): 0.25}
    assert Recorder.made["sdoml_read_bytes"].told == [(1000, {"stage": "build", "channel": "both"})]
    assert Recorder.made["sdoml_units_left"].told[-1][0] == 1
    assert Recorder.made["sdoml_frames_left"].told[-1][0] == 6


def shares() -> dict[tuple[str, str], float]:
    """Return what was told last of each channel and phase."""
    return {(labels["channel"], labels["phase"]): value for value, labels in Recorder.made["sdoml_phase_share"].told}


def test_waits_and_bytes_are_told_by_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of one channel under it, tracked ones under their quantity, those of all channels or of a region under ``-``."""
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(f"sdoml_dist.engine.metrics.{kind}", Recorder)
    meters = Meters("export", 4, 9)
    ok = np.ones(3, np.uint8)
    for channels, wait, written in ((("171A",), 1.0, 10), (("304A",), 3.0, 20), (("171A",), 2.0, 30), ((), 0.5, 5)):
        meters.add(
            FileReceipt("u", ok, channels, seconds=4.0, written_bytes=written, phases={"source": wait, "write": 1.0})
        )
    meters.add(StageReceipt(TrackUnit("V", 3, (1,)), ok, np.arange(3), seconds=2.0, read_s=2.0, read_bytes=7))
    meters.add(StageReceipt(PowerUnit(1, 0, 0, 0), ok, np.arange(3), seconds=2.0))
    found = shares()
    assert found["171A", "source"] == 3 / 8
    assert found["304A", "source"] == 3 / 4
    assert found["V", "source"] == 1
    assert found["-", "write"] == 1 / 6
    written_bytes: Counter[str] = Counter()
    for value, labels in Recorder.made["sdoml_written_bytes"].told:
        written_bytes[labels["channel"]] += int(value)
    assert written_bytes == {"171A": 40, "304A": 20, "-": 5}
    assert [(value, labels["channel"]) for value, labels in Recorder.made["sdoml_read_bytes"].told] == [(7, "V")]
    told = [(value, labels["channel"]) for value, labels in Recorder.made["sdoml_frames"].told]
    assert told == [(3, "171A"), (3, "304A"), (3, "171A"), (3, "-"), (3, "V"), (3, "-")]


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_real_head_shows_them_to_prometheus_and_refuses_strangers(tmp_path: Path) -> None:
    data = small(str(tmp_path / "dataset"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    command = [sys.executable, "-m", "tests.servers.metrics_run", str(tmp_path / "recipe.yaml"), "40"]
    code, log = run_alone(command, tmp_path / "run.log", timeout=260)
    assert code == 0, log[-4000:]
    assert f"STRANGER {int(ExitCode.ENVIRONMENT)}" in log
    assert f"BUILD {int(ExitCode.FRAMES_FAILED)}" in log
    text = log.split("METRICS\n")[1]
    frames: Counter[tuple[str, str]] = Counter()
    for labels, value in re.findall(r"^ray_sdoml_frames_total\{(.*)\} ([0-9.e+]+)$", text, re.MULTILINE):
        given = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        frames[given["channel"], given["outcome"]] += int(float(value))
    counts = sdoml_dist.accounting(str(tmp_path / "dataset"))
    for channel in ("171A", "304A"):
        for outcome in ("ok", "missing", "rejected", "failed"):
            assert frames[channel, outcome] == counts.loc[channel, outcome], (channel, outcome, text)
    assert re.search(r'^ray_sdoml_unit_seconds_count\{.*stage="build".*\} 10\.0$', text, re.MULTILINE), text
    assert re.search(r'^ray_sdoml_phase_share\{.*phase="decode".*\} 0\.\d+', text, re.MULTILINE), text
    for name in ("read_bytes_total", "worker_memory_bytes", "failures_total", "phase_seconds_total"):
        assert f"ray_sdoml_{name}{{" in text, name
