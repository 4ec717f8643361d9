"""``mirnet-edge restore``: what is read, what is written where, and what is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from restoring import Restore, load, names, noise, save
from restoring import restore as restore

# What is read, and where results go


def test_several_files_folders_and_globs(restore: Restore, tmp_path: Path) -> None:
    for folder in ("one", "two", "two/below", "three"):
        Path(folder).mkdir()
    for name in ("a.png", "one/b.png", "one/c.jpg", "two/d.png", "two/below/e.png", "three/f.png"):
        save(name)
    Path("one/notes.txt").write_text("not an image")
    before = names(tmp_path)
    outcome = restore("a.png", "one", "t*/*.png", "a.png", "--json")
    assert outcome.code == 0
    inputs = ["a.png", "one/b.png", "one/c.jpg", "three/f.png", "two/d.png"]
    assert [result["input"] for result in outcome.json] == inputs
    outputs = [result["output"] for result in outcome.json]
    assert outputs == [
        "a_restored.png",
        "one/b_restored.png",
        "one/c_restored.jpg",
        "three/f_restored.png",
        "two/d_restored.png",
    ]
    assert names(tmp_path) == sorted(before + outputs)


def test_recursive_glob(restore: Restore) -> None:
    Path("x/y").mkdir(parents=True)
    save("x/a.png")
    save("x/y/b.png")
    outcome = restore("x/**/*.png", "--json")
    assert [result["input"] for result in outcome.json] == ["x/a.png", "x/y/b.png"]


def test_output_folder_and_output_file(restore: Restore) -> None:
    Path("out").mkdir()
    save("a.png")
    save("b.jpg")
    assert restore("a.png", "b.jpg", "-o", "out").code == 0
    assert names(Path("out")) == ["a_restored.png", "b_restored.jpg"]
    assert restore("a.png", "-o", "out/other.bmp", "--compare").code == 0
    assert np.array_equal(load("out/other.bmp"), load("out/a_restored.png"))
    assert names(Path("out")) == ["a_compare.png", "a_restored.png", "b_restored.jpg", "other.bmp"]


def test_a_folder_may_look_like_an_image_name(restore: Restore) -> None:
    Path("out.png").mkdir()
    save("a.png")
    assert restore("a.png", "-o", "out.png").code == 0
    assert names(Path("out.png")) == ["a_restored.png"]


# Files that are there already


def test_existing_results_are_refused_and_stay_untouched(restore: Restore) -> None:
    save("a.png")
    result = Path("a_restored.png")
    result.write_bytes(b"mine")
    assert restore("a.png").only_error.startswith("a_restored.png exists; ")
    assert result.read_bytes() == b"mine"
    assert restore("a.png", "--overwrite").code == 0
    assert load(result).shape == (21, 34, 3)


def test_existing_comparison_is_refused_before_anything_is_written(
    restore: Restore, tmp_path: Path
) -> None:
    save("a.png")
    Path("a_compare.png").write_bytes(b"mine")
    assert "a_compare.png exists; " in restore("a.png", "--compare").only_error
    assert names(tmp_path) == ["a.png", "a_compare.png"]
    assert Path("a_compare.png").read_bytes() == b"mine"


def test_source_is_replaced_only_when_asked(restore: Restore) -> None:
    source = save("a.png")
    original = source.read_bytes()
    assert restore("a.png", "-o", "a.png").code == 1
    assert source.read_bytes() == original
    assert restore("a.png", "-o", "a.png", "--overwrite").code == 0
    assert source.read_bytes() != original


def test_results_in_a_folder_are_not_restored_again(restore: Restore, tmp_path: Path) -> None:
    save("a.png")
    save("b.jpg")
    restore(tmp_path, "--compare")
    first = names(tmp_path)
    for spec in (tmp_path, "*.*"):
        outcome = restore(spec, "--compare", "--overwrite", "--json")
        assert [Path(result["input"]).name for result in outcome.json] == ["a.png", "b.jpg"]
        assert names(tmp_path) == first


@pytest.mark.parametrize("spelled", ["a_restored.png", "./a_restored.png", "b/../a_restored.png"])
def test_an_earlier_result_named_by_itself_is_restored(spelled: str, restore: Restore) -> None:
    Path("b").mkdir()
    save("a_restored.png")
    outcome = restore(spelled)
    assert (outcome.code, outcome.errors) == (0, [])
    assert Path("a_restored_restored.png").is_file(), outcome


def test_two_inputs_with_one_target_are_refused(restore: Restore, tmp_path: Path) -> None:
    for folder in ("one", "two", "out"):
        Path(folder).mkdir()
    save("one/a.png")
    save("two/a.png")
    error = restore("one", "two", "-o", "out").only_error
    for name in ("one/a.png", "two/a.png", "out/a_restored.png"):
        assert name in error
    assert names(tmp_path) == ["one/a.png", "two/a.png"]


def test_two_inputs_with_one_comparison_are_refused(restore: Restore, tmp_path: Path) -> None:
    save("a.png")
    save("a.jpg")
    error = restore("a.png", "a.jpg", "--compare", "--overwrite").only_error
    for name in ("a.png", "a.jpg", "a_compare.png"):
        assert name in error
    assert names(tmp_path) == ["a.jpg", "a.png"]


# Errors


@pytest.fixture
def mixed(restore: Restore) -> Path:
    """A folder of two good images and three that are none."""
    folder = Path("mixed")
    folder.mkdir()
    save(folder / "a-good.png")
    (folder / "b-text.png").write_text("hello")
    (folder / "c-cut.png").write_bytes((folder / "a-good.png").read_bytes()[:900])
    (folder / "d-empty.jpg").touch()
    save(folder / "e-good.jpg")
    return folder


def test_bad_files_are_reported_at_the_end_and_stop_nothing(mixed: Path, restore: Restore) -> None:
    before = names(mixed)
    outcome = restore(mixed)
    assert outcome.code == 1
    assert outcome.out.splitlines()[-1] == "2 of 5 restored"
    bad = ("b-text.png", "c-cut.png", "d-empty.jpg")
    assert len(outcome.errors) == 3
    for name, error in zip(bad, outcome.errors):
        assert error.startswith(f"mixed/{name}: ")
    assert names(mixed) == sorted([*before, "a-good_restored.png", "e-good_restored.jpg"])


def test_json_holds_the_errors(mixed: Path, restore: Restore) -> None:
    outcome = restore(mixed, "--json")
    assert outcome.code == 1
    assert ["error" in result for result in outcome.json] == [False, True, True, True, False]
    assert [result.get("error") for result in outcome.json[1:4]] == outcome.errors
    assert all(result["input"] and result["output"] for result in outcome.json)


def _damaged(model: Path, how: str) -> Path:
    whole = model.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"not a model\n",
        "cut": whole[: len(whole) // 2],
        "zeros": whole[:2000] + bytes(len(whole) - 2000),
    }
    path = Path(f"{how}.onnx")
    path.write_bytes(damaged[how])
    return path


@pytest.mark.parametrize("how", ["empty", "text", "cut", "zeros"])
def test_damaged_model_is_one_clear_error(
    how: str, restore: Restore, tiny_onnx: Path, tmp_path: Path
) -> None:
    save("a.png")
    damaged = _damaged(tiny_onnx, how)
    assert restore("a.png", "-m", damaged).only_error.startswith(f"{damaged}: ")
    assert names(tmp_path) == ["a.png", str(damaged)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.png", "--tile", "30"], ["30", "multiples of 4"]),
        (["a.png", "--tile", "64x30"], ["(64, 30)", "multiples of 4"]),
        (["a.png", "--tile", "0"], ["multiples of 4"]),
        (["a.png", "--tile", "28", "--halo", "16"], ["28", "halo=16", "larger tile"]),
        (["a.png", "--tile", "32", "--halo", "16"], ["32", "halo=16", "larger tile"]),
        (["a.png", "--tile", "48", "--halo", "16", "--blend", "8"], ["48", "blend=8"]),
        (["a.png", "--tile", "64", "--blend", "3"], ["blend=3", "even"]),
        (["a.png", "--provider", "AbacusExecutionProvider"], ["Abacus", "CPUExecutionProvider"]),
        (["a.png", "-m", "edge-xxl"], ["edge-xxl", "no such file", "mirnet-edge models"]),
        (["a.png", "-m", "a.png"], ["a.png", ".onnx", ".safetensors"]),
        (["missing.png"], ["missing.png", "no such file"]),
        (["*.webp"], ["*.webp", "no such file"]),
        (["empty"], ["empty", "no image"]),
        (["a.png", "-o", "nowhere"], ["no folder nowhere", "mkdir"]),
        (["a.png", "-o", "nowhere/a.png"], ["no folder nowhere", "mkdir"]),
        (["a.png", "b.png", "-o", "one.png"], ["one.png", "2 inputs"]),
    ],
    ids=lambda value: " ".join(value) if ".png" in value[0] else "",
)
def test_what_cannot_be_is_one_clear_error(
    arguments: list[str], said: list[str], restore: Restore, tmp_path: Path
) -> None:
    Path("empty").mkdir()
    save("a.png")
    save("b.png")
    error = restore(*arguments).only_error
    for words in said:
        assert words in error
    assert names(tmp_path) == ["a.png", "b.png"]


def test_formats_that_cannot_be_written_are_named(restore: Restore, tmp_path: Path) -> None:
    save("a.gif")
    error = restore("a.gif").only_error
    assert "a_restored.gif" in error
    assert ".png" in error
    save("b.png", noise(8, 8, 4))
    assert "b.jpg" in restore("b.png", "-o", "b.jpg").only_error
    assert names(tmp_path) == ["a.gif", "b.png"]
