"""Image quality: PSNR by its formula, SSIM from scikit-image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require

SSIM_WINDOW_PX = 11


def psnr(image: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio in dB of two arrays of one shape, values in [0, 1]; infinite
    where they are equal. Not clamped: clamp first where the protocol says so."""
    difference = image.astype(np.float64) - reference
    error = float(np.mean(difference * difference))
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(image: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Structural similarity of two (H, W, 3) arrays in [0, 1], the mean over channels, with the
    Gaussian window of Wang et al. (IEEE TIP 2004): 11x11, sigma 1.5, population covariance. NaN for
    an image smaller than the window."""
    if min(image.shape[:2]) < SSIM_WINDOW_PX:
        return math.nan
    metrics = require("skimage.metrics", "SSIM")
    return float(
        metrics.structural_similarity(
            image,
            reference,
            data_range=1.0,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def matlab_luma(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB to (H, W, 1) luma, codes 16 to 235, rounded as MATLAB's ``rgb2ycbcr``
    does; (H, W, 1) gray as it is."""
    if image.shape[2] == 1:
        return image
    weights = np.array([65.481, 128.553, 24.966])
    # Half upwards, as MATLAB rounds, and not half to even.
    luma: NDArray[np.float64] = np.floor(image.astype(np.float64) @ weights / 255 + 16.5)
    return luma.astype(np.uint8)[..., None]


def bt601_luma(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 3) RGB to (H, W, 1) luma of the same range (BT.601, as JPEG has it); (H, W, 1) gray as
    it is."""
    if image.shape[2] == 1:
        return image
    luma: NDArray[np.float32] = image @ np.array([[0.299], [0.587], [0.114]], np.float32)
    return luma
