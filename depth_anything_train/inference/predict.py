"""`depth-anything predict`: photographs -> colour picture, 16-bit PNG and float32 array beside each other."""

from __future__ import annotations

import glob
import sys
from pathlib import Path

from omegaconf import DictConfig

from depth_anything_train.command import command
from depth_anything_train.data.schema import IMAGE_EXTENSIONS, BadSample
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.outputs import Outputs
from depth_anything_train.inference.prediction import load_image
from depth_anything_train.runtime import ProgressBar, UserError, console


def find_images(source: str) -> list[tuple[Path, Path]]:
    """(file, name for its outputs without extension) of an image, a folder with everything below it, or a glob, sorted.

    Raises:
        UserError: nothing was found, or two images would write the same outputs.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS and p.is_file()]
        names = [file.relative_to(path).with_suffix("") for file in files]
    else:
        matches = [path] if path.is_file() else map(Path, glob.glob(str(path), recursive=True))
        files = [file for file in matches if file.is_file()]
        names = [Path(file.stem) for file in files]
    if not files:
        raise UserError(f"Expected an image, a folder of images or a pattern, but {source} matches no image.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"Two images of {source} share the name {twice}; rename one, or predict them separately.")
    return sorted(zip(files, names, strict=True))


@command("predict")
def main(cfg: DictConfig) -> None:
    """Predict every image of `cfg.source`; those that cannot be decoded are listed and make the exit status 1."""
    images = find_images(cfg.source)
    outputs = Outputs(colormap=cfg.colormap)
    model = DepthAnything.from_pretrained(cfg.model)
    failed = []
    with ProgressBar("predict", len(images)) as bar:
        for file, name in images:
            try:
                image = load_image(file)
                prediction = model.predict(image, size=cfg.size)
            except BadSample as error:
                failed.append(f"{file}: {error}")
            else:
                outputs.write(Path(cfg.out) / name, image, prediction)
            bar.advance()
    for line in failed:
        console.print(f"skipped {line}", soft_wrap=True)
    console.print(f"{len(images) - len(failed)} of {len(images)} images predicted: {cfg.out}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
