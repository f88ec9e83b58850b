"""The `data` command on a small data set that a local server has, and that a person must fetch."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from unsam_lightning.__main__ import main
from unsam_lightning.data_command import find_manifest, list_data
from unsam_lightning.errors import UserError
from unsam_lightning.source_file import SOURCE_FORMAT, read_source
from unsam_lightning.sources import eval_dataset

ROOT = Path(__file__).resolve().parents[1]


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def mask(height: int) -> np.ndarray:
    values = np.zeros((12, 18), dtype=np.uint8)
    values[:height] = 255
    return values


def archive(**masks: np.ndarray) -> bytes:
    """A zip with a folder around `img` and `gt`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, values in masks.items():
            opened.writestr(f"Set/img/{name}.png", png(np.full((12, 18, 3), 77, dtype=np.uint8)))
            opened.writestr(f"Set/gt/{name}.png", png(values))
    return buffer.getvalue()


class Remote:
    """A folder that a server gives out, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.port = 0

    def offer(self, content: bytes, name: str = "set.zip") -> dict[str, Any]:
        (self.folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        url = f"http://127.0.0.1:{self.port}/{name}"
        return {"url": url, "bytes": len(content), "sha256": digest, "makes": ["img", "gt"]}


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    (tmp_path / "remote").mkdir()
    state = Remote(tmp_path / "remote")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            state.asked.append(self.path)

    handler = functools.partial(Handler, directory=str(state.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        state.port = listening.server_port
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield state
        listening.shutdown()


def manifest(tmp_path: Path, **fields: Any) -> str:
    path = tmp_path / "small.yaml"
    options = {"images": "img", "masks": "gt", "values": "binary"}
    content = {"format": SOURCE_FORMAT, "name": "small", "reader": "mask_folder", "options": options, **fields}
    path.write_text(yaml.safe_dump(content))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    code = main(["data", *map(str, args)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_a_public_data_set_is_fetched_verified_and_usable(
    tmp_path: Path, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    file = remote.offer(archive(a=mask(3), b=mask(5)))
    path = manifest(tmp_path, files=[file], counts={"images": 2, "masks": 2}, licence="CC0")
    root = tmp_path / "data"
    code, printed = run(capsys, path, "--root", root)
    assert code == 0
    assert "2 images, 2 masks" in printed
    assert f"source file: {root / 'small.yaml'}" in printed
    dataset = eval_dataset(str(root / "small.yaml"))
    assert [int((sample.masks == 1).sum()) for sample in dataset] == [3 * 18, 5 * 18]
    assert read_source(root / "small.yaml").licence == "CC0"
    # Again: nothing is fetched, nothing is unpacked.
    code, printed = run(capsys, path, "--root", root)
    assert (code, remote.asked) == (0, ["/set.zip"])
    # What was written can be verified again, and stays as it is.
    written = (root / "small.yaml").read_text()
    assert run(capsys, root / "small.yaml", "--verify")[0] == 0
    assert (root / "small.yaml").read_text() == written
    # The folder moves with its source file.
    root.rename(tmp_path / "moved")
    assert len(eval_dataset(str(tmp_path / "moved/small.yaml"))) == 2


def test_interrupted_unpacking_is_done_again(
    tmp_path: Path, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(tmp_path, files=[remote.offer(archive(a=mask(3), b=mask(5)))], counts={"images": 2})
    root = tmp_path / "data"
    assert run(capsys, path, "--root", root)[0] == 0
    (root / "Set/gt/b.png").unlink()
    (root / ".set.zip.unpacking").touch()
    code, _ = run(capsys, path, "--root", root)
    assert (code, remote.asked) == (0, ["/set.zip"])  # from the archive that is there
    assert not (root / ".set.zip.unpacking").exists()


def test_a_server_that_lies_ends_with_one_line(
    tmp_path: Path, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    file = remote.offer(archive(a=mask(3)))
    remote.offer(archive(a=mask(4)))  # another one of the same size
    path = manifest(tmp_path, files=[file], by_hand="ask the author, who has it.")
    code, printed = run(capsys, path, "--root", tmp_path / "data")
    assert code == 2
    errors = [line for line in printed.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert (
        f"expected sha256 {file['sha256']} as stated for {file['url']}" in errors[0] or "bytes as stated" in errors[0]
    )
    assert errors[0].endswith("To be fetched by hand: ask the author, who has it.")
    assert not (tmp_path / "data/set.zip").exists()


def test_an_archive_with_other_folders_is_named(
    tmp_path: Path, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    file = remote.offer(archive(a=mask(3))) | {"makes": ["images"]}
    code, printed = run(capsys, manifest(tmp_path, files=[file]), "--root", tmp_path / "data")
    assert code == 2
    assert "expected images from set.zip; found Set, set.zip" in printed


def test_a_source_file_of_ones_own_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(io.BytesIO(archive(a=mask(3)))) as opened:
        opened.extractall(tmp_path)
    path = Path(manifest(tmp_path))
    before = path.read_text()
    code, printed = run(capsys, path, "--root", tmp_path)
    assert (code, "add `root: .` to it, or give another --out" in printed) == (2, True)
    assert run(capsys, path, "--root", tmp_path, "--out", tmp_path / "out")[0] == 0
    assert path.read_text() == before


def test_what_a_person_must_fetch_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(tmp_path, by_hand="its licence must be accepted at example.org.")
    code, printed = run(capsys, path, "--root", tmp_path / "data")
    assert code == 2
    assert "found an empty folder" in printed
    assert "To be fetched by hand: its licence must be accepted at example.org." in printed
    code, printed = run(capsys, path, "--root", tmp_path / "gone", "--verify")
    assert code == 2
    assert "found nothing there" in printed
    assert not (tmp_path / "gone").exists()


def test_the_report_names_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    grey = mask(3)
    grey[5] = 99
    with zipfile.ZipFile(io.BytesIO(archive(a=mask(3), b=mask(0), c=grey, d=mask(2)))) as opened:
        opened.extractall(root)
    path = manifest(tmp_path, counts={"images": 4, "masks": 4})
    broken = root / "Set/gt/d.png"
    broken.write_bytes(broken.read_bytes()[:45])
    code, printed = run(capsys, path, "--root", root, "--verify")
    assert code == 2
    assert "4 images, 2 masks" in printed
    assert "left out, empty mask: 1 (first b (b.png))" in printed
    assert "used, map of other values than 0, 128 and 255: 1 (first c: object1 (c.png))" in printed
    assert "cannot be read: d: expected a readable file" in printed
    assert "1 that cannot be read, first d:" in printed
    assert "2 masks instead of 4" in printed
    assert not (root / "small.yaml").exists()
    report = yaml.safe_load((root / "small.report.yaml").read_text())
    assert report["counts"] == {"images": 4, "masks": 2}
    assert report["left_out"] == {"empty mask": ["b (b.png)"]}
    # Counting alone finds nothing wrong.
    assert run(capsys, path, "--root", root, "--verify", "--quick")[0] == 0


def test_videos_are_verified_map_by_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for video in ("a", "b"):
        for folder, values in (("JPEGImages", np.zeros((12, 18, 3), np.uint8)), ("Annotations", mask(3))):
            (tmp_path / "data" / folder / video).mkdir(parents=True)
            for frame in range(3):
                (tmp_path / f"data/{folder}/{video}/{frame:05d}.png").write_bytes(png(values))
    path = manifest(tmp_path, reader="video_folder", options={"values": "union"}, counts={"videos": 2})
    code, printed = run(capsys, path, "--root", tmp_path / "data")
    assert (code, "2 videos, 6 annotated frames, 6 masks" in printed) == (0, True)
    (tmp_path / "data/Annotations/a/00001.png").write_bytes(png(mask(3)[:, :9]))
    (tmp_path / "data/Annotations/b/00007.png").write_bytes(png(mask(3)))
    code, printed = run(capsys, path, "--root", tmp_path / "data")
    assert (code, "2 videos, 2 annotated frames" in printed) == (2, True)
    assert "a/00001: expected maps of the frames' size, 18x12; found 9x12" in printed
    assert "b: expected maps" in printed
    (tmp_path / "data/JPEGImages/a/00000.png").write_bytes(b"nonsense")  # the maps are looked at all the same
    code, printed = run(capsys, path, "--root", tmp_path / "data")
    assert (code, "2 videos, 3 annotated frames" in printed) == (2, True)
    assert "a/00000: expected a readable file" in printed
    with pytest.raises(UserError, match=r"ground truth .*reader video_folder"):
        eval_dataset(str(Path(path).with_name("small.yaml")))


def test_a_draw_has_its_own_name_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    with zipfile.ZipFile(io.BytesIO(archive(**{f"i{n}": mask(3) for n in range(9)}))) as opened:
        opened.extractall(root)
    sample = {"name": "four_seed0", "seed": 0, "num_images": 4}
    code, printed = run(capsys, manifest(tmp_path, sample=sample, counts={"images": 4}), "--root", root)
    assert (code, "4 images, 4 masks" in printed) == (0, True)
    dataset = eval_dataset(str(root / "small.yaml"))
    assert (dataset.name, len(dataset)) == ("small_four_seed0", 4)
    code, printed = run(capsys, manifest(tmp_path, sample={**sample, "images": 3}), "--root", root)
    assert (code, "options that reader mask_folder with sample takes" in printed) == (2, True)
    code, printed = run(capsys, manifest(tmp_path, sample={**sample, "num_images": 10}), "--root", root)
    assert (code, "num_images 10 of 9" in printed) == (2, True)


def test_real_data_are_verified_where_they_lie(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"images": "PASCAL-Part/examples", "annotations": "PASCAL-Part/examples"}
    path = manifest(tmp_path, reader="pascal_part", options=options)
    out = tmp_path / "out"
    code, printed = run(capsys, path, "--root", shared / "data", "--out", out, "--verify")
    assert (code, "18 images, 398 masks" in printed) == (0, True)
    assert sorted(entry.name for entry in out.iterdir()) == ["small.report.yaml", "small.yaml"]
    assert len(eval_dataset(str(out / "small.yaml"))) == 18


def test_unknown_and_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = run(capsys, "grabcutt", "--root", tmp_path)
    assert (code, "found grabcutt; choose one of ade20k_full" in printed) == (2, True)
    code, printed = run(capsys, "grabcut")
    assert (code, "--root DIR is needed" in printed) == (2, True)
    for name, found in (
        ("scenes_test", "scenes, which is drawn"),
        ("scenes", "scenes, which is drawn"),  # the data set's name, in scenes_test.yaml
        ("bsds500_train", "which is a folder of images"),
        ("bsds500_train", "data bsds500_val --root DIR"),  # where the folder comes from
    ):
        code, printed = run(capsys, name, "--root", tmp_path)
        assert (code, found in printed) == (2, True)
    code, printed = run(capsys)
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines()] == [line.split()[0] for line in list_data()]


def test_every_manifest_can_be_acted_on() -> None:
    """Each says how to get it, and its options are ones that its reader takes."""
    for path in sorted((ROOT / "data_manifests").glob("*.yaml")):
        source = read_source(path)
        if source.reader in ("images", "scenes"):
            continue
        assert find_manifest(path.stem).name == source.name
        assert source.files or source.by_hand, path.name
        assert source.protocol, path.name
        assert source.counts or source.by_hand, path.name
        for file in source.files:
            assert file.sha256 or file.md5 or "checksum" in path.read_text(), path.name
        # An empty folder: the layout is missing, not an option.
        with pytest.raises(UserError) as caught:
            eval_dataset_or_videos(source, path.parent / "nowhere")
        assert "nowhere" in str(caught.value), path.name


def eval_dataset_or_videos(source: Any, root: Path) -> None:
    import dataclasses

    from unsam_lightning.benchmarks.open_reader import open_images, open_videos
    from unsam_lightning.source_file import VIDEO_READERS

    placed = dataclasses.replace(source, root=root)
    (open_videos if source.reader in VIDEO_READERS else open_images)(placed)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"files": "x"}, "files 'x', not a list"),
        ({"files": [{"url": "http://a.b/c.zip"}]}, "which needs url and makes"),
        ({"files": [{"url": "file:///etc/passwd", "makes": ["x"]}]}, "not an http"),
        ({"files": [{"url": "http://a.b/c.zip?sign=1", "makes": ["x"]}]}, "not an http"),
        ({"files": [{"url": "http://a.b/c.zip", "makes": ["../x"]}]}, "not a list of paths below the root"),
        ({"files": [{"url": "http://a.b/c.zip", "makes": []}]}, "not a list of paths below the root"),
        ({"files": [{"url": "http://a.b/c.zip", "makes": ["x"], "md5": "12"}]}, r"md5 of http://a.b/c.zip malformed"),
        ({"files": [{"url": "http://a.b/c.zip", "makes": ["x"], "bytes": "9"}]}, r"bytes of http://a.b/c.zip malf"),
        ({"counts": {"images": -1}}, "counts {'images': -1}, not numbers of"),
        ({"counts": {"frames": 1}}, "counts {'frames': 1}, not numbers of"),
        ({"sample": 7}, "sample 7, not a mapping"),
    ],
)
def test_malformed_manifests_are_refused(tmp_path: Path, fields: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError, match=found):
        read_source(Path(manifest(tmp_path, **fields)))


def test_report_survives_as_plain_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """COCO-style json of one's own: every kind of defect in one file."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "images/a.png").write_bytes(png(np.zeros((12, 18, 3), dtype=np.uint8)))
    polygon = [[2, 2, 9, 2, 9, 9, 2, 9]]
    annotations = [
        {"id": n, "image_id": 1, "segmentation": s}
        for n, s in ((1, polygon), (1, polygon), (2, []), (3, [[1, 2, 3, 4]]))
    ]
    images = [{"id": 1, "file_name": "a.png", "height": 12, "width": 18}]
    (root / "mine.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    options = {"annotations": "mine.json", "images": "images"}
    code, printed = run(capsys, manifest(tmp_path, reader="coco_json", options=options), "--root", root)
    assert (code, "1 images, 1 masks" in printed) == (0, True)
    report = yaml.safe_load((root / "small.report.yaml").read_text())
    assert report["left_out"] == {
        "duplicate id": ["1: object1"],
        "empty mask": ["1: object2 (no polygon)"],
        "malformed polygon": ["1: object3 (4 numbers)"],
    }
    assert report["odd"] == {"no iscrowd, taken as 0": 3}
