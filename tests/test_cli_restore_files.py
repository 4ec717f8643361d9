"""``mirnet-edge restore``: what is read, what is written where, and what is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from restoring import Restore, halves, load, names, noise, save
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


def test_existing_results_are_one_error_that_names_the_ways_on(restore: Restore) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save(name)
    Path("a_restored.png").write_bytes(b"mine")
    Path("c_restored.png").write_bytes(b"mine")
    outcome = restore("a.png", "b.png", "c.png", "--json")
    assert outcome.code == 1
    (error,) = outcome.errors
    for said in ("2 of 3", "a_restored.png exists", "--skip-existing", "--overwrite"):
        assert said in error
    said = {result["input"]: "error" in result for result in outcome.json}
    assert said == {"a.png": True, "b.png": False, "c.png": True}
    assert "--skip-existing" in outcome.json[1]["error"]
    assert load("b_restored.png").shape == (21, 34, 3)


def test_a_run_goes_on_where_it_was_killed(restore: Restore) -> None:
    for index in range(4):
        save(f"{index}.png", noise(21, 34 + index, 3))
    assert restore("?.png", "--compare").code == 0
    for lost in ("1_restored.png", "1_compare.png", "3_compare.png"):
        Path(lost).unlink()
    before = {path: path.stat().st_mtime_ns for path in Path().glob("*_*.png")}
    outcome = restore("?.png", "--compare", "--skip-existing")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert [line.partition(" ")[0] for line in lines[:-1]] == ["1.png", "3.png"]
    assert lines[-1] == "2 of 4 restored, 2 were there"
    assert {path: path.stat().st_mtime_ns for path in before} == before, "written again"
    assert halves("3_compare.png")[0].shape == (21, 37, 3)
    assert load("1_restored.png").shape == (21, 35, 3)

    outcome = restore("?.png", "--compare", "--skip-existing", "--json")
    assert (outcome.code, [result.get("skipped") for result in outcome.json]) == (0, [True] * 4)
    outcome = restore("0.png", "--skip-existing", "--overwrite")
    assert outcome.code == 2


# Many folders, and what lies in them


def test_a_folder_for_results_is_made(restore: Restore, tmp_path: Path) -> None:
    Path("holiday").mkdir()
    save("holiday/a.jpg")
    save("holiday/b.jpg")
    assert restore("holiday/a.jpg", "holiday/b.jpg", "-o", "clean/", "--compare").code == 0
    assert restore("holiday", "-o", "new/below").code == 0
    assert restore("holiday", "-o", "v1.2/").code == 0
    made = ["a_restored.jpg", "b_restored.jpg"]
    assert names(Path("clean")) == ["a_compare.png", made[0], "b_compare.png", made[1]]
    assert names(Path("new/below")) == names(Path("v1.2")) == made
    Path("file").touch()
    assert "cannot make the folder file" in restore("holiday", "-o", "file").only_error
    for name in ("v1.3", "a.xcf"):
        error = restore("holiday/a.jpg", "-o", name).only_error
        assert f"for a new folder write {name}/" in error
        assert not Path(name).exists()


@pytest.mark.parametrize(
    ("inputs", "written"),
    [
        (["in/**/*.png"], ["a_restored.png", "x/a_restored.png", "y/a_restored.png"]),
        (["in/x", "in/y"], ["x/a_restored.png", "y/a_restored.png"]),
        (["in/x/a.png", "in/y/../y/a.png"], ["x/a_restored.png", "y/a_restored.png"]),
        (["in/[xz]/*.png"], ["x/a_restored.png"]),
        (["in/x"], ["a_restored.png"]),
        (["in/x/a.png", "in/../in/x/a.png"], ["a_restored.png"]),
    ],
    ids=" ".join,
)
def test_one_name_in_two_folders(
    inputs: list[str], written: list[str], restore: Restore, tmp_path: Path
) -> None:
    for index, folder in enumerate(("in", "in/x", "in/y")):
        Path(folder).mkdir()
        save(f"{folder}/a.png", noise(9, 8 + index, 3))
    outcome = restore(*inputs, "-o", "out", "--json")
    assert (outcome.code, outcome.errors) == (0, [])
    assert [result["output"] for result in outcome.json] == [f"out/{name}" for name in written]
    assert names(Path("out")) == sorted(written)
    for result in outcome.json:
        assert load(result["output"]).shape == load(result["input"]).shape


def test_one_name_with_two_suffixes(restore: Restore, tmp_path: Path) -> None:
    save("a.png", noise(9, 8, 3))
    save("a.jpg", noise(10, 12, 3))
    save("b.jpg")
    assert restore("a.png", "a.jpg", "b.jpg", "--compare").code == 0
    assert halves("a.png_compare.png")[0].shape == (9, 8, 3)
    assert halves("a.jpg_compare.png")[0].shape == (10, 12, 3)
    assert Path("b_compare.png").is_file()
    first = names(tmp_path)
    assert restore(tmp_path, "--compare", "--overwrite").code == 0
    assert names(tmp_path) == first, "a comparison was taken for a picture"


def test_what_is_left_out_is_named(restore: Restore) -> None:
    Path("in/below").mkdir(parents=True)
    save("in/a.png")
    save("in/below/b.png")
    for name in ("c.xcf", "d.txt", "e.heic", "f.svg", "g.xmp"):
        Path("in", name).touch()
    Path("in/.hidden.xcf").touch()
    Path("in/lost.png").symlink_to("nowhere.png")
    assert len(restore("in/**/*", "-o", "all", "--json").json) == 2
    outcome = restore("in", "-o", "out")
    assert (outcome.code, names(Path("out"))) == (0, ["a_restored.png"])
    (line,) = outcome.err.splitlines()
    for said in ("left out of in: ", "folders: below", "c.xcf, d.txt, e.heic and 2 more",
                 "broken links: lost.png", "--recursive"):  # fmt: skip
        assert said in line
    (line,) = restore("in/*.png", "-o", "two").err.splitlines()
    assert line == "left out of in/*.png: broken links: lost.png"
    outcome = restore("in/lost.png", "in/a.png", "-o", "three", "--json")
    assert (outcome.code, len(outcome.json)) == (0, 1)
    assert outcome.err.startswith("left out: in/lost.png, a link to a file that is not there")
    assert "a link to a file that is not there" in restore("in/lost.png").only_error
    Path("in/below/b.png").rename("in/b.png")
    Path("in/below/c.xcf").touch()
    assert "no image" in (error := restore("in/below").only_error)
    assert error.endswith("left out of in/below: other formats: c.xcf")


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


def test_bad_files_are_reported_and_stop_nothing(mixed: Path, restore: Restore) -> None:
    before = names(mixed)
    outcome = restore(mixed)
    assert outcome.code == 1
    assert outcome.out.splitlines()[-1] == "2 of 5 restored, 3 failed"
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
    save("a.png", noise(8, 8, 4))
    assert "a.jpg" in restore("a.png", "-o", "a.jpg").only_error
    assert names(tmp_path) == ["a.png"]


def test_what_is_only_read_is_written_as_png(restore: Restore) -> None:
    save("a.ppm")
    assert restore("a.ppm").code == 0
    assert load("a_restored.png").shape == (21, 34, 3)
