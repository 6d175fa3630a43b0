"""The command line as users meet it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

from sdoml_dist.cli import VERBS, main, parser
from sdoml_dist.errors import EnvironmentFault, ExitCode
from sdoml_dist.store.lease import Lease
from tests.conftest import ROOT, small


def sdoml(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sdoml_dist", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"Example: sdoml {verb}" in " ".join(capsys.readouterr().out.split())


def test_the_surface_is_frozen() -> None:
    assert set(VERBS) == {
        "demo", "plan", "prefetch", "build", "update", "status", "inspect", "validate", "quicklook", "tag", "versions",
        "schema", "simulate", "doctor", "diff", "report", "reprocess", "expire", "export", "import",
        "emergence", "train", "evaluate", "encode", "apply", "decode", "compact", "compression", "flux", "similar", "submit",
        "history", "far-side", "forecast", "drawing",
    }  # fmt: skip


def test_help_is_fast_and_loads_neither_ray_nor_torch() -> None:
    script = (
        "import sys, sdoml_dist, sdoml_dist.cli\n"
        "try: sdoml_dist.cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'ray', 'torch', 'zarr', 'astropy', 'numba', 'xarray', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
    assert best < 1.0


def test_imports_point_one_way() -> None:
    for path in (ROOT / "sdoml_dist").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        place = path.relative_to(ROOT / "sdoml_dist").parts[0]
        if place not in ("engine", "training"):
            assert not re.search(r"^\s*(import ray|from ray)", text, re.M), path
        if place == "solar":
            assert not re.search(r"^\s*(import|from) (torch|zarr|icechunk|fsspec|requests|drms)", text, re.M), path
            assert "sdoml_dist.store" not in text, path


def test_an_unknown_verb_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["biuld", "x"])
    assert caught.value.code == ExitCode.USAGE
    assert "did you mean 'build'" in capsys.readouterr().err


def test_schema_and_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert main(["plan", "sdoml-v2", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["frames"] == plan["slots"] * 9
    assert main(["plan", "demo", "--set", "grid.pixels=256", "--resolved"]) == 0
    assert json.loads(capsys.readouterr().out)["grid"]["pixels"] == 256
    assert main(["plan", "full-mission"]) == 0
    assert "core-hours" in capsys.readouterr().out


def test_errors_have_their_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nothing"]) == ExitCode.USAGE
    assert main(["inspect", str(tmp_path)]) == ExitCode.USAGE
    assert main(["build", "sdoml-v2", "--set", f"store.url={tmp_path}/d"]) == ExitCode.USAGE
    text = capsys.readouterr().err
    assert "sdoml prefetch" in text
    assert not (tmp_path / "d").exists()
    pinned = tmp_path / "table.txt"
    pinned.write_text("changed")
    override = f"calibration.degradation={{url: {pinned}, sha256: {'a' * 64}}}"
    assert main(["build", "sdoml-v2", "--set", f"store.url={tmp_path}/d", "--set", override]) == ExitCode.USAGE
    assert "the recipe pins" in capsys.readouterr().err


COMMITTING = [
    ["build", "demo"], ["update", "d"], ["reprocess", "d"], ["expire", "d"], ["import", "s", "d"], ["train", "latent-space"],
    ["emergence", "build", "solared"], ["apply", "run", "d", "o"], ["decode", "c", "o", "--checkpoint", "run"],
    ["far-side", "run", "frames", "o"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", COMMITTING, ids=lambda value: value[0])
def test_verbs_that_commit_wait_as_the_environment_says(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SDOML_WAIT", raising=False)
    assert parser().parse_args(arguments).wait == 0
    monkeypatch.setenv("SDOML_WAIT", "60")
    assert parser().parse_args(arguments).wait == 60
    assert parser().parse_args([*arguments, "--wait", "1.5"]).wait == 1.5
    monkeypatch.setenv("SDOML_WAIT", "a minute")
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(arguments)
    assert caught.value.code == ExitCode.USAGE
    assert "--wait: invalid float value: 'a minute'" in capsys.readouterr().err


WAITING = [
    ["train", "latent-space", "--set", "data.store.url={}/d", "--set", "output={}/runs"],
    ["apply", "{}/run", "{}/d", "{}/o"], ["decode", "{}/c", "{}/o", "--checkpoint", "{}/run"],
    ["reprocess", "{}/d", "--drop"], ["expire", "{}/d"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", WAITING, ids=lambda value: value[0])
def test_the_wait_reaches_the_lease(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    def refuse(lease: Lease) -> Lease:
        told.append(lease.wait_s)
        raise EnvironmentFault("in use")

    monkeypatch.setattr(Lease, "__enter__", refuse)
    monkeypatch.setenv("SDOML_WAIT", "60")
    command = [one.format(tmp_path) for one in arguments]
    assert main(command) == ExitCode.ENVIRONMENT
    assert main([*command, "--wait", "1.5"]) == ExitCode.ENVIRONMENT
    assert told == [60, 1.5]


def test_doctor_without_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump(small(str(tmp_path / "d"))))
    assert main(["doctor", str(recipe), "--no-ray"]) == 0
    assert "FAIL" not in capsys.readouterr().out
    recipe.write_text(yaml.safe_dump(small("/proc/nowhere")))
    assert main(["doctor", str(recipe), "--no-ray"]) == ExitCode.ENVIRONMENT


@pytest.mark.slow
def test_the_demo_runs_as_the_readme_says(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install -e . && sdoml demo" in readme
    start = time.monotonic()
    run = sdoml("demo", "-o", str(tmp_path / "demo"), timeout=280)
    assert run.returncode == 0, run.stderr
    assert time.monotonic() - start < 180
    for reason in ("missing_no_frame", "rejected_quality", "rejected_eclipse", "rejected_not_light", "failed_read"):
        assert reason in run.stdout
    assert (tmp_path / "demo/quicklook.png").stat().st_size > 100_000
    lines = run.stdout.split("Read it in Python:\n\n")[1].split("\n\n")[0]
    assert len(lines.splitlines()) == 5
    read = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True, timeout=60)
    assert "512" in read.stdout


def test_readme_recipes_and_verbs_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for verb in re.findall(r"^sdoml ([\w-]+)", readme, re.M):
        assert verb in VERBS
    for name in re.findall(r"^\| `([\w-]+)` \|", readme, re.M):
        assert (ROOT / f"jobs/recipes/{name}.yaml").is_file()


def test_job_scripts_run() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "jobs/build.py"), "plan", "demo"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_emergence_demo_runs_as_the_readme_says(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    part = readme.split("### Emerging active regions")[1].split("## Exit codes")[0]
    commands = [line.split("#")[0].split() for line in part.splitlines() if "emergence-demo  " in line]
    commands.append(["sdoml", "report", "emergence-demo", "-o", "emergence.html"])
    assert len(commands) == 3
    for command in commands:
        run = subprocess.run(
            [sys.executable, "-m", "sdoml_dist", *command[1:]], capture_output=True, text=True, check=False, timeout=800,
            cwd=tmp_path,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
    for name in ("emergence.png", "emergence-timelines.png", "emergence.html"):
        assert (tmp_path / name).stat().st_size > 10_000
    lines = part.split("```python\n")[1].split("```")[0]
    script = f"import sdoml_dist\n{lines}\nprint(maps.power.shape, timeline.power.shape)"
    read = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120, cwd=tmp_path
    )
    assert "4, 72, 72" in read.stdout
