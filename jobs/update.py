r"""Add new and changed frames to a dataset; an entry point for ``ray job submit``.

ray job submit --address http://HEAD:8265 --working-dir . --runtime-env jobs/runtime_env.yaml \
    -- python jobs/update.py s3://b/d --to now

The arguments are those of ``sdoml update``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sdoml_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["update", *sys.argv[1:]]))
