r"""Encode a dataset by a trained network into a latent catalog; an entry point for ``ray job submit``.

ray job submit --address http://HEAD:8265 --working-dir . --runtime-env jobs/runtime_env.yaml \
    -- python jobs/encode.py /shared/runs/latent-space s3://b/d s3://b/latents

The arguments are those of ``sdoml encode``; the checkpoint is in a folder that every node can read.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sdoml_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["encode", *sys.argv[1:]]))
