"""What workers write gets together: folders that nodes do not share are refused, and what is missing at the end is noticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdoml_dist.cli import main
from sdoml_dist.engine import cluster as clusters
from sdoml_dist.engine import export as exporting
from sdoml_dist.engine.cluster import Cluster, unshared
from sdoml_dist.engine.emergence import build_emergence
from sdoml_dist.engine.network_pool import network_pool, refuse_missing
from sdoml_dist.engine.run import build
from sdoml_dist.errors import EnvironmentFault, ExitCode
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.store.reader import accounting
from tests.conftest import small
from tests.denoising_data import make, recipe
from tests.test_apply import config, saved
from tests.test_emergence_crash import tiny
from tests.test_far_side_folder import saved as saved_far_side
from tests.test_far_side_folder import write_set
from tests.test_latent_verbs import catalog, dataset, run  # noqa: F401 - fixtures
from tests.test_metrics import Recorder


@pytest.fixture
def two_nodes(ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Return the cluster of these tests, which says that it has two nodes; both are this machine."""
    described = replace(ray_cluster, nodes=ray_cluster.nodes * 2)
    monkeypatch.setattr(clusters, "_describe", lambda *_, **__: described)
    return described


@pytest.fixture
def apart(two_nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Let no node see what the driver writes."""
    monkeypatch.setattr(clusters, "_sees", lambda path: ("other-host", False))
    return two_nodes


def test_a_folder_is_shared_or_not(two_nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unshared(tmp_path / "new", two_nodes) == []
    assert list((tmp_path / "new").iterdir()) == []
    store = Store(url=str(tmp_path / "new"))
    assert network_pool(two_nodes, "A worker", 1000, 2, False, output=store)[1] > 0
    monkeypatch.setattr(clusters, "_sees", lambda path: ("other-host", False))
    with pytest.raises(EnvironmentFault, match="new is not shared: other-host, other-host does not see it"):
        network_pool(two_nodes, "A worker", 1000, 2, False, output=store)
    assert list((tmp_path / "new").iterdir()) == []
    # One bucket is the same for all, and one node has one file system.
    for place, cluster in ((Store(url="s3://b/d"), two_nodes), (store, replace(two_nodes, nodes=two_nodes.nodes[:1]))):
        assert network_pool(cluster, "A worker", 1000, 2, False, output=place)[1] > 0


@pytest.mark.parametrize("verb", ["encode", "decode", "export"])
def test_verbs_refuse_folders_that_nodes_do_not_share(
    verb: str, apart: Cluster, dataset: Store, run: Path, catalog: Store, tmp_path: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "out"
    arguments = {
        "encode": [str(run), dataset.url, str(output)], "decode": [catalog.url, str(output), "--checkpoint", str(run)],
        "export": [dataset.url, str(output)],
    }[verb]  # fmt: skip
    assert main([verb, *arguments]) == ExitCode.ENVIRONMENT
    assert f"{output} is not shared: other-host" in capsys.readouterr().err
    names = {path.name for path in output.rglob("*") if path.is_file()}
    assert not any(name.endswith((".parquet", ".zattrs", ".0.0")) for name in names)


def test_apply_refuses_a_folder_that_nodes_do_not_share(
    apart: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, output = tmp_path / "dataset", tmp_path / "out"
    make(recipe(store, "hmi_45s", pixels=64, hours=2))
    folder = saved(tmp_path / "run" / "checkpoint_00000001", config(store, tmp_path))
    assert main(["apply", str(folder), str(store), str(output)]) == ExitCode.ENVIRONMENT
    assert f"{output} is not shared: other-host" in capsys.readouterr().err
    assert accounting(str(output)).loc["all", "pending"] == 2


def test_builds_refuse_folders_that_nodes_do_not_share(apart: Cluster, tmp_path: Path) -> None:
    """Of frames, and of tracked regions, of which one worker reads what another one has made."""
    frames, regions = tmp_path / "frames", tmp_path / "regions"
    with pytest.raises(EnvironmentFault, match=f"{frames} is not shared: other-host"):
        build(parse_recipe(small(str(frames))))
    with pytest.raises(EnvironmentFault, match=f"{regions} is not shared: other-host"):
        build_emergence(tiny(regions))
    assert accounting(str(frames)).loc["all", "planned"] == accounting(str(frames)).loc["all", "pending"] > 0
    assert not list(tmp_path.rglob(".probe-*"))
    assert not list(tmp_path.rglob("lease.json"))


def test_far_side_refuses_a_folder_that_nodes_do_not_share(
    apart: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, frames, output = saved_far_side(tmp_path / "run"), tmp_path / "euvi", tmp_path / "fields"
    write_set(frames, 0)
    assert main(["far-side", str(network), str(frames), str(output)]) == ExitCode.ENVIRONMENT
    assert f"{output} is not shared: other-host" in capsys.readouterr().err
    assert not list(output.rglob("*.fits"))


def test_files_that_are_not_there_at_the_end_are_missed(
    ray_cluster: Cluster, dataset: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A node that joined late wrote into a folder of its own: the export says so, and the same command makes the rest."""
    output = tmp_path / "out"
    drive: Callable[..., None] = exporting._run

    def elsewhere(units: list[Any], *rest: Any) -> None:
        drive(units, *rest)
        if units[0].kind == "chunk":
            (output / units[0].array / units[0].files[0]).unlink()

    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(f"sdoml_dist.engine.metrics.{kind}", Recorder)
    with monkeypatch.context() as late:
        late.setattr(exporting, "_run", elsewhere)
        assert main(["export", dataset.url, str(output)]) == ExitCode.ENVIRONMENT
    said = capsys.readouterr().err
    assert "1 files were written and are not at" in said
    assert "a node that joined" in said.lower()
    # An array that has its attributes is complete.
    assert not list(output.rglob(".zattrs"))
    assert main(["export", dataset.url, str(output)]) == ExitCode.COMPLETE
    assert len(list(output.rglob(".zattrs"))) == len(list(output.rglob(".zarray")))
    assert all(path.stat().st_size for path in output.rglob("*") if path.is_file())
    # What was told to Ray's metrics; here of the second run, which made one chunk and the attributes.
    told = {labels["channel"] for _, labels in Recorder.made["sdoml_written_bytes"].told}
    assert told == {"171A", "211A", "Bz"}
    assert {labels["stage"] for _, labels in Recorder.made["sdoml_frames"].told} == {"export"}
    with pytest.raises(EnvironmentFault, match="2 files"):
        refuse_missing(Store(url=str(output)), ["a", "b"], "files")
    refuse_missing(Store(url=str(output)), [], "files")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_networks_make_is_told_to_metrics(
    ray_cluster: Cluster, dataset: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:  # fmt: skip
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(f"sdoml_dist.engine.metrics.{kind}", Recorder)

    def told(name: str) -> Counter[str]:
        """Return sums by channel, and by outcome or phase where there is one."""
        sums: Counter[str] = Counter()
        for value, labels in Recorder.made[name].told:
            sums["/".join(labels[key] for key in ("channel", "outcome", "phase") if key in labels)] += value  # type: ignore[assignment]
        return sums

    latents, decoded = tmp_path / "latents", tmp_path / "decoded"
    assert main(["encode", str(run), dataset.url, str(latents), "--rows", "4"]) == ExitCode.COMPLETE
    frames = told("sdoml_frames")
    assert frames["-/ok"] == 9
    assert frames["-/missing"] == 1
    assert told("sdoml_written_bytes")["-"] == sum(path.stat().st_size for path in latents.rglob("*.parquet"))
    assert min(told("sdoml_phase_seconds")[f"-/{phase}"] for phase in ("source", "compute", "write")) > 0
    assert main(["decode", str(latents), str(decoded), "--checkpoint", str(run)]) == ExitCode.COMPLETE
    frames = told("sdoml_frames")
    assert frames["171A/ok"] == frames["211A/ok"] == frames["Bz/ok"] == 9
    assert min(told("sdoml_phase_seconds")[f"171A/{phase}"] for phase in ("compute", "write")) > 0
    assert Recorder.made["sdoml_units_left"].told[-1][0] == 0
