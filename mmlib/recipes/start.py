"""A run that another training begins from: its weights, and how its data were prepared."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmlib.data import Manifest, Preprocessing
from mmlib.data.splits import choose_splits
from mmlib.data.trained import check_unseen, merge
from mmlib.models import Model
from mmlib.train import checkpoint

SAME = ("encoders", "fusion", "dim", "task")  # of the plans of both runs


@dataclass(frozen=True)
class Start:
    """The run in ``folder``; make it with ``read``."""

    folder: Path
    state: dict[str, Any]  # of its checkpoint
    preprocessing: Preprocessing  # the run's own, with the columns of the new manifest

    @classmethod
    def read(cls, folder: str | Path, manifest: Manifest) -> "Start":
        """Raises ValueError, saying what to do, where the new rows do not fit the run.

        Sizes, normalisation and vocabularies stay those of the run, because its weights mean
        nothing under others. So the modalities and the classes must be those of the run, and no row
        of a split that is scored may be one that the run was trained on.
        """
        state = checkpoint.load(folder, needed=("best", "extra"))
        if not {"spec", "preprocessing"} <= state["extra"].keys():
            raise ValueError(
                f"{folder} was made by fit(..., out=), which keeps the weights, not how the data "
                "were prepared: begin from it with fit(..., start=)"
            )
        fitted = Preprocessing.from_state(state["extra"]["preprocessing"])
        _check_modalities(folder, fitted, manifest)
        names = choose_splits(manifest)
        _check_classes(folder, fitted.target.classes, manifest, names)
        for split in set(names) - {"", "train"}:
            check_unseen(
                manifest, manifest.modalities, names, state["extra"].get("trained", {}), split
            )
        fitted = replace(
            fitted,
            modalities={
                name: fitted.modalities[name] if modality.kind == "table" else modality
                for name, modality in sorted(manifest.modalities.items())
            },  # a table keeps the order of its columns
            target_name=manifest.target_name,
            group=manifest.group_name,
            split_columns=manifest.split_columns,
        )
        return cls(Path(folder), state, fitted)

    def give(self, model: Model, spec: dict[str, Any]) -> None:
        """Copy the run's best weights into a model that was built from ``spec``.

        The prior of the new training rows stays; that of labels is the run's. Raises ValueError for
        a model of another plan.
        """
        before = self.state["extra"]["spec"]
        for name in SAME:
            if before[name] != spec[name]:
                raise ValueError(
                    f"{name} was {before[name]!r} in the run in {self.folder} and is now "
                    f"{spec[name]!r}: give what it was, or train without start"
                )
        prior = {
            name: value.clone()
            for name, value in model.state_dict().items()
            if name.endswith("log_prior")
        }
        checkpoint.set_weights(model, self.state["best"] | prior)

    def remember(self, trained: dict[str, str]) -> dict[str, str]:
        """The checksums of the rows of both trainings."""
        return merge(self.state["extra"].get("trained", {}), trained)


def _check_modalities(folder: str | Path, fitted: Preprocessing, manifest: Manifest) -> None:
    """Raise ValueError where the manifest does not have just the modalities of the run."""
    kinds = {name: modality.kind for name, modality in fitted.modalities.items()}
    here = {name: modality.kind for name, modality in manifest.modalities.items()}
    if kinds != here:
        raise ValueError(
            f"the run in {folder} has the modalities {kinds}, {manifest.name} has {here}: name "
            "the same ones (use=, columns=, table=; --use, --image, --text, --audio, --table)"
        )
    for name, table in fitted.tables.items():
        columns = manifest.modalities[name].columns
        if sorted(columns) != sorted(table.columns):
            raise ValueError(
                f"the run in {folder} has a table of the columns {table.columns}, here it has "
                f"{columns}: name the same ones (table=; --table); a column that has no values "
                "may be empty"
            )


def _check_classes(
    folder: str | Path, classes: list[str] | None, manifest: Manifest, names: list[str]
) -> None:
    """Raise ValueError where the training rows do not have just these classes."""
    if classes is None or manifest.target is None:
        return
    pairs = zip(manifest.target, names, strict=True)
    here = {value for value, split in pairs if value and split == "train"}
    if here != set(classes):
        raise ValueError(
            f"the run in {folder} tells apart {classes}; the training rows of {manifest.name} "
            f"lack {sorted(set(classes) - here)} and have {sorted(here - set(classes))} besides: "
            "its answers have a place for each of its classes and no other; give rows of the same "
            "classes, or train without start"
        )
