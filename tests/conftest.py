"""One thread a process and no GPU, set before torch loads: results and times then do not depend on the machine's load."""
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONHASHSEED"] = "0"
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("MMLIB_TEST_GPU", "")

import torch  # noqa: E402

torch.set_num_threads(1)
