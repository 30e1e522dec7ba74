"""A report in plain numbers and words -> one HTML page that needs nothing else, light and dark."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

from mmlib.data import read_audio
from mmlib.data.audio import RATE
from mmlib.data.image import open_image

SIDE, SECONDS = 320, 10  # the most that an example shows: pixels of the longer side, and of audio
SIGNS = {
    "helps": "Yes",
    "does not help": "No",
    "hurts": "No, it hurts",
    "cannot tell": "Cannot tell",
    "nothing learned": "Nothing was learned",
}
COLUMNS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "log_loss": "log loss",
    "macro_f1": "macro-F1",
    "auroc": "AUROC",
    "calibration_error": "calibration error",
}
STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #5d6673; --line: #dde1e7;
  --ground: #fff; --card: #f5f6f8; --accent: #0b62a4;
  --pale: #b9c6d3; --good: #00704e; --bad: #a8452a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7eaee; --soft: #9aa4b1; --line: #343b45; --ground: #14171c; --card: #1d2228;
  --accent: #5fb0ee;
    --pale: #4c5a69; --good: #4cc795; --bad: #ef9171; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3.5rem 1.5rem 5rem; max-width: 62rem; background: var(--ground);
  color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    "DejaVu Sans", sans-serif;
  }
h1 { margin: 0; font-size: 1rem; font-weight: 600; color: var(--soft); }
h2 { margin: 3.5rem 0 .35rem; font-size: 1.25rem; letter-spacing: -.01em; }
p { margin: .35rem 0; max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.sign { margin: .2rem 0 .6rem; font-size: 3rem; line-height: 1.1; font-weight: 700;
  letter-spacing: -.03em; color: var(--bad); }
.sign.helps { color: var(--good); }
.sign.cannot-tell { color: var(--soft); }
.verdict { margin-bottom: 1rem; font-size: 1.3rem; line-height: 1.45; }
.wide { overflow-x: auto; }
.wide svg { min-width: 38rem; }
table { width: 100%; margin-top: 1.2rem; border-collapse: collapse;
  font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .42rem .55rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; font-weight: 400; }
th { font-size: .8rem; white-space: normal; vertical-align: bottom; color: var(--soft);
  border-bottom-color: var(--soft); }
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
.range { fill: none; stroke: var(--accent); stroke-width: 3; stroke-linecap: round; }
.band { fill: var(--line); fill-opacity: .55; }
.blind { stroke: var(--soft); stroke-dasharray: 3 4; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1.5rem; }
figure { margin: .8rem 0 0; max-width: 20rem; }
figcaption { padding-left: 2.6rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.1rem;
  margin-top: 1rem; }
.card { padding: 1rem; background: var(--card); border-radius: .6rem; }
.card img { display: block; width: 100%; height: 12rem; object-fit: contain;
  border-radius: .35rem; }
.card blockquote { margin: .7rem 0; overflow-wrap: anywhere; }
.card audio { display: block; width: 100%; height: 2.2rem; margin: .7rem 0; }
.wrong { font-weight: 650; color: var(--bad); }
"""


def page(found: dict[str, Any]) -> str:
    """The whole HTML page of ``Report.plain()``. Everything that comes from the data is escaped."""
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in found["notes"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Does fusion help?</title><style>{STYLE}</style></head><body>
<h1>Does fusion help?</h1>
{_verdict(found["verdict"])}
{notes}
{_gains(found)}
{_scores(found)}
{_exchanged(found)}
{_calibration(found)}
<h2>Most surely wrong</h2>
{_examples(found["mistakes"])}
</body></html>
"""


def _verdict(verdict: dict[str, Any]) -> str:
    """The answer in a word and in a sentence, and how it is reached."""
    kind, matters = verdict["kind"], verdict["matters"]
    return f"""<div class="sign {kind.replace(" ", "-")}">{SIGNS[kind]}</div>
<p class="verdict">{escape(verdict["text"])}</p>
<p class="soft">± is one standard error, from the rows and from the seeds. A difference counts from
two of them on. "Does not help" is said only where a gain of {matters:g} points is excluded.
The smallest gain that would have shown here, with a probability of 80%, is
{verdict["smallest"]:.1f} points.</p>"""


def _gains(found: dict[str, Any]) -> str:
    """How much better each model is than the best single modality."""
    verdict = found["verdict"]
    score, matters = verdict["score"], verdict["matters"]
    gains = [
        (row["model"], row["gain"]["points"], row["gain"]["error"])
        for row in found["table"]
        if row["gain"]
    ]
    return f"""<h2>Gain over {escape(verdict["best"])}, the best single modality</h2>
<p class="soft">Points of {score}, on the same rows. Lines: two standard errors, either way.
A line that touches zero shows nothing yet. Grey: gains too small to matter.</p>
{intervals(gains, verdict["fusion"], matters)}"""


def _scores(found: dict[str, Any]) -> str:
    """The score of each model, as bars and in the table of all scores."""
    verdict = found["verdict"]
    column = _column(verdict)
    scores = [
        (row["model"], row[column], row["spread"])
        for row in found["table"]
        if row["model"] != found["blind"]
    ]
    return f"""<h2>{verdict["score"].capitalize()}</h2>
<p class="soft">Bars: mean over the seeds. Line across their ends: a standard deviation between
seeds, either way. Dashed: the most frequent class.</p>
{bars(scores, verdict["fusion"], _score(found, found["blind"]))}
<div class="wide">{_table(found["table"], verdict)}</div>"""


def _exchanged(found: dict[str, Any]) -> str:
    """The score of the chosen model where one modality comes from another sample."""
    name = found["model"]
    whole = ("nothing exchanged", _score(found, name), 0)
    exchanged = [whole, *((modality, score, 0) for modality, score in found["shuffled"].items())]
    return f"""<h2>One modality from another sample</h2>
<p class="soft">{escape(name)}, when one modality comes from another sample. The lower the bar,
the more the model relies on it.</p>
{bars(exchanged, "nothing exchanged", _score(found, found["blind"]))}"""


def _calibration(found: dict[str, Any]) -> str:
    """The reliability curves."""
    errors = {row["model"]: row["calibration_error"] for row in found["table"]}
    curves = "".join(
        f"<figure>{reliability_curve(points)}<figcaption>{escape(name)}, calibration "
        f"error {errors[name]:.3f}</figcaption></figure>"
        for name, points in found["reliability"].items()
    )
    return f"""<h2>Are its probabilities calibrated?</h2>
<p class="soft">Of the answers given with 80%, eight in ten should be right: dots on the line;
below it, too sure. To the right: the probability given; upwards: how many of them were right, in
percent. Size of a dot: how many answers.</p>
<div class="row">{curves}</div>"""


def _column(verdict: dict[str, Any]) -> str:
    """The column of the table with the score that decides."""
    return verdict["score"].replace(" ", "_")


def _score(found: dict[str, Any], model: str) -> float:
    """The score of a model by which the verdict is reached, mean over the seeds."""
    column = _column(found["verdict"])
    return next(row[column] for row in found["table"] if row["model"] == model)


def _table(table: Sequence[dict[str, Any]], verdict: dict[str, Any]) -> str:
    """All scores of all models; the fusion that is judged stands out."""
    head = "".join(
        f"<th>{name}</th>"
        for name in ("model", f"gain over {escape(verdict['best'])}", *COLUMNS.values(), "± seeds")
    )
    lines = []
    for row in table:
        chosen = ' class="chosen"' if row["model"] == verdict["fusion"] else ""
        gain = f"{row['gain']['points']:+.1f} ± {row['gain']['error']:.1f}" if row["gain"] else ""
        cells = "".join(
            f"<td>{value}</td>"
            for value in (gain, *(f"{row[name]:.3f}" for name in (*COLUMNS, "spread")))
        )
        lines.append(f"<tr{chosen}><td>{escape(row['model'])}</td>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def intervals(rows: Sequence[tuple[str, float, float]], chosen: str, matters: float) -> str:
    """An SVG of gains (name, points, standard error), with lines of two errors either way.

    ``chosen`` is coloured; gains within ``matters`` points lie in a grey band.
    """
    left, width, step = 250, 600, 30
    bottom = step * len(rows) + 4
    reach = max(2 * matters, *(abs(points) + 2 * error for _, points, error in rows))
    tick = next((size for size in (1, 2, 5, 10, 20, 50) if reach <= 5 * size), 100)

    def at(points: float) -> float:
        return round(left + width / 2 * (1 + points / reach), 1)

    parts = [
        f'<rect class="band" x="{at(-matters)}" y="0" '
        f'width="{at(matters) - at(-matters):.1f}" height="{bottom}"/>'
    ]
    most = int(reach // tick) * tick
    for mark in range(-most, most + 1, tick):
        kind, label = ("grid", f"{mark:+d}") if mark else ("blind", "0")
        parts.append(
            f'<path class="{kind}" d="M{at(mark)} 0V{bottom}"/><text class="minor" '
            f'x="{at(mark)}" y="{bottom + 16}" text-anchor="middle">{label}</text>'
        )
    for i, (name, points, error) in enumerate(rows):
        y, kind = i * step + 16, "range" if name == chosen else "mark"
        parts.append(
            f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(_short(name))}</text>'
            f'<path class="{kind}" d="M{at(points - 2 * error)} {y}H{at(points + 2 * error)}"/>'
            f'<circle class="dot" cx="{at(points)}" cy="{y}" r="5"/>'
            f'<text x="{left + width + 12}" y="{y + 4}">{points:+.1f}</text>'
        )
    return (
        f'<div class="wide"><svg viewBox="0 0 {left + width + 60} {bottom + 22}" role="img" '
        f'aria-label="gains">{"".join(parts)}</svg></div>'
    )


def _short(name: str) -> str:
    """A name that fits beside the bars."""
    return name if len(name) <= 36 else f"{name[:35]}…"


def bars(rows: Sequence[tuple[str, float, float]], chosen: str, blind: float) -> str:
    """An SVG of horizontal bars from 0 to 1 (name, mean, spread).

    ``chosen`` is coloured; ``blind``, the score of the most frequent class, is a dashed line.
    """
    left, width, step = 250, 600, 30
    bottom = step * len(rows) + 4
    parts = []
    for tick in range(0, 101, 20):
        x = left + width * tick / 100
        parts.append(
            f'<path class="grid" d="M{x} 0V{bottom}"/>'
            f'<text class="minor" x="{x}" y="{bottom + 16}" text-anchor="middle">{tick}%</text>'
        )
    for i, (name, mean, spread) in enumerate(rows):
        y, low, high = i * step, max(0.0, mean - spread), min(1.0, mean + spread)
        parts.append(
            f'<text x="{left - 12}" y="{y + 20}" text-anchor="end">{escape(_short(name))}</text>'
            f'<rect class="bar{" chosen" * (name == chosen)}" x="{left}" y="{y + 6}" '
            f'width="{width * mean:.1f}" height="20" rx="2"/>'
            f'<path class="mark" d="M{left + width * low:.1f} {y + 16}H{left + width * high:.1f}"/>'
            f'<text x="{left + width + 12}" y="{y + 20}">{100 * mean:.1f}</text>'
        )
    x = left + width * blind
    parts.append(f'<path class="blind" d="M{x:.1f} 0V{bottom}"/>')
    return (
        f'<div class="wide"><svg viewBox="0 0 {left + width + 60} {bottom + 22}" role="img" '
        f'aria-label="accuracies">{"".join(parts)}</svg></div>'
    )


def reliability_curve(points: Sequence[tuple[float, float, int]]) -> str:
    """An SVG of a reliability curve (confidence, accuracy, count of each bin).

    Confidence goes to the right, accuracy upwards; the area of a dot is its share of the answers.
    """
    size, edge = 220, 34
    total, grid = sum(count for _, _, count in points), []
    for tick in (0, 50, 100):
        at = size * tick / 100
        grid.append(
            f'<path class="grid" d="M{edge} {size - at + 8}h{size}M{edge + at} 8v{size}"/>'
            f'<text class="minor" x="{edge - 6}" y="{size - at + 12}" '
            f'text-anchor="end">{tick}</text>'
            f'<text class="minor" x="{edge + at}" y="{size + 24}" '
            f'text-anchor="middle">{tick}</text>'
        )
    dots = "".join(
        f'<circle class="dot" cx="{edge + size * x:.1f}" cy="{8 + size * (1 - y):.1f}" '
        f'r="{max(2.5, 16 * (count / total) ** 0.5):.1f}"/>'
        for x, y, count in points
    )
    return (
        f'<svg viewBox="0 0 {size + edge + 22} {size + 30}" role="img" '
        f'aria-label="reliability curve">{"".join(grid)}'
        f'<path class="blind" d="M{edge} {size + 8}L{edge + size} 8"/>{dots}</svg>'
    )


def _examples(mistakes: Sequence[dict[str, Any]]) -> str:
    """A card for each mistake."""
    if not mistakes:
        return '<p class="soft">None: every row is answered correctly.</p>'
    cards = "".join(
        f'<div class="card">{_sample(m["modalities"])}'
        f'<p>It is <b>{escape(m["true"])}</b>; <span class="wrong">{escape(m["given"])}</span> '
        f"was given with {100 * m['probability']:.0f}%.</p>"
        f'<div class="soft">{escape(m["row"])}</div></div>'
        for m in mistakes
    )
    return (
        '<p class="soft">Rows of the manifest, the seeds\' answers averaged.</p>'
        f'<div class="cards">{cards}</div>'
    )


def _sample(found: dict[str, tuple[str, str]]) -> str:
    """All modalities of an example: name -> its kind, and its words or the path of its file."""
    return "".join(_modality(name, *value) for name, value in found.items())


def _modality(name: str, kind: str, value: str) -> str:
    """One modality of an example: the image, a player for the sound, or the words."""
    if kind in ("text", "table"):
        return f"<blockquote>{escape(value)}</blockquote>"
    if kind == "image":
        return f'<img alt="{escape(name)}" src="data:image/png;base64,{_image(value)}">'
    return (
        f'<audio controls aria-label="{escape(name)}" '
        f'src="data:audio/flac;base64,{_audio(value)}"></audio>'
    )


def _image(path: str) -> str:
    """The image, reduced, as PNG in base64."""
    from PIL import ImageOps

    with open_image(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _audio(path: str) -> str:
    """The first SECONDS of the audio, as FLAC in base64."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(
        file, read_audio(path)[: SECONDS * RATE].numpy(), RATE, format="FLAC", subtype="PCM_16"
    )
    return base64.b64encode(file.getvalue()).decode()
