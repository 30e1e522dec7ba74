"""All benchmarks, written to BENCHMARKS.md beside this file.

About twenty minutes, on a machine that does nothing else.
python -m venv peers && peers/bin/pip install -e . -r tests/benchmarks/peers.txt
peers/bin/python tests/benchmarks/page.py [--rounds 5]
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """# Benchmarks

Made by `tests/benchmarks/page.py` (how: see there), which runs `speed.py` and `parts.py`. Ratios
travel from machine to machine better than times do; all are of runs by turns.

"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    commands = [["speed.py", "--rounds", str(rounds)], ["parts.py", "--rounds", str(3 * rounds)]]
    page = HERE / "BENCHMARKS.md"
    page.write_text(HEAD, encoding="utf-8")
    for name, *rest in commands:
        with subprocess.Popen(
            [sys.executable, str(HERE / name), *rest], stdout=subprocess.PIPE, text=True
        ) as process:
            for (
                line
            ) in process.stdout:  # as it comes: what is measured is kept, also when it is stopped
                with page.open("a", encoding="utf-8") as file:
                    file.write(line)
        if process.returncode:
            raise SystemExit(f"{name} failed")


if __name__ == "__main__":
    main()
