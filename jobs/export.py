r"""Write a dataset in one of SDOML's published layouts; an entry point for ``ray job submit``.

ray job submit --address http://HEAD:8265 --working-dir . --runtime-env jobs/runtime_env.yaml \
    -- python jobs/export.py s3://b/d s3://b/published --layout sdoml-v2

The arguments are those of ``sdoml export``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sdoml_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
