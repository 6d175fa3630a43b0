"""Latent catalogs: what goes in comes out, to this package and to others; compaction breaks off anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.errors import EnvironmentFault, StoreError, UsageError, ValidationError
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.store.catalog import Catalog, CatalogWriter, catalog_units, compact, open_catalog
from sdoml_dist.store.catalog_folder import CatalogFolder
from sdoml_dist.store.catalog_schema import CatalogInfo, catalog_table, parquet_bytes

Z = 3
MISSING = int(FrameStatus.MISSING_NO_FRAME)


def info(**changes: Any) -> CatalogInfo:
    about: dict[str, Any] = {
        "dataset": "/data/sdo", "snapshot": "SNAP", "channels": ("171A", "304A"), "products": ("aia",), "checkpoint": "abcd",
        "model": "sigma-vae", "latent": Z, "transform": {"kind": "asinh", "scale": [1.0, 2.0]},
    }  # fmt: skip
    return CatalogInfo(**(about | changes))


def slots(start: str, count: int, step_s: int = 720) -> np.ndarray:
    return np.datetime64(start, "ns") + np.arange(count) * np.timedelta64(step_s, "s")


def numbers(times: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return latents that depend on nothing but their time."""
    minutes = ((times - np.datetime64("2011-01-01", "ns")) / np.timedelta64(1, "m")).astype(np.float32)
    return np.stack([minutes, np.sin(minutes), np.full_like(minutes, seed)], axis=1)


@pytest.fixture
def filled(tmp_path: Path) -> tuple[str, np.ndarray]:
    """A catalog of 30 slots around the end of January in units of 4, one slot of each being missing."""
    url, times = str(tmp_path / "catalog"), slots("2011-01-31T21:00", 30)
    writer = CatalogWriter(url, info())
    assert writer.begin() == set()
    for unit in catalog_units(times, 4):
        part = times[unit.start : unit.stop]
        status = np.where(np.arange(part.size) == 1, MISSING, 1)
        latents = numbers(part)
        latents[status != 1] = np.nan
        assert writer.write(unit.name, part, latents, status=status) > 0
    return url, times


def there(times: np.ndarray) -> np.ndarray:
    """Say which slots of `filled` have a latent: 15 of January make units of 4, 4, 4, 3, those of February the same."""
    index = np.arange(times.size)
    encoded: np.ndarray = (index % 15) % 4 != 1
    return encoded


def check(catalog: Catalog, times: np.ndarray) -> None:
    """Every row once, whatever the files."""
    assert catalog.validate() == []
    np.testing.assert_array_equal(catalog.times, times[there(times)])
    np.testing.assert_array_equal(catalog.latents(), numbers(catalog.times))
    assert catalog.accounting() == {"planned": 30, "ok": 22, "missing": 8, "rejected": 0, "failed": 0}
    table = catalog.table()
    np.testing.assert_array_equal(table["time"].to_numpy(), times)
    assert table["latent"].null_count == 8


def test_files_by_unit_and_month(filled: tuple[str, np.ndarray]) -> None:
    url, times = filled
    names = sorted(str(path.relative_to(url)) for path in Path(url).rglob("*.parquet"))
    assert names[0] == "year=2011/month=01/unit-20110131T210000000-4.parquet"
    assert [name.split("/")[1] for name in names] == ["month=01"] * 4 + ["month=02"] * 4
    check(open_catalog(url), times)
    # What a file says about itself is all of it, and JSON.
    metadata = pq.read_schema(Path(url) / names[0]).metadata
    assert json.loads(metadata[b"sdoml_dist.catalog"]) == json.loads((Path(url) / "_catalog.json").read_text())
    assert json.loads(metadata[b"sdoml_dist.catalog"])["transform"] == {"kind": "asinh", "scale": [1.0, 2.0]}


def test_schema_is_what_it_says(filled: tuple[str, np.ndarray]) -> None:
    path = next(Path(filled[0]).rglob("*.parquet"))
    assert [f"{field.name} {field.type} {field.nullable}" for field in pq.read_schema(path)] == [
        "time timestamp[ns, tz=UTC] False",
        "status uint8 False",
        "latent fixed_size_list<element: float>[3] True",
    ]
    described = pq.ParquetFile(path).metadata.row_group(0)
    columns = {described.column(i).path_in_schema: described.column(i) for i in range(described.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert columns["time"].statistics.has_min_max
    assert "BYTE_STREAM_SPLIT" in columns["latent.list.element"].encodings


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("log_variance", [False, True])
def test_round_trip(tmp_path: Path, dtype: str, log_variance: bool) -> None:
    """Rows come back sorted, in their dtype, with nulls where nothing was encoded."""
    writer = CatalogWriter(str(tmp_path), info(dtype=dtype, log_variance=log_variance))
    writer.begin()
    times = slots("2012-02-28T23:00", 5)
    order = np.array([3, 0, 4, 1, 2])
    latents = np.arange(15, dtype=np.float64).reshape(5, 3) / 8
    status = np.array([1, 1, MISSING, int(FrameStatus.FAILED_READ), 1])
    variances = -latents if log_variance else None
    writer.write(
        "a", times[order], latents[order], None if variances is None else variances[order], status=status[order]
    )
    catalog = open_catalog(str(tmp_path))
    assert catalog.latents().dtype == dtype
    np.testing.assert_array_equal(catalog.times, times[[0, 1, 4]])
    np.testing.assert_array_equal(catalog.latents(), latents[[0, 1, 4]])
    table = catalog.table()
    assert table["latent"].is_valid().to_pylist() == [True, True, False, False, True]
    assert table["status"].to_pylist() == status.tolist()
    assert catalog.accounting() == {"planned": 5, "ok": 3, "missing": 1, "rejected": 0, "failed": 1}
    assert catalog.validate() == []
    if log_variance:
        np.testing.assert_array_equal(catalog.log_variances(), -latents[[0, 1, 4]])
    else:
        with pytest.raises(UsageError, match="no column 'log_variance'"):
            catalog.log_variances()


def test_values_are_views_and_copies_are_writable(filled: tuple[str, np.ndarray]) -> None:
    catalog = open_catalog(filled[0], start="2011-02-01T00:24", end="2011-02-01T00:48")
    ((times, block),) = catalog.blocks()
    assert times.size == 2
    assert not block.flags.writeable
    assert not block.flags.owndata
    catalog.latents()[:] = 0  # a copy: nothing else changes
    assert catalog.latents()[0, 0] != 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_readers(tmp_path: Path, dtype: str) -> None:
    """pyarrow and pandas read the folder as it is, before and after compaction."""
    writer = CatalogWriter(str(tmp_path), info(dtype=dtype))
    writer.begin()
    for month in (1, 2):
        writer.write("a", slots(f"2011-{month:02}-01", 2), np.full((2, 3), month, dtype), status=np.array([1, MISSING]))
        writer.write("b", slots(f"2011-{month:02}-02", 1), np.full((1, 3), 10 * month, dtype))
    for _ in range(2):
        table = pads.dataset(tmp_path, partitioning="hive").to_table(filter=pads.field("month") == 2)
        assert table["year"].to_pylist() == [2011] * 3
        assert sorted(table["latent"].drop_null().to_pylist()) == [[2.0] * 3, [20.0] * 3]
        frame = pd.read_parquet(tmp_path).sort_values("time", ignore_index=True)
        assert frame.time[3] == pd.Timestamp("2011-02-01", tz="UTC")
        assert frame.latent[3].dtype == dtype
        assert [value is None for value in frame.latent] == [False, True, False] * 2
        own = open_catalog(str(tmp_path)).to_pandas()
        pd.testing.assert_frame_equal(own, frame[own.columns])
        assert compact(str(tmp_path)).files_after == 2


def test_duckdb(filled: tuple[str, np.ndarray]) -> None:
    duckdb = pytest.importorskip("duckdb")
    query = f"select status, count(*), count(latent) from '{filled[0]}/*/*/*.parquet' group by status order by status"
    assert duckdb.sql(query).fetchall() == [(1, 22, 22), (MISSING, 8, 0)]
    nearest = f"""
        with good as materialized (select time, latent from '{filled[0]}/*/*/*.parquet' where status = 1)
        select time, list_distance(latent, (select latent from good order by time limit 1)) as distance
        from good order by distance, time limit 2
    """
    (_, first), (_, second) = duckdb.sql(nearest).fetchall()
    assert first == 0
    assert second > 0


def test_hugging_face_datasets(filled: tuple[str, np.ndarray], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = sorted(map(str, Path(filled[0]).glob("year=*/month=*/*.parquet")))
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    good = found.filter(lambda row: row["status"] == 1)
    assert len(good) == 22
    times = np.array([row["time"].replace(tzinfo=None) for row in good], "datetime64[ns]")
    latents = np.array(good.with_format("numpy")["latent"])
    np.testing.assert_array_equal(latents[np.argsort(times)], numbers(np.sort(times)))


def test_columns(filled: tuple[str, np.ndarray]) -> None:
    url = filled[0]
    table = open_catalog(url, columns=["month", "status"]).table()
    assert table.column_names == ["month", "status"]
    assert table["month"].to_pylist() == [1] * 15 + [2] * 15
    assert open_catalog(url, columns=["latent"]).table().column_names == ["latent"]
    with pytest.raises(UsageError, match="no column 'z'"):
        open_catalog(url, columns=["z"])


def test_only_files_and_rows_of_the_stretch_are_read(filled: tuple[str, np.ndarray]) -> None:
    url, times = filled
    for path in Path(url).glob("year=2011/month=01/*"):
        path.write_bytes(b"not Parquet")
    catalog = open_catalog(url, start="2011-02-01T00:12", end=times[20])
    inside = (times >= np.datetime64("2011-02-01T00:12")) & (times < times[20])
    np.testing.assert_array_equal(catalog.table()["time"].to_numpy(), times[inside])
    np.testing.assert_array_equal(catalog.times, times[inside & there(times)])
    np.testing.assert_array_equal(catalog.latents(), numbers(catalog.times))
    assert "cannot be read" in open_catalog(url).validate()[0]
    with pytest.raises(StoreError, match="cannot be read"):
        open_catalog(url).table()
    for text in ("2011-02-01T00:12Z", "2011-02-01 00:12:00", pd.Timestamp("2011-02-01T00:12", tz="UTC")):
        np.testing.assert_array_equal(open_catalog(url, start=text, end=times[20]).times, catalog.times)
    with pytest.raises(UsageError, match="is no time"):
        open_catalog(url, start="yesterday")


def test_a_stretch_without_rows(filled: tuple[str, np.ndarray]) -> None:
    for stretch in ({"start": "2013-01-01"}, {"start": "2011-02-20", "end": "2011-02-21"}):
        catalog = open_catalog(filled[0], **stretch)
        assert catalog.latents().shape == (0, Z)
        assert catalog.table().num_rows == 0
        assert catalog.table().schema.equals(info().schema)
        assert catalog.accounting()["planned"] == 0
        assert catalog.validate() == []


@given(st.lists(st.integers(0, 3000), unique=True, max_size=60), st.integers(1, 20))
def test_units_part_times(hours: list[int], rows: int) -> None:
    times = np.datetime64("2011-12-01", "ns") + np.sort(np.array(hours, int)) * np.timedelta64(1, "h")
    units = catalog_units(times, rows)
    assert [index for unit in units for index in range(unit.start, unit.stop)] == list(range(times.size))
    assert len({unit.name for unit in units}) == len(units)
    for unit in units:
        assert 1 <= unit.stop - unit.start <= rows
        assert np.unique(times[unit.start : unit.stop].astype("datetime64[M]")).size == 1


def test_what_cannot_be_written(tmp_path: Path) -> None:
    writer = CatalogWriter(str(tmp_path), info())
    times, latents = slots("2011-01-01", 2), np.zeros((2, Z), np.float32)
    wrong: list[tuple[str, Callable[[], object]]] = [
        ("cannot be named", lambda: writer.write("../a", times, latents)),
        ("of 2 months", lambda: writer.write("a", slots("2011-01-31T23:50", 2), latents)),
        ("there twice", lambda: writer.write("a", times[[0, 0]], latents)),
        ("final status", lambda: writer.write("a", times, latents, status=np.array([1, 0]))),
        ("final status", lambda: writer.write("a", times, latents, status=np.array([1, 257]))),
        ("as many status codes", lambda: writer.write("a", times, latents, status=np.array([1]))),
        ("as many status codes", lambda: writer.write("a", times[:0], latents[:0])),
        (r"takes floats of shape \(2, 3\)", lambda: writer.write("a", times, latents[:, :2])),
        (r"takes floats of shape \(2, 3\)", lambda: writer.write("a", times, latents.astype(int))),
        ("no column log_variance", lambda: writer.write("a", times, latents, latents)),
        ("not 0", lambda: catalog_units(times, 0)),
        ("ascend", lambda: catalog_units(times[::-1], 1)),
    ]
    for message, call in wrong:
        with pytest.raises(UsageError, match=message):
            call()
    with pytest.raises(ValidationError, match="latent of 1 of 2 slots is not finite in float32"):
        writer.write("a", times, np.array([[1, 2, np.nan], [1, 2, 3]]))
    half = CatalogWriter(str(tmp_path), info(dtype="float16"))
    with pytest.raises(ValidationError, match="not finite in float16"):
        half.write("a", times, np.array([[1, 2, 65520.0], [1, 2, 3]]))
    assert not list(tmp_path.iterdir())


def test_a_repeated_unit_replaces_its_own(filled: tuple[str, np.ndarray]) -> None:
    url, times = filled
    path = Path(url) / "year=2011/month=01/unit-20110131T210000000-4.parquet"
    before = path.read_bytes()
    path.write_bytes(b"half")
    latents = numbers(times[:4])
    writer = CatalogWriter(url, info())
    writer.write("20110131T210000000-4", times[:4], latents, status=np.array([1, MISSING, 1, 1]))
    assert path.read_bytes() == before
    assert writer.begin() == {unit.name for unit in catalog_units(times, 4)}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"snapshot": "OTHER"}, "snapshot: 'SNAP' -> 'OTHER'"),
        ({"checkpoint": "ffff"}, "checkpoint: 'abcd' -> 'ffff'"),
        ({"dtype": "float16"}, "dtype: 'float32' -> 'float16'"),
        ({"channels": ("304A", "171A")}, "channels"),
        ({"transform": {"kind": "asinh", "scale": [1.0, 3.0]}}, "transform.scale"),
        ({"settings": {"unit_rows": 5}}, "settings.unit_rows"),
    ],
)
def test_another_catalog_is_refused(filled: tuple[str, np.ndarray], changes: dict[str, Any], line: str) -> None:
    with pytest.raises(StoreError, match="holds another catalog") as caught:
        CatalogWriter(filled[0], info(**changes)).begin()
    assert line in str(caught.value)


def test_a_moved_dataset_is_the_same(filled: tuple[str, np.ndarray]) -> None:
    assert len(CatalogWriter(filled[0], info(dataset="s3://elsewhere/sdo", sdoml_dist="99")).begin()) == 8


def test_no_catalog_or_one_of_the_future(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no catalog"):
        open_catalog(str(tmp_path / "none"))
    with pytest.raises(StoreError, match="There is no catalog"):
        compact(str(tmp_path / "none"))
    (tmp_path / "_catalog.json").write_text(json.dumps(info().describe() | {"schema_version": 2, "new": 1}))
    with pytest.raises(StoreError, match="layout 2; this version reads 1"):
        open_catalog(str(tmp_path))
    (tmp_path / "_catalog.json").write_text("{}")
    with pytest.raises(StoreError, match="does not describe"):
        open_catalog(str(tmp_path))


def files(url: str) -> dict[str, bytes]:
    return {str(path.relative_to(url)): path.read_bytes() for path in Path(url).rglob("*") if path.is_file()}


def test_compaction_keeps_every_row(filled: tuple[str, np.ndarray]) -> None:
    url, times = filled
    before = open_catalog(url).table()
    summary = compact(url)
    assert (summary.months, summary.files_before, summary.files_after, summary.removed) == (2, 8, 2, 8)
    assert summary.bytes_after < summary.bytes_before
    check(open_catalog(url), times)
    assert open_catalog(url).table().equals(before)
    assert len(list(Path(url).rglob("*.parquet"))) == 2
    # Merged units are still known, and a second time changes nothing.
    assert len(CatalogWriter(url, info()).begin()) == 8
    left = files(url)
    assert compact(url).months == 0
    assert files(url) == left


def test_compaction_to_a_size(filled: tuple[str, np.ndarray]) -> None:
    url, times = filled
    size = open_catalog(url).stored_bytes
    summary = compact(url, size // 6)
    assert summary.files_after in (6, 8)  # three or four for each month
    assert summary.files_after == len(list(Path(url).rglob("*.parquet")))
    catalog = open_catalog(url)
    check(catalog, times)
    firsts = [pq.read_table(Path(url) / file.path)["time"][0].value for file in catalog.files]
    assert firsts == sorted(firsts)
    assert compact(url, "1MiB").files_after == 2
    check(open_catalog(url), times)
    for wrong in (0, "much"):
        with pytest.raises(UsageError, match="target_bytes"):
            compact(url, wrong)


def test_units_behind_a_compaction(filled: tuple[str, np.ndarray]) -> None:
    """New units count at once; one that was merged does not count again, whatever is in it."""
    url, times = filled
    compact(url)
    writer = CatalogWriter(url, info())
    writer.write("20110131T210000000-4", times[:4], numbers(times[:4], seed=9))
    later = slots("2011-02-10", 2)
    writer.write("later", later, numbers(later))
    catalog = open_catalog(url)
    assert catalog.leftover == ["year=2011/month=01/unit-20110131T210000000-4.parquet"]
    check(open_catalog(url, end="2011-02-05"), times)
    np.testing.assert_array_equal(catalog.times[-2:], later)
    summary = compact(url)
    assert (summary.months, summary.files_after, summary.removed) == (1, 2, 3)
    check(open_catalog(url, end="2011-02-05"), times)
    assert open_catalog(url).leftover == []
    assert len(writer.begin()) == 9


class Broken(Exception):
    """Stands for the end of the process."""


def test_compaction_breaks_off_anywhere(filled: tuple[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after each of its steps, a reader sees every row once; a repetition ends where an undisturbed one does."""
    url, times = filled
    start = files(url)
    compact(url, 4000)
    undisturbed = files(url)
    steps = {"left": -1}
    # Two months with as many parts as there are, a manifest each, and eight merged files.
    number = len([name for name in undisturbed if "part-" in name]) + 2 + 8

    def counted(original: Callable[..., None], late: bool) -> Callable[..., None]:
        def step(*arguments: Any) -> None:
            steps["left"] -= 1
            if steps["left"] == 0 and not late:
                raise Broken
            original(*arguments)
            if steps["left"] == 0:
                raise Broken

        return step

    put, remove = CatalogFolder.put, CatalogFolder.remove
    states = set()
    for late in (False, True):
        monkeypatch.setattr(CatalogFolder, "put", counted(put, late))
        monkeypatch.setattr(CatalogFolder, "remove", counted(remove, late))
        for broken in range(1, number + 1):
            for path in [*Path(url).rglob("*.parquet"), *Path(url).rglob("_compacted.json")]:
                path.unlink()
            for name, data in start.items():
                (Path(url) / name).write_bytes(data)
            steps["left"] = broken
            with pytest.raises(Broken):
                compact(url, 4000)
            states.add(tuple(files(url)))
            catalog = open_catalog(url)
            np.testing.assert_array_equal(catalog.table()["time"].to_numpy(), times)
            np.testing.assert_array_equal(catalog.latents(), numbers(times[there(times)]))
            steps["left"] = -1
            compact(url, 4000)
            assert files(url) == undisturbed
    assert len(states) > number / 2


def test_a_reader_that_is_overtaken_is_told(filled: tuple[str, np.ndarray]) -> None:
    url, times = filled
    catalog = open_catalog(url)
    compact(url)
    with pytest.raises(StoreError, match=r"vanished[\s\S]*Open the catalog again"):
        catalog.table()
    check(catalog.between(None, None), times)


def test_what_does_not_fit_is_not_merged(filled: tuple[str, np.ndarray]) -> None:
    url, times = filled
    folder = Path(url) / "year=2011/month=02"
    other = info(checkpoint="ffff")
    later = slots("2011-02-10", 2)
    path = folder / "unit-x.parquet"
    path.write_bytes(parquet_bytes(other, catalog_table(other, later, numbers(later))))
    before = files(url)
    with pytest.raises(ValidationError, match=r"unit-x\.parquet was made of something else"):
        compact(url)
    assert {name: data for name, data in files(url).items() if "month=02" in name} == {
        name: data for name, data in before.items() if "month=02" in name
    }
    path.write_bytes(parquet_bytes(info(), catalog_table(info(), times[-1:], numbers(times[-1:]))))
    with pytest.raises(ValidationError, match=r"2011-02-01T02:48:00\.0+ is in two files"):
        compact(url)
    path.write_bytes(b"")
    with pytest.raises(ValidationError, match="cannot be read"):
        compact(url)
    path.unlink()
    compact(url)
    check(open_catalog(url), times)


def test_a_damaged_file(filled: tuple[str, np.ndarray]) -> None:
    """Bytes of a column are changed; its header and footer are whole."""
    url = filled[0]
    path = Path(url) / "year=2011/month=01/unit-20110131T210000000-4.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(2)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = (
        b"\xff" * column.total_compressed_size
    )
    path.write_bytes(data)
    with pytest.raises(EnvironmentFault, match="Reading the catalog"):
        open_catalog(url).latents()
    with pytest.raises(EnvironmentFault, match="Compacting"):
        compact(url)
    (text,) = open_catalog(url).validate()
    assert text.startswith("year=2011/month=01/unit-20110131T210000000-4.parquet cannot be read")


def test_validation_finds_what_is_wrong(filled: tuple[str, np.ndarray]) -> None:
    url, times = filled
    path = Path(url) / "year=2011/month=02/unit-x.parquet"
    later = slots("2011-02-10", 3)
    good = catalog_table(info(), later, numbers(later))

    def found(table: pa.Table, about: CatalogInfo | None = None) -> str:
        path.write_bytes(parquet_bytes(about or info(), table))
        (text, *more) = open_catalog(url).validate()
        assert not more
        return text

    assert "has columns" in found(good.drop_columns("status"))
    half = info(dtype="float16")
    assert "halffloat" in str(half.schema.field("latent").type)
    path.write_bytes(parquet_bytes(half, catalog_table(half, later, numbers(later) % 1)))
    assert "has columns" in open_catalog(url).validate()[0]
    assert "dtype" in open_catalog(url).validate()[1]
    assert "checkpoint: 'ffff' -> 'abcd'" in found(
        good.replace_schema_metadata(info(checkpoint="ffff").schema.metadata)
    )
    assert "1 slots are not behind" in found(good.take([1, 0, 2]))
    assert "3 slots are of another month" in found(catalog_table(info(), slots("2011-03-01", 3), numbers(later)))
    assert "disagrees with latent" in found(
        good.set_column(1, good.schema.field(1), pa.array([1, MISSING, 1], pa.uint8()))
    )
    assert "no final status" in found(
        catalog_table(info(), later, numbers(later), status=np.array([1, MISSING, 1])).set_column(
            1, good.schema.field(1), pa.array([1, 0, 1], pa.uint8())
        )
    )
    infinite = pa.FixedSizeListArray.from_arrays(pa.array([math.inf] * 9, pa.float32()), type=good.schema.field(2).type)
    assert "3 slots have a latent that is not finite" in found(good.set_column(2, good.schema.field(2), infinite))
    assert found(catalog_table(info(), times[-1:], numbers(times[-1:]))).startswith("1 slots are there twice")
    with pytest.raises(ValidationError, match="slots twice"):
        open_catalog(url).latents()


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_interleaved_units_are_sorted(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Units that share a stretch of time come back in its order, before and after compaction."""
    times = slots("2011-02-01", data.draw(st.integers(1, 40)))
    owner = np.array(data.draw(st.lists(st.integers(0, 3), min_size=times.size, max_size=times.size)))
    url = str(tmp_path_factory.mktemp("interleaved"))
    writer = CatalogWriter(url, info())
    writer.begin()
    for unit in np.unique(owner):
        writer.write(f"u{unit}", times[owner == unit], numbers(times[owner == unit]))
    for _ in range(2):
        catalog = open_catalog(url)
        np.testing.assert_array_equal(catalog.times, times)
        np.testing.assert_array_equal(catalog.latents(), numbers(times))
        np.testing.assert_array_equal(catalog.table()["time"].to_numpy(), times)
        compact(url, data.draw(st.integers(500, 5000)))


def test_row_groups_follow_the_size_of_rows() -> None:
    """4 MiB hold 2048 rows of 512 float32 numbers; as many at least as 256 and at most as 65 536 make a row group."""
    for latent, rows in ((512, 2048), (8192, 256)):
        one = info(latent=latent)
        times = slots("2011-02-01", rows + 1, 60)
        table = catalog_table(one, times, np.zeros((rows + 1, latent), np.float32))
        described = pq.ParquetFile(pa.BufferReader(parquet_bytes(one, table))).metadata
        assert [described.row_group(i).num_rows for i in range(described.num_row_groups)] == [rows, 1]


def test_on_s3(s3_server: str) -> None:
    url, times = "s3://sdoml/latents", slots("2011-01-31T21:00", 30)
    writer = CatalogWriter(url, info(), endpoint_url=s3_server)
    writer.begin()
    for unit in catalog_units(times, 4):
        part = times[unit.start : unit.stop]
        writer.write(unit.name, part, numbers(part), status=np.where(np.arange(part.size) == 1, MISSING, 1))
    check(open_catalog(url, endpoint_url=s3_server), times)
    assert len(writer.begin()) == 8
    assert compact(url, endpoint_url=s3_server).files_after == 2
    check(open_catalog(url, endpoint_url=s3_server), times)
    assert open_catalog(url, start="2011-02-01T01:00", end="2011-02-01T02:00", endpoint_url=s3_server).times.size == 3
    with pytest.raises(StoreError, match="another catalog"):
        CatalogWriter(url, info(checkpoint="ffff"), endpoint_url=s3_server).begin()
