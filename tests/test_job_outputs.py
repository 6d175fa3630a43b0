"""What a job keeps lies outside its working folder, which is a copy that Ray removes: by whatever way the job came."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sdoml_dist.cli import VERBS, main, parser
from sdoml_dist.cli_outputs import ARGUMENT, NOTHING, OTHERS, kept
from sdoml_dist.engine.run import build
from sdoml_dist.engine.submit import describe
from sdoml_dist.errors import ExitCode, UsageError
from sdoml_dist.paths import in_copy, refuse_copy
from sdoml_dist.recipe_file import parse_recipe
from tests.conftest import ROOT, small

LINES = [
    "demo", "demo -o out", "prefetch recipe.yaml", "build recipe.yaml", "build demo", "update d", "reprocess d --set a=1",
    "quicklook s3://b/d", "history s3://b/d -o h.png", "report s3://b/d", "export s3://b/d out", "import s3://b/p d",
    "emergence build emergence-demo", "emergence regions s.txt", "emergence export s3://b/d out",
    "emergence quicklook s3://b/d", "train latent-space", "train latent-space --set output=./r", "evaluate runs/x",
    "evaluate /shared/runs/x -o tables", "encode runs/x s3://b/d latents", "far-side /shared/r /shared/f fields",
    "apply /shared/r s3://b/d out", "decode s3://b/l out --checkpoint /shared/r", "compact latents",
    "flux /shared/f.csv --catalog s3://b/l", "similar s3://b/l --time 2014-01-07T18:00 -o s.png", "expire d", "tag d v1",
    "forecast /shared/r s3://b/t -o out", "drawing /shared/r /shared/a.png --time 1612-06-02 --north 0 -o out",
    "simulate demo -o files", "build recipe.yaml --set store.url=../out", "export s3://b/d file://HERE/out",
]  # fmt: skip
"""Command lines whose results would be in the working folder."""

FINE = [
    "status d", "plan demo", "history s3://b/d", "update s3://b/d", "export s3://b/d /shared/out",
    "export s3://b/d gs://b/out", "encode runs/x s3://b/d s3://b/latents", "train latent-space --set output=/shared/runs",
    "build recipe.yaml --set store.url=s3://b/d", "emergence build emergence-demo --set store.url=/shared/e",
    "emergence status d", "evaluate runs/x -o /shared/tables", "similar s3://b/l --time 2014-01-07T18:00",
]  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which Ray itself would unpack a job's working folder; this process is in it."""
    from ray._private.ray_constants import DEFAULT_RUNTIME_ENV_DIR_NAME
    from ray._private.runtime_env.working_dir import WorkingDirPlugin

    plugin = WorkingDirPlugin(str(tmp_path / "session_x" / DEFAULT_RUNTIME_ENV_DIR_NAME), None)
    folder = plugin._get_directory_on_node("gcs://_ray_pkg_0123456789abcdef.zip")
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(small("dataset")))
    monkeypatch.chdir(folder)
    return folder


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_every_verb_says_what_it_keeps() -> None:
    assert not ARGUMENT.keys() & OTHERS.keys()
    assert not NOTHING & (ARGUMENT.keys() | OTHERS.keys())
    assert VERBS.keys() <= NOTHING | ARGUMENT.keys() | OTHERS.keys()
    assert {line.split()[0] for line in LINES} >= ARGUMENT.keys() - {"drawing"} | OTHERS.keys()


@pytest.mark.parametrize("line", LINES)
def test_a_job_keeps_nothing_in_its_copy(line: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(copy.parent)
    assert main(line.replace("HERE", str(copy)).split()) == ExitCode.USAGE
    told = capsys.readouterr()
    assert "this job's copy of the working folder" in told.err
    assert str(copy.parent) in told.err
    assert "all nodes share" in told.err
    assert files(copy.parent) == before


@pytest.mark.parametrize("line", LINES)
def test_such_a_job_is_not_even_sent(line: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(small("dataset")))
    with pytest.raises(UsageError, match="below the working folder"):
        describe(line.replace("HERE", str(tmp_path)).split(), tmp_path)


@pytest.mark.parametrize("line", FINE)
def test_other_places_are_left_alone(line: str, copy: Path) -> None:
    describe(line.split(), copy)
    for what, place in kept(parser().parse_args(line.split())):
        refuse_copy(place, what)


def test_links_lead_where_they_lead(copy: Path, tmp_path: Path) -> None:
    """A link of the session (session_latest) is the copy, a link out of it is not."""
    latest, shared = tmp_path / "session_latest", tmp_path / "shared"
    latest.symlink_to(tmp_path / "session_x")
    shared.mkdir()
    (copy / "out").symlink_to(shared)
    assert in_copy(latest / copy.relative_to(tmp_path / "session_x") / "runs")
    assert not in_copy("out/runs")
    refuse_copy("out/runs", "The run")
    assert not in_copy(tmp_path / "runtime_resources" / "other" / "working_dir_files")


def test_scripts_that_call_the_functions_are_refused_as_well(copy: Path) -> None:
    with pytest.raises(UsageError, match="copy of the working folder"):
        build(parse_recipe(small("dataset")), cpus=1)
    assert files(copy) == {copy / "recipe.yaml"}


def test_entry_points_refuse_it_too(copy: Path) -> None:
    """As Ray starts them: python jobs/train.py latent-space in the copy."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "train.py"), "latent-space"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == ExitCode.USAGE
    assert "The run would be at" in done.stderr
    assert files(copy) == {copy / "recipe.yaml"}
