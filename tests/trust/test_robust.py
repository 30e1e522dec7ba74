"""Corrupted modalities: what each fault changes and leaves alone, the same for every model.

Also what curves and subsets count.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmlib.core import Output, check_batch
from mmlib.data.text import UNKNOWN
from mmlib.trust.robust import FAULTS, LEVELS, corrupt, curves, kind_of, subsets

MODALITIES = {"photo": "image", "words": "text", "voice": "audio"}


def batch(rows=24, seed=0):
    """Ragged modalities of all kinds, under names of their own.

    Some rows lack a modality.
    """
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(rows, 3, generator=generator) > 0.2
    lengths = [
        torch.full((rows,), 16),
        *(torch.randint(*ends, (rows,), generator=generator) for ends in ((3, 11), (50, 201))),
    ]
    photo, voice = (
        torch.randn(rows, 3, 16, 16, generator=generator),
        0.3 * torch.randn(rows, 200, generator=generator),
    )
    words = torch.randint(4, 50, (rows, 10), generator=generator)
    masks = [
        (torch.arange(x.shape[-1]) < length[:, None]) & here[:, None]
        for x, length, here in zip((photo, words, voice), lengths, there.T, strict=True)
    ]
    out = {"row": torch.arange(rows) * 3, "target": torch.randint(2, (rows,), generator=generator)}
    for name, x, mask in zip(MODALITIES, (photo, words, voice), masks, strict=True):
        out |= {
            name: x.masked_fill(~mask.reshape(rows, *[1] * (x.ndim - 2), -1), 0),
            f"{name}_mask": mask,
        }
    return out


def part(batch, rows):
    return {key: value[rows] for key, value in batch.items()}


CASES = [(modality, fault) for modality in MODALITIES for fault in FAULTS]


@pytest.mark.parametrize("modality, fault", CASES)
def test_level_0_changes_nothing_bit_for_bit(modality, fault):
    before, after = batch(), corrupt(batch(), modality, fault, 0)
    assert before.keys() == after.keys() and all(
        torch.equal(before[key], after[key]) for key in before
    )


@pytest.mark.parametrize("modality, fault", CASES)
def test_only_the_named_modality_changes_the_contract_holds_and_the_input_stays(modality, fault):
    given, same = batch(), batch()
    after = corrupt(given, modality, fault, 0.5)
    assert all(torch.equal(given[key], same[key]) for key in same)
    changed = {key for key in same if not torch.equal(after[key], same[key])}
    assert changed and changed <= {modality, f"{modality}_mask"}
    check_batch(after, MODALITIES)
    x, mask = after[modality], after[f"{modality}_mask"]
    assert not x.masked_select(
        ~mask.reshape(len(x), *[1] * (x.ndim - 2), -1)
    ).any()  # zero where there is nothing
    assert not (mask & ~same[f"{modality}_mask"]).any()  # nothing appears


@pytest.mark.parametrize("modality, fault", CASES)
def test_a_rows_changes_depend_on_its_number_and_the_seed_only(modality, fault):
    whole, rows = corrupt(batch(), modality, fault, 0.5), torch.tensor([7, 3, 20])
    alone = corrupt(part(batch(), rows), modality, fault, 0.5)
    assert torch.equal(alone[modality], whole[modality][rows]) and torch.equal(
        alone[f"{modality}_mask"], whole[f"{modality}_mask"][rows]
    )
    other = corrupt(batch(), modality, fault, 0.5, seed=1)
    assert not torch.equal(other[modality], whole[modality])


@pytest.mark.parametrize(
    "modality, fault", [case for case in CASES if case[0] != "photo" or case[1] != "occlusion"]
)
def test_what_is_taken_at_one_level_is_taken_at_the_next(modality, fault):
    less, more = (corrupt(batch(), modality, fault, level) for level in (0.3, 0.7))
    if fault == "missing" or (modality, fault) == ("words", "occlusion"):
        assert not (more[f"{modality}_mask"] & ~less[f"{modality}_mask"]).any()
    elif modality == "words":
        assert not ((less["words"] == UNKNOWN) & (more["words"] != UNKNOWN)).any()
    elif fault == "occlusion":
        assert not ((less["voice"] == 0) & (more["voice"] != 0)).any()
    else:  # the same noise, louder
        clean = batch()[modality]
        torch.testing.assert_close(
            (more[modality] - clean) / 0.7, (less[modality] - clean) / 0.3, atol=1e-5, rtol=1e-4
        )


def test_the_noise_has_the_deviation_asked_for():
    clean = batch(200)
    photo = (corrupt(clean, "photo", "noise", 0.5)["photo"] - clean["photo"])[
        clean["photo_mask"][:, 0]
    ]
    assert float(photo.std()) == pytest.approx(0.5, rel=0.02) and abs(float(photo.mean())) < 0.01
    wave, mask = (
        corrupt(clean, "voice", "noise", 0.1)["voice"] - clean["voice"],
        clean["voice_mask"],
    )
    for i in mask[:, 0].nonzero()[:5, 0]:
        ratio = wave[i][mask[i]].square().mean() / clean["voice"][i][mask[i]].square().mean()
        assert float(10 * ratio.log10()) == pytest.approx(-20, abs=2)
    words = clean["words_mask"]
    assert float(
        (corrupt(clean, "words", "noise", 0.3)["words"] == UNKNOWN)[words].double().mean()
    ) == pytest.approx(0.3, abs=0.04)


def test_occlusion_takes_the_share_asked_for_in_one_piece():
    clean = batch(100)
    hole = (corrupt(clean, "photo", "occlusion", 0.25)["photo"] == 0)[
        clean["photo_mask"][:, 0]
    ].all(dim=1)  # (B, 16, 16)
    assert (hole.sum(dim=(1, 2)) == 64).all() and (hole.any(dim=1).sum(dim=1) == 8).all()
    assert len({tuple(map(int, one.nonzero()[0])) for one in hole}) > 10  # not always in one place
    silent = (corrupt(clean, "voice", "occlusion", 0.5)["voice"] == 0) & clean["voice_mask"]
    lengths = clean["voice_mask"].sum(dim=1)
    assert ((silent.sum(dim=1) - 0.5 * lengths).abs() <= 1).all()
    assert (silent.long().diff(dim=1).abs().sum(dim=1) <= 2).all()
    cut = corrupt(clean, "words", "occlusion", 0.5)
    left, before = cut["words_mask"].sum(dim=1), clean["words_mask"].sum(dim=1)
    assert ((left - 0.5 * before).abs() <= 0.5).all()
    for i in range(100):  # what is left stands in its order: a beginning and an end of the text
        text, rest = clean["words"][i][: before[i]].tolist(), cut["words"][i][: left[i]].tolist()
        assert any(
            text[:k] + text[k + len(text) - len(rest) :] == rest for k in range(len(rest) + 1)
        )


def test_level_1_takes_all_of_it():
    clean = batch()
    for modality in MODALITIES:
        assert not corrupt(clean, modality, "missing", 1)[f"{modality}_mask"].any()
    assert (
        not corrupt(clean, "photo", "occlusion", 1)["photo"].any()
        and not corrupt(clean, "voice", "occlusion", 1)["voice"].any()
    )
    assert not corrupt(clean, "words", "occlusion", 1)["words_mask"].any()
    noisy = corrupt(clean, "words", "noise", 1)
    assert torch.equal(noisy["words"], clean["words_mask"].long() * UNKNOWN)


def test_about_as_many_rows_go_missing_as_asked_for():
    there = batch(1000)["photo_mask"][:, 0]
    gone = there & ~corrupt(batch(1000), "photo", "missing", 0.25)["photo_mask"][:, 0]
    assert float(gone.sum() / there.sum()) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("photo", "blur", 0.5), "fault is 'blur'"),
        (("smell", "noise", 0.5), "no modality 'smell'"),
        (("photo", "occlusion", 1.5), "level 1.5, expected 0 to 1"),
        (("words", "noise", 2), "level 2, expected 0 to 1"),
        (("voice", "noise", -1), "level -1, expected 0 or more"),
        (("voice", "noise", float("nan")), "expected 0 or more"),
        (("row", "noise", 0.1), "neither images"),
    ],
)
def test_a_wrong_modality_fault_or_level_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt(batch() | {"row_mask": torch.ones(24, 1, dtype=torch.bool)}, *arguments)


class Seeing(nn.Module):
    """Answers 1 where the modalities it looks at are there, else 0."""

    def __init__(self, looks):
        super().__init__()
        self.backbone, self.looks = SimpleNamespace(encoders=MODALITIES), looks

    def forward(self, batch):
        there = torch.stack([batch[f"{modality}_mask"].any(dim=1) for modality in self.looks]).all(
            dim=0
        )
        return Output(torch.stack([~there, there], dim=1).float(), None, None)


def full(rows=40):
    whole = batch(400)
    every = (
        torch.stack([whole[f"{modality}_mask"][:, 0] for modality in MODALITIES])
        .all(dim=0)
        .nonzero()[:rows, 0]
    )
    return part(whole, every) | {"target": torch.ones(rows, dtype=torch.int64)}


def test_subsets_are_all_of_them_and_the_others_are_missing():
    found = subsets(Seeing(["photo", "voice"]), [full()], "cpu")
    assert len(found) == 7 and list(found)[-1] == ("photo", "voice", "words")
    assert found == {subset: float({"photo", "voice"} <= set(subset)) for subset in found}


def test_curves_have_a_row_per_model_modality_fault_and_level():
    models = {"sees": Seeing(["photo"]), "hears": Seeing(["voice"])}
    rows = curves(models, [full()], device="cpu")
    assert len(rows) == 2 * sum(
        len(LEVELS[fault][kind]) for fault in FAULTS for kind in MODALITIES.values()
    )
    score = {
        (row["model"], row["modality"], row["fault"], row["level"]): row["accuracy"] for row in rows
    }
    assert len(score) == len(rows)
    assert all(value == 1 for key, value in score.items() if key[3] == 0)
    assert score["sees", "photo", "missing", 1] == 0 == score["hears", "voice", "missing", 1]
    assert score["sees", "voice", "missing", 1] == 1 == score["hears", "photo", "missing", 1]
    assert 0 < score["sees", "photo", "missing", 0.75] < score["sees", "photo", "missing", 0.25] < 1


def test_batches_may_come_as_a_list_in_other_sizes_or_once_only():
    rows = full()
    whole = curves({"m": Seeing(["photo"])}, [rows], ["missing"], device="cpu")
    parts = [part(rows, torch.arange(start, min(start + 7, 40))) for start in range(0, 40, 7)]
    assert curves({"m": Seeing(["photo"])}, parts, ["missing"], device="cpu") == whole
    assert curves({"m": Seeing(["photo"])}, iter(parts), ["missing"], device="cpu") == whole
    assert curves({"m": Seeing(["photo"])}, parts, ["missing"], seed=1, device="cpu") != whole


def test_without_targets_or_with_an_unknown_fault_it_says_so():
    rows = full()
    with pytest.raises(ValueError, match="no 'target'"):
        subsets(
            Seeing(["photo"]),
            [{key: value for key, value in rows.items() if key != "target"}],
            "cpu",
        )
    with pytest.raises(ValueError, match="fault is 'fog'"):
        curves({"m": Seeing(["photo"])}, [rows], ["fog"], device="cpu")


def test_kinds_are_told_from_the_shape():
    assert {modality: kind_of([batch()], modality) for modality in MODALITIES} == MODALITIES


def test_the_figure_has_a_panel_per_fault_and_modality_and_a_line_per_model():
    from mmlib.plots.figures import robustness

    rows = curves({"sees": Seeing(["photo"]), "hears": Seeing(["voice"])}, [full()], device="cpu")
    panels = {axes.get_title(): axes for axes in robustness(rows).axes}
    assert set(panels) == {f"{modality}: {fault}" for modality in MODALITIES for fault in FAULTS}
    seen = {line.get_label(): line for line in panels["photo: missing"].lines}
    wanted = [
        (row["level"], row["accuracy"])
        for row in rows
        if (row["model"], row["modality"], row["fault"]) == ("sees", "photo", "missing")
    ]
    assert list(zip(*seen["sees"].get_data(), strict=True)) == wanted and list(
        seen["hears"].get_ydata()
    ) == [1.0] * len(wanted)


def test_a_trained_model_and_its_loader_score_at_level_0_as_after_training(tmp_path):
    from mmlib import Recipe, classify
    from mmlib.worlds import pets

    pets.write(pets.draw(40), tmp_path)
    run = classify(Recipe(tmp_path / "manifest.csv", epochs=1, device="cpu", log=lambda line: None))
    model, loader = run.predictor.model, run.data.loaders["test"]
    rows = curves(
        {"m": model},
        loader,
        levels={fault: dict.fromkeys(LEVELS[fault], (0, 1)) for fault in FAULTS},
        device="cpu",
    )
    assert {row["accuracy"] for row in rows if row["level"] == 0} == {
        run.metrics["test"]["accuracy"]
    }
    assert {(row["modality"], row["fault"]) for row in rows} == {
        (modality, fault) for modality in ("audio", "image", "text") for fault in FAULTS
    }
    assert (
        subsets(model, loader, "cpu")["audio", "image", "text"] == run.metrics["test"]["accuracy"]
    )
