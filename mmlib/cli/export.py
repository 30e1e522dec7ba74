"""The export command: a saved model -> an ONNX file, with what others need to use it."""

import argparse
from pathlib import Path

from mmlib.cli import arguments as shared
from mmlib.cli.arguments import Commands

EPILOG = """examples:
  python -m mmlib export runs/pets pets.onnx
  python -m mmlib export runs/pets pets.onnx --weights

pets.onnx has an input for each key of a batch (image, image_mask, ...), of any number of rows and
any length, and gives logits. Beside it are written pets.json, the preprocessing, and pets.py, a
client that needs numpy and onnxruntime, neither mmlib nor torch: python pets.py image=photo.jpg
Before that, onnxruntime must give torch's answers, for every subset of the modalities.
It needs: pip install 'mmlib[export]'"""


def add_commands(commands: Commands) -> None:
    """Add export to the commands."""
    command = shared.add_command(
        commands,
        "export",
        run,
        help="write a saved model as ONNX",
        description="Write a saved model as an ONNX file, for use without mmlib.",
        epilog=EPILOG,
    )
    command.add_argument("folder", type=Path, help="the folder of a run")
    command.add_argument("out", type=Path, help="the ONNX file to write, a new one: NAME.onnx")
    command.add_argument(
        "--weights", action="store_true", help="also write the weights as NAME.safetensors"
    )
    shared.add_json(command)


def run(arguments: argparse.Namespace) -> int:
    """Export, say what was written and how near it is to torch."""
    if arguments.out.suffix != ".onnx":
        arguments.error(f"{arguments.out} is not the name of an ONNX file: NAME.onnx")
    from mmlib.files import as_json
    from mmlib.recipes import load
    from mmlib.recipes.export import check_installed, export
    from mmlib.recipes.saved import sample

    check_installed(arguments.weights)  # now, before anything is read
    for suffix in (".onnx", ".json", ".py", *[".safetensors"] * arguments.weights):
        if (there := arguments.out.with_suffix(suffix)).exists():
            raise ValueError(f"{there} exists: give another name, or remove the file")
    predictor = load(arguments.folder, "cpu")
    fitted = predictor.preprocessing
    batch = fitted.batch([sample(fitted)] * 2)
    done = export(predictor.model, batch, arguments.out, fitted, arguments.weights)
    files = [str(file) for file in done.files]
    if arguments.json:
        found = {"files": files, "inputs": done.inputs, "difference": done.difference}
        print(as_json(found, indent=2))
        return 0
    print(f"wrote {', '.join(files)}")
    for name, shape in done.inputs.items():
        print(f"input   {name} ({', '.join(map(str, shape))})")
    print(f"output  logits; the largest difference from torch is {done.difference:.1e}")
    return 0
