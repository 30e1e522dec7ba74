"""For nbval, as tests/conftest.py for the tests: one thread a process, no GPU and no network.

This is set before a notebook's kernel starts. Numbers, and above all times on a busy machine, then
do not depend on how many cores there are. Set MMLIB_TEST_GPU=0 to test on GPU 0. Every kernel runs
tests/tools/kernel_limits.py first: a budget of CPU time and memory, and no network.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": os.environ.get("MMLIB_TEST_GPU", ""),
    "HF_HUB_OFFLINE": "1",
}

settings = Path(tempfile.mkdtemp())  # IPython's own folder, of this test run alone
atexit.register(shutil.rmtree, settings, ignore_errors=True)
startup = settings / "profile_default" / "startup"
startup.mkdir(parents=True)
shutil.copy(Path(__file__).parents[1] / "tests" / "tools" / "kernel_limits.py", settings)
(startup / "limits.py").write_text(
    f"__import__('sys').path.append({str(settings)!r})\n"
    "__import__('kernel_limits').begin(get_ipython())\n"
)
os.environ["IPYTHONDIR"] = str(settings)
