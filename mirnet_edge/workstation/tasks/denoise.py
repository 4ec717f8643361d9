"""Denoising what cameras really make: the noise of a sensor after all that a camera does to it,
noise as it is left in pictures of unknown history, white noise, and the losses of codecs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from mirnet_edge.frames.noise import CLIPPED_SHARE
from mirnet_edge.model.config import Config
from mirnet_edge.workstation.tasks.batch import (
    Batch,
    edge_network,
    noise_of,
    shares,
    with_level,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from mirnet_edge.workstation.tasks.camera import Draw

LEAST_BATCH = 8
"""Patches of which each kind of noise takes some."""
SOFTNESS_PX, SOFTER_COLOUR = (0.3, 1.6), (1.0, 3.0)
"""Least and greatest sigma of the blur that makes a patch soft, of luma, and how many times as much
colour gets. Photos that were made smaller are sharp to the last pixel. A camera's frame of full
size is not: optics and demosaicking leave a fifth of the contrast of luma above a quarter of the
sampling rate, and 4:2:0 and what cameras do about noise a fifth of colour's above an eighth
(PolyU's clean crops beside our photos at half size). A network that knows sharp pictures alone
keeps noise there."""
WORST_OF_CAMERAS = 70.0
"""Quality of JPEG that a camera still stores; both files of PolyU's pairs are of 75."""
WORST_UNSEEN = 85.0
"""Quality of JPEG whose loss nobody sees, of pictures with white noise: from there on it is not
asked back either."""


@dataclass(frozen=True)
class Denoise:
    """Denoising, told how noisy the picture is: the root mean square of what is to be removed.

    Attributes:
        sigma: least and greatest standard deviation of white noise, in units of 1/255.
        camera, film, white: fractions of the patches with a sensor's noise, with correlated noise
            of no known camera, and with white noise; the rest is clean.
        gray: fraction of all patches that are gray, noise included.
        soft: fractions of the patches that are as soft as a camera's frames of full size: of those
            with white noise, and of all others.
    """

    sigma: tuple[float, float] = (0.0, 50.0)
    camera: float = 0.1
    film: float = 0.25
    white: float = 0.6
    gray: float = 0.12
    soft: tuple[float, float] = (0.3, 0.8)

    name: ClassVar[str] = "denoise"
    restores: ClassVar[str] = "denoise"
    scale: ClassVar[int] = 1

    def network(self, config: Config) -> Config:
        """With a noise level."""
        return replace(edge_network(config, self.name), noise_level=True)

    def degrade(self, clean: Tensor, generator: Generator) -> Batch:
        """See `Task.degrade`."""
        import torch

        from mirnet_edge.workstation.tasks.camera import Draw, eight_bit, gray_of
        from mirnet_edge.workstation.tasks.codec import jpeg, mean_jpeg

        count = len(clean)
        if count < LEAST_BATCH:
            # So that each kind has a patch, and every step another kind.
            whole = self.degrade(clean.repeat(-(-LEAST_BATCH // count), 1, 1, 1), generator)
            some = torch.randperm(len(whole.given), device=clean.device, generator=generator)
            return Batch(whole.given[some[:count]], whole.target[some[:count]])
        camera, film, white, rest = shares(count, (self.camera, self.film, self.white, 0.0))

        def part(region: slice) -> Draw:
            return Draw(region.stop - region.start, generator)

        draw = Draw(count, generator)
        is_gray = draw.chance(self.gray)
        softened = _softened(clean, draw)
        is_soft = draw.chance(self.soft[1])
        is_soft[white] = part(white).chance(self.soft[0])
        clean = torch.where(is_soft > 0, softened, clean)
        seen, developed = _photographed(clean[camera], part(camera))
        noisy = torch.cat((
            seen,
            grained(clean[film], part(film)),
            self._whitened(clean[white], part(white)),
            clean[rest],
        ))  # fmt: skip
        target = torch.cat((developed, clean[camera.stop :]))
        # A gray picture has gray noise; the picture is made gray first and last, so that what the
        # parts above did in colour is gray too.
        target = torch.where(is_gray > 0, gray_of(target), target)
        noisy = torch.where(is_gray > 0, gray_of(noisy), noisy)

        # Codecs come last, over pictures of 8 bits. Of white noise half is left as the literature's
        # benchmarks have it, neither cut nor rounded.
        offset = torch.randint(16, (2,), device=clean.device, generator=generator)
        flat = draw.chance(0.35)
        worst = torch.where(flat > 0, 75.0, 50.0)
        quality = worst + (100 - worst) * draw.uniform(0, 1)
        lossy = draw.chance(1.0)
        lossy[camera], lossy[film] = part(camera).chance(0.65), part(film).chance(0.6)
        lossy[white], lossy[rest] = part(white).chance(0.25), part(rest).chance(0.5)
        as_picture = torch.ones_like(lossy)
        as_picture[white] = torch.maximum(lossy[white], part(white).chance(CLIPPED_SHARE))
        cut, noise = eight_bit(noisy), noisy - target
        noisy = torch.where(as_picture > 0, cut, noisy)
        noisy = torch.where(lossy > 0, jpeg(cut, quality, flat, offset), noisy)
        # What a camera's own JPEG takes of the picture is not asked back, as what its noise
        # reduction takes is not: its clean frames went through both. A network that gives it back
        # makes up colour where there was none. What video and worse JPEG lose is.
        kept = torch.full_like(quality, WORST_OF_CAMERAS)
        kept[white] = WORST_UNSEEN
        is_kept = lossy * (1 - flat) * (quality >= kept)
        coded = mean_jpeg(target, noise, quality, flat, offset, generator)
        target = torch.where(is_kept > 0, coded, target)

        # The level of a patch is not that of its frame, which is what will be told: dark parts of a
        # camera's frame are noisier than bright ones.
        told = noise_of(noisy, target)
        spread = torch.full_like(told, 0.08)
        spread[camera] = spread[film] = 0.2
        told = (told * (spread * draw.normal()).exp() + 0.4 / 255 * draw.normal()).clamp(min=0)
        return Batch(with_level(noisy, told), target)

    def _whitened(self, clean: Tensor, draw: Draw) -> Tensor:
        """White noise in all channels, some of it in luma alone."""
        sigma = draw.uniform(*self.sigma) / 255
        noise = draw.noise_like(clean)
        of_luma = draw.chance(0.1)
        noise = of_luma * noise[:, :1] + (1 - of_luma) * noise
        return clean + sigma * noise


def _softened(clean: Tensor, draw: Draw) -> Tensor:
    """The clean pictures as cameras' frames of full size have them, colour softer than luma."""
    import torch

    from mirnet_edge.workstation.tasks.camera import blurred, from_ycc, to_ycc

    luma = draw.uniform(*SOFTNESS_PX)
    colour = luma * draw.uniform(*SOFTER_COLOUR)
    return from_ycc(blurred(to_ycc(clean), torch.cat((luma, colour, colour), 1), radius=8))


def _photographed(clean: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """The clean pictures as a camera takes and develops them, and as it would without noise."""
    import torch

    from mirnet_edge.workstation.tasks.camera import (
        Development,
        mosaicked,
        sensor_noise,
        shot_and_read,
    )

    development = Development.drawn(draw)
    light = development.undone(clean)
    shot, read = shot_and_read(draw, low=4e-5)
    noisy = sensor_noise(light, shot, read, draw)
    has_mosaic = draw.chance(0.75) > 0
    light = torch.where(has_mosaic, mosaicked(light), light)
    noisy = torch.where(has_mosaic, mosaicked(noisy), noisy)
    return _finished(development.done(noisy), development.done(light), draw)


def _finished(noisy: Tensor, target: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Noise reduction and sharpening as cameras have them, of colour more than of luma; the same
    is done to both, so that what is lost with the noise is not asked back."""
    import torch

    from mirnet_edge.workstation.tasks.camera import blurred, from_ycc, to_ycc

    some, sharp = draw.chance(0.7), draw.chance(0.5)
    strength = torch.cat((0.8 * draw.uniform(0, 1) ** 2, *(draw.uniform(0, 1),) * 2), 1) * some
    radius = torch.cat((draw.uniform(0.4, 1.0), *(draw.log_uniform(0.6, 3.0),) * 2), 1)
    amount = draw.uniform(0.0, 1.0) * sharp
    edge = draw.uniform(0.6, 1.4)
    ycc, clean_ycc = to_ycc(noisy), to_ycc(target)
    smooth, clean_smooth = blurred(ycc, radius), blurred(clean_ycc, radius)
    # Less where the picture has detail: noise reduction keeps edges, and leaves noise around them.
    detail = blurred((clean_ycc - clean_smooth) ** 2, radius)
    noise = (ycc - clean_ycc).square().mean((2, 3), keepdim=True)
    weight = strength * noise / (noise + detail + 1e-8)
    results = []
    for picture, smoothed in ((ycc, smooth), (clean_ycc, clean_smooth)):
        done = from_ycc(picture + weight * (smoothed - picture))
        results.append(done + amount * (done - blurred(done, edge)))
    return results[0].clamp(0, 1), results[1].clamp(0, 1)


def grained(clean: Tensor, draw: Draw, most: float = 30.0) -> Tensor:
    """Noise of pictures whose history nobody knows, of ``most`` / 255 at most: grain of luma,
    larger blotches of colour, and some of both that is coarser still, as noise reduction and the
    interpolation of a mosaic leave it; it grows or shrinks with the light.

    The ranges hold what was measured on half of PolyU's crops: luma like noise that a Gaussian of
    0.66 pixels blurred, colour like one of 2.6 pixels and of 0.45 times the strength, and in luma a
    part that no single Gaussian explains.
    """
    import torch

    from mirnet_edge.workstation.tasks.camera import blurred, from_ycc

    def blotches(luma: Tensor, colour: Tensor) -> Tensor:
        radii = torch.cat((luma, colour, colour), 1)
        noise = blurred(draw.noise_like(clean), radii, radius=8)
        return noise / noise.square().mean((2, 3), keepdim=True).sqrt().clamp(min=1e-6)

    luma, colour = draw.uniform(0.05, 1.1), draw.log_uniform(0.3, 4.0)
    coarse = 0.5 * draw.uniform(0, 1) ** 2
    noise = blotches(luma, colour) + coarse * blotches(3 * luma + 0.5, 1.5 * colour)
    share = draw.log_uniform(0.2, 1.5)
    noise = from_ycc(noise * torch.cat((torch.ones_like(share), share, share), 1))
    tilt = draw.uniform(-0.8, 0.8)
    light = blurred(clean, torch.ones_like(tilt)).mean(1, keepdim=True)
    noise = noise * (1 + tilt * (2 * light - 1)).clamp(min=0.05)
    measured = noise.square().mean((1, 2, 3), keepdim=True).sqrt()
    return clean + draw.log_uniform(1.0, most) / 255 * noise / measured.clamp(min=1e-6)
