"""Break the package in one small way after another, and see whether a test notices.

    python tests/tools/mutants.py                      # 37 drawn from seed 0, and the named 23
    python tests/tools/mutants.py --drawn 5 --seed 1   # five others
    python tests/tools/mutants.py --named              # only those of named_mutants.py

Each mutant is one change of one expression or statement, in a copy of the package. The tests that
mirror its file run on that copy, the first failure kills it. A mutant that survives is a sentence
of the code that no test holds, or a change that makes no difference: read it.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PLACES = [
    *("core.py", "files.py", "models.py", "data", "encoders", "fusion", "heads", "layers"),
    *("leaks", "metrics", "recipes", "report", "train", "tracing", "trust", "tune"),
]
ALWAYS = ["tests/test_laws.py", "tests/test_core.py", "tests/test_models.py"]
SECONDS = 900  # of one mutant's tests; a mutant that never ends is killed too
COMPARE = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
ARITHMETIC = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*"}


class Mutant(NamedTuple):
    """One change: in ``file`` the text ``old``, at offset ``start``, becomes ``new``."""

    file: str
    start: int
    old: str
    new: str

    def apply(self, text: str) -> str:
        """The file's text with the change in it."""
        end = self.start + len(self.old)
        if text[self.start : end] != self.old:
            raise ValueError(f"{self.file} no longer has {self.old!r} at {self.start}")
        return text[: self.start] + self.new + text[end:]

    def __str__(self) -> str:
        line = (ROOT / self.file).read_text(encoding="utf-8")[: self.start].count("\n") + 1
        return f"{self.file}:{line}: {' '.join(self.old.split())} -> {' '.join(self.new.split())}"


def mutants_of(file: Path) -> Iterator[Mutant]:
    """Every change that this script knows how to make in a file."""
    text = file.read_text(encoding="utf-8")
    starts = [0]
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(line: int, column: int) -> int:  # ast counts bytes
        return len(text.encode()[: starts[line - 1] + column].decode())

    def of(node: ast.AST) -> tuple[int, int]:
        return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)

    name = file.relative_to(ROOT).as_posix()
    for node in code_of(ast.parse(text)):
        start, end = of(node)
        for new in changed(node, text, of):
            yield Mutant(name, start, text[start:end], new)


def code_of(tree: ast.Module) -> Iterator[ast.AST]:
    """What functions do: no annotations, defaults, messages or asserts."""
    waiting: list[ast.AST] = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    seen: set[ast.AST] = set()
    waiting = [statement for function in waiting for statement in function.body]
    while waiting:
        node = waiting.pop(0)
        if node in seen or isinstance(
            node, ast.Raise | ast.JoinedStr | ast.FunctionDef | ast.Assert
        ):
            continue
        seen.add(node)
        yield node
        waiting += [n for n in ast.iter_child_nodes(node) if hasattr(n, "lineno")]


def changed(node: ast.AST, text: str, of) -> Iterator[str]:
    """What may stand in place of a node."""

    def piece(part: ast.AST) -> str:
        start, end = of(part)
        return text[start:end]

    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            yield f"{piece(left)} {COMPARE[type(op)]} {piece(right)}"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            yield f"({piece(left)}) {ARITHMETIC[type(op)]} ({piece(right)})"
        case ast.BoolOp(op=op, values=values):
            word = " or " if isinstance(op, ast.And) else " and "
            yield "(" + word.join(f"({piece(value)})" for value in values) + ")"
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            yield f"({piece(operand)})"
        case ast.Constant(value=bool() as value):
            yield str(not value)
        case ast.Constant(value=int() as value):
            yield str(value + 1)
        case ast.AugAssign() | ast.Expr(value=ast.Call()):
            yield "pass"


def draw(count: int, seed: int) -> list[Mutant]:
    """Some mutants of the package."""
    places = [ROOT / "mmlib" / place for place in PLACES]
    files = [f for p in places for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]
    every = [mutant for file in files for mutant in mutants_of(file)]
    return random.Random(seed).sample(every, count)


def tests_of(file: str) -> list[str]:
    """The tests of a file's folder, its own first, and those of the laws that hold everywhere."""
    path = Path(file).relative_to("mmlib")
    folder = path.parts[0].removesuffix(".py")
    own = sorted((ROOT / "tests" / folder).rglob(f"test_{path.stem}*.py"))
    places = [place.relative_to(ROOT).as_posix() for place in own]
    places += [f"tests/{folder}"] if (ROOT / "tests" / folder).is_dir() else []
    return places + [place for place in ALWAYS if folder in LAWFUL]


LAWFUL = {"core", "models", "encoders", "fusion", "heads", "layers"}


def run(mutant: Mutant) -> str:
    """'killed', 'survived' or 'killed (no end)'."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in ("mmlib", "tests"):
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("data", "notebooks", "README.md", "pyproject.toml", "docs"):
            if (ROOT / name).exists():
                (place / name).symlink_to(ROOT / name)
        file = place / mutant.file
        file.write_text(mutant.apply(file.read_text(encoding="utf-8")), encoding="utf-8")
        options = "-x -q -p no:nbval -p no:cacheprovider -o addopts=".split()
        options += ["-m", "not long"]
        command = [sys.executable, "-m", "pytest", *options, *tests_of(mutant.file)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": folder}
        try:
            done = subprocess.run(
                command, cwd=place, env=environment, capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return "killed (no end)"
        if done.returncode == 0:
            return "SURVIVED"
        if done.returncode != 1 and "error" not in done.stdout.lower():
            raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}")
        last = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return "killed by " + (last[0].split(" ")[1] if last else "the import")


def named() -> list[Mutant]:
    """Those of ``named_mutants.py``, found in today's files."""
    from tests.tools.named_mutants import NAMED

    found = []
    for file, old, new in NAMED:
        text = (ROOT / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(
                f"{file} has {old!r} {text.count(old)} times, expected once: name it anew"
            )
        found.append(Mutant(file, text.index(old), old, new))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Do the tests notice when the package is broken?")
    parser.add_argument("--drawn", type=int, default=37, help="how many are drawn (default: 37)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--named", action="store_true", help="only the named ones")
    parser.add_argument("--processes", type=int, default=2, help="tests at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    mutants = named() + ([] if arguments.named else draw(arguments.drawn, arguments.seed))
    if arguments.list:
        print(*mutants, sep="\n")
        return 0
    killed = 0
    with ThreadPoolExecutor(arguments.processes) as pool:
        for mutant, (answer, seconds) in zip(mutants, pool.map(timed, mutants), strict=True):
            killed += answer.startswith("killed")
            print(f"{answer:60}  {mutant}  ({seconds:.0f} s)", flush=True)
    print(f"killed {killed} of {len(mutants)}")
    return 0 if killed == len(mutants) else 1


def timed(mutant: Mutant) -> tuple[str, float]:
    start = time.perf_counter()
    return run(mutant), time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
