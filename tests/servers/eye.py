"""Looks at datasets from inside a host's network: a line of JSON in, a line of JSON out.

``{"do": "frames", "url": ...}`` counts the frames that are done, ``{"do": "contents", "url": ..., "to": PATH}`` pickles
every array.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

from tests.test_build import contents
from tests.test_crash import done_frames


def _answer(request: dict[str, Any]) -> Any:
    options = {key: value for key, value in request.items() if key not in ("do", "url", "to")}
    if request["do"] == "frames":
        return done_frames(request["url"], **options)
    Path(request["to"]).write_bytes(pickle.dumps(contents(request["url"], **options)))
    return None


if __name__ == "__main__":
    for line in sys.stdin:
        try:
            reply = {"answer": _answer(json.loads(line))}
        except Exception as error:
            reply = {"error": repr(error)}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
