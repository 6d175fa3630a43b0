"""The loader: exactly what is stored, in the right order, or an error; from anywhere, on any number of workers."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

import sdoml_dist
from sdoml_dist.errors import EnvironmentFault, StoreError, UsageError, ValidationError
from sdoml_dist.models.binning import bin_images
from sdoml_dist.models.transforms import ChannelTransforms, network_input
from sdoml_dist.pipelines.work import Work
from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe, calibration_id
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.dataset import Dataset, write_unit
from sdoml_dist.store.receipt import Receipt
from sdoml_dist.store.repository import Ledger
from sdoml_dist.store.statistics import MOMENTS, describe
from sdoml_dist.training import reading
from sdoml_dist.training.experiment import Batch
from sdoml_dist.training.loading import Loader, fit_transforms, measure
from sdoml_dist.training.order import Order, chosen
from sdoml_dist.training.parts import Blocks, Months, SplitField
from sdoml_dist.training.samples import Samples
from tests.conftest import small

# Not in the order of the dataset.
CHANNELS = ("304A", "Bz", "171A", "193A")


def recipe(store: str, **changes: Any) -> Recipe:
    common: dict[str, Any] = {
        "period": {"start": "2011-02-28T20:30", "end": "2011-03-01T01:00"}, "channels": ["171A", "193A", "304A"],
    }  # fmt: skip
    return parse_recipe(small(store, **common | changes))


def make(wanted: Recipe, *, extend: bool = False) -> None:
    """Write a product as a build does, with made-up frames: a disc in noise, and every sixth frame missing."""
    dataset = Dataset(Plan(wanted), {}, extend)
    receipts = []
    for unit, slots in dataset.pending():
        work = Work.empty(wanted, unit, slots.size)
        rng = np.random.default_rng([unit.shard, *unit.bundle.encode()])
        work.status[:] = np.where(rng.random((slots.size, 1)) < 1 / 6, FrameStatus.MISSING_NO_FRAME, FrameStatus.OK)
        times = slot_times(unit.year, wanted.cadence)[slots]
        for row in np.flatnonzero(work.status[:, 0] == FrameStatus.OK):
            for column, name in enumerate(work.channels):
                place = slots[row] - unit.shard * wanted.shard_slots
                if wanted.contents.kind == "images":
                    image = picture(rng, wanted.grid.pixels, signed=name.startswith(("B", "M")))
                    work.values[name][place] = image
                    for key, value in zip(MOMENTS, describe(image, work.histograms[name][row]), strict=True):
                        work.moments[key][row, column] = value
                else:
                    work.values[name][place] = rng.random()
            work.store_keywords(row, {"T_OBS": times[row] + np.timedelta64(int(rng.integers(-20, 20)), "s")})
            work.keywords["CALIBRATION"][row] = calibration_id(wanted, {})
        fork = write_unit(dataset.fork_bytes, wanted, unit, slots, work.values, ["{}"] * slots.size, work.histograms)
        receipts.append(Receipt(unit, slots, work.channels, work.status, work.keywords, work.moments, fork))
    dataset.commit(receipts, "built", {})


def picture(rng: np.random.Generator, pixels: int, signed: bool) -> np.ndarray:
    image = rng.gamma(2.0, 60.0, (pixels, pixels)).astype(np.float32)
    if signed:
        image *= rng.choice([-1, 1], image.shape)
    y, x = np.indices(image.shape) - pixels / 2
    image[np.hypot(x, y) > 0.45 * pixels] = np.nan
    return image


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a dataset of three products from 20:30 to 01:00 with missing frames."""
    store = str(tmp_path_factory.mktemp("loading") / "d")
    make(recipe(store))
    make(recipe(store, product="hmi", cadence="12min", tolerance="2min", channels=["Bz"]))
    make(recipe(store, product="eve", cadence="1min", tolerance="0s", channels=["Fe XX", "C III"],
                source={"kind": "simulator"}, chunking={"shard_slots": 60}))  # fmt: skip
    return store


@pytest.fixture
def own(url: str, tmp_path: Path) -> str:
    """Return a copy of the dataset that a test may damage."""
    shutil.copytree(url, tmp_path / "d")
    return str(tmp_path / "d")


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not loader_threads()


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sdoml-loader")]


def transforms() -> ChannelTransforms:
    return ChannelTransforms.default(CHANNELS)


def same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) if not one[name].is_floating_point()
        else np.array_equal(one[name].numpy(), other[name].numpy(), equal_nan=True)
        for name in one
    )  # fmt: skip


@pytest.mark.parametrize("require", ["all", "any"])
@pytest.mark.parametrize("cadence", ["6min", "12min", None])
def test_samples_are_those_of_open_dataset(url: str, require: Any, cadence: str | None) -> None:
    samples = Samples.find(url, CHANNELS, cadence=cadence, require=require)
    ds = sdoml_dist.open_dataset(url, channels=CHANNELS, cadence=cadence).sel(channel=list(CHANNELS))
    kept = ds.valid.values.all(axis=1) if require == "all" else ds.valid.values.any(axis=1)
    assert 0 < kept.sum() == len(samples)
    assert samples.settings["cadence_s"] == (360 if cadence == "6min" else 720)
    assert np.array_equal(samples.times, ds.time.values[kept])
    assert np.array_equal(samples.observed, ds.observed.values[kept], equal_nan=True)
    assert np.array_equal(samples.slots >= 0, ds.valid.values[kept])
    assert (samples.slots < 0).any() == (require == "any")
    assert samples.snapshot == ds.attrs["snapshot"]
    assert samples.digest() == Samples.find(url, CHANNELS, cadence=cadence, require=require).digest()


def test_a_batch_is_what_is_stored_binned_and_transformed(url: str) -> None:
    names = (*CHANNELS, "C III", "Fe XX")
    samples = Samples.find(url, names, cadence="6min", require="any")
    loader = Loader(samples, transforms(), 16, physical=True, threads=3)
    rows = np.array([3, 0, len(samples) - 1, 7, 8])
    batch = loader.read(rows)
    ds = sdoml_dist.open_dataset(url, channels=names, cadence="6min").sel(time=samples.times[rows])
    stored = np.stack([ds[name].values for name in CHANNELS], axis=1)
    physical = bin_images(stored, 16)
    inputs, mask = network_input(transforms(), physical)
    assert batch["physical"].shape == (5, 4, 16, 16)
    assert np.array_equal(batch["physical"].numpy(), physical, equal_nan=True)
    assert np.array_equal(batch["inputs"].numpy(), inputs)
    assert np.array_equal(batch["mask"].numpy(), mask)
    assert batch["inputs"].dtype == torch.float32
    assert 0.3 < batch["mask"].float().mean() < 1
    missing = samples.slots[rows][:, :4] < 0
    assert missing.any()
    assert not batch["mask"].numpy()[missing].any()
    assert (batch["inputs"].numpy()[missing] == 0).all()
    assert np.array_equal(batch["series"].numpy(), np.stack([ds["C III"], ds["Fe XX"]], axis=1), equal_nan=True)
    assert np.isfinite(batch["series"].numpy()).any()
    assert np.array_equal(batch["time"].numpy().view("datetime64[ns]"), ds.time.values)
    observed = ds.observed.sel(channel=list(names)).values
    assert np.array_equal(batch["observed"].numpy().view("datetime64[ns]"), observed, equal_nan=True)
    assert batch["index"].tolist() == rows.tolist()
    # At full size, without transforms.
    full = Loader(samples).read(rows)
    assert set(full) == {"mask", "physical", "series", "time", "observed", "index"}
    assert np.array_equal(full["physical"].numpy(), stored, equal_nan=True)


def test_arrays_of_another_layout_are_read_by_zarr(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples.find(url, CHANNELS, cadence="6min")
    direct = Loader(samples).read(np.arange(4))
    opened = reading.Reader(samples).open()
    assert all(opened._direct.values())
    monkeypatch.setattr(reading, "_is_plain", lambda array: False)
    assert same(Loader(samples).read(np.arange(4)), direct)
    monkeypatch.undo()
    import zarr

    for chunks, more in (((4, 8, 8), {}), ((1, 8, 8), {}), ((1, 8, 8), {"shards": (4, 8, 8), "compressors": None})):
        other = zarr.create_array({}, shape=(8, 8, 8), chunks=chunks, dtype="f4", **more)
        assert not reading._is_plain(other)


def test_starting_anywhere_gives_what_an_uninterrupted_run_gives(url: str) -> None:
    samples = Samples.find(url, CHANNELS, cadence="6min", require="any")
    order = Order(samples.shards, 2, 2, seed=3, window=2)
    stop = 2 * order.steps_per_epoch + 1
    loader = Loader(samples, transforms(), 16, threads=3)
    whole = list(loader.steps(order, 0, stop, (0, 1)))
    assert len(whole) == stop
    first, second = ([micro["index"].tolist() for step in whole[part : part + 2] for micro in step]
                     for part in (0, order.steps_per_epoch))  # fmt: skip
    assert first != second
    start = order.steps_per_epoch - 1
    fresh = Loader(Samples.find(url, CHANNELS, cadence="6min", require="any"), transforms(), 16, threads=1, prefetch=0)
    resumed = list(fresh.steps(Order(samples.shards, 2, 2, seed=3, window=2), start, stop, (0, 1)))
    for before, after in zip(whole[start:], resumed, strict=True):
        assert all(same(one, other) for one, other in zip(before, after, strict=True))
    # Two workers: together the same step.
    shares = [list(loader.steps(order, 0, 3, order.mine(rank, 2))) for rank in range(2)]
    for number in range(3):
        assert same(shares[0][number][0], whole[number][0])
        assert same(shares[1][number][0], whole[number][1])


def test_validation_has_every_sample_once(url: str) -> None:
    samples = Samples.find(url, ["171A"], require="any").take(np.arange(11))
    for world in (1, 2, 3):
        parts = [[batch["index"].tolist() for batch in Loader(samples, size=8).validation(3, rank, world)]
                 for rank in range(world)]  # fmt: skip
        together = [parts[number % world][number // world] for number in range(4)]
        assert together == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]


def test_splits_share_no_observation(url: str) -> None:
    # An HMI record every 12 minutes is the nearest of up to three times of a grid of 6 minutes.
    split: Any = TypeAdapter(SplitField).validate_python({"kind": "months", "months": {"train": [2], "test": [3]}})
    assert split == Months(months={"train": (2,), "test": (3,)})
    samples = Samples.find(url, ("Bz", "171A"), cadence="6min", tolerance="20min", require="any", split=split)
    train, test = samples.part("train"), samples.part("test")
    counts = samples.counts()
    assert counts["train"] == len(train) > 3
    assert counts["test"] == len(test) > 3
    assert counts[""] > 0
    for channel in range(2):
        assert not set(train.observed[:, channel]) & set(test.observed[:, channel]) - {np.datetime64("NaT")}
    midnight = np.datetime64("2011-03-01", "ns")
    assert (train.times < midnight).all()
    assert (np.nan_to_num(train.observed.astype("datetime64[ns]"), nan=0) < midnight).all()
    assert (test.times >= midnight).all()
    with pytest.raises(UsageError, match="No sample is in part 'validation'"):
        samples.part("validation")
    blocks = Blocks.model_validate({"fractions": {"train": 0.5, "test": 0.5}, "block": "1h", "gap": "6min"})
    named = Samples.find(url, ("171A",), split=blocks)
    of_time, of_frame = (
        sdoml_dist.block_split(times, {"train": 0.5, "test": 0.5}, block="1h", gap="6min")
        for times in (named.times, named.observed[:, 0])
    )
    assert np.array_equal(named.labels, np.where(of_time == of_frame, of_time, ""))
    assert set(named.labels) == {"train", "test", ""}
    assert named.describe()["split"]["block"] == 3600


def test_what_cannot_work_is_refused(url: str, own: str) -> None:
    with pytest.raises(UsageError, match="no channel '4500A'"):
        Samples.find(url, ["171A", "4500A"])
    with pytest.raises(UsageError, match="once each"):
        Samples.find(url, ["171A", "171A"])
    with pytest.raises(UsageError, match=r"(?s)No sample is left of 1 times.*171A"):
        Samples.find(url, ["171A"], period=("2011-02-28T21:31", "2011-02-28T21:32"), cadence="1min", tolerance="1s")
    with pytest.raises(UsageError, match="No sample is left: the dataset covers"):
        Samples.find(url, ["171A"], period=("2012-01-01", "2012-02-01"))
    with pytest.raises(StoreError, match="no version 'v9'"):
        Samples.find(url, ["171A"], version="v9")
    samples = Samples.find(url, ["171A"])
    with pytest.raises(UsageError, match="no square blocks"):
        Loader(samples, size=24)
    with pytest.raises(UsageError, match="was trained on channels"):
        Loader(samples, transforms())
    with pytest.raises(UsageError, match="The order is of 3 samples"):
        Loader(samples).micro_batches(Order(np.zeros(3), 1), 0, 1, (0,))
    with pytest.raises(UsageError, match="threads is 0"):
        Loader(samples, threads=0)
    make(recipe(own, product="hmi_720s", cadence="12min", tolerance="2min", channels=["M_720s"], grid={"pixels": 32},
                period={"start": "2011-02-28T20:30", "end": "2011-02-28T21:00"}))  # fmt: skip
    with pytest.raises(UsageError, match="do not lie on each other: aia 64 pixels"):
        Samples.find(own, ["171A", "M_720s"])


def test_mixed_calibrations_are_refused_unless_allowed(own: str) -> None:
    first = Samples.find(own, ["171A"]).slots[0, 0]
    ledger = Ledger(Store(url=own))
    product = ledger.group("aia", "r+")
    known: Any = product.attrs["calibrations"]
    product.attrs["calibrations"] = known | {"12345": {}}
    column: Any = product["2011/keywords/CALIBRATION"]
    column[int(first), 0] = 12345
    ledger.commit("another calibration of one frame")
    with pytest.raises(UsageError, match=r"aia were made by 2 calibrations: 12345, \d+"):
        Samples.find(own, ["171A", "304A"])
    assert len(Samples.find(own, ["171A", "304A"], allow_mixed_calibrations=True))
    assert len(Samples.find(own, ["304A"]))  # frames that are used decide
    assert len(Samples.find(own, ["171A"], period=("2011-03-01", "2011-03-02")))


def test_samples_stay_at_their_version_while_the_dataset_grows(own: str) -> None:
    samples = Samples.find(own, ["171A", "304A"], require="any")
    before = Loader(samples, size=8).read(np.arange(len(samples)))
    ledger = Ledger(Store(url=own))
    array: Any = ledger.group("aia", "r+")["2011/171A"]
    array[int(samples.slots[0, 0])] = 1.0
    ledger.commit("another image")
    longer = recipe(own, period={"start": "2011-02-28T20:30", "end": "2011-03-01T01:30"})
    make(longer, extend=True)
    assert same(Loader(samples, size=8).read(np.arange(len(samples))), before)
    newer = Samples.find(own, ["171A", "304A"], require="any")
    assert len(newer) > len(samples)
    assert newer.snapshot != samples.snapshot
    assert newer.digest() != samples.digest()
    assert Samples.find(own, ["171A", "304A"], require="any", version=samples.snapshot).digest() == samples.digest()
    # The image that was overwritten does not have its moments.
    with pytest.raises(ValidationError, match=r"171A of 2011-02-28T.*was written with count"):
        Loader(newer, attempts=1).read(np.array([0]))


@pytest.mark.parametrize("damage", ["removed", "cut", "garbled"])
def test_damaged_objects_are_errors_never_samples(own: str, damage: str) -> None:
    samples = Samples.find(own, ["171A", "304A"])
    truth = Loader(samples).read(np.arange(len(samples)))["physical"]
    chunks = sorted((Path(own) / "icechunk" / "chunks").iterdir(), key=lambda path: path.stat().st_size)
    # The largest objects are shards of images.
    for path in chunks[-len(chunks) // 2 :]:
        content = path.read_bytes()
        if damage == "removed":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(content[: len(content) // 2])
        else:
            middle = len(content) // 2
            noise = np.random.default_rng(0).integers(0, 256, 4096, np.uint8).tobytes()[: len(content) // 4]
            path.write_bytes(content[:middle] + noise + content[middle + len(noise) :])
    good, errors = 0, 0
    loader = Loader(samples, attempts=2, backoff_s=0.01)
    for row in range(len(samples)):
        try:
            batch = loader.read(np.array([row]))
            assert np.array_equal(batch["physical"][0], truth[row], equal_nan=True)
            good += 1
        except (EnvironmentFault, ValidationError) as error:
            errors += 1
            assert "cannot be read after 2 attempts" in str(error)
            assert "No sample is skipped" in str(error)
    assert errors > 0
    assert good + errors == len(samples)
    with pytest.raises((EnvironmentFault, ValidationError)):
        for _ in loader.validation(2):
            pass
    assert not loader_threads()


def test_a_passing_fault_is_survived_and_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples.find(url, ["171A", "304A"])
    expected = Loader(samples).read(np.arange(4))
    original, faults, lock = reading._Opened._bytes, [0], threading.Lock()

    def flaky(self: Any, *args: Any) -> bytes:
        with lock:
            faults[0] += 1
            if faults[0] % 3:
                raise OSError("connection reset")
        return original(self, *args)

    monkeypatch.setattr(reading._Opened, "_bytes", flaky)
    assert same(Loader(samples, threads=1, attempts=20, backoff_s=0).read(np.arange(4)), expected)
    assert faults[0] > 12
    monkeypatch.setattr(reading._Opened, "_bytes", lambda *_: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(EnvironmentFault, match="no route to host"):
        Loader(samples, attempts=3, backoff_s=0).read(np.arange(4))


def test_threads_end_with_the_iterator(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples.find(url, ["171A", "304A"])
    order = Order(samples.shards, 2, 1)
    loader = Loader(samples, size=8, threads=3)
    batches = loader.micro_batches(order, 0, 100, (0,))
    next(batches)
    assert loader_threads()
    batches.close()
    assert not loader_threads()
    steps = loader.steps(order, 0, 100, (0,))
    next(steps)
    steps.close()
    assert not loader_threads()
    next(loader.validation(2))  # abandoned
    assert not loader_threads()
    original = reading._Opened.image

    def failing(self: Any, row: int, channel: int) -> Any:
        if row >= 2:
            raise OSError("storage is down")
        return original(self, row, channel)

    monkeypatch.setattr(reading._Opened, "image", failing)
    # An error comes at the place of its micro-batch, and ends the iterator.
    batches = Loader(samples, size=8, attempts=1).validation(2)
    assert next(batches)["index"].tolist() == [0, 1]
    with pytest.raises(EnvironmentFault, match="storage is down"):
        next(batches)
    assert not loader_threads()
    assert list(batches) == []
    # Threads that pause before another attempt do not hold up the end.
    batches = Loader(samples, size=8, attempts=9, backoff_s=60).validation(2)
    next(batches)
    started = time.perf_counter()
    batches.close()
    assert time.perf_counter() - started < 10


def test_reading_ahead_is_bounded_and_waiting_is_measured(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples.find(url, ["171A", "304A"], require="any")
    begun: list[int] = []
    done: list[int] = []
    original = reading.Reader.image

    def slow(self: Any, row: int, channel: int, wait: Any) -> Any:
        begun.append(row)
        time.sleep(0.01)
        image = original(self, row, channel, wait)
        done.append(row)
        return image

    def settle(images: int) -> None:
        for _ in range(1000):
            if len(done) >= images:
                break
            time.sleep(0.01)
        time.sleep(0.1)  # for any more to begin
        assert len(begun) == len(done) == images

    monkeypatch.setattr(reading.Reader, "image", slow)
    loader = Loader(samples, size=8, threads=4, prefetch=2)
    order = Order(samples.shards, 2, 1)
    batches = loader.micro_batches(order, 0, 8, (0,))
    assert not begun  # nothing is read before it is asked for
    next(batches)
    settle(3 * 2 * 2)  # the one handed out and two ahead, of 2 samples and 2 channels
    first = loader.timing.waited_s
    assert first >= 0.02  # two images of a sample, one after the other
    # A consumer that takes longer than reading hardly waits; one that takes no time always does.
    for number in range(4, 7):
        next(batches)
        settle(number * 2 * 2)
    assert loader.timing.samples == 8
    assert loader.timing.total_s - first > 0.3
    assert loader.timing.waited_s - first < 0.5 * (loader.timing.total_s - first)
    batches.close()
    eager = Loader(samples, size=8, threads=1, prefetch=0)
    for _ in eager.micro_batches(order, 0, 8, (0,)):
        pass
    assert eager.timing.wait > 0.8
    assert eager.timing.samples_per_s == pytest.approx(16 / eager.timing.total_s)


def test_memory_is_stated(url: str) -> None:
    samples = Samples.find(url, CHANNELS)
    # 4 channels of 16 x 16 in 5 bytes (float32 and mask), 8 samples: 40960; 2 ahead, one filled, one in use.
    loader = Loader(samples, transforms(), 16, threads=2, prefetch=2)
    images = 2 * (8 * 4 * 64**2 + 40960 // 8)
    assert loader.memory_bytes(8) == 4 * 40960 + images + 48 * 4 * len(samples)


def test_statistics_are_of_the_training_part_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Months(months={"train": (2,), "test": (3,)})
    samples = Samples.find(url, CHANNELS, cadence="6min", split=split)
    times: list[np.datetime64] = []
    original = reading.Reader.image

    def recording(self: Any, row: int, channel: int, wait: Any) -> Any:
        times.append(self.samples.times[row])
        return original(self, row, channel, wait)

    monkeypatch.setattr(reading.Reader, "image", recording)
    fitted = fit_transforms(samples, transforms(), 16, number=4)
    assert max(times) < np.datetime64("2011-03-01")
    assert len(set(times)) == 4
    train = samples.part("train")
    rows = chosen(train.times, 4)
    assert np.array_equal(np.unique(times), train.times[rows])
    physical = Loader(train, size=16).read(rows)["physical"].numpy()
    expected = transforms().fit(physical)
    assert fitted == expected
    assert fitted.kinds == transforms().kinds
    assert fit_transforms(samples, transforms(), 16, number=4, threads=1) == fitted
    assert fit_transforms(samples, transforms(), 16, number=4, seed=1) != fitted
    # Parts of the work merge to the whole.
    merged = measure(train.take(rows[:2]), transforms(), 16).merge(measure(train.take(rows[2:]), transforms(), 16))
    np.testing.assert_allclose(transforms().with_moments(merged).stds, fitted.stds, rtol=1e-12)
    with pytest.raises(UsageError, match="No sample is in part 'train'"):
        fit_transforms(samples.part("test"), transforms())


def test_a_loader_can_be_pickled_after_use_and_refuses_a_fork(url: str) -> None:
    samples = Samples.find(url, CHANNELS)
    loader = Loader(samples, transforms(), 16)
    batch = loader.read(np.arange(2))
    again = pickle.loads(pickle.dumps(loader))
    assert same(again.read(np.arange(2)), batch)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            pickle.loads(pickle.dumps(loader)).reader.open()
        except UsageError as error:
            os._exit(7 if "spawn" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
