"""Draw the manipulations of prepared faces into one picture, like Fig. 2 of the paper, to check before training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.data.manipulations import make_sampler
from training.data.photos import ROLES
from training.data.shards import WIDE_SIZE, FaceSet, load_role
from training.recipes import Manipulation, Recipe

FACES, GAP_PX, TITLE_PX = 6, 8, 28


def draw_preview(run: Path, recipe: Recipe, path: Path) -> int:
    """Write the picture for the run's first role with faces to `path`; return its number of faces.

    Raises:
        FileNotFoundError: no role has faces.
    """
    role = next((role for role in ROLES if (run / "faces" / role).is_dir()), "train")
    faces = load_role(run, role)
    chosen = np.linspace(0, len(faces) - 1, min(FACES, len(faces))).round().astype(int)
    Image.fromarray(draw_sheet(faces.select(chosen), recipe)).save(path)
    return len(chosen)


def draw_sheet(faces: FaceSet, recipe: Recipe) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the picture: a row for each face, a titled column for each kind; a row has one random resampling."""
    size, kinds = recipe.preprocess.size, (Manipulation.NONE, *recipe.augment.kinds)
    # One warp for each face: a warp takes a quarter of a second to make.
    sampler = make_sampler(size, WIDE_SIZE, replace(recipe.augment, warps=len(faces)), recipe.seed)
    pitch = size + GAP_PX
    sheet = Image.new("RGB", (GAP_PX + pitch * len(kinds), TITLE_PX + GAP_PX + pitch * len(faces)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, kind in enumerate(kinds):
        left = GAP_PX + column * pitch
        title = "untouched" if kind is Manipulation.NONE else kind.replace("_", " ")
        pen.text((left + size / 2, GAP_PX + TITLE_PX / 2), title, "black", font, anchor="mm")
        for row in range(len(faces)):
            augmentation = sampler.draw(np.random.default_rng([recipe.seed, row]), kind)
            crop = sampler.apply(faces.wide[row], faces.landmarks[row], augmentation)
            sheet.paste(Image.fromarray(crop), (left, TITLE_PX + GAP_PX + row * pitch))
    return np.asarray(sheet)
