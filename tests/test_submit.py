"""Jobs by ``sdoml submit``: identity, upload, logs and exit codes; and all of it on a real head with token authentication."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sdoml_dist.cli import main, parser
from sdoml_dist.engine import submit as module
from sdoml_dist.engine.submit import ENVIRONMENT, choose_id, describe, follow, living
from sdoml_dist.engine.upload import check, measure
from sdoml_dist.errors import EnvironmentFault, ExitCode, UsageError
from tests.conftest import ROOT
from tests.servers.hosts import DASHBOARD_PORT, Hosts, wait_until, why_not
from tests.test_crash import done_frames, write_recipe


def job(name: str, status: str = "SUCCEEDED", code: int | None = 0, message: str = "") -> SimpleNamespace:
    return SimpleNamespace(submission_id=name, status=status, driver_exit_code=code, message=message)


@dataclass
class Stream:
    """A cluster whose log stream breaks off: after so many pieces each time, with an error or in silence."""

    pieces: list[str]
    breaks: list[tuple[int, bool]] = field(default_factory=list)
    end: SimpleNamespace = field(default_factory=lambda: job("j"))
    unreachable: int = 0
    opened: int = 0

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        self.opened += 1
        last, loud = self.breaks.pop(0) if self.breaks else (len(self.pieces), False)
        # Where a stream is cut has nothing to do with where the one before was.
        text = "".join(self.pieces[:last])
        for start in range(0, len(text), 7):
            await asyncio.sleep(0)
            yield text[start : start + 7]
        if loud:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        if self.unreachable:
            self.unreachable -= 1
            raise ConnectionError("no route")
        return job("j", "RUNNING", None) if self.breaks else self.end

    def get_job_logs(self, job_id: str) -> str:
        return "".join(self.pieces)

    def list_jobs(self) -> list[Any]:
        return []

    def submit_job(self, **_: Any) -> str:
        return "j"


async def no_sleep(_: float) -> None:
    return None


LINES = [f"line {number}: Sonnenfleck ☉\n" for number in range(40)]


@pytest.mark.parametrize("breaks", [[], [(5, True)], [(0, True), (17, False), (3, True), (40, True)], [(39, False)]])
def test_a_dropped_stream_repeats_and_loses_nothing(breaks: list[tuple[int, bool]]) -> None:
    out, stream = io.StringIO(), Stream(list(LINES), list(breaks), unreachable=2)
    assert follow(stream, "j", out, no_sleep) == 0
    assert out.getvalue() == "".join(LINES)
    assert stream.opened >= max(1, len(breaks))


def test_a_stream_that_ends_too_early_is_completed() -> None:
    class Short(Stream):
        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            yield "line 0"

    out = io.StringIO()
    follow(Short(list(LINES)), "j", out, no_sleep)
    assert out.getvalue() == "".join(LINES)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (job("j", "SUCCEEDED", 0), 0), (job("j", "FAILED", 3), 3), (job("j", "FAILED", 75), 75),
        (job("j", "FAILED", -9), 137), (job("j", "STOPPED", None), ExitCode.STOPPED),
    ],
)  # fmt: skip
def test_the_code_is_the_drivers(end: SimpleNamespace, code: int) -> None:
    assert follow(Stream([], end=end), "j", io.StringIO(), no_sleep) == code


def test_a_job_that_never_ran_and_a_cluster_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentFault, match="did not run: no space"):
        follow(Stream([], end=job("j", "FAILED", None, "no space")), "j", io.StringIO(), no_sleep)
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    with pytest.raises(EnvironmentFault, match="has not answered"):
        follow(Stream([], unreachable=10**6), "j", io.StringIO(), no_sleep)


def test_the_same_job_has_the_same_id(tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, "d"))
    base = describe(["build", recipe]).base
    assert base.startswith("sdoml-build-small-")
    # How it runs does not make it another job; what it makes, and where, does.
    assert describe(["build", recipe, "--retry", "failed"]).base == base
    assert describe(["build", recipe, "--set", "resources.maximum_actors=3"]).base == base
    others = [["--set", "grid.pixels=32"], ["--set", "store.url=/elsewhere"], ["--part", "1/2"], ["--part", "2/2"]]
    assert len({base, *(describe(["build", recipe, *more]).base for more in others)}) == 5
    assert describe(["update", "s3://b/d"]).base != describe(["update", "s3://b/e"]).base
    assert choose_id(base, [job("x"), job(None), job(base + "-other", "RUNNING")]) == base  # type: ignore[arg-type]
    assert choose_id(base, [job(base), job(base + "-2", "FAILED", 3)]) == f"{base}-3"
    with pytest.raises(EnvironmentFault, match=f"under way as {base}-2") as caught:
        choose_id(base, [job(base), job(base + "-2", "RUNNING", None)])
    assert "ray job stop" in caught.value.hint
    assert living(base, [job(base), job(base + "-2", "PENDING", None)]) == f"{base}-2"
    assert living(base, [job(base)]) is None


def test_what_cannot_be_a_job_is_refused_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(write_recipe(tmp_path, "d"))
    with pytest.raises(UsageError, match="below the working folder"):
        describe(["build", recipe], tmp_path)
    with pytest.raises(UsageError, match="No verb"):
        describe([])
    with pytest.raises(SystemExit):
        describe(["biuld", recipe])
    assert "did you mean 'build'" in capsys.readouterr().err
    assert main(["submit", "--", "build", recipe]) == ExitCode.USAGE
    assert main(["submit", "--address", "http://127.0.0.1:9", "--env", "X", "--", "build", recipe]) == ExitCode.USAGE
    assert main(["submit", "--address", "http://127.0.0.1:9", "--", "status", "x"]) == ExitCode.ENVIRONMENT
    assert "did not answer as a Ray dashboard" in capsys.readouterr().err


PASSWORD = "hunter2"
SECRETS = [
    ["status", f"s3://key:{PASSWORD}@b/d"], ["update", f"https://b.s3.amazonaws.com/d?X-Amz-Signature={PASSWORD}"],
    ["export", "s3://b/d", f"s3://k:{PASSWORD}@b/out"],
    ["train", "latent-space", "--set", f"data.store.url=s3://a:{PASSWORD}@b/d", "--set", "output=/shared/r"],
    ["build", "demo", "--set", f"source.storage_options.secret={PASSWORD}"],
    ["build", "demo", "--set", f"source={{kind: files, url: 's3://b', storage_options: {{key: {PASSWORD}}}}}"],
    ["biuld", f"s3://key:{PASSWORD}@b/d"], ["status", "s3://b/d", f"s3://key:{PASSWORD}@b/e"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", SECRETS, ids=lambda value: value[0])
def test_secrets_are_not_sent_and_not_shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="The command line holds a password") as caught:
        describe(arguments)
    assert PASSWORD not in repr(caught.value) + str(caught.value)
    assert main(["submit", "--address", "http://127.0.0.1:9", "--", *arguments]) == ExitCode.USAGE
    said = capsys.readouterr()
    assert PASSWORD not in said.out + said.err


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "RAY_AUTH_TOKEN", "HF_TOKEN", "api_key"])
def test_variables_of_a_job_are_no_secrets(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for env in (f"{name}={PASSWORD}", f"PROXY=http://me:{PASSWORD}@proxy"):
        assert main(["submit", "--address", "http://127.0.0.1:9", "--env", env, "--", "status", "x"]) == ExitCode.USAGE
    said = capsys.readouterr()
    assert PASSWORD not in said.out + said.err
    assert said.err.count("--env holds a password") == 2


def test_names_of_files_and_ways_are_no_secrets() -> None:
    fine = ["RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=/root/.ray/auth_token", "AWS_PROFILE=sun",
            "GOOGLE_APPLICATION_CREDENTIALS=/etc/gcs.json", "store.url=s3://bucket/sdoml", "monkey=1", "keys=2"]  # fmt: skip
    module.refuse_secrets(fine, "")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "head:8265", "ray://head:10001", "http://", "head", "auto"])
def test_what_is_no_dashboard_is_not_asked(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert main(["submit", "--address", address, "--", "status", "x"]) == ExitCode.USAGE
    assert time.monotonic() - began < 5
    said = capsys.readouterr().err
    assert f"{address} is not the address of a dashboard" in said
    assert "--address http://HEAD:8265" in said
    assert ("Ray Client" in said) == address.startswith("ray://")


def test_wrong_command_lines_of_submit_say_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--address", "http://127.0.0.1:9"]
    for verb in (["build", "demo"], ["status", "x"]):
        assert main(["submit", *where, "--working-dir", str(tmp_path / "no"), "--", *verb]) == ExitCode.USAGE
        assert "no is not a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["submit", *where, "build", "demo", "--set", f"source.url=s3://k:{PASSWORD}@b"])
    assert caught.value.code == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "comes after '--': sdoml submit ... -- build demo --set " in said
    assert PASSWORD not in said
    with pytest.raises(SystemExit):
        main(["status", "d", "--sett"])
    assert "after '--'" not in capsys.readouterr().err


def test_the_upload_is_measured_as_ray_measures_it(tmp_path: Path) -> None:
    def put(name: str, size: int) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))

    for name in (".git/objects/pack", ".venv/lib/x", "data/aia/f.fits", "old/frames.npz"):
        put(name, 5000)
    for name, size in {"jobs/a.py": 10, "data/big.bin": 900, "old/notes": 40}.items():
        put(name, size)
    (tmp_path / ".rayignore").write_text("*.fits\n")
    (tmp_path / "old/.gitignore").write_text("*.npz\n")
    found = measure(tmp_path)
    assert found.files == 5
    assert found.bytes == 10 + 900 + 40 + 7 + 6
    assert found.largest[0] == ("data/", 900)
    check(found, 1000)
    with pytest.raises(UsageError, match=r"(?s)data/.*the limit|limit.*data/") as caught:
        check(found, 500)
    assert caught.value.exit_code == ExitCode.USAGE
    assert ".rayignore" in caught.value.hint
    # What Ray itself would pack is the same.
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path.parent / f"{tmp_path.name}.zip"
    create_package(str(tmp_path), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    import zipfile

    with zipfile.ZipFile(package) as archive:
        assert sum(not name.endswith("/") for name in archive.namelist()) == found.files


def test_this_project_is_small_enough_and_its_entry_points_are_the_verbs() -> None:
    check(measure(ROOT), 20 * 10**6)
    assert yaml.safe_load((ROOT / "jobs/runtime_env.yaml").read_text())["env_vars"] == ENVIRONMENT
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == ENTRY_POINTS.keys()


ENTRY_POINTS = {
    "build": [], "update": ["update"], "doppler": ["emergence", "build"], "export": ["export"], "train": ["train"],
    "encode": ["encode"],
}  # fmt: skip
OF_RAY = "ray job submit --address http://HEAD:8265 --working-dir . --runtime-env jobs/runtime_env.yaml -- python"


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_entry_point_is_its_verb_and_tells_its_command(name: str, tmp_path: Path) -> None:
    script = ROOT / "jobs" / f"{name}.py"
    text = script.read_text()
    assert len(text.splitlines()) < 25
    # From any folder, as a node's copy of the working folder has another name.
    done = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60
    )
    assert done.stdout.startswith(" ".join(["usage: sdoml", *ENTRY_POINTS[name], "[-h]"]))
    command = " ".join(text.split('"""')[1].split("\n\n")[1].replace("\\\n", "").split())
    assert command.startswith(f"{OF_RAY} jobs/{name}.py ")
    options = parser().parse_args([*ENTRY_POINTS[name], *shlex.split(command.partition(f"jobs/{name}.py ")[2])])
    assert options.verb == (ENTRY_POINTS[name] or ["build"])[0]


def test_commands_for_ray_give_the_driver_time_to_drain() -> None:
    """Without the variable that jobs/runtime_env.yaml sets Ray kills a job three seconds after it was stopped."""
    found = 0
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "jobs").glob("*.*")):
        for command in re.findall(r"ray job submit --address (?:.|\\\n)*", path.read_text()):
            assert "--runtime-env jobs/runtime_env.yaml" in command, path
            found += 1
    assert found >= 8


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hosts, dict[str, str]]]:
    """A head with dashboard and token on a host of its own, and the environment of users who have the token."""
    if (reason := why_not()) is not None:
        pytest.skip(f"no hosts can be made here: {reason}")
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    hosts = Hosts(1, folder)
    try:
        hosts.start_ray(0, 2)
        hosts.wait_for_nodes(1)
        yield hosts, environment
    finally:
        hosts.close()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def run(
    head: tuple[Hosts, dict[str, str]], *arguments: str, options: tuple[str, ...] = (), port: int = DASHBOARD_PORT, **changes: str
) -> Any:
    hosts, environment = head
    address = f"http://{hosts.address(0)}:{port}"
    command = [sys.executable, "-m", "sdoml_dist", "submit", "--address", address, "--working-dir", str(ROOT)]
    return hosts.run(
        0, [*command, "--python", sys.executable, *options, "--", *arguments], environment=environment | changes
    )


def ended(process: subprocess.Popen[str], timeout: float = 200) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_jobs_on_a_real_head(head: tuple[Hosts, dict[str, str]], tmp_path: Path) -> None:
    store = tmp_path / "d"
    recipe = str(write_recipe(tmp_path, "d", period={"start": "2011-02-15T00:00", "end": "2011-02-15T10:00"}))
    # Without the token there is no way in, and it is said why that may be.
    code, _, err = ended(run(head, "build", recipe, RAY_AUTH_MODE="disabled"))
    assert code == ExitCode.ENVIRONMENT
    assert "RAY_AUTH_MODE=token" in err
    # One actor at first, so that there is time to interfere; how a job runs does not make it another one.
    first = run(head, "build", recipe, "--set", "resources.maximum_actors=1")
    deadline = time.monotonic() + 300
    while done_frames(str(store)) < 8:
        if first.poll() is not None or time.monotonic() > deadline:
            first.kill()
            pytest.fail(f"the job does not come on: {first.communicate()}\n{head[0].logs()}")
        time.sleep(0.1)
    # The same job, while it runs, is refused by name; leaving it does not stop it; stopping it drains.
    code, _, err = ended(run(head, "build", recipe))
    assert code == ExitCode.ENVIRONMENT
    assert "under way as sdoml-build-small-" in err
    os.killpg(first.pid, signal.SIGINT)
    code, _, err = ended(first)
    assert code == 130
    assert "the job goes on" in err
    stop = err.split("stop it: ")[-1].strip().splitlines()[0].split()
    attached = run(head, "build", recipe, options=("--attach",))
    time.sleep(1)
    hosts, environment = head
    stopping = hosts.run(0, [str(Path(sys.executable).parent / "ray"), *stop[1:]], environment=environment)
    code, out, err = ended(attached)
    assert code == ExitCode.STOPPED, out + err
    assert "Stopped by SIGTERM" in out
    ended(stopping)
    record = json.loads(sorted(store.glob("sdoml/runs/*/run.json"))[-1].read_text())
    assert record["exit_code"] == ExitCode.STOPPED
    # Submitted again it has a number, goes on, and ends with the true code of its driver.
    code, out, err = ended(run(head, "build", recipe))
    assert code == ExitCode.FRAMES_FAILED, out + err
    assert "-2 ended with 3" in err
    assert "resumed:" in out
    assert done_frames(str(store)) == 200
    assert ended(run(head, "versions", str(store)))[0] == 0
    # What only the cluster can find wrong comes back as well.
    code, out, err = ended(run(head, "validate", "/nowhere"))
    assert code == ExitCode.USAGE
    assert "no dataset at /nowhere" in out
    # A job that came past 'sdoml submit' looks itself where it would keep something.
    address = f"http://{hosts.address(0)}:{DASHBOARD_PORT}"
    command = ["ray", "job", "submit", "--address", address, "--working-dir", str(ROOT), "--", sys.executable]
    for script in (["jobs/build.py", "build", "demo"], ["jobs/train.py", "latent-space"]):
        code, out, err = ended(hosts.run(0, [*command, *script], environment=environment))
        assert code == 1
        assert "in this job's copy of the working folder" in out + err


RELAY_PORT = 9265
_LOG = """
import sys
from ray.job_submission import JobSubmissionClient
sys.stdout.write(JobSubmissionClient(sys.argv[1]).get_job_logs(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_connections_to_a_real_head_break_while_a_job_runs(head: tuple[Hosts, dict[str, str]], tmp_path: Path) -> None:
    hosts, environment = head
    store = str(tmp_path / "d")
    recipe = str(write_recipe(tmp_path, "d", period={"start": "2011-02-15T00:00", "end": "2011-02-15T05:00"}))

    def relay() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.servers.objects", "relay", hosts.address(0), str(RELAY_PORT)]
        return hosts.run(0, [*command, str(DASHBOARD_PORT)])

    before = relay()
    time.sleep(2)
    following = run(head, "build", recipe, "--set", "resources.maximum_actors=1", port=RELAY_PORT)
    wait_until(lambda: done_frames(store) >= 8, following)
    # All connections break, and for some seconds there is no way to the dashboard.
    before.kill()
    before.communicate()
    cut_at = done_frames(store)
    time.sleep(5)
    after = relay()
    try:
        code, out, err = ended(following, 300)
    finally:
        after.kill()
        after.communicate()
    assert code == ExitCode.FRAMES_FAILED, out + err
    assert cut_at < done_frames(store) == 100
    assert "the log stream broke off" in err
    job = re.search(r"job (\S+) ended with 3", err)
    assert job is not None
    command = [sys.executable, "-c", _LOG, f"http://{hosts.address(0)}:{DASHBOARD_PORT}", job[1]]
    found, log, problem = ended(hosts.run(0, command, environment=environment))
    assert found == 0, problem
    # Nothing is lost and nothing is there twice.
    assert out == log
    assert "Running entrypoint for job" in out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_entry_points_as_jobs_of_a_real_head(head: tuple[Hosts, dict[str, str]], tmp_path: Path) -> None:
    hosts, environment = head
    store, published = tmp_path / "d", tmp_path / "published"
    clean = {"kind": "simulator", "simulation": {"pixels": 128, "missing_rate": 0.1}}
    recipe = str(write_recipe(tmp_path, "d", source=clean, period={"start": "2011-02-15T00:00", "end": "2011-02-15T02:00"}))
    command = [
        "ray", "job", "submit", "--address", f"http://{hosts.address(0)}:{DASHBOARD_PORT}", "--working-dir", str(ROOT),
        "--runtime-env", str(ROOT / "jobs/runtime_env.yaml"), "--", sys.executable,
    ]  # fmt: skip
    planned = []
    for script in (
        ["jobs/build.py", "build", recipe], ["jobs/update.py", str(store), "--to", "2011-02-15T03:00", "--tag", "longer"],
        ["jobs/export.py", str(store), str(published), "--layout", "sdoml-v2", "--version", "longer"],
    ):  # fmt: skip
        code, out, err = ended(hosts.run(0, [*command, *script], environment=environment))
        assert code == 0, (script, out, err)
        planned.append(done_frames(str(store)))
    assert planned == [40, 60, 60]
    assert (published / "sdomlv2.zarr").is_dir()
