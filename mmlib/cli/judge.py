"""The commands that judge: report (does fusion help?), leaks (is the answer in the question?),
tune (which settings?), fusions.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmlib import leaks as leaks_module
from mmlib import report as report_module
from mmlib import tune as tune_module
from mmlib.cli.arguments import add_data, add_training, count, next_folder, recipe
from mmlib.data import read_manifest
from mmlib.fusion import cost as fusion_table

REPORT = """example:
  python -m mmlib report data/pets/manifest.csv --target label --out reports/pets

Trains every modality alone, all pairs and all together, with several seeds, and says whether fusion helps, by how much, and whether
the modalities interact. DIR then holds report.html (one page, needs nothing else) and report.json."""
LEAKS = """example:
  python -m mmlib leaks data/pets/manifest.csv --target label

A line per finding. exit codes: 0 nothing found, 1 something found, 2 the manifest cannot be read, or wrong usage"""
TUNE = """examples:
  python -m mmlib tune data/pets/manifest.csv --target label --trials 20 --out runs/tuned
  python -m mmlib tune data/pets/manifest.csv --target label --trials 40 --out runs/tuned --resume    # go on

Test rows are never read. DIR then holds leaderboard.csv and trials.jsonl; the line to train with the best settings is printed."""


def add_commands(commands: Any, style: dict[str, Any]) -> None:
    """Add the commands to the subparsers of the command line."""
    judged = commands.add_parser(
        "report",
        help="does fusion help?",
        epilog=REPORT,
        **style,
        description="Say whether the modalities together are better than the best of them.",
    )
    add_data(judged)
    add_training(judged)
    judged.add_argument(
        "--seeds",
        type=count,
        default=3,
        metavar="N",
        help="how often each model is trained (default: 3)",
    )
    judged.add_argument(
        "--budget",
        type=float,
        default=0.25,
        metavar="X",
        help="length of one training, 1 is about three minutes of one core (default: 0.25)",
    )
    judged.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where the page goes (default: reports/1, reports/2, ...)",
    )

    searched = commands.add_parser(
        "leaks",
        help="is the answer in the question?",
        epilog=LEAKS,
        **style,
        description="Look for ways in which a model could know the answer without having learned "
        "anything.",
    )
    add_data(searched)
    searched.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of cross-validation (default: 0)"
    )
    searched.add_argument(
        "--quick", action="store_true", help="only what takes seconds; train does this by itself"
    )

    tuned = commands.add_parser(
        "tune",
        help="which settings are best?",
        epilog=TUNE,
        **style,
        description="Search fusion, size, learning rate, dropout and hidden modalities by "
        "successive halving.",
    )
    add_data(tuned)
    add_training(tuned)
    tuned.add_argument(
        "--trials",
        type=count,
        default=20,
        metavar="N",
        help="how many settings to try (default: 20)",
    )
    tuned.add_argument(
        "--budget",
        type=float,
        default=0.3,
        metavar="X",
        help="length of one training, 1 is about three minutes of one core (default: 0.3)",
    )
    tuned.add_argument(
        "--seed", type=int, default=0, metavar="N", help="same seed, same search (default: 0)"
    )
    tuned.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where the leaderboard goes (default: runs/1, runs/2, ...)",
    )
    tuned.add_argument("--resume", action="store_true", help="go on with the search in --out")

    commands.add_parser(
        "fusions",
        help="what does each fusion cost?",
        **style,
        description="All fusions on one input: parameters, FLOPs, memory, time; and whether "
        "modalities interact in them.",
    )


def report(arguments: argparse.Namespace) -> None:
    """The report command."""
    folder = arguments.out or next_folder(Path("reports"))
    made = report_module.make_report(recipe(arguments), range(arguments.seeds))
    page = made.write(folder)
    print(made)
    print(f"wrote {page}")


def leaks(arguments: argparse.Namespace) -> int:
    """The leaks command: 1 where something was found."""
    columns = {
        kind: getattr(arguments, kind)
        for kind in ("image", "text", "audio")
        if getattr(arguments, kind)
    }
    manifest = read_manifest(
        arguments.manifest,
        arguments.target,
        columns,
        arguments.group,
        arguments.use,
        arguments.allow_outside,
    )
    findings = leaks_module.find(manifest, quick=arguments.quick, seed=arguments.seed)
    for finding in findings:
        print(finding)
    if not findings:
        print(
            f"no leak found in {manifest.name}: {len(manifest):,} rows; looked for "
            + "; ".join(leaks_module.checks(manifest, arguments.quick))
        )
    return 1 if findings else 0


def tune(arguments: argparse.Namespace) -> None:
    """The tune command."""
    arguments.out = arguments.out or next_folder(Path("runs"))
    tune_module.search(
        replace(recipe(arguments), seed=arguments.seed),
        arguments.trials,
        out=arguments.out,
        resume=arguments.resume,
    )


def fusions(arguments: argparse.Namespace) -> None:
    """The fusions command."""
    print(fusion_table.main_table())


COMMANDS = {"report": report, "leaks": leaks, "tune": tune, "fusions": fusions}
