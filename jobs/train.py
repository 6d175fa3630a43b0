r"""Train the network of an experiment; the entry point for ``ray job submit``.

ray job submit --address http://HEAD:8265 --working-dir . --runtime-env jobs/runtime_env.yaml \
    -- python jobs/train.py latent-space --set output=/shared/runs

The arguments are those of ``sdoml train``; the same command goes on where a run stopped. Ray tells the job's driver where
the cluster is by RAY_ADDRESS. The output is a folder that all nodes share. ``ray job submit`` reduces every failure to exit
code 1; a run that stopped in good order (75) goes on by the same command.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sdoml_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
