"""What is wrong with the rows of a manifest, all of it in one error."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

SHOWN = 20  # problems in the message of an error


class Problem(NamedTuple):
    """One thing that is wrong with one row.

    >>> print(Problem("line 7", "image", "cat.png", "no such file"))
    line 7, column 'image', 'cat.png': no such file
    """

    row: str  # where: 'line 7' of a CSV file, 'row 5' of a DataFrame
    column: str
    path: str  # the cell as it stands there
    reason: str

    def __str__(self) -> str:
        return f"{self.row}, column {self.column!r}, {self.path!r}: {self.reason}"


class ManifestErrors(ValueError):
    """All that is wrong with the rows of a manifest.

    ``problems`` is the whole list; the message shows the first twenty.

    >>> problem = Problem("line 7", "image", "cat.png", "no such file")
    >>> print(ManifestErrors("pets.csv", [problem], "Correct it"))
    pets.csv: 1 bad cell(s) or line(s)
      line 7, column 'image', 'cat.png': no such file
    Correct it
    """

    def __init__(self, name: str, problems: Sequence[Problem], advice: str = ""):
        self.problems = list(problems)
        lines = [f"{name}: {len(self.problems)} bad cell(s) or line(s)"]
        lines += [f"  {problem}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"  ... and {len(self.problems) - SHOWN} more")
        if advice:
            lines.append(advice)
        super().__init__("\n".join(lines))


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """The end of a message about an unknown name: which of ``names`` is close to it, if any.

    >>> did_you_mean("lable", ["text", "label"])
    "; did you mean 'label'?"
    """
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
