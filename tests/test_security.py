"""What strangers can reach, read and make the program do: nothing."""

from __future__ import annotations

import ast
import json
import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.cli import main
from sdoml_dist.emergence_recipe import EmergenceRecipe
from sdoml_dist.engine.run import build
from sdoml_dist.errors import EnvironmentFault, ExitCode, RecipeError, UsageError
from sdoml_dist.paths import inside
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.recipe_sources import JsocConfig, PublishedConfig
from sdoml_dist.redact import has_secret, redact
from sdoml_dist.solar.products import PRODUCTS
from sdoml_dist.solar.status import FrameError
from sdoml_dist.sources.base import FrameRecord
from sdoml_dist.sources.jsoc import JsocSource
from sdoml_dist.sources.published_layout import PublishedFiles
from sdoml_dist.store.reader import as_store
from tests.conftest import ROOT, small

PASSWORD = "correct-horse"
SIGNED = f"https://bucket.s3.amazonaws.com/a.fits?X-Amz-Credential=AKIA&X-Amz-Signature={PASSWORD}&partNumber=1"


# Who listens ---------------------------------------------------------------------------------------------------------

_LISTENERS = """
import json, psutil
from sdoml_dist.engine.cluster import connect, ray
with connect(1):
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [list(one.laddr)[:2] for process in mine for one in process.net_connections("inet") if one.status == "LISTEN"]
    address = ray.get_runtime_context().gcs_address
    import os, subprocess, sys
    code = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)"
    stranger = {**os.environ, "RAY_AUTH_TOKEN": "0" * 64}
    tried = [subprocess.run([sys.executable, "-c", code, address], env=env, capture_output=True, timeout=100).returncode
             for env in (os.environ, stranger)]
print("FOUND" + json.dumps({"listening": found, "tried": tried}))
"""


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_private_ray_listens_on_loopback_and_wants_its_token() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_AUTH_MODE", "RAY_ADDRESS")}
    done = subprocess.run([sys.executable, "-c", _LISTENERS], env=environment, capture_output=True, text=True, timeout=260)
    assert "FOUND" in done.stdout, (done.stdout + done.stderr)[-3000:]
    found = json.loads(done.stdout.split("FOUND")[1])
    assert len(found["listening"]) > 3
    assert {address for address, _ in found["listening"]} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    own, stranger = found["tried"]
    assert own == 0
    assert stranger != 0


def test_the_ray_of_these_tests_is_not_reached_from_outside(ray_cluster: Any) -> None:
    import psutil

    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = {one.laddr.ip for process in mine for one in process.net_connections("inet") if one.status == "LISTEN"}
    assert found
    assert found <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


# Secrets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"s3://key:{PASSWORD}@bucket/prefix", f"could not open 'https://me:{PASSWORD}@host/x': 403", SIGNED,
        f"https://storage.googleapis.com/b/o?X-Goog-Signature={PASSWORD}", f"https://a.blob/x?sv=1&sig={PASSWORD}",
        f"AWS_SECRET_ACCESS_KEY={PASSWORD}", f"{{'aws_session_token': '{PASSWORD}', 'a': 1}}",
        f"Authorization: Bearer {PASSWORD}", f"secret_access_key = {PASSWORD}, region",
    ],
)  # fmt: skip
def test_secrets_are_taken_out_of_texts(text: str) -> None:
    assert PASSWORD in text
    assert has_secret(text)
    assert PASSWORD not in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/aia/171?versionId=3", "/data/a@b/c", "aia.lev1_euv_12s[2011-02-15T00:00:00Z][171]{image}",
     "http://jsoc.stanford.edu/cgi-bin/ajax/jsoc_info?ds=hmi.M_45s&op=rs_list&key=T_REC", "me@example.org", "12:30@disc"],
)  # fmt: skip
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def _places() -> list[tuple[str, Any]]:
    return [
        ("store.url", f"s3://key:{PASSWORD}@bucket/d"), ("store.endpoint_url", f"https://me:{PASSWORD}@host"),
        ("description", f"see {SIGNED}"), ("calibration.pointing.url", SIGNED),
        ("source", {"kind": "files", "url": f"https://me:{PASSWORD}@host/aia/"}),
        ("source", {"kind": "files", "url": SIGNED}),
        ("source", {"kind": "files", "url": "s3://b", "storage_options": {"secret": PASSWORD}}),
        ("source", {"kind": "files", "url": "s3://b", "storage_options": {"client_kwargs": {"aws_secret_access_key": PASSWORD}}}),
        ("source", {"kind": "files", "url": "s3://b", "storage_options": {"proxies": [f"http://me:{PASSWORD}@proxy"]}}),
    ]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), _places(), ids=lambda value: value if isinstance(value, str) and "." in value else "")
def test_recipes_with_secrets_are_refused_without_showing_them(
    key: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data: dict[str, Any] = small(str(tmp_path / "d"))
    node = data
    *parents, leaf = key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
    node[leaf] = value
    with pytest.raises(RecipeError, match=r"environment|secret") as caught:
        parse_recipe(data)
    assert PASSWORD not in str(caught.value) + repr(caught.value)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    assert main(["build", str(tmp_path / "recipe.yaml")]) == ExitCode.USAGE
    said = capsys.readouterr()
    assert PASSWORD not in said.out + said.err
    assert not (tmp_path / "d").exists()


def test_places_of_datasets_with_secrets_are_refused_without_showing_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="environment"):
        as_store(f"s3://key:{PASSWORD}@bucket/d")
    for verb in (["status"], ["versions"], ["history"], ["report"], ["validate"]):
        assert main([*verb, f"s3://key:{PASSWORD}@bucket/d"]) == ExitCode.USAGE
    said = capsys.readouterr()
    assert PASSWORD not in said.out + said.err


def test_errors_and_logs_hide_what_libraries_say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    error = EnvironmentFault(f"GET {SIGNED} failed", f"AWS_SECRET_ACCESS_KEY={PASSWORD}", f"try s3://a:{PASSWORD}@b")
    assert PASSWORD not in str(error) + repr(error) + str(error.args)
    before = pickle.loads(pickle.dumps(error))
    assert str(before) == str(error)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    assert main(["schema"]) == 0
    try:
        raise OSError(f"403 for {SIGNED}")
    except OSError:
        logging.getLogger("sdoml").exception("could not read %s", SIGNED)
    assert PASSWORD not in capsys.readouterr().err


def test_a_run_whose_storage_talks_leaves_no_secret_in_the_dataset(
    tmp_path: Path, ray_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames fail with an error that holds a signature; nothing below the dataset's folder has it."""
    folder = tmp_path / "frames"
    folder.mkdir()
    # The time and the channel are known by the name; what is wrong by the content, which is put into the message.
    (folder / "AIA20110215_0000_0171.fits").write_bytes(f"GET {SIGNED} ".encode())
    recipe = parse_recipe(
        small(str(tmp_path / "d"), channels=["171A"], source={"kind": "files", "url": str(folder), "index": "name"})
    )
    assert build(recipe).exit_code is ExitCode.FRAMES_FAILED
    from sdoml_dist.report.page import write_report

    write_report(str(tmp_path / "d"), tmp_path / "d" / "report.html")
    for path in (tmp_path / "d").rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path


# Code in data --------------------------------------------------------------------------------------------------------

_SOURCES = sorted((ROOT / "sdoml_dist").rglob("*.py")) + sorted((ROOT / "jobs").rglob("*.py"))
# Pickle travels between the processes of one run, through Ray, and is never read from a file or an address; each place says so.
_OWN_PICKLE = re.compile(r"# noqa: S301 - .*\b(?:ours?|driver|workers?)\b")


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.walk(ast.parse(path.read_text()))
    return [(ast.unparse(node.func), node) for node in tree if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_data_is_run(path: Path) -> None:
    name = str(path.relative_to(ROOT / "sdoml_dist")) if path.is_relative_to(ROOT / "sdoml_dist") else path.name
    lines = path.read_text().splitlines()
    for function, call in calls(path):
        words = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert function not in ("eval", "exec", "compile", "os.system", "os.popen", "marshal.loads", "shelve.open"), function
        assert not re.fullmatch(r"yaml\.(load|load_all|full_load|unsafe_load)", function), f"{name}: {function}"
        assert words.get("allow_pickle", "False") == "False", f"{name}: {function}"
        assert words.get("shell", "False") == "False", f"{name}: {function}"
        if function in ("pickle.load", "pickle.loads", "cloudpickle.loads", "joblib.load"):
            assert _OWN_PICKLE.search(lines[(call.end_lineno or call.lineno) - 1]), f"{name} unpickles what is not its own"
        if function == "torch.load":
            assert words.get("weights_only") == "True", f"{name}: torch.load without weights_only"
        if function in ("np.load", "numpy.load"):
            assert words.get("allow_pickle") == "False", f"{name}: np.load without allow_pickle=False"


_EVIL = ["!!python/object/apply:os.system ['true']", "a: !!python/name:os.system", "- !!python/tuple [1]"]


@pytest.mark.parametrize("text", _EVIL)
def test_yaml_makes_nothing_but_data(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    assert main(["plan", str(tmp_path / "recipe.yaml")]) == ExitCode.USAGE
    assert main(["emergence", "plan", str(tmp_path / "recipe.yaml")]) == ExitCode.USAGE
    assert main(["plan", "demo", "--set", f"grid.pixels={text}"]) == ExitCode.USAGE
    assert "Traceback" not in capsys.readouterr().err


# Paths ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "", "a", "b.fits", "c:", "\\", "\0", "%2e%2e", "~", "a\\b"]), min_size=1, max_size=5))
def test_names_stay_inside_their_folder(parts: list[str]) -> None:
    name = "/".join(parts)
    try:
        found = inside(name)
    except ValueError:
        return
    assert os.path.normpath(f"/root/{found}") == f"/root/{found}"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a//b", "a\\..\\b", "file:///etc/passwd", "a/\0", ""])
def test_names_that_lead_outside_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"):
        inside(name)
    source = JsocSource(JsocConfig(kind="jsoc"), PRODUCTS["aia"], str(tmp_path / "cache"))
    with pytest.raises(FrameError, match="oddly"):
        source._file(name)


def test_published_arrays_cannot_name_files_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(PASSWORD)
    root = tmp_path / "store"
    (root / "2011" / "171A").mkdir(parents=True)
    files = PublishedFiles(PublishedConfig(kind="published", layout="sdoml-v2", url=str(root)), 1)
    with pytest.raises(ValueError, match="leaves"):
        files.get("../secret")
    meta = {"shape": [1, 1], "chunks": [1, 1], "dtype": "|u1", "compressor": None, "dimension_separator": "/../../../"}
    (root / "2011" / "171A" / ".zarray").write_text(json.dumps(meta))
    with pytest.raises(FrameError, match="named by"):
        files.array("2011/171A")


@pytest.mark.parametrize("series", ["../../x", "aia.lev1/../x", "", "a b.c"])
def test_series_are_names(series: str) -> None:
    with pytest.raises(ValueError, match="series"):
        JsocConfig(kind="jsoc", series={"171A": series})


def test_a_server_cannot_make_jsoc_sources_read_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import pandas as pd

    class Request:
        id, status = "JSOC_1", 0
        urls = pd.DataFrame([{"record": "aia.lev1_euv_12s[2011-02-15T00:00:00Z][171]", "filename": "image.fits", "url": "file:///etc/passwd"}])

        def has_finished(self) -> bool:
            return True

        def has_succeeded(self, skip_update: bool = False) -> bool:
            return True

    record = FrameRecord("171A", np.datetime64("2011-02-15T00:00", "ns"), "aia.lev1_euv_12s[2011-02-15T00:00:00Z][171]{image}")
    record = FrameRecord(record.channel, record.time, record.locator, segments=(("image", record),))
    source = JsocSource(JsocConfig(kind="jsoc", email="me@example.org"), PRODUCTS["aia"], str(tmp_path))
    monkeypatch.setattr(source, "_ask", lambda what, question, email=None: Request() if email else True)
    with pytest.raises(FrameError, match="offers a file"):
        source.export([record])


def test_emergence_recipes_refuse_secrets_too(tmp_path: Path) -> None:
    text = (ROOT / "jobs" / "recipes" / "emergence-demo.yaml").read_text()
    data = yaml.safe_load(text)
    EmergenceRecipe.model_validate(data)
    with pytest.raises(ValueError, match="environment"):
        EmergenceRecipe.model_validate(data | {"store": {"url": f"s3://a:{PASSWORD}@b/c"}})
