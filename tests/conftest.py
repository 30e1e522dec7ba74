"""One thread a process, no GPU and no network, set before torch loads: results and times then do
not depend on the machine's load.
"""

import os

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": os.environ.get("MMLIB_TEST_GPU", ""),
    "HF_HUB_OFFLINE": "1",
}

import torch  # noqa: E402

torch.set_num_threads(1)
