"""For nbval, as tests/conftest.py for the tests: one thread a process, no GPU and no network, set before a notebook's kernel starts.

Numbers, and above all times on a busy machine, then do not depend on how many cores there are. Set MMLIB_TEST_GPU=0 to test on GPU 0.
"""
import os

os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": os.environ.get("MMLIB_TEST_GPU", ""),
               "HF_HUB_OFFLINE": "1"}
