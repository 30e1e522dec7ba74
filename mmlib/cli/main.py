"""The command line: train on a manifest, evaluate a saved model, predict with it; and judge.

``python -m mmlib --help`` lists the commands. Each is a function from its arguments to an exit
code, in ``train.py`` (train), ``predict.py`` (evaluate, predict), ``export.py`` (export),
``judge.py`` (report, leaks, tune, fusions) or ``manifest.py`` (manifest).
"""

import argparse
import difflib
import os
import sys
import traceback
import warnings

from mmlib.cli import export, judge, manifest, predict, train
from mmlib.cli.arguments import DEBUG, renamed

HELP = """Models that see, read and hear, trained on files of your own.

A manifest is a CSV file with a header, one row a sample. Columns: image and audio (paths, relative
to the manifest), text, a target column, and split (train, val, test). Any of them may be absent,
any cell may be empty: that modality is missing.

python -m mmlib COMMAND --help shows the options of a command, and examples."""
CODES = """exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage.
leaks has its own: 0 nothing found, 1 something found, 2 failed or wrong usage."""


def parser() -> argparse.ArgumentParser:
    """The argument parser of all commands."""
    return _parser()[0]


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the names of the commands."""
    main = argparse.ArgumentParser(
        prog="python -m mmlib",
        description=HELP,
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main.add_argument("--debug", action="store_true", help=DEBUG)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for family in (train, predict, export, judge, manifest):
        family.add_commands(commands)
    return main, list(commands.choices)


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed (the reason on stderr), 2 wrong usage.

    It prints UTF-8, line by line, so that a log is never behind.
    """
    _prepare_process()
    words = renamed(sys.argv[1:] if argv is None else argv)
    commands, names = _parser()
    _check_command(commands, names, words)
    arguments = commands.parse_args(words)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `mmlib predict ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if arguments.debug:
            traceback.print_exc()
        else:
            hint = " (--debug shows where)" if isinstance(error, RuntimeError) else ""
            print(f"mmlib: {error}{hint}", file=sys.stderr)
        return 2 if arguments.command == "leaks" else 1  # there 1 says that a leak was found
    except KeyboardInterrupt:
        again = ""
        if hasattr(arguments, "resume"):
            again = f"; go on with the same line and --out {arguments.out} --resume"
        print(f"mmlib: interrupted{again}", file=sys.stderr)
        return 1


def _prepare_process() -> None:
    """What only a program of its own may change: its streams, warnings and environment."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # on Windows a file is cp1252, which has no 狗
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # they name no file; the errors of mmlib do
    if "torch" not in sys.modules:
        # Threads that wait for work sleep: on a machine with other work, waiting at full speed
        # takes the cores away from it, and from torch. OpenMP reads it once, when torch loads.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _check_command(commands: argparse.ArgumentParser, names: list[str], words: list[str]) -> None:
    """Exit as argparse does, but with the name that was perhaps meant."""
    given = next((word for word in words if not word.startswith("-")), None)
    if given is not None and given not in names:
        near = difflib.get_close_matches(given, names, n=1)
        meant = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"
        commands.error(f"there is no command {given!r}; {meant}")
