"""Submit a verb as a Ray job, follow it, and end with its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO
from urllib.parse import urlsplit

from sdoml_dist.engine.upload import check, measure
from sdoml_dist.engine.upload import working_folder as folder_at
from sdoml_dist.errors import EnvironmentFault, ExitCode, SdomlError, UsageError
from sdoml_dist.recipe_base import canonical_json
from sdoml_dist.redact import redact_setting

logger = logging.getLogger("sdoml")

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    # 'ray job stop' kills three seconds after SIGTERM; draining the units under way takes longer.
    "RAY_JOB_STOP_WAIT_TIME_S": "180",
    "PYTHONUNBUFFERED": "1",
}
"""What every job has in its environment; jobs/runtime_env.yaml says the same for 'ray job submit'."""

_LIVING = ("PENDING", "RUNNING")
_POLL_S = 2.0
# A dashboard that does not answer for so long is gone.
_PATIENCE_S = 300.0
_NAME = re.compile(r"[^a-z0-9]+")


class Client(Protocol):
    """What is used of :class:`ray.job_submission.JobSubmissionClient`."""

    def list_jobs(self) -> list[Any]:
        """Return all jobs."""

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]) -> str:
        """Start a job."""

    def get_job_info(self, job_id: str) -> Any:
        """Return what is known of a job."""

    def get_job_logs(self, job_id: str) -> str:
        """Return all that a job has said."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """Follow what a job says, from the beginning."""


@dataclass(frozen=True)
class Submission:
    """A job to submit.

    Attributes
    ----------
    name : str
        Readable part of its id.
    identity : str
        What makes it the same job as another, as canonical text.
    arguments : tuple of str
        Of ``sdoml``.
    """

    name: str
    identity: str
    arguments: tuple[str, ...]

    @property
    def base(self) -> str:
        """Submission id of the first run."""
        return f"sdoml-{self.name}-{hashlib.sha256(self.identity.encode()).hexdigest()[:12]}"


def describe(arguments: Sequence[str], folder: str | Path = ".") -> Submission:
    """Read a command line of ``sdoml`` as a job.

    The identity of a build is its plan and its place, whatever else is asked for: two of them would work on one dataset. Any
    other verb is known by its arguments. What would be lost with the job's copy of the working folder is refused here; the
    job itself looks once more (:func:`sdoml_dist.cli_outputs.refuse_lost`).

    Parameters
    ----------
    arguments : sequence of str
        Verb and arguments.
    folder : path
        The job's working folder, where relative paths begin.

    Raises
    ------
    UsageError
        If no job can be made of it, it holds a secret, or what it makes would be lost.
    RecipeError
        If the recipe cannot be read.
    """
    from sdoml_dist.cli import parser
    from sdoml_dist.cli_outputs import refuse_unsent
    from sdoml_dist.plan import Plan
    from sdoml_dist.recipe_file import load_recipes

    refuse_secrets(arguments, "The command line")
    if not arguments:
        raise UsageError("No verb is given.", "", "For example: sdoml submit --address URL -- build sdoml-v2")
    if arguments[0] == "submit":
        raise UsageError("A job that submits jobs is not meant.", "", "Name the verb itself after '--'.")
    options = parser().parse_args(list(arguments))
    told: list[Any] = list(arguments)
    names = [arguments[0]]
    with contextlib.chdir(folder_at(folder)):
        refuse_unsent(options)
        plans = []
        if options.verb == "build":
            plans = [Plan(recipe) for recipe in load_recipes(options.recipe, options.set, options.product)]
    if plans:
        told = ["build", [[plan.plan_id, plan.recipe.store.model_dump()] for plan in plans], options.part]
        names += [plans[0].recipe.name, *([options.part.replace("/", "-of-")] if options.part else [])]
    name = _NAME.sub("-", "-".join(names).lower()).strip("-")[:60]
    return Submission(name, canonical_json(told), tuple(arguments))


def choose_id(base: str, jobs: Iterable[Any]) -> str:
    """Return a free submission id; a job that has ended gets a number.

    Parameters
    ----------
    base : str
        Id of the first run.
    jobs : iterable
        All jobs of the cluster.

    Raises
    ------
    EnvironmentFault
        If it is under way.
    """
    pattern = re.compile(re.escape(base) + r"(?:-(\d+))?")
    last = 0
    for job in jobs:
        match = pattern.fullmatch(job.submission_id or "")
        if match is None:
            continue
        if str(getattr(job.status, "value", job.status)) in _LIVING:
            raise EnvironmentFault(
                f"This job is under way as {job.submission_id}.",
                "Two of it would do the same work twice.",
                f"Follow it: add --attach. Stop it: ray job stop {job.submission_id}",
            )
        last = max(last, int(match[1] or 1))
    return base if last == 0 else f"{base}-{last + 1}"


def living(base: str, jobs: Iterable[Any]) -> str | None:
    """Return the id of the run of a job that is under way, or None."""
    try:
        choose_id(base, jobs)
    except EnvironmentFault as fault:
        return fault.what.rsplit(" ", 1)[1].rstrip(".")
    return None


async def _follow(client: Client, job: str, out: TextIO, sleep: Callable[[float], Any]) -> Any:
    """Copy what a job says until it has ended, and return what is known of it then."""
    shown = 0
    silent_since: float | None = None
    while True:
        seen = 0
        try:
            # A stream begins with the job's first line, whenever it is opened: what was shown before is skipped.
            async for text in client.tail_job_logs(job):
                silent_since = None
                fresh = text[max(0, shown - seen) :]
                seen += len(text)
                if fresh:
                    out.write(fresh)
                    out.flush()
                    shown = max(shown, seen)
        except Exception as error:  # noqa: BLE001 - whatever breaks a stream, the job itself goes on
            logger.info("the log stream broke off (%s); reconnecting", type(error).__name__)
        try:
            info = client.get_job_info(job)
            if str(getattr(info.status, "value", info.status)) not in _LIVING:
                # A stream may also end in silence, with something left.
                rest = client.get_job_logs(job)[shown:]
                out.write(rest)
                out.flush()
                return info
            silent_since = None
        except Exception as error:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > _PATIENCE_S:
                raise EnvironmentFault(
                    f"The cluster has not answered for {_PATIENCE_S:.0f} s: {type(error).__name__}: {str(error)[:200]}",
                    "The job may be running all the same.",
                    "Give the same command with --attach once it answers again.",
                ) from error
        await sleep(_POLL_S)


def follow(client: Client, job: str, out: TextIO, sleep: Callable[[float], Any] = asyncio.sleep) -> ExitCode | int:
    """Show the log of a job until it has ended, and return the exit code of its driver.

    Parameters
    ----------
    client : Client
        Of the cluster.
    job : str
        Submission id.
    out : file
        Where the log goes.
    sleep : callable
        Returns an awaitable that lasts so many seconds.

    Raises
    ------
    EnvironmentFault
        If the cluster does not answer any more, or the job never ran.
    """
    info = asyncio.run(_follow(client, job, out, sleep))
    status = str(getattr(info.status, "value", info.status))
    if status == "SUCCEEDED":
        return ExitCode.COMPLETE
    if info.driver_exit_code is not None:
        code = int(info.driver_exit_code)
        return 128 - code if code < 0 else code
    if status == "STOPPED":
        return ExitCode.STOPPED
    raise EnvironmentFault(
        f"The job {job} did not run: {str(info.message or status).strip()[:800]}",
        "Ray could not start it, or lost the node that it ran on.",
        "Nothing committed is lost; the same command goes on once the cause is cured.",
    )


def refuse_secrets(texts: Iterable[str], where: str) -> None:
    """Refuse to send passwords and keys: Ray shows what a job is called with to everybody who sees its dashboard.

    Parameters
    ----------
    texts : iterable of str
        Arguments or settings; of one that holds a secret the rest is shown.
    where : str
        Where they stand.

    Raises
    ------
    UsageError
        If one holds a secret.
    """
    for text in texts:
        shown = redact_setting(text)
        if shown != text:
            raise UsageError(
                f"{where} holds a password, a signature or a key: {shown}",
                "Ray shows arguments and variables of jobs in its dashboard and its logs.",
                "Give credentials to the nodes: by roles of machines, files of the cloud's tools, or secrets of the cluster.",
            )


def check_address(address: str) -> None:
    """Refuse what is not the address of a dashboard; asking it would take most of a minute.

    Raises
    ------
    UsageError
        If it is not ``http://HOST`` or ``https://HOST``.
    """
    parts = urlsplit(address)
    if parts.scheme in ("http", "https") and parts.netloc:
        return
    why = "Jobs are submitted to the dashboard of the head (by default port 8265)."
    if parts.scheme == "ray":
        why = f"ray:// is the address of Ray Client. {why}"
    raise UsageError(f"{address} is not the address of a dashboard.", why, "For example: --address http://HEAD:8265")


def connect(address: str) -> Client:
    """Return a client of a cluster's dashboard.

    Raises
    ------
    EnvironmentFault
        If it does not answer, or refuses the token.
    """
    from ray.job_submission import JobSubmissionClient

    try:
        client: Client = JobSubmissionClient(address)
        client.list_jobs()
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise EnvironmentFault(
            f"{address} did not answer as a Ray dashboard: {type(error).__name__}: {text}",
            "Jobs are submitted to the dashboard of the head (by default port 8265).",
            "Check the address, and the token: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN), or "
            "RAY_AUTH_MODE=disabled for a cluster without one.",
        ) from error
    return client


def submit(
    address: str, arguments: Sequence[str], *, working_folder: str | Path, environment: dict[str, str], limit_bytes: int,
    wait: bool = True, attach: bool = False, python: str = "python", out: TextIO = sys.stdout,
) -> int:  # fmt: skip
    """Submit a verb to a cluster, follow its log and return its exit code.

    Parameters
    ----------
    address : str
        Of the cluster's dashboard, for example ``http://head:8265``.
    arguments : sequence of str
        Verb and arguments of ``sdoml``.
    working_folder : path
        Sent along; paths in the arguments begin there.
    environment : dict of str to str
        Variables of the job besides `ENVIRONMENT`.
    limit_bytes : int
        Largest working folder.
    wait : bool
        Whether to follow the job.
    attach : bool
        Follow the job if it is under way, instead of refusing.
    python : str
        Python on the cluster.
    out : file
        Where the log goes.

    Raises
    ------
    SdomlError
        If the job cannot be submitted, or did not run.
    """
    check_address(address)
    refuse_secrets((f"{name}={value}" for name, value in environment.items()), "--env")
    submission = describe(arguments, working_folder)
    client = connect(address)
    known = client.list_jobs()
    job = living(submission.base, known) if attach else None
    if job is None:
        job = choose_id(submission.base, known)
        upload = measure(working_folder)
        check(upload, limit_bytes)
        logger.info("%s: %d files, %.1f MB", upload.folder, upload.files, upload.bytes / 1e6)
        # Ray runs a shell, which would die of SIGTERM at once and leave the driver without a parent: where the first process
        # of a container is Ray, nobody notices its end.
        entrypoint = "exec " + shlex.join([python, "-m", "sdoml_dist", *arguments])
        try:
            client.submit_job(
                entrypoint=entrypoint, submission_id=job,
                runtime_env={"working_dir": str(upload.folder), "env_vars": ENVIRONMENT | environment},
                metadata={"verb": arguments[0], "identity": submission.identity[:1000]},
            )  # fmt: skip
        except Exception as error:
            if isinstance(error, SdomlError):
                raise
            raise EnvironmentFault(f"Submitting failed: {type(error).__name__}: {str(error)[:500]}") from error
    logger.info("job %s at %s", job, address)
    how = f"ray job stop --address {address} {job}"
    if not wait:
        logger.info("stop it: %s", how)
        return ExitCode.COMPLETE
    try:
        code = follow(client, job, out)
    except KeyboardInterrupt:
        logger.info("the job goes on; follow it again with --attach, stop it: %s", how)
        return 128 + 2
    logger.info("job %s ended with %d", job, code)
    return int(code)
