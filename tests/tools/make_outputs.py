"""Run notebooks and keep their outputs: the only way in which outputs are made.

    python tests/tools/make_outputs.py                                  # all notebooks
    python tests/tools/make_outputs.py notebooks/00_start_here.ipynb    # some

One thread, no GPU, no timing, no widget state, cells numbered: the same notebook gives the same
bytes. After an error nothing is written.
"""

import os
import re
import sys
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
}  # as in conftest.py
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}
COSTS = f"""import sys, time
sys.path.append({str(Path(__file__).parent)!r})
from kernel_limits import peak
print(f"{{time.process_time():.0f}} CPU-seconds, {{peak():.1f}} GB")"""
WIDGET = "application/vnd.jupyter.widget-view+json"


def run(path: Path, timeout: int = 300) -> str:
    """Execute the notebook in its own folder, as a reader would, and write it back with clean
    outputs -> what its kernel used up.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(COSTS))
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=os.environ | ENVIRONMENT)
    costs = notebook.cells.pop().outputs[0].text.strip()
    write(notebook, path)
    return costs


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write the notebook without anything that differs from run to run or from editor to editor."""
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.source = cell.source.rstrip()
        if cell.cell_type == "code":
            bars = (
                [output for output in cell.outputs if WIDGET in output.get("data", {})]
                if "nbval-ignore-output" in tags
                else []
            )
            cell.outputs = [
                _clean(output) for output in cell.outputs if output not in bars
            ]  # a progress bar, not run, shows 0%
    notebook.metadata, notebook.nbformat_minor = nbformat.from_dict(METADATA), 5
    nbformat.validate(notebook)
    text = nbformat.writes(notebook, indent=1, sort_keys=True)
    path.write_text(_number_widgets(text) + "\n", encoding="utf-8", newline="\n")


def _clean(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    if "metadata" in output:
        output.metadata = {
            key: value for key, value in output.metadata.items() if key != "execution"
        }
    return output


def _number_widgets(text: str) -> str:
    """Widget ids are 32 random hex digits: numbered in order of appearance."""
    found = dict.fromkeys(re.findall(r'"model_id": "([0-9a-f]{32})"', text))
    for number, name in enumerate(found, 1):
        text = text.replace(name, f"{number:032x}")
    return text


def notebooks() -> list[Path]:
    """Every notebook of the course, its solutions included."""
    return sorted((ROOT / "notebooks").glob("*.ipynb")) + sorted(
        (ROOT / "notebooks" / "solutions").glob("*.ipynb")
    )


def main(arguments: list[str]) -> None:
    paths = [Path(name).resolve() for name in arguments] or notebooks()
    for path in paths:
        started = time.perf_counter()
        costs = run(path)
        print(
            f"{path.relative_to(ROOT)}: {time.perf_counter() - started:.0f} s, {costs}", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
