r"""Build or update a dataset; the entry point for ``ray job submit``.

ray job submit --address http://HEAD:8265 --working-dir . --runtime-env jobs/runtime_env.yaml \
    -- python jobs/build.py build sdoml-v2 --set store.url=s3://bucket/sdoml

All verbs of ``sdoml`` are understood. Ray tells the job's driver where the cluster is by RAY_ADDRESS. ``ray job
submit`` reduces every failure to exit code 1; ``sdoml submit`` ends with the true one, which is also in the run's record
(``sdoml status URL``).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sdoml_dist.cli import main

if __name__ == "__main__":
    sys.exit(main())
