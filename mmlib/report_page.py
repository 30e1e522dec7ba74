"""A Report -> report.json and report.html: one page that needs nothing else, for light and dark screens."""
import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmlib.checkpoint import write_atomically
from mmlib.data import read_audio
from mmlib.data.audio import RATE

if TYPE_CHECKING:
    from mmlib.report import Report

BINS = 10            # of the reliability curves
PICTURE, SECONDS = 320, 10   # pixels of the longer side, and of sound, that an example shows at most
SIGNS = {"helps": "Yes", "does not help": "No", "hurts": "No, it hurts", "nothing learned": "Nothing was learned"}

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #5d6673; --line: #dde1e7; --ground: #fff; --card: #f5f6f8; --accent: #0b62a4;
  --pale: #b9c6d3; --good: #00704e; --bad: #a8452a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7eaee; --soft: #9aa4b1; --line: #343b45; --ground: #14171c; --card: #1d2228; --accent: #5fb0ee;
    --pale: #4c5a69; --good: #4cc795; --bad: #ef9171; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3.5rem 1.5rem 5rem; max-width: 62rem; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1rem; font-weight: 600; color: var(--soft); }
h2 { margin: 3.5rem 0 .35rem; font-size: 1.25rem; letter-spacing: -.01em; }
p { margin: .35rem 0; max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.sign { margin: .2rem 0 .6rem; font-size: 3rem; line-height: 1.1; font-weight: 700; letter-spacing: -.03em; color: var(--bad); }
.sign.helps { color: var(--good); }
.verdict { margin-bottom: 1rem; font-size: 1.3rem; line-height: 1.45; }
.wide { overflow-x: auto; }
.wide svg { min-width: 38rem; }
table { width: 100%; margin-top: 1.2rem; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .42rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; font-weight: 400; }
th { font-size: .8rem; color: var(--soft); border-bottom-color: var(--soft); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.chosen td { font-weight: 650; color: var(--accent); }
svg { display: block; width: 100%; height: auto; margin-top: .8rem; }
svg text { fill: var(--ink); font-size: 13px; font-variant-numeric: tabular-nums; }
svg text.minor { fill: var(--soft); font-size: 11px; }
.bar { fill: var(--pale); }
.bar.chosen, .dot { fill: var(--accent); }
.dot { fill-opacity: .85; }
.grid { fill: none; stroke: var(--line); }
.mark { stroke: var(--ink); stroke-width: 1.6; }
.blind { stroke: var(--soft); stroke-dasharray: 3 4; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1.5rem; }
figure { margin: .8rem 0 0; max-width: 20rem; }
figcaption { padding-left: 2.6rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.1rem; margin-top: 1rem; }
.card { padding: 1rem; background: var(--card); border-radius: .6rem; }
.card img { display: block; width: 100%; height: 12rem; object-fit: contain; border-radius: .35rem; }
.card blockquote { margin: .7rem 0; overflow-wrap: anywhere; }
.card audio { display: block; width: 100%; height: 2.2rem; margin: .7rem 0; }
.wrong { font-weight: 650; color: var(--bad); }
"""


def write(report: "Report", folder: Path) -> Path:
    """Write report.json and report.html into ``folder``, each replaced atomically -> the page's path."""
    text = json.dumps(as_json(report), indent=2, ensure_ascii=False)
    write_atomically(folder / "report.json", lambda file: file.write(f"{text}\n".encode()))
    html = page(report)
    write_atomically(folder / "report.html", lambda file: file.write(html.encode()))
    return folder / "report.html"


def as_json(report: "Report") -> dict[str, Any]:
    """The report in plain numbers and strings."""
    verdict = report.verdict
    return {"verdict": {"kind": verdict.kind, "interacts": verdict.interacts, "text": verdict.text, "best": verdict.best,
                        "gain": verdict.gain._asdict(), "interaction": verdict.interaction._asdict()},
            "model": report.chosen, "table": report.table, "shuffled": report.shuffled, "notes": report.notes, "classes": report.classes,
            "rows": len(report.target),
            "mistakes": [{key: mistake[key] for key in ("row", "true", "given", "probability")} for mistake in report.mistakes]}


def page(report: "Report") -> str:
    """The whole HTML page. Everything that comes from the data is escaped."""
    kind, logits = report.verdict.kind, {answers.name: answers.logits for answers in report.answers}
    shown = [report.chosen, report.verdict.best, "average of the senses' answers"]
    curves = "".join(f"<figure>{reliability_curve(logits[name], report.target)}<figcaption>{escape(name)}, calibration error "
                     f"{_row(report, name)['calibration_error']:.3f}</figcaption></figure>" for name in shown)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Does fusion help?</title><style>{STYLE}</style></head><body>
<h1>Does fusion help?</h1>
<div class="sign {kind.replace(" ", "-")}">{SIGNS[kind]}</div>
<p class="verdict">{escape(report.verdict.text)}</p>
<p class="soft">± is one standard error, from the rows and from the seeds; a difference counts from two of them on.</p>
{"".join(f'<p class="soft">{escape(note)}</p>' for note in report.notes)}
<h2>Accuracy</h2>
<p class="soft">Bars: mean over the seeds. Line across their ends: a standard deviation between seeds, either way.
Dashed: the most frequent class.</p>
{bars([(row["model"], row["accuracy"], row["spread"]) for row in report.table[1:]], report.chosen, report.table[0]["accuracy"])}
<div class="wide">{_table(report)}</div>
<h2>One sense from another sample</h2>
<p class="soft">All senses together, when one of them comes from another sample. The lower the bar, the more it relies on that sense.</p>
{bars([("nothing exchanged", _row(report, report.chosen)["accuracy"], 0), *((name, value, 0) for name, value in report.shuffled.items())],
      "nothing exchanged", report.table[0]["accuracy"])}
<h2>Can its probabilities be believed?</h2>
<p class="soft">Of the answers given with 80%, eight in ten should be right: dots on the line; below it, too sure.
To the right: the probability given; upwards: how many of them were right, in percent. Size of a dot: how many answers.</p>
<div class="row">{curves}</div>
<h2>Most surely wrong</h2>
{_examples(report.mistakes)}
</body></html>
"""


def _row(report: "Report", name: str) -> dict[str, Any]:
    return next(row for row in report.table if row["model"] == name)


def _table(report: "Report") -> str:
    columns = ("accuracy", "spread", "macro_f1", "auroc", "calibration_error")
    head = "".join(f"<th>{name}</th>" for name in ("model", "accuracy", "± seeds", "macro-F1", "AUROC", "calibration error"))
    lines = []
    for row in report.table:
        chosen = ' class="chosen"' if row["model"] == report.chosen else ""
        cells = "".join(f"<td>{row[column]:.3f}</td>" for column in columns)
        lines.append(f"<tr{chosen}><td>{escape(row['model'])}</td>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def bars(rows: Sequence[tuple[str, float, float]], chosen: str, blind: float) -> str:
    """An SVG of horizontal bars from 0 to 1: name, mean, spread; ``chosen`` is coloured, ``blind`` a dashed line."""
    left, width, step = 250, 600, 30
    bottom = step * len(rows) + 4
    parts = []
    for tick in range(0, 101, 20):
        x = left + width * tick / 100
        parts.append(f'<path class="grid" d="M{x} 0V{bottom}"/>'
                     f'<text class="minor" x="{x}" y="{bottom + 16}" text-anchor="middle">{tick}%</text>')
    for i, (name, mean, spread) in enumerate(rows):
        y, low, high = i * step, max(0.0, mean - spread), min(1.0, mean + spread)
        label = name if len(name) <= 36 else f"{name[:35]}…"
        parts.append(f'<text x="{left - 12}" y="{y + 20}" text-anchor="end">{escape(label)}</text>'
                     f'<rect class="bar{" chosen" * (name == chosen)}" x="{left}" y="{y + 6}" '
                     f'width="{width * mean:.1f}" height="20" rx="2"/>'
                     f'<path class="mark" d="M{left + width * low:.1f} {y + 16}H{left + width * high:.1f}"/>'
                     f'<text x="{left + width + 12}" y="{y + 20}">{100 * mean:.1f}</text>')
    x = left + width * blind
    parts.append(f'<path class="blind" d="M{x:.1f} 0V{bottom}"/>')
    return (f'<div class="wide"><svg viewBox="0 0 {left + width + 60} {bottom + 22}" role="img" aria-label="accuracies">'
            f'{"".join(parts)}</svg></div>')


def reliability(logits: Tensor, target: Tensor, bins: int = BINS) -> list[tuple[float, float, int]]:
    """The reliability curve (Guo et al., 2017, arXiv:1706.04599) of logits (S, N, K): confidence, accuracy and count of each bin in use.

    ``bins`` equal bins of the probability of the answer given, the answers of all seeds together.
    """
    confidence, given = logits.double().softmax(dim=-1).max(dim=-1)                                     # (S, N) both
    right = (given == target).double()
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    used = [place == i for i in place.unique().tolist()]
    return [(float(confidence[here].mean()), float(right[here].mean()), int(here.sum())) for here in used]


def reliability_curve(logits: Tensor, target: Tensor) -> str:
    """An SVG of the reliability curve: confidence to the right, accuracy upwards; the area of a dot is its share of the answers."""
    points, size, edge = reliability(logits, target), 220, 34
    total, grid = sum(count for _, _, count in points), []
    for tick in (0, 50, 100):
        at = size * tick / 100
        grid.append(f'<path class="grid" d="M{edge} {size - at + 8}h{size}M{edge + at} 8v{size}"/>'
                    f'<text class="minor" x="{edge - 6}" y="{size - at + 12}" text-anchor="end">{tick}</text>'
                    f'<text class="minor" x="{edge + at}" y="{size + 24}" text-anchor="middle">{tick}</text>')
    dots = "".join(f'<circle class="dot" cx="{edge + size * x:.1f}" cy="{8 + size * (1 - y):.1f}" '
                   f'r="{max(2.5, 16 * (count / total) ** 0.5):.1f}"/>' for x, y, count in points)
    return (f'<svg viewBox="0 0 {size + edge + 22} {size + 30}" role="img" aria-label="reliability curve">{"".join(grid)}'
            f'<path class="blind" d="M{edge} {size + 8}L{edge + size} 8"/>{dots}</svg>')


def _examples(mistakes: Sequence[dict[str, Any]]) -> str:
    if not mistakes:
        return '<p class="soft">None: every row is answered rightly.</p>'
    cards = "".join(f'<div class="card">{"".join(_sense(name, *value) for name, value in m["senses"].items())}'
                    f'<p>It is <b>{escape(m["true"])}</b>; <span class="wrong">{escape(m["given"])}</span> was given with '
                    f'{100 * m["probability"]:.0f}%.</p><div class="soft">{escape(m["row"])}</div></div>' for m in mistakes)
    return f'<p class="soft">Rows of the manifest, the seeds\' answers averaged.</p><div class="cards">{cards}</div>'


def _sense(name: str, kind: str, value: str) -> str:
    """One sense of an example: the picture, a player for the sound, or the words."""
    if kind == "text":
        return f"<blockquote>{escape(value)}</blockquote>"
    if kind == "image":
        return f'<img alt="{escape(name)}" src="data:image/png;base64,{_picture(value)}">'
    return f'<audio controls aria-label="{escape(name)}" src="data:audio/flac;base64,{_sound(value)}"></audio>'


def _picture(path: str) -> str:
    from PIL import Image, ImageOps
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
    image.thumbnail((PICTURE, PICTURE))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _sound(path: str) -> str:
    import soundfile
    file = io.BytesIO()
    soundfile.write(file, read_audio(path)[:SECONDS * RATE].numpy(), RATE, format="FLAC", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()
