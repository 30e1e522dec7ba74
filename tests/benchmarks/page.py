"""All benchmarks, written to BENCHMARKS.md beside this file. About twenty minutes, on a machine that does nothing else.

    python -m venv peers && peers/bin/pip install -e . -r tests/benchmarks/peers.txt
    peers/bin/python tests/benchmarks/page.py [--rounds 5]
"""
import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """# Benchmarks

Made by `tests/benchmarks/page.py` (how: see there), which runs `speed.py` and `parts.py`. Ratios travel from machine to machine better
than times do; all are of runs by turns.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    commands = [["speed.py", "--rounds", str(rounds)], ["parts.py", "--rounds", str(3 * rounds)]]
    pages = [subprocess.run([sys.executable, str(HERE / name), *rest], check=True, stdout=subprocess.PIPE, text=True).stdout
             for name, *rest in commands]
    (HERE / "BENCHMARKS.md").write_text(HEAD + "\n".join(pages), encoding="utf-8")


if __name__ == "__main__":
    main()
