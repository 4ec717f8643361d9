"""A video file in, a restored one out: whole, or by several workers, each some of its parts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from mirnet_edge._files import make_folder
from mirnet_edge.errors import MirnetEdgeError, StreamError
from mirnet_edge.files.jobs import Job
from mirnet_edge.files.settings import FileSettings
from mirnet_edge.frames.pixel_formats import PixelFormat
from mirnet_edge.stream.video.parts import folder_of_parts

if TYPE_CHECKING:
    from mirnet_edge.restore import Restorer
    from mirnet_edge.stream.video.job import FramesDone, VideoJob, VideoOutcome
    from mirnet_edge.stream.video.parts import Part, Parts

    PartsOf = Callable[[dict[str, str]], Parts]

Found = Literal["planned", "other", "guessed"]
"""What parts turned out to be. Where the decoder guessed what is damaged, each worker has guesses
of its own; where parts are other than planned, those before them are as one process makes them."""
PREVIEW = "_still_compare.jpg"


class VideoRestorers:
    """The `Restorer` of videos, kept from one to the next whose pixels lie alike."""

    def __init__(self, settings: FileSettings) -> None:
        self._settings = settings
        self._ends = ExitStack()
        self._of: tuple[PixelFormat, Restorer] | None = None

    def of(self, pixels: PixelFormat) -> Restorer:
        """The one for these pixels."""
        if self._of is None or self._of[0] != pixels:
            from mirnet_edge.restore import Restorer

            self.close()
            # Of an hour of video one frame with black places is no reason to lose the rest.
            restorer = Restorer(
                self._settings.models, pixels=pixels, nan="zero", **self._settings.restoring
            )
            self._of = pixels, self._ends.enter_context(restorer)
        return self._of[1]

    def close(self) -> None:
        """Close what is open; a later video opens it anew."""
        self._of = None
        self._ends.close()

    def __enter__(self) -> VideoRestorers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def restore_video(
    job: Job,
    settings: FileSettings,
    restorers: VideoRestorers,
    progress: FramesDone,
    anew: bool = False,
) -> dict[str, Any]:
    """Restore one video, go on where an earlier run ended, or begin ``anew``, and return what is
    told of it.

    With ``settings.pictures.overwrite`` the parts of a run with other settings are replaced.
    """
    parts_of = _parts_of(job, settings)
    if anew:
        shutil.rmtree(folder_of_parts(job.target), ignore_errors=True)
    with _opened(job, settings, restorers, parts_of) as (video, restorer):
        return told_of_video(video.run(restorer, progress))


def plan_video(job: Job, settings: FileSettings, restorers: VideoRestorers) -> list[Part] | None:
    """Begin a run over one video, or go on with it, and plan its parts without decoding it; None
    where only decoding tells what its parts are. The plan is the same however often it is made."""
    from mirnet_edge.stream.video.planning import planned_parts

    with _opened(job, settings, restorers, _parts_of(job, settings)) as (video, _):
        return planned_parts(video.reader, video.settings)


def restore_parts(
    job: Job,
    settings: FileSettings,
    restorers: VideoRestorers,
    plan: Sequence[Part],
    numbers: range,
) -> Found:
    """Restore some parts of a video that is planned, but those that are there, and tell whether
    they are as planned: of a damaged file more is promised than comes."""
    from mirnet_edge.stream.video.parts import OtherThanPlanned, PlannedParts

    def parts_of(run: dict[str, str]) -> Parts:
        return PlannedParts(job.target, run, plan, numbers)

    with _opened(job, settings, restorers, parts_of) as (video, restorer):
        missing: int | None = numbers.stop - len(video.parts.finished)
        if numbers.stop == len(plan):
            missing = None  # what is lost at the end is seen there
        try:
            video.restore(restorer, lambda *_: None, missing)
        except OtherThanPlanned as other:
            return "guessed" if other.guessed else "other"
        is_whole = not video.reader.lost.reasons and len(video.parts.finished) >= numbers.stop
        return "planned" if is_whole else "other"


def join_video(
    job: Job, settings: FileSettings, restorers: VideoRestorers, plan: Sequence[Part]
) -> dict[str, Any]:
    """Join the parts of a planned video, and return what is told of it.

    Raises:
        StreamError: parts are missing: somebody else removed them.
    """
    from mirnet_edge.stream.video.parts import Parts

    with _opened(job, settings, restorers, lambda run: Parts(job.target, run)) as (video, _):
        found = len(video.parts.finished)
        options = settings.pictures
        if found != len(plan) and options.keep and not options.overwrite and job.target.is_file():
            # A worker that is lost had joined them, and died before it said so.
            video.parts.remove()
            facts, scale = video.reader.facts, video.scale
            frames = sum(part.frames for part in plan)
            return {
                **{"width": scale * facts.width, "height": scale * facts.height, "frames": frames},
                **{"resumed": 0, "lost": 0, "reasons": [], "nonfinite": 0},
                **{"copied": [], "left_out": [], "frames_per_second": None},
            }
        if found != len(plan):
            raise StreamError(
                f"{job.target}: {found} of {len(plan)} parts are there; does another run restore "
                "the same video? Begin again"
            )
        return told_of_video(video.finish(resumed=0, elapsed_s=None))


def told_of_video(outcome: VideoOutcome) -> dict[str, Any]:
    """What is told of a video, as ``--json`` prints it."""
    rate = outcome.frames_per_second
    return {**vars(outcome), "frames_per_second": None if rate is None else round(rate, 2)}


def _parts_of(job: Job, settings: FileSettings) -> PartsOf:
    from mirnet_edge.stream.video.parts import Parts

    return lambda run: Parts(job.target, run, anew=settings.pictures.overwrite)


@contextmanager
def _opened(
    job: Job, settings: FileSettings, restorers: VideoRestorers, parts_of: PartsOf
) -> Iterator[tuple[VideoJob, Restorer]]:
    """The job of one video, and what restores its frames."""
    from mirnet_edge.stream.video.encoding import choose_encoding
    from mirnet_edge.stream.video.job import VideoJob, VideoSettings, settings_of_run
    from mirnet_edge.stream.video.live import open_video
    from mirnet_edge.stream.video.pictures import Pictures

    options = settings.videos
    make_folder(job.target.parent)
    opening: dict[str, Any] = {
        "begin_s": options.begin_s,
        "hardware": options.hardware,
        "timeout_s": options.timeout_s,
        "reconnect": options.reconnect,
    }
    preview = job.target.with_name(f"{job.source.stem}{PREVIEW}")
    of_video = VideoSettings(
        begin_s=options.begin_s,
        duration_s=options.duration_s,
        every=options.every,
        compare=job.compare,
        preview=preview if options.preview_s else None,
        preview_s=options.preview_s or 0,
        part_frames=options.part_frames,
    )
    chosen = {name: getattr(options, name) for name in ("codec", "crf", "preset", "hardware")}
    reader = open_video(job.name, **opening)
    try:
        encoding = choose_encoding(reader.facts, job.target, **chosen)
        restorer = restorers.of(Pictures(reader.facts, encoding.planes).pixels)
        scale = restorer.facts.scale
        encoding = choose_encoding(reader.facts, job.target, scale=scale, **chosen)
        run = {"model": ", ".join(settings.models), **settings.restoring}
        run.pop("devices", None)  # a run may go on with others
        run.pop("threads", None)  # as many as are at hand, and as workers leave each
        parts = parts_of(settings_of_run(job.name, encoding, of_video, run))
        yield VideoJob(reader, job.target, parts, encoding, of_video, scale), restorer
    except MirnetEdgeError:
        restorers.close()  # what failed with one video shall not fail with the next
        raise
    finally:
        reader.close()
