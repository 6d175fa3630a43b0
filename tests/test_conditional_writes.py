"""An object store that ignores conditional writes, as some that speak S3 do: nothing is begun on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
import yaml
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from sdoml_dist.cli import main
from sdoml_dist.errors import ExitCode
from tests.conftest import small


@pytest.fixture
def careless_server() -> Iterator[str]:
    """Start moto behind a layer that drops what makes a write conditional, and return its address."""
    objects = DomainDispatcherApplication(create_backend_app)

    def careless(environment: dict[str, Any], respond: Callable[..., Any]) -> Any:
        for condition in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"):
            environment.pop(condition, None)
        return objects(environment, respond)

    server = make_server("127.0.0.1", 0, careless, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(10)


def keys(address: str) -> list[str]:
    client = boto3.client("s3", endpoint_url=address)
    try:
        return [found["Key"] for found in client.list_objects_v2(Bucket="careless").get("Contents", ())]
    finally:
        client.close()


@pytest.mark.parametrize("careful", [True, False])
def test_a_store_without_conditional_writes_is_refused(
    careful: bool, careless_server: str, s3_server: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same on a store that keeps to conditions is not refused for that, so that this is what is told apart."""
    address = s3_server if careful else careless_server
    client = boto3.client("s3", endpoint_url=address)
    client.create_bucket(Bucket="careless")
    client.close()
    data = small("", store={"url": "s3://careless/d", "endpoint_url": address}, resources={"cpus_per_actor": 4096})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(data))
    assert main(["build", str(recipe)]) == ExitCode.ENVIRONMENT
    told = capsys.readouterr().err
    if careful:
        assert "an actor takes 4096 CPUs" in told
        assert keys(address)
    else:
        assert "s3://careless/d ignores conditional writes" in told
        assert "Use a store with conditional writes" in told
        assert keys(address) == []
