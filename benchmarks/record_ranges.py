"""Record the INT8 ranges and plan of bundled models in ``calibration/``.

    python benchmarks/record_ranges.py [NAME ...]

To be run whenever a bundled model, a rewrite for TensorRT or the choice of INT8 candidates changes;
a test says so. Takes about a minute for each model on two cores.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import click

from mirnet_edge.bundled import BundledModel, bundled_models
from mirnet_edge.graph.file import load_graph, read_facts
from mirnet_edge.quantize import open_images, quantize_onnx
from mirnet_edge.quantize.ranges import Ranges
from mirnet_edge.quantize.recorded import record_files, record_key

TILE = (256, 256)
METHOD = "percentile"
"""Of the four it loses least on CBSD68 at sigma 25: 0.030 dB."""
BUDGET_DB = 0.1


def record(model: BundledModel) -> None:
    """Measure on the bundled images, and write both files."""
    original = load_graph(model.onnx)
    images = open_images(read_facts(original), TILE)
    with tempfile.TemporaryDirectory() as folder:
        report = quantize_onnx(
            model.onnx,
            Path(folder) / "int8.onnx",
            calibration=images,
            method=METHOD,
            budget_db=BUDGET_DB,
            tile=TILE,
        )
        ranges = Ranges.load(report.ranges_path)
    key = record_key(original)
    ranges_path, plan_path = record_files(model.name)
    replace(ranges, graph_sha256=key).save(ranges_path)
    replace(report.plan, graph_sha256=key).save(plan_path)
    plan = report.plan
    click.echo(
        f"{model.name}: {len(plan.int8_nodes)} convolutions in INT8, {plan.int8_share:.1%} of the "
        f"arithmetic, {plan.loss_db:.3f} ± {plan.loss_error_db:.3f} dB, in {report.seconds:.0f} s"
    )


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME ...]")
def main(names: tuple[str, ...]) -> None:
    """Record the named bundled models, or all that have a record."""
    models = {model.name: model for model in bundled_models()}
    for name in names or [name for name in models if record_files(name)[0].exists()]:
        if name not in models:
            raise click.BadParameter(f"no bundled model {name!r}; there are {', '.join(models)}")
        record(models[name])


if __name__ == "__main__":
    main()
