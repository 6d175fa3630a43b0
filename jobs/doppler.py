r"""Track regions and compute their acoustic power; an entry point for ``ray job submit``.

ray job submit --address http://HEAD:8265 --working-dir . --runtime-env jobs/runtime_env.yaml \
    -- python jobs/doppler.py solared --set source.url=s3://b/hmi

The arguments are those of ``sdoml emergence build``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sdoml_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["emergence", "build", *sys.argv[1:]]))
