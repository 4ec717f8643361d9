"""The pictures of a folder, with their names: python folder.py IN OUT."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import mirnet_edge as me

source, target = map(Path, sys.argv[1:])
target.mkdir(exist_ok=True)
with me.Restorer("edge-s-denoise") as restore:
    for path in sorted(source.glob("*.[jp][pn]g")):
        noisy = np.asarray(Image.open(path).convert("RGB"))
        Image.fromarray(restore(noisy)).save(target / path.with_suffix(".png").name)
        print(path.name, f"noise {restore.timings.noise:.1f}", f"{restore.timings.tiles} tiles")
