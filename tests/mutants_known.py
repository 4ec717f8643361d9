"""What is known of mutants: which tests are there for which module, which mutants once lived, and
why some may live."""

from __future__ import annotations

TESTS = {
    "_arguments.py": "test_arguments.py",
    "_caches.py": "test_caches.py",
    "_files.py": "test_files.py test_files_durable.py test_json_hostile.py "
    "test_frames_images_hostile.py",
    "_typed.py": "test_json_hostile.py test_engines_card.py test_quantize_ranges.py",
    "deadline.py": "test_restore_deadline.py",
    "build/checks.py": "test_build_checks.py",
    "engine_choice/opening.py": "test_restore_refusals.py",
    "device/batch_loop.py": "test_device_path.py test_device_in_flight.py test_device_arrays.py "
    "test_device_scale.py",
    "device/passes.py": "test_device_path.py test_trt_pooling_device.py test_device_in_flight.py",
    "frames/images.py": "test_frames_images.py test_frames_images_kinds.py "
    "test_frames_images_hostile.py test_frames_images_found.py",
    "graph/rewrite/__init__.py": "test_graph_rewrite_conditions.py",
    "graph/rewrite/convolutions.py": "test_graph_rewrite_conditions.py",
    "graph/rewrite/edit.py": "test_graph_rewrite_conditions.py",
    "graph/rewrite/fusion.py": "test_graph_rewrite_conditions.py",
    "graph/rewrite/pools.py": "test_graph_rewrite_conditions.py",
    "graph/sealed.py": "test_graph_sealed.py",
    "model/checkpoints.py": "test_model_checkpoints.py test_model_checkpoints_refused.py "
    "test_model_checkpoints_hostile.py",
    "model/layers.py": "test_model.py test_model_support.py",
    "model/support.py": "test_model_support.py",
    "model/tensor_files.py": "test_model_checkpoints.py test_model_checkpoints_refused.py "
    "test_model_checkpoints_hostile.py",
    "pooling/passes.py": "test_pooling_passes.py test_pooling_streams.py",
    "pooling/samples.py": "test_pooling_samples.py test_pooling_passes.py",
    "pooling/scene_cut.py": "test_pooling_scene_cut.py test_pooling_passes.py",
    "pooling/vectors.py": "test_pooling_vectors.py test_pooling_passes.py",
    "quantize/plan.py": "test_quantize_plan.py test_json_hostile.py",
    "quantize/qdq.py": "test_quantize_qdq.py",
    "stream/sinks.py": "test_stream_sinks.py test_stream_resume.py",
    "stream/transfer.py": "test_stream_closing.py test_stream_async.py test_stream.py "
    "test_stream_timing.py",
    "stream/video/joining.py": "test_stream_video_resumed.py test_stream_video.py "
    "test_stream_video_streams.py",
    "stream/video/parts.py": "test_stream_video_resumed.py test_files_video_parts.py",
    "tiling/choice.py": "test_tiling_choice.py test_tiling_even.py test_restore_refusals.py",
    "tiling/even.py": "test_tiling_even.py",
    "tiling/geometry.py": "test_tiling.py test_restore.py",
}
"""Of each module that must not be wrong, the tests that should see it change."""
NOT_DRAWN = ("engine_choice/opening.py",)
"""Its tests are nearly all there are: named mutants alone."""

CHOICE, PASSES, QDQ, TRANSFER = (
    "tiling/choice.py", "pooling/passes.py", "quantize/qdq.py", "stream/transfer.py",
)  # fmt: skip
CONVOLUTIONS, FUSION = "graph/rewrite/convolutions.py", "graph/rewrite/fusion.py"
LOADED = "model/tensor_files.py"
NAMED: tuple[tuple[str, str, str, str], ...] = (
    (
        CHOICE,
        "auto tile >=",
        "steps.down(side)))\n    if needed > side:",
        "steps.down(side)))\n    if needed >= side:",
    ),
    (
        CHOICE,
        "whole frames >=",
        "height * width > self.whole_px",
        "height * width >= self.whole_px",
    ),
    (CHOICE, "blend's type", " or not isinstance(blend, int)", ""),
    (
        "engine_choice/opening.py",
        "no close after a failed open",
        "except MirnetEdgeError:\n            self.lanes.close()\n            raise",
        "except MirnetEdgeError:\n            raise",
    ),
    (
        PASSES,
        "a scene change ignored at a pass's end",
        "if scene == self._scenes:",
        "if scene is not None:",
    ),
    (
        PASSES,
        "what was gathered kept in a new scene",
        "self.current, self._gathered, self._age = self._sampled(tiles), {}, 0",
        "self.current, self._age = self._sampled(tiles), 0",
    ),
    (LOADED, "any of module.", "if all(name.startswith", "if any(name.startswith"),
    (LOADED, "params_ema before params", '"params", "params_ema"', '"params_ema", "params"'),
    (
        TRANSFER,
        "Exception in the reader",
        "self._add(frame)\n        except BaseException as error:\n            "
        "self._end_source(error)\n        try:",
        "self._add(frame)\n        except Exception as error:\n            "
        "self._end_source(error)\n        try:",
    ),
    (
        TRANSFER,
        "Exception where the reader closes",
        "source.close()\n        except BaseException",
        "source.close()\n        except Exception",
    ),
    (
        TRANSFER,
        "an end of the source after its end",
        "if self._source_ended:\n                return\n            self._source_ended = True",
        "self._source_ended = True",
    ),
    (
        TRANSFER,
        "frames taken after the end of the source",
        "if self._stopped or self._source_ended:  # as",
        "if self._stopped:  # as",
    ),
    ("device/batch_loop.py", "samples are stored", 'if work != "sample":', "if work:"),
    (QDQ, "channels of all groups", 'first // attribute_of(node, "group", 1)', "first"),
    (
        QDQ,
        "a node that reads twice is two",
        "for name in set(node.input)",
        "for name in node.input",
    ),
    (
        CONVOLUTIONS,
        "shared convolutions merge",
        ' or (shared and before.op_type == "Conv")',
        "",
    ),
    (
        CONVOLUTIONS,
        "shared means do not merge",
        '(shared and before.op_type == "Conv")',
        "shared",
    ),
    (CONVOLUTIONS, "any Resize's mode", ' or attribute(node, "mode", "nearest") != "linear"', ""),
    (
        CONVOLUTIONS,
        "any Resize's corners",
        'attribute(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel"\n'
        "        and ",
        "",
    ),
    (
        CONVOLUTIONS,
        "any Resize's factor",
        "scales.tolist() == [1, 1, 2, 2]",
        "scales.tolist()[:2] == [1, 1]",
    ),
    ("graph/rewrite/pools.py", "blocks of a prime side", " and 1 not in blocks", ""),
    (
        "graph/rewrite/pools.py",
        "softmax over any axis is a mean",
        'and attribute(softmax, "axis", -1) in (-1, 2)\n        ',
        "",
    ),
    (
        FUSION,
        "a spatial gate of several channels",
        "if features is not same or editor.dims(spatial)[1] != 1:",
        "if features is not same:",
    ),
    (
        FUSION,
        "softmax over any axis fuses",
        'not 1 == attribute(softmax, "axis", -1) == attribute(concat, "axis", -1)',
        'attribute(concat, "axis", -1) != 1',
    ),
    ("build/checks.py", "none asked is all wider", "if asked and len(wider)", "if len(wider)"),
    ("build/checks.py", "all names are told", "in layers[:NAMED])", "in layers)"),
)
"""(module, what is wrong, its text, what stands there instead) of mutants that lived in 2026-11."""

REASONS: dict[tuple[str, str], str] = {
    ("_arguments.py", "_fits: return False -> return None"): "asked for its truth alone",
    (
        "_arguments.py",
        "_short: return text if len(text) < 60 else f'{text[:50]}… ({type(value).__name__})' -> "
        "return text if len(text) <= 60 else f'{text[:50]}… ({type(value).__name__})'",
    ): "a line of sixty characters is as short as one of fifty-nine",
    (
        "_arguments.py",
        "explained: return decorate -> return None",
    ): "run while modules are imported, which none would be with it",
    (
        "graph/rewrite/convolutions.py",
        "is_doubling: if node.op_type != 'Resize' or attribute(node, 'mode', 'nearest') != "
        "'linear': -> if False or attribute(node, 'mode', 'nearest') != 'linear':",
    ): "of opset 17's operators no other has a mode of that name",
    (
        "graph/rewrite/edit.py",
        "GraphEditor._unique: found, count = (name, 1) -> found, count = (name, 2)",
    ): "the second of a name is called the third",
    (
        "graph/rewrite/fusion.py",
        "_stacked: if concat is None or not 1 == attribute(softmax, 'axis', -1) == "
        "attribute(concat, 'axis', -1): -> if concat is None or not 1 == attribute(softmax, "
        "'axis', -2) == attribute(concat, 'axis', -1):",
    ): "neither is 1, which is all that is asked of it",
    (
        "model/layers.py",
        "Network.__init__: self.shuffle: nn.Module = nn.PixelShuffle(side) if side > 1 else "
        "nn.Identity() -> self.shuffle: nn.Module = nn.PixelShuffle(side) if side >= 1 else "
        "nn.Identity()",
    ): "shuffled by a side of one, all stays where it is",
    (
        "pooling/passes.py",
        "FrameStatistics.__init__: self._scenes = 0 -> self._scenes = 1",
    ): "a number by which scenes are told apart, wherever the count begins",
    (
        "pooling/passes.py",
        "FrameStatistics._restore_of_stream: self._turn = (self._turn + count) % total -> "
        "self._turn = (self._turn - count) % total",
    ): "turns go round the other way, and each tile has one as often",
    (
        "pooling/vectors.py",
        "Weights.of: return cls(sides[0].reshape(1, 1, -1, 1), sides[1].reshape(1, 1, 1, -1), "
        "area) -> return cls(sides[0].reshape(1, 1, -1, 1), sides[1].reshape(1, 1, 1, -2), area)",
    ): "numpy takes any negative number so",
    (
        "pooling/vectors.py",
        "Weights.of: return cls(sides[0].reshape(1, 1, -1, 1), sides[1].reshape(1, 1, 1, -1), "
        "area) -> return cls(sides[0].reshape(1, 1, -2, 1), sides[1].reshape(1, 1, 1, -1), area)",
    ): "numpy takes any negative number so",
    (
        "tiling/choice.py",
        "auto_tile: steps = SizeRule(facts.size_rule.up(AUTO_STEP_PX), 0) -> steps = "
        "SizeRule(facts.size_rule.up(AUTO_STEP_PX), 1)",
    ): "of these steps nothing asks for the least",
    (
        "quantize/plan.py",
        "QuantizationPlan.int8_share: return sum((group.macs for group in self.groups if "
        "group.int8)) / max(self.macs, 1) -> return sum((group.macs for group in self.groups if "
        "group.int8)) / max(self.macs, 2)",
    ): "no network has one multiplication, and of none the share is 0 either way",
    (
        "pooling/samples.py",
        "_places: origins = {min(max(middle - size // 2, 0), end - size) for middle in middles} -> "
        "origins = {min(max(middle - size // 2, 1), end - size) for middle in middles}",
    ): "made a multiple of the network's step right behind it, and so 0 again",
    (
        "pooling/scene_cut.py",
        "luma_grid: columns = band.reshape(len(band), width, -1).mean(axis=0, dtype=np.float32) -> "
        "columns = band.reshape(len(band), width, -2).mean(axis=0, dtype=np.float32)",
    ): "numpy takes any negative number so",
    (
        "pooling/scene_cut.py",
        "luma_grid: tops = np.arange(CELLS + 1) * height // CELLS -> tops = np.arange(CELLS + 2) * "
        "height // CELLS",
    ): "one more, below the last cell, which nothing reads",
}
"""Survivors by module and what is said of them, with the reason why no test tells them apart."""
