"""The commands that judge.

report: does fusion help? leaks: is the answer in the question? tune: which settings are best?
fusions: what does each cost?
"""

import argparse
from dataclasses import replace

from mmlib.cli import arguments as shared
from mmlib.cli.arguments import Commands, warn
from mmlib.cli.train import logger

REPORT = """example:
  python -m mmlib report data/pets/manifest.csv --target label --out reports/pets

Trains every modality alone, all pairs and all together, with several seeds, and says whether fusion
helps, by how much, and whether the modalities interact. DIR then holds report.html (one page, needs
nothing else) and report.json."""
LEAKS = """example:
  python -m mmlib leaks data/pets/manifest.csv --target label

Prints a line for each finding.
exit codes: 0 nothing found, 1 something found, 2 the manifest cannot be read, or wrong usage"""
TUNE = """examples:
  python -m mmlib tune data/pets/manifest.csv --target label --trials 20 --out runs/tuned
  python -m mmlib tune data/pets/manifest.csv --target label --trials 40 --out runs/tuned --resume

The second command goes on with the search. Test rows are never read. DIR then holds leaderboard.csv
and trials.jsonl; the command that trains with the best settings is printed."""


def add_commands(commands: Commands) -> None:
    """Add report, leaks, tune and fusions to the commands."""
    _add_report(commands)
    _add_leaks(commands)
    _add_tune(commands)
    shared.add_command(
        commands,
        "fusions",
        fusions,
        help="what does each fusion cost?",
        description="All fusions on one input: parameters, FLOPs, memory, time; and whether "
        "modalities interact in them.",
    )


def _add_report(commands: Commands) -> None:
    judged = shared.add_command(
        commands,
        "report",
        report,
        help="does fusion help?",
        description="Say whether the modalities together are better than the best of them.",
        epilog=REPORT,
    )
    shared.add_data(judged)
    shared.add_training(judged, budget=0.25)
    judged.add_argument(
        "--seeds",
        type=shared.count,
        default=3,
        metavar="N",
        help="trainings of each model, with the seeds from --seed on (default: 3)",
    )
    shared.add_out(judged, "reports", "page")
    shared.add_json(judged)


def _add_leaks(commands: Commands) -> None:
    searched = shared.add_command(
        commands,
        "leaks",
        leaks,
        help="is the answer in the question?",
        description="Search for ways in which a model could know the answer without having "
        "learned anything.",
        epilog=LEAKS,
    )
    shared.add_data(searched)
    searched.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the cross-validation (default: 0)"
    )
    searched.add_argument(
        "--quick", action="store_true", help="only the checks that take seconds, as train does"
    )
    shared.add_json(searched)


def _add_tune(commands: Commands) -> None:
    tuned = shared.add_command(
        commands,
        "tune",
        tune,
        help="which settings are best?",
        description="Search fusion, size, learning rate, dropout and modality dropout by "
        "successive halving.",
        epilog=TUNE,
    )
    shared.add_data(tuned)
    shared.add_training(tuned, budget=0.3)
    tuned.add_argument(
        "--trials",
        type=shared.count,
        default=20,
        metavar="N",
        help="how many settings to try (default: 20)",
    )
    shared.add_out(tuned, "runs", "leaderboard")
    shared.add_resume(tuned, "search")


def report(arguments: argparse.Namespace) -> int:
    """Train the models, print the verdict, write the page."""
    from mmlib.files import as_json
    from mmlib.report import make_report

    folder = shared.out_folder(arguments)
    log = logger(arguments)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    made = make_report(replace(shared.recipe(arguments), log=log), seeds)
    page = made.write(folder)
    print(as_json(made.plain(), ensure_ascii=False) if arguments.json else made)
    log(f"wrote {page}")
    return 0


def leaks(arguments: argparse.Namespace) -> int:
    """Print what leaks; 1 where something was found."""
    from mmlib.data import read_manifest
    from mmlib.files import as_json
    from mmlib.leaks.find import checks, find

    manifest = read_manifest(arguments.manifest, **shared.rows(arguments))
    if manifest.target_columns:
        warn(
            "several labels a row are not compared with the inputs yet: this search is for copies, "
            "groups and shift only; for answers among the inputs, give one label as --target"
        )
    findings = find(manifest, quick=arguments.quick, seed=arguments.seed)
    if arguments.json:
        print(as_json([finding._asdict() for finding in findings], ensure_ascii=False, indent=2))
        return 1 if findings else 0
    for finding in findings:
        print(finding)
    if not findings:
        print(
            f"no leak found in {manifest.name}: {len(manifest):,} rows; looked for "
            + "; ".join(checks(manifest, arguments.quick))
        )
    return 1 if findings else 0


def tune(arguments: argparse.Namespace) -> int:
    """Search, and print the leaderboard."""
    arguments.out = shared.out_folder(arguments)
    from mmlib.tune import search

    search(shared.recipe(arguments), arguments.trials, out=arguments.out, resume=arguments.resume)
    return 0


def fusions(arguments: argparse.Namespace) -> int:
    """Print what each fusion costs."""
    from mmlib.fusion.cost import main_table

    print(main_table())
    return 0
