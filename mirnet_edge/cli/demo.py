"""``demo``: a real photo as a camera in bad light takes it, or too small, or too dark; restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from mirnet_edge.bundled import PHOTO, bundled_model
from mirnet_edge.cli.console import fail, json_option, option_group, print_json, print_table
from mirnet_edge.cli.restore import MODEL
from mirnet_edge.errors import ConfigError
from mirnet_edge.files.pictures import side_by_side
from mirnet_edge.frames.bicubic import resized
from mirnet_edge.frames.images import ImageFile, read_image, write_image
from mirnet_edge.frames.noise import to_uint8, unit_range
from mirnet_edge.workstation.coding import jpeg_coded

Picture = NDArray[np.uint8]
GAMMA = 2.2
SHOT, READ = 1.0, 0.01
"""How the variance of a sensor's noise grows with the light, and what it is in the dark."""
DARKNESS = 0.02
"""Share of the light that the dark picture has."""


def noisy(clean: Picture, sigma: float, seed: int) -> Picture:
    """As a camera's JPEG: noise that follows the light, of ``sigma`` / 255 (RMS) in the picture,
    then 8 bits, quality 92, 4:2:0."""
    picture = unit_range(clean)
    light = picture**GAMMA
    # The slope of the gamma curve takes noise of the light to noise of the picture.
    slope = np.maximum(light, 1e-3) ** (1 / GAMMA - 1) / GAMMA
    deviation = np.sqrt(SHOT * light + READ) * slope
    random = np.random.Generator(np.random.PCG64(seed))
    noise = random.standard_normal(clean.shape, np.float32) * deviation
    scale = sigma / 255 / max(float(np.sqrt((noise * noise).mean())), 1e-9)
    return jpeg_coded(to_uint8(picture + np.float32(scale) * noise), quality=92)


def small(clean: Picture, _sigma: float, _seed: int) -> Picture:
    """Half as high and wide, by MATLAB's bicubic interpolation."""
    height, width = (side // 2 for side in clean.shape[:2])
    planes = resized(unit_range(clean).transpose(2, 0, 1), height, width)
    return to_uint8(planes.transpose(1, 2, 0))


def dark(clean: Picture, _sigma: float, seed: int) -> Picture:
    """With `DARKNESS` of the light, a sensor's noise, and 8 bits."""
    light = unit_range(clean) ** GAMMA * DARKNESS
    random = np.random.Generator(np.random.PCG64(seed))
    noise = random.standard_normal(clean.shape, np.float32) * np.sqrt(1e-4 * light + 1e-7)
    return to_uint8(np.maximum(light + noise, 0) ** (1 / GAMMA))


@dataclass(frozen=True)
class Scene:
    """One picture of the demo: what is done to the photo, and the bundled model that undoes it."""

    name: str
    said: str
    task: str
    scale: int
    model: str
    spoiled: Callable[[Picture, float, int], Picture]


SCENES = {
    scene.name: scene
    for scene in (
        Scene("noise", "a noisy JPEG", "denoise", 1, "edge-s-denoise", noisy),
        Scene("small", "half the size", "super-resolution", 2, "edge-m-x2", small),
        Scene("dark", "2 % of the light", "enhance", 1, "edge-m-enhance", dark),
    )
}
demo_options = option_group(
    click.option("--picture", type=click.Choice([*SCENES, "all"]), default="all",
                 help="Which: noise is undone, a small picture enlarged, a dark one lifted."),
    click.option("-m", "--model", help=f"{MODEL} Bundled ones by default."),
    click.option("--sigma", type=click.FloatRange(0, 100), default=15.0,
                 help="RMS of the noise, of 255."),
    click.option("--seed", type=click.IntRange(0), default=0),
    click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("demo.png"),
                 help="Where the pictures before | after go, as demo-noise.png; replaced."),
)  # fmt: skip


@click.command()
@demo_options
@json_option
def demo(
    picture: str, model: str | None, sigma: float, seed: int, output: Path, as_json: bool
) -> None:
    """Spoil a bundled photo as cameras do, restore it, and print the gain."""
    chosen = list(SCENES) if picture == "all" else [picture]
    scenes = [SCENES[name] for name in chosen]
    if model is None:
        missing = [scene for scene in scenes if bundled_model(scene.model) is None]
        if missing and picture != "all":
            raise ConfigError(f"no model is bundled that undoes {picture!r}; name one with -m")
        scenes = [scene for scene in scenes if scene not in missing]
    clean = read_image(PHOTO).pixels
    results = []
    for scene in scenes:
        path = output.with_name(f"{output.stem}-{scene.name}{output.suffix or '.png'}")
        result = _shown(scene, model or scene.model, clean, sigma, seed, path, picture == "all")
        if result is not None:
            results.append(result)
    if not results:
        fail(f"{model} restores none of these pictures: {', '.join(chosen)}")
        raise SystemExit(1)
    if as_json:
        print_json({"photo": [*clean.shape[:2]], "pictures": results})
        return
    rows = [
        [
            f"{row['picture']}: {SCENES[row['picture']].said}",
            row["model"],
            f"{row['given_psnr']:.2f}",
            f"{row['restored_psnr']:.2f}",
            f"{row['gain']:+.2f}",
            f"{row['milliseconds']:.0f}",
            str(row["file"]),
        ]
        for row in results
    ]
    columns = ["picture", "model", "given dB", "restored dB", "gain dB", "ms", "before | after"]
    print_table(columns, rows, title=f"a photo of {clean.shape[1]}x{clean.shape[0]}")


def _shown(
    scene: Scene,
    model: str,
    clean: Picture,
    sigma: float,
    seed: int,
    path: Path,
    may_leave_out: bool,
) -> dict[str, Any] | None:
    """Restore one picture and write it beside what was given; None where the model is for another
    and that may be."""
    from mirnet_edge.metrics import psnr
    from mirnet_edge.restore import Restorer

    with Restorer(model) as restorer:
        facts = restorer.facts
        if (facts.task, facts.scale) != (scene.task, scene.scale):
            if may_leave_out:
                return None
            raise ConfigError(
                f"{model} is for {facts.task!r} at scale {facts.scale}, and the picture "
                f"{scene.name!r} needs {scene.task!r} at scale {scene.scale}"
            )
        given = scene.spoiled(clean, sigma, seed)
        restored = restorer(given)
        timings = restorer.timings
    both = side_by_side(ImageFile(given), ImageFile(restored))
    write_image(path, both, overwrite=True)
    height, width = restored.shape[:2]
    before, wanted = both[:height, :width], unit_range(clean[:height, :width])
    given_db, restored_db = (psnr(unit_range(image), wanted) for image in (before, restored))
    return {
        "picture": scene.name,
        "model": model,
        "noise": timings.noise,
        "given_psnr": round(given_db, 2),
        "restored_psnr": round(restored_db, 2),
        "gain": round(restored_db - given_db, 2),
        "milliseconds": round(timings.total_ms, 1),
        "file": path,
    }
