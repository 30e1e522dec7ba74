"""How long the trainings of a report are: said before they begin, and where they were too short."""

from mmlib.data import Data
from mmlib.recipes.plan import LEAST_EPOCHS, affordable, minutes, multiplications
from mmlib.recipes.recipe import Recipe
from mmlib.report.result import Answers
from mmlib.report.verdict import Scale


class Length:
    """The epochs and minutes of trainings on some modalities each, by the arithmetic of ``plan``.

    ``trainings`` has the modalities of each training with one seed.
    """

    def __init__(self, recipe: Recipe, data: Data, trainings: list[tuple[str, ...]]):
        self.trainings = trainings
        self.budget = None if recipe.epochs else recipe.budget
        self.option = "--epochs" if recipe.epochs else "--budget"  # what makes them longer
        rows = max(1, data.loaders["train"].samples)
        cost = {
            name: rows * multiplications(data, name, recipe.dim)
            for name in data.preprocessing.modalities
        }
        # Multiplications of one epoch, by modalities.
        self.work = {names: sum(cost[name] for name in names) for names in trainings}
        self.epochs = {
            names: recipe.epochs or affordable(work, recipe.budget)
            for names, work in self.work.items()
        }

    @property
    def over_budget(self) -> str:
        """The trainings whose least number of epochs takes more than the budget, in words."""
        if self.budget is None:
            return ""
        return ", ".join(
            " + ".join(names)
            for names, work in self.work.items()
            if minutes(LEAST_EPOCHS * work) > 3 * self.budget
        )

    def words(self, seeds: int) -> str:
        """The epochs of each training and the minutes of all, with that many seeds, in words."""
        least, most = min(self.epochs.values()), max(self.epochs.values())
        each = f"{least} epochs" if least == most else f"{least} to {most} epochs"
        total = sum(minutes(self.epochs[names] * self.work[names]) for names in self.trainings)
        floor = ""
        if self.over_budget:
            floor = f" (at least {LEAST_EPOCHS}, which overrules the budget for {self.over_budget})"
        return (
            f"{each} each{floor}: about {seeds * total:.2g} minutes of one core in all, "
            "without the reading of files"
        )


def too_short(length: Length, trained: list[Answers], scale: Scale) -> list[str]:
    """In words: a budget that is too small, trainings that learned nothing or ended too soon."""
    notes = []
    if length.over_budget:
        notes.append(
            f"The budget pays for fewer than {LEAST_EPOCHS} epochs of {length.over_budget}. "
            f"They were trained for {LEAST_EPOCHS}, which may be too few to say anything: "
            "raise --budget."
        )
    for answers in trained:
        seeds = len(answers.logits)
        failed = sum(not scale.learned(one[None]) for one in answers.logits)
        if failed:
            unless = ", unless it holds no evidence by itself" if failed == seeds else ""
            notes.append(
                f"{answers.name} learned nothing in {failed} of {seeds} seeds: "
                f"raise {length.option}{unless}."
            )
    unfinished = [
        f"{answers.name} ({answers.unfinished} of {len(answers.logits)} seeds)"
        for answers in trained
        if answers.unfinished
    ]
    if unfinished:
        notes.append(
            f"Still improving when the training ended: {', '.join(unfinished)}. "
            f"Raise {length.option}."
        )
    return notes
