"""Does fusion help?

Verdicts on made-up answers, the additive part against brute force, and the verdict that a world's
dials make true.
"""

import csv
import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mmlib import Recipe
from mmlib.core import Output, from_pooled
from mmlib.report import make
from mmlib.report.length import too_short
from mmlib.report.make import make_report
from mmlib.report.measure import (
    SHUFFLES,
    Encoded,
    average,
    project,
    reliability,
    shuffle,
    still_improving,
)
from mmlib.report.result import Answers
from mmlib.report.verdict import MATTERS, POWER, Scale, gap, judge, worth_it
from mmlib.worlds import pets
from mmlib.worlds.pets.dials import Dials

TRUTH = {"redundant": False, "unique": True, "synergy": True}  # does fusion help?
DIALS = {
    "redundant": Dials(0.3, 0.3, 0.3, structure="redundant"),
    "unique": Dials(1, 0.3, 0.3),
    "synergy": Dials(1, 0, 0, structure="synergy"),
}
SPLITS = {"train": 360, "val": 90, "test": 300}


def split_column(sizes):
    return [name for name, size in sizes.items() for _ in range(size)]


def quiet(line):
    pass


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("structure", TRUTH)
def test_on_captions_and_voices_the_verdict_is_what_the_dials_make_true(structure, seed, tmp_path):
    world = pets.draw(sum(SPLITS.values()), seed, DIALS[structure], ("text", "audio"))
    short = [clip[: pets.RATE // 3] for clip in world.audio]  # for speed
    pets.write(world._replace(audio=short), tmp_path)
    with open(tmp_path / "manifest.csv", encoding="utf-8") as file:
        rows = [
            row | {"split": split} for row, split in zip(csv.DictReader(file), split_column(SPLITS))
        ]
    with open(tmp_path / "manifest.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    recipe = Recipe(
        tmp_path / "manifest.csv", use=("text", "audio"), epochs=12, device="cpu", log=quiet
    )
    report = make_report(recipe, seeds=(0, 1))
    print(report)
    assert_true(report, structure)


def assert_true(report, structure):
    """Where fusion cannot help, no verdict says that it does; rows and seeds decide the rest."""
    verdict = report.verdict
    if TRUTH[structure]:
        assert (verdict.kind, verdict.interacts) == ("helps", structure == "synergy"), verdict.text
    else:
        assert verdict.kind in ("does not help", "cannot tell"), verdict.text
        assert verdict.use == verdict.best
        excluded = verdict.gain.points + 2 * verdict.smallest / POWER < MATTERS
        assert (verdict.kind == "does not help") == excluded
        assert abs(verdict.gain.points) <= 2 * verdict.gain.error


# The verdict, from made-up answers


def answers(rows, seeds, accuracy, seed=0, noise=0.0):
    """(S, N) of 0 and 1: the same rows right for each seed, but for a share ``noise`` of them."""
    random = np.random.default_rng(seed)
    right = np.tile(np.arange(rows) < accuracy * rows, (seeds, 1)).astype(float)
    return torch.from_numpy(np.abs(right - (random.random((seeds, rows)) < noise)))


def halves(rows):
    """Two classes, turn by turn, half of the training rows each."""
    return Scale(torch.arange(rows) % 2, torch.tensor([0.5, 0.5]).log())


def saying(right, target):
    """Logits (S, N, 2) whose answer is right where ``right`` (S, N) is 1."""
    sign = (2 * right - 1) * (2 * target - 1)
    return torch.stack([-sign, sign], dim=-1) / 2


def verdict(
    together,
    image=0.7,
    text=0.6,
    additive=None,
    summed=None,
    average=None,
    rows=4000,
    noise=0.02,
    validation=None,
):
    scale = halves(rows)

    def made(accuracy, seed):
        return saying(answers(rows, 3, accuracy, seed, noise), scale.target)

    additive = together if additive is None else additive
    alone = {"image": made(image, 1), "text": made(text, 2)}
    average = max(image, text) if average is None else average
    scores = {
        "image": image,
        "text": text,
        "all together": together,
        "average": min(average, together),
    }
    return judge(
        alone,
        made(together, 3),
        made(average, 6),
        made(additive, 4),
        made(additive if summed is None else summed, 5),
        scale,
        scores | (validation or {}),
    )


def test_the_verdict_says_what_clear_differences_say():
    assert (verdict(0.8).kind, verdict(0.8).interacts) == ("helps", False)
    assert verdict(0.8, additive=0.7).interacts
    assert verdict(0.7).kind == "does not help"
    assert verdict(0.6).kind == "hurts" and "Use image alone" in verdict(0.6).text
    assert verdict(0.51, 0.5, 0.5, rows=400).kind == "nothing learned"
    assert verdict(0.5, 0.9).kind == "hurts"
    assert verdict(0.8).use == "all together" and {verdict(0.7).use, verdict(0.6).use} == {"image"}


def test_interaction_counts_only_where_fusion_helps():
    found = verdict(0.7, additive=0.5)
    assert found.interaction.clear and not found.interacts


def test_interaction_is_not_claimed_where_a_model_that_adds_up_does_as_well():
    found = verdict(0.8, additive=0.7, summed=0.8)
    assert found.kind == "helps" and found.interaction.clear and not found.interacts
    assert "adds up" in found.text


def test_the_average_of_the_answers_is_a_fusion_and_may_win():
    found = verdict(0.7, average=0.8, additive=0.6, validation={"average": 0.8})
    assert (found.kind, found.fusion, found.use) == ("helps", "average", "average")
    assert not found.interacts and "adds up" in found.text
    assert "Averaging the answers of image and text helps: +9" in found.text


def test_which_fusion_is_judged_is_chosen_on_validation_rows_not_where_it_looks_best():
    found = verdict(0.7, average=0.8, validation={"average": 0.6, "all together": 0.65})
    assert found.fusion == "all together" and found.kind == "does not help" and found.use == "image"


def test_little_evidence_is_not_evidence_of_nothing():
    """No difference: few rows or noisy seeds cannot tell, many quiet ones exclude a gain."""
    few, noisy = verdict(0.7, rows=178, noise=0.1), verdict(0.7, rows=400, noise=0.3)
    many = verdict(0.7, rows=20_000)
    assert few.kind == noisy.kind == "cannot tell" and many.kind == "does not help"
    for found in (few, noisy):
        assert f"only a gain above {found.smallest:.1f} points would" in found.text
        assert found.use == "image"
    assert few.smallest > many.smallest and f"{MATTERS:g} points or more is excluded" in many.text


def test_does_not_help_is_said_only_where_a_gain_that_matters_is_excluded():
    for rows in (50, 200, 1000, 4000, 20_000):
        for together in (0.69, 0.7, 0.705, 0.71):
            found = verdict(together, rows=rows, noise=0.1)
            high = found.gain.points + 2 * found.smallest / POWER
            assert found.kind in ("does not help", "cannot tell", "hurts", "helps")
            assert found.kind != "does not help" or high < MATTERS
            assert found.kind != "cannot tell" or high >= MATTERS


def test_answers_that_never_differ_on_few_rows_exclude_nothing():
    """Up to three rows in N may differ where none of N did."""
    scale = halves(40)
    same = saying(answers(40, 2, 0.8), scale.target)
    scores = {"a": 1, "b": 0, "all together": 1, "average": 0}
    found = judge({"a": same, "b": same}, same, same, same, same, scale, scores)
    assert found.gain == (0, 0) and found.kind == "cannot tell" and found.smallest > 300 / 40
    assert verdict(0.7, noise=0.0, rows=1000).kind == "does not help"


def test_the_smallest_gain_that_is_named_shows_about_four_times_in_five():
    """Where the true difference is ``POWER`` errors, it is clear in about 80% of test sets."""
    random, rows, worse = np.random.default_rng(0), 500, 0.05
    better = next(
        p
        for p in np.arange(worse, 0.3, 1e-4)
        if p - worse >= POWER * ((p + worse - (p - worse) ** 2) / rows) ** 0.5
    )
    shown = 0
    for _ in range(500):
        draw = torch.from_numpy(random.random((1, rows)))
        shown += gap((draw < better).double(), (draw > 1 - worse).double()).clear
    assert 0.72 < shown / 500 < 0.88


# Rare classes


def evidence(rows=1500, rare=0.1, strength=1.13, seed=0, seeds=3, noise=0.2):
    """Two modalities that show a rare class, AUROC 0.8 each, 0.87 together: log ratios (S, N)."""
    random = np.random.default_rng(seed)
    target = (random.random(rows) < rare).astype(int)
    found = {
        name: strength * (random.normal(size=rows) + strength * target) - strength**2 / 2
        for name in ("image", "text")
    }
    found = {
        name: torch.from_numpy(ratio + noise * random.normal(size=(seeds, rows)))
        for name, ratio in found.items()
    }
    return found, torch.from_numpy(target), torch.tensor([1 - rare, rare]).log()


def of(ratio, prior):
    """Log likelihood ratios (S, N) of two classes -> logits (S, N, 2), given ``prior`` (2,)."""
    return torch.stack([torch.zeros_like(ratio), ratio], dim=-1) + prior


def judged(found, target, prior, assumed):
    alone = {name: of(ratio, assumed) for name, ratio in found.items()}
    total = of(sum(found.values()), assumed)
    average = torch.stack(list(alone.values())).softmax(dim=-1).mean(dim=0).log()
    scores = {"image": 0.7, "text": 0.69, "all together": 0.8, "average": 0.7}
    return judge(alone, total, average, total, total, Scale(target, prior), scores)


@pytest.mark.parametrize("assumed", ["the world's", "balanced"])
def test_what_tells_a_rare_class_has_learned_though_the_most_frequent_class_is_right_more_often(
    assumed,
):
    """Nine to one, AUROC 0.87, trained with class weights: the verdict was "nothing learned"."""
    from mmlib.metrics.scores import accuracy, auroc

    found, target, prior = evidence()
    logits = of(sum(found.values()), prior if assumed == "the world's" else torch.zeros(2))
    assert auroc(logits[0], target) > 0.85
    if assumed == "balanced":
        assert accuracy(logits[0], target) < accuracy(prior.expand(len(target), 2), target) - 0.05
    verdict = judged(found, target, prior, prior if assumed == "the world's" else torch.zeros(2))
    assert verdict.kind != "nothing learned" and verdict.score == "balanced accuracy"
    assert "points of balanced accuracy" in verdict.text
    assert assumed == "balanced" or verdict.kind == "helps"


@pytest.mark.parametrize("rare", [0.5, 0.1, 0.03])
@pytest.mark.parametrize("truth", ["both tell", "one tells", "neither tells"])
def test_rare_or_not_the_verdict_is_what_was_put_in(rare, truth):
    found, target, prior = evidence(8000, rare, seed=3)
    silent = {"both tell": (), "one tells": ("text",), "neither tells": ("image", "text")}[truth]
    for name in silent:
        generator, ratio = torch.Generator().manual_seed(len(name)), found[name]
        found[name] = 0.05 * torch.randn(ratio.shape, generator=generator, dtype=ratio.dtype)
    kinds = {
        "both tell": {"helps"},
        "one tells": {"does not help", "cannot tell"},
        "neither tells": {"nothing learned"},
    }
    verdict = judged(found, target, prior, prior)
    assert verdict.kind in kinds[truth], verdict.text
    assert verdict.score == ("accuracy" if rare == 0.5 else "balanced accuracy")


def test_the_score_is_that_of_scikit_learn_and_each_class_counts_alike():
    from sklearn.metrics import balanced_accuracy_score, log_loss

    found, target, prior = evidence(300, 0.2, seeds=1)
    scale, logits = Scale(target, prior), of(found["image"], prior)
    assert scale.score(logits) == pytest.approx(
        balanced_accuracy_score(target, (found["image"][0] > 0).long())
    )
    assert float(scale.losses(logits).mean()) == pytest.approx(
        log_loss(target, logits[0].softmax(dim=-1))
    )
    assert scale.score(prior.expand(1, 300, 2)) == pytest.approx(0.5)
    even = Scale(target, torch.tensor([0.4, 0.6]).log())
    assert even.name == "accuracy" and even.score(logits) == pytest.approx(
        float((logits[0].argmax(-1) == target).double().mean())
    )


def test_the_error_of_balanced_accuracy_is_honest():
    """Over many test sets, the error that each names is about how much the differences vary."""
    points, errors = [], []
    for seed in range(150):
        found, target, prior = evidence(400, 0.1, seed=seed, seeds=1)
        both, one = of(sum(found.values()), prior), of(found["image"], prior)
        gain = Scale(target, prior).gain(both, one)
        points.append(gain.points)
        errors.append(gain.error)
    assert 0.8 < np.mean(errors) / np.std(points) < 1.4


def test_what_never_changes_the_most_probable_class_may_still_have_been_learned():
    """Accuracy cannot see it, log loss can: the rarer class has 0.32 or 0.48, never the most."""
    random, rows = np.random.default_rng(0), 2000
    chance = np.where(random.random(rows) < 0.5, 0.48, 0.32)
    target = torch.from_numpy((random.random(rows) < chance).astype(int))
    scale, chance = Scale(target, torch.tensor([0.6, 0.4]).log()), torch.from_numpy(chance)
    logits = torch.stack([1 - chance, chance], dim=-1).log()[None]
    blind = scale.prior.expand(1, rows, 2)
    assert scale.name == "accuracy" and scale.score(logits) == scale.score(blind)
    assert scale.learned(logits)
    assert not scale.learned(logits.flip(1)) and not scale.learned(blind)


def test_better_probabilities_are_named_where_the_score_cannot_see_them():
    """A second modality that makes sure what the first one guessed, and changes no answer."""
    scale = halves(4000)
    right = answers(4000, 2, 0.8, noise=0.05)
    weak, strong = 0.3 * saying(right, scale.target), saying(right, scale.target)
    scores = {"a": 1, "b": 0, "all together": 1, "average": 0}
    better = judge({"a": weak, "b": weak}, strong, weak, strong, strong, scale, scores)
    assert better.kind == "does not help" and "clearly better, however: log loss -0." in better.text
    worse = judge({"a": weak, "b": weak}, 40 * strong, weak, strong, strong, scale, scores)
    assert worse.kind == "does not help" and "clearly worse, however: log loss +" in worse.text
    same = judge({"a": weak, "b": weak}, weak, weak, weak, weak, scale, scores)
    assert "however" not in same.text


def test_being_far_too_sure_is_not_having_learned_nothing():
    scale = halves(400)
    sure = 50 * saying(answers(400, 2, 0.75), scale.target)
    blind = torch.zeros(1, 400, 2)
    assert scale.losses(sure).mean() > scale.losses(blind).mean()
    assert scale.learned(sure) and not scale.learned(blind)


def test_the_richer_model_is_taken_only_where_it_is_better_by_more_than_chance():
    simple, rich = answers(100, 2, 0.80, 1, 0.1), answers(100, 2, 0.95, 2, 0.1)
    assert worth_it(simple, rich) and not worth_it(rich, simple)
    assert not worth_it(simple, simple)
    assert not worth_it(simple, answers(100, 2, 0.81, 2, 0.1))


def test_the_best_modality_is_chosen_on_validation_rows_not_on_the_rows_it_is_compared_on():
    found = verdict(0.8, image=0.8, text=0.6, validation={"image": 0.6, "text": 0.7})
    assert found.best == "text" and found.kind == "helps"


def test_a_difference_that_few_rows_make_is_none():
    assert verdict(0.75, rows=2000).kind == "helps"
    assert verdict(0.75, rows=60).kind == "cannot tell"


def test_the_text_names_the_modality_and_the_numbers():
    found = verdict(0.8, additive=0.75)
    assert "(image)" in found.text and f"{found.gain.points:+.1f}" in found.text
    assert f"{found.interaction.points:.1f} ±" in found.text


def test_the_error_of_one_seed_is_that_of_a_paired_mean():
    random = np.random.default_rng(0)
    first, second = (
        torch.from_numpy((random.random((1, 300)) < share).astype(float)) for share in (0.8, 0.6)
    )
    difference = (first - second)[0].numpy()
    found = gap(first, second)
    assert found.points == pytest.approx(100 * difference.mean())
    assert found.error == pytest.approx(100 * difference.std(ddof=1) / 300**0.5)


def test_two_seeds_that_disagree_make_the_error_larger_than_two_that_agree():
    few, more, none = (torch.arange(200) < count for count in (20, 40, 0))
    agree = gap(torch.stack([few, few]), torch.zeros(2, 200))
    apart = gap(torch.stack([more, none]), torch.zeros(2, 200))
    assert agree.points == apart.points and apart.error > 2 * agree.error


def test_rows_of_one_group_count_as_one_draw():
    one = (torch.rand(1, 60, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    five, none = one.repeat_interleave(5, dim=1), torch.zeros(1, 300)
    single = gap(one, torch.zeros(1, 60))
    assert gap(five, none, np.arange(60).repeat(5)) == pytest.approx(single)
    assert gap(five, none).error < single.error / 2


def test_the_error_is_honest():
    """Of many pairs of equally good models few differ by over two errors; nor is it too large."""
    random = np.random.default_rng(0)

    def equally_good():
        return torch.from_numpy((random.random((2, 300)) < 0.7).astype(float))

    draws = [gap(equally_good(), equally_good()) for _ in range(400)]
    ratio = np.array([found.points / found.error for found in draws])
    assert np.mean(np.abs(ratio) > 2) < 0.06 and ratio.std() > 0.5


# The additive part


class Made(nn.Module):
    """A model of made features: it keeps ``pooled`` side by side; its head is any function."""

    kind = "classes"

    def __init__(self, rule):
        super().__init__()
        self.backbone, self.rule = SimpleNamespace(fusion=self.fusion), rule

    def fusion(self, features):
        pooled = torch.cat([features[name].pooled for name in sorted(features)], dim=1)
        return from_pooled(pooled, torch.ones(len(pooled), dtype=torch.bool))

    def head(self, features, batch):
        return Output(self.rule(features.pooled), None, None)


def made(modalities, rows, width=2, seed=0):
    generator, there = torch.Generator().manual_seed(seed), torch.ones(rows, dtype=torch.bool)
    features = {
        name: from_pooled(torch.randn(rows, width, generator=generator), there)
        for name in modalities
    }
    return Encoded(features, torch.arange(rows))


def tangled(x):
    """Three logits in which all numbers (N, M * 2) of all modalities meet."""
    return torch.stack(
        [x.prod(dim=1), (x.sum(dim=1)).sin(), x[:, :1].mul(x[:, 1:]).sum(dim=1).tanh()], dim=1
    )


def additive(x):
    return torch.stack([x.sin().sum(dim=1), (x**2).sum(dim=1)], dim=1)


def test_the_projection_of_two_modalities_equals_brute_force():
    encoded = made("ab", 23)
    a, b = (encoded.features[name].pooled for name in "ab")
    rows = [torch.stack([tangled(torch.cat([x, y])[None])[0] for y in b]) for x in a]
    table = torch.stack(rows).double()  # (N, N, K)
    expected = table.mean(dim=1) + table.mean(dim=0) - table.mean(dim=(0, 1))
    found = project(Made(tangled), encoded)
    assert found.combinations == 23
    torch.testing.assert_close(found.logits.double(), expected, atol=1e-5, rtol=0)


def test_the_projection_of_three_modalities_comes_close_to_brute_force():
    encoded = made("abc", 20)
    rule = lambda x: torch.tanh(x[:, :2] * x[:, 2:4] + x[:, 4:] * x[:, :2] + x[:, 4:])  # noqa: E731
    parts = [encoded.features[name].pooled for name in "abc"]
    index = torch.cartesian_prod(*[torch.arange(20)] * 3)
    table = (
        rule(torch.cat([part[i] for part, i in zip(parts, index.T)], dim=1))
        .reshape(20, 20, 20, 2)
        .double()
    )
    expected = (
        table.mean(dim=(1, 2))
        + table.mean(dim=(0, 2))
        + table.mean(dim=(0, 1))
        - 2 * table.mean(dim=(0, 1, 2))
    )
    found = torch.stack(
        [project(Made(rule), encoded, seed).logits.double() for seed in range(40)]
    ).mean(dim=0)
    assert (found - expected).abs().max() < 0.1 * (table - table.mean(dim=(0, 1, 2))).abs().max()


@pytest.mark.parametrize(
    "modalities, evaluations", [("ab", 500_000), ("ab", 200), ("abc", 500_000), ("abcd", 300)]
)
def test_a_model_that_adds_up_is_its_own_projection_whatever_was_drawn(modalities, evaluations):
    encoded = made(modalities, 30)
    found = project(Made(additive), encoded, evaluations=evaluations)
    whole = additive(torch.cat([encoded.features[name].pooled for name in modalities], dim=1))
    assert found.combinations == min(30, max(1, evaluations // (30 * len(modalities))))
    torch.testing.assert_close(found.logits, whole, atol=1e-4, rtol=0)


def test_the_projection_of_an_exclusive_or_is_chance():
    bit = torch.tensor([0.0, 1.0])
    bits = torch.cartesian_prod(bit, bit).repeat(25, 1)  # (100, 2)
    there = torch.ones(100, dtype=torch.bool)
    features = {name: from_pooled(bits[:, [place]], there) for place, name in enumerate("ab")}
    encoded = Encoded(features, torch.arange(100))

    def rule(x):
        return torch.stack([torch.zeros(len(x)), 4.0 * (x[:, 0] != x[:, 1]) - 2], dim=1)

    logits = project(Made(rule), encoded).logits
    torch.testing.assert_close(logits, torch.zeros_like(logits), atol=1e-5, rtol=0)


def test_a_shuffled_modality_comes_from_another_sample_and_the_others_stay():
    encoded = made("ab", 12, width=1)
    found = shuffle(Made(lambda x: x), encoded, "a")  # (draws, N, 2)
    a, b = (encoded.features[name].pooled[:, 0] for name in "ab")
    assert found.shape == (SHUFFLES, 12, 2) and not (found[..., 0] == a).any()
    assert (found[..., 0].sort(dim=1).values == a.sort().values).all()
    assert (found[..., 1] == b).all()


# A whole report


def in_words(structure, seed, train=200, val=60, test=300):
    """A table of pets with one word for each modality, which trains in a second.

    The dials of the world still make the truth.
    """
    world = pets.draw(train + val + test, seed, DIALS[structure], modalities=())
    names = np.array([["meow", "purr", "hiss", "mew"], ["woof", "bark", "growl", "howl"]])
    random = np.random.default_rng(seed)
    words = {
        modality: np.where(
            world.tells[modality],
            names[world.shown[modality], random.integers(4, size=len(world.label))],
            "quiet",
        )
        for modality in ("text", "audio")
    }
    return pd.DataFrame(
        {
            "said": words["text"],
            "heard": words["audio"],
            "label": np.array(pets.CLASSES)[world.label],
            "split": split_column({"train": train, "val": val, "test": test}),
        }
    )


WORDS = Recipe(None, columns={"text": "said,heard"}, epochs=6, device="cpu", log=quiet)


@pytest.fixture(scope="module")
def report():
    """Of an exclusive-or."""
    return make_report(
        replace(WORDS, manifest=in_words("synergy", 0, 120, 30, 120), epochs=10), seeds=(0, 1)
    )


def test_the_verdict_on_an_exclusive_or_is_that_fusion_helps_by_interaction(report):
    assert_true(report, "synergy")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("structure", TRUTH)
def test_in_words_the_verdict_is_what_the_dials_make_true(structure, seed):
    assert_true(
        make_report(replace(WORDS, manifest=in_words(structure, seed)), seeds=(0, 1)), structure
    )


def test_the_sum_is_its_own_additive_part_and_the_exclusive_or_has_none(report):
    summed = next(found for found in report.answers if found.name == "all, sum")
    torch.testing.assert_close(summed.additive, summed.logits, atol=1e-3, rtol=0)
    accuracy = {row["model"]: row["accuracy"] for row in report.table}
    assert accuracy["all, lowrank"] > 0.9 and accuracy["additive part of all, lowrank"] < 0.75
    assert report.chosen == "all, lowrank"


def test_the_table_has_every_model_and_scores_by_scikit_learn(report):
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    assert [row["model"] for row in report.table] == [
        "most frequent class",
        "heard",
        "said",
        "all, sum",
        "all, lowrank",
        "average of the answers",
        f"additive part of {report.chosen}",
        *("classical, heard", "classical, said", "classical, average"),
    ]
    target = report.target.numpy()
    for row, found in zip(report.table, report.answers):
        guesses = found.logits.argmax(dim=-1).numpy()
        shares = found.logits.softmax(dim=-1)[..., 1].numpy()
        scores = [
            (
                accuracy_score(target, guess),
                f1_score(target, guess, average="macro"),
                roc_auc_score(target, share),
            )
            for guess, share in zip(guesses, shares)
        ]
        assert [row["accuracy"], row["macro_f1"], row["auroc"]] == pytest.approx(
            np.mean(scores, axis=0)
        ), row["model"]
    assert set(report.shuffled) == {"said", "heard"} and max(report.shuffled.values()) < 0.65


def test_the_average_leaves_out_modalities_that_are_missing():
    logits = [
        torch.tensor([[[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]]),
        torch.tensor([[[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]]),
    ]
    there = torch.tensor([[True, True, False], [True, False, False]])
    shares = torch.tensor([0.3, 0.7])
    found = average(logits, there, shares.log()).exp()[0]
    first, second = (one[0, 0].softmax(0) for one in logits)
    torch.testing.assert_close(found, torch.stack([(first + second) / 2, first, shares]))


def test_a_report_uses_no_old_name():
    """Each training was asked for task="classes", and warned that this is an old name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        make_report(
            replace(WORDS, manifest=in_words("unique", 0, 40, 20, 20), epochs=1), seeds=(0,)
        )


def test_the_plan_comes_first_then_a_line_per_training():
    lines = []
    make_report(
        replace(WORDS, manifest=in_words("unique", 0, 40, 20, 20), epochs=1, log=lines.append),
        seeds=(3,),
    )
    plan = next(i for i, line in enumerate(lines) if line.startswith("plan: 4 trainings"))
    numbers = [line.split()[0] for line in lines[plan + 1 : -1]]
    assert numbers == ["1/4", "2/4", "3/4", "4/4"] and "seed 3" in lines[plan + 1]


def test_the_plan_is_true_also_where_the_least_epochs_overrule_the_budget(monkeypatch):
    """It said "at most 0.09 minutes each" of trainings of 5 epochs that take 0.24."""
    from mmlib.recipes.plan import BUDGET, DIM
    from mmlib.report import make as module

    budgets, plans = (1e-7, 6e-4, 0.01, 10.0), []
    monkeypatch.setattr(module, "_train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    recipe = replace(WORDS, manifest=in_words("unique", 0, 40, 20, 20), epochs=None)
    for budget in budgets:
        lines = []
        with pytest.raises(KeyboardInterrupt):
            make_report(replace(recipe, budget=budget, log=lines.append), seeds=(0, 1))
        plans.append(next(line for line in lines if line.startswith("plan: ")))
    minutes = [float(line.split("about ")[1].split()[0]) for line in plans]
    assert not any("at most" in line for line in plans)
    overruled = ["overrules the budget for heard, said, heard + said" in line for line in plans]
    assert overruled == [True, False, False, False]
    work = 40 * 20 * 6 * DIM**2  # an epoch of one modality; six of them in the four trainings
    assert minutes[0] == pytest.approx(2 * 6 * work * 5 * 3 / BUDGET, rel=0.05)
    assert " 5 epochs each" in plans[0]
    assert minutes[0] < minutes[1] <= minutes[3] and " 60 epochs each" in plans[3]


def test_a_training_that_learned_nothing_and_one_that_ended_too_soon_are_named(tmp_path):
    frame = in_words("unique", 0, 60, 30, 60)
    frame["heard"] = "quiet"
    found = make_report(replace(WORDS, manifest=frame, epochs=2), seeds=(0, 1))
    notes = "\n".join(found.notes)
    nothing = "heard learned nothing in 2 of 2 seeds: raise --epochs, unless it holds no evidence"
    assert f"{nothing} by itself." in notes
    assert "Still improving when the training ended: " in notes
    assert "said (2 of 2 seeds)" in notes and "Raise --epochs." in notes
    assert all(note in found.plain()["notes"] for note in found.notes)


def test_only_the_models_that_add_up_train_with_modality_dropout(monkeypatch):
    trained, train = [], make.train
    monkeypatch.setattr(make, "train", lambda recipe: trained.append(recipe) or train(recipe))
    make_report(replace(WORDS, manifest=in_words("unique", 0, 40, 20, 20), epochs=1), seeds=(0,))
    dropout = {(recipe.use, recipe.fusion): recipe.augment.modality_dropout for recipe in trained}
    usual, both = WORDS.augment.modality_dropout, ("heard", "said")
    assert usual > 0 and dropout == {
        **{(("heard",), "sum"): usual, (("said",), "sum"): usual},
        **{(both, "sum"): usual, (both, "lowrank"): 0.0},
    }


def test_still_improving_is_a_loss_that_falls_to_the_end_not_one_that_has_come_to_rest():
    def history(losses):
        return [{"val_loss": float(loss)} for loss in losses]

    steps = np.arange(20)
    assert still_improving(history(1 - 0.03 * steps)) and still_improving(history([0.7, 0.6]))
    assert not still_improving(history(np.exp(-steps)))
    assert not still_improving(history(0.5 + 0.01 * np.abs(steps - 12)))
    assert not still_improving(history([0.7, 0.5, 0.45, 0.44, 0.439]))


def test_only_the_seed_that_failed_is_counted():
    scale = halves(200)
    learned, failed = saying(answers(200, 1, 0.9), scale.target), torch.zeros(1, 200, 2)
    trained = [
        Answers("image", ("image",), torch.cat([learned, failed])),
        Answers("text", ("text",), learned),
    ]
    notes = too_short(SimpleNamespace(over_budget="", option="--budget"), trained, scale)
    assert notes == ["image learned nothing in 1 of 2 seeds: raise --budget."]


def test_without_test_rows_the_validation_rows_are_compared_and_that_is_said():
    report = make_report(
        replace(WORDS, manifest=in_words("unique", 0, 40, 20, 0), epochs=1), seeds=(0,)
    )
    notes = " ".join(report.notes)
    assert len(report.target) == 20 and "no test rows" in notes and "One seed" in notes


@pytest.mark.parametrize(
    "change, seeds, message",
    [
        ({"use": ("said",)}, (0,), "only modality is 'said'"),
        ({"target": "number"}, (0,), "'number' holds numbers.*--task classification\\)"),
        ({"target": "one"}, (0,), "all test rows are of class 'a'"),
        ({}, (), "seeds is \\[\\]"),
        ({}, (1, 1), "each once"),
    ],
)
def test_what_cannot_be_compared_is_said_before_any_training(change, seeds, message):
    frame = in_words("unique", 0, 40, 10, 10)
    frame["number"] = [f"{i / 7:.3f}" for i in range(60)]
    frame["one"] = ["ab"[i % 2] if i < 50 else "a" for i in range(60)]
    with pytest.raises(ValueError, match=message):
        make_report(replace(WORDS, manifest=frame, **change), seeds)


# The page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Report, page and JSON of a tiny world of pets, by owners.

    One image is broken, the words look like HTML, and one voice is long.
    """
    import soundfile

    folder = tmp_path_factory.mktemp("page")
    pets.write(pets.draw(40, 0, Dials(missing_image=0.5)), folder)
    frame = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False)
    frame["text"] = "<script>alert(1)</script> & " + frame["text"]
    frame["label"] = "<" + frame["label"] + ">"
    frame["split"] = split_column({"train": 14, "val": 6, "test": 20})
    frame["owner"] = [f"owner {i // 2}" if i % 5 else "" for i in range(40)]
    clips = [soundfile.read(folder / name)[0] for name in frame["audio"][20:30]]
    soundfile.write(folder / frame["audio"][25], np.concatenate(clips), 16_000)  # two windows
    broken = next(name for name in frame["image"][22:] if name)
    (folder / broken).write_bytes(b"no image")
    frame.to_csv(folder / "manifest.csv", index=False)
    options = {"group": "owner", "on_error": "skip", "epochs": 1, "device": "cpu", "log": quiet}
    report = make_report(Recipe(folder / "manifest.csv", **options), seeds=(0,))
    html = report.write(folder / "report").read_text(encoding="utf-8")
    return report, html, json.loads((folder / "report" / "report.json").read_text())


def test_the_page_is_well_formed_escaped_and_needs_nothing_else(page):
    import re
    import xml.etree.ElementTree as ElementTree

    report, html, _ = page
    assert "<script" not in html and "&lt;script&gt;" in html and "&lt;cat&gt;" in html
    assert not re.findall(r"(?:src|href)=\"(?!data:)", html)
    assert "http" not in html and "@import" not in html
    body = html[html.index("<body>") : html.index("</html>")].replace(" controls", "")
    assert ElementTree.fromstring(re.sub(r"<img([^>]*)>", r"<img\1/>", body)) is not None
    assert all(row["model"].replace("'", "&#x27;") in html for row in report.table)
    assert "points is excluded" in html and f"{report.verdict.smallest:.1f} points" in html


def test_the_page_is_made_of_plain_numbers_alone(page):
    """The JSON, read again, makes the same page; and nothing of report is imported there."""
    import ast
    from pathlib import Path

    from mmlib.report import page as report_page

    _, html, found = page
    assert report_page.page(found) == html
    imported = [
        getattr(node, "module", None) or ""
        for node in ast.walk(ast.parse(Path(report_page.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    ]
    assert imported and not any(
        name.startswith(("mmlib.report", "mmlib.recipes", "torch")) for name in imported
    )


def test_every_row_of_the_report_can_be_computed_again_from_the_json(page):
    report, _, found = page
    target, scores = np.array(found["target"]), {}
    for row in found["table"]:
        answers = found["answers"][row["model"]]
        scores[row["model"]] = np.array(answers["given"]) == target
        assert scores[row["model"]].mean() == pytest.approx(row["accuracy"])
        assert -np.log(answers["probability"]).mean() == pytest.approx(row["log_loss"], abs=1e-3)
    assert len(found["rows"]) == len(target) == len(set(found["rows"]))
    assert found["rows"][0].startswith("line ")
    assert found["verdict"]["score"] == "accuracy"
    for row in found["table"]:
        if row["gain"]:
            gain = 100 * (scores[row["model"]].mean() - scores[found["verdict"]["best"]].mean())
            assert row["gain"]["points"] == pytest.approx(gain) and row["gain"]["error"] >= 0
    assert any(row["gain"] and row["model"] == "average of the answers" for row in found["table"])


def test_the_examples_show_image_words_and_sound_as_they_are(page):
    import base64
    import io
    import re

    import soundfile
    from PIL import Image

    report, html, _ = page
    assert report.mistakes
    images = re.findall(r"data:image/png;base64,([^\"]+)", html)
    sounds = re.findall(r"data:audio/flac;base64,([^\"]+)", html)
    shown = [mistake["modalities"] for mistake in report.mistakes]
    with_image = [modalities["image"][1] for modalities in shown if "image" in modalities]
    with_audio = [modalities["audio"][1] for modalities in shown if "audio" in modalities]
    assert len(images) == len(with_image) < len(sounds) == len(with_audio)
    shown_image = Image.open(io.BytesIO(base64.b64decode(images[0])))
    original = Image.open(with_image[0]).convert("RGB")
    assert (np.asarray(shown_image) == np.asarray(original)).all()
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[0])))
    whole = soundfile.read(with_audio[0])[0]
    np.testing.assert_allclose(samples, whole[: 10 * rate], atol=1e-4)
    assert rate == 16_000


def test_all_models_are_compared_on_the_rows_that_all_can_read(page):
    report = page[0]
    assert len(report.target) == 19
    assert {answers.logits.shape[1] for answers in report.answers} == {19}


def test_the_mistakes_are_wrong_and_the_surest_first(page):
    report = page[0]
    assert all(mistake["true"] != mistake["given"] for mistake in report.mistakes)
    sure = [mistake["probability"] for mistake in report.mistakes]
    assert sure == sorted(sure, reverse=True)


def test_the_json_says_the_same(page):
    report, _, found = page
    verdict = found["verdict"]
    assert verdict["text"] == report.verdict.text
    assert verdict["gain"]["points"] == report.verdict.gain.points
    assert verdict["interacts"] == report.verdict.interacts
    assert [row["accuracy"] for row in found["table"]] == [row["accuracy"] for row in report.table]
    assert found["classes"] == ["<cat>", "<dog>"]


def test_the_reliability_curve_makes_the_calibration_error():
    from mmlib.metrics.calibration import calibration_error

    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1, 500, 3, generator=generator)
    target = torch.randint(3, (500,), generator=generator)
    points = reliability(logits, target, 10)
    assert sum(count for *_, count in points) == 500
    error = sum(count * abs(x - y) for x, y, count in points) / 500
    assert error == pytest.approx(calibration_error(logits[0], target, 10))
