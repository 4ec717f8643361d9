"""The live view in a window of OpenCV."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from mirnet_edge._imports import require
from mirnet_edge.errors import MirnetEdgeError, MissingDependencyError, first_line
from mirnet_edge.live.pictures import Picture, resized
from mirnet_edge.live.view import LiveView

TITLE = "mirnet-edge play"
WAIT_S, TOLD_S, ANSWER_S = 0.1, 0.5, 3.0
"""What was answered to a key stays longer than figures do."""
LEAST_PX, MOST_PX = 640, 1600
STEP = 0.1
ESCAPE = 27


def window_library() -> Any:
    """OpenCV, with a window open.

    Raises:
        MissingDependencyError: it is not there, or cannot show windows.
    """
    cv2 = require("cv2", "mirnet-edge play")
    try:
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
    except cv2.error as error:
        # Behind where in OpenCV it was, and before what to rebuild.
        reason = first_line(error).rpartition(") ")[2].partition(". ")[0]
        raise MissingDependencyError(
            f"this OpenCV shows no window ({reason}); install opencv-python in place of "
            "opencv-python-headless, on a machine with a display, or use mirnet-edge live"
        ) from error
    return cv2


def play_in_window(view: LiveView, cv2: Any) -> None:
    """Show the newest pair until the window is closed, or q or Escape pressed."""
    divider = [0.5]

    def moved(event: int, x: int, y: int, flags: int, _: object) -> None:
        del event, y, flags
        divider[0] = x / max(1, width)

    shown, width, image, told_at = -1, 1, None, 0.0
    cv2.setMouseCallback(TITLE, moved)
    while True:
        pair = view.newest(shown, WAIT_S)
        if pair is not None:
            if image is None:
                cv2.resizeWindow(TITLE, *window_size(pair.pictures[1]))
            shown, image = pair.number, pair.pictures
        if image is not None:
            split = divided(*image, divider[0])
            width = split.shape[1]
            cv2.imshow(TITLE, np.ascontiguousarray(split[:, :, ::-1]))
        key = cv2.waitKey(1) & 0xFF
        if key in (ord("q"), ESCAPE) or not cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) > 0:
            break
        answer = "" if key == 0xFF else _pressed(view, chr(key))
        if answer or key != 0xFF or time.monotonic() - told_at > TOLD_S:
            cv2.setWindowTitle(TITLE, f"{TITLE}: {answer or _told(view)}")
            told_at = time.monotonic() + (ANSWER_S if answer else 0)
    cv2.destroyWindow(TITLE)


def window_size(shown: Picture) -> tuple[int, int]:
    """(width, height) of a window for pictures like this one, neither too small to see nor larger
    than most screens."""
    height, width = shown.shape[:2]
    longer = max(height, width)
    share = min(max(longer, LEAST_PX), MOST_PX) / longer
    return round(width * share), round(height * share)


def divided(before: Picture, after: Picture, share: float) -> Picture:
    """Both in one picture: the first to the left of ``share`` of the width, a line between."""
    height, width = after.shape[:2]
    column = min(max(round(share * width), 0), width)
    split: Picture = after.copy()
    split[:, :column] = resized(before, (height, width))[:, :column]
    split[:, max(0, column - 1) : column + 1] = 255
    return split


def _pressed(view: LiveView, key: str) -> str:
    """Do what a key stands for; what is to be said of it."""
    settings = view.settings
    try:
        if key == "b":
            view.change({"bypass": not settings.bypass})
        elif key in "+-":
            strength = settings.strength + (STEP if key == "+" else -STEP)
            view.change({"strength": round(min(max(strength, 0.0), 1.0), 2)})
        elif key == "s":
            return f"saved {view.snapshot()[0]}"
    except MirnetEdgeError as error:
        return str(error)
    return ""


def _told(view: LiveView) -> str:
    state = view.state()
    source, model, settings = (state[name] for name in ("source", "model", "settings"))
    if source["state"] == "lost":
        return f"source lost: {source['message']}"
    if model["state"] != "running":
        return f"{model['name']} {model['state']} {model['message']}"
    how = "bypassed" if settings["bypass"] else f"strength {settings['strength']:.0%}"
    latency = "" if state["latency_ms"] is None else f"{state['latency_ms']:.0f} ms, "
    nonfinite = state["frames"]["nonfinite"]
    broken = f", {nonfinite:,} values NaN or infinite" if nonfinite else ""
    return f"{state['rate']:.1f} frames/s, {latency}{how}{broken}"
