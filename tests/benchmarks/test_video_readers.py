"""Videos: real sequences of DAVIS and masklets of SA-V, and folders made in the layouts of the others."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from unsam_lightning.benchmarks.open_reader import open_images, open_videos
from unsam_lightning.benchmarks.readers.sav_json import SAVJson
from unsam_lightning.benchmarks.readers.video_folder import VideoFolder
from unsam_lightning.benchmarks.readers.video_frames import VideoFrames
from unsam_lightning.errors import UserError
from unsam_lightning.source_file import find_file, read_source
from unsam_lightning.sources import eval_dataset

H, W = 16, 24


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)


def rows(*values):
    """A map of the values, one row each, the rest 0."""
    array = np.zeros((H, W), dtype=np.uint8)
    array[: len(values)] = np.array(values, dtype=np.uint8)[:, None]
    return array


@pytest.fixture
def videos(tmp_path):
    """Two videos of six frames, annotated at every fifth, as in YouTube-VOS; object 2 leaves, object 3 comes."""
    root = tmp_path / "train"
    for video in ("b", "a"):
        for frame in range(6):
            save(root / f"JPEGImages/{video}/{frame:05d}.jpg", np.full((H, W, 3), 20 * frame))
        save(root / f"Annotations/{video}/00000.png", rows(1, 2, 2))
        save(root / f"Annotations/{video}/00005.png", rows(0, 1, 3, 255))
    return tmp_path


def test_frames_and_objects_of_a_video(videos):
    dataset = VideoFolder(videos, name="ytvos")
    assert (dataset.name, len(dataset), dataset.keys) == ("ytvos", 2, ["a", "b"])
    video = dataset[0]
    assert (video.key, len(video.frames), video.annotated) == ("a", 6, [0, 5])
    assert video.image(4).shape == (H, W, 3)
    assert abs(int(video.image(4).mean()) - 80) <= 1
    masks, ids, remarks = video.masks(0)
    assert (ids, masks.dtype, remarks) == (["object1", "object2"], np.int8, [])
    assert masks[:, :4, 0].tolist() == [[1, 0, 0, 0], [0, 1, 1, 0]]
    masks, ids, _ = video.masks(5)
    assert ids == ["object1", "object3"]
    assert masks[:, :5, 0].tolist() == [[0, 1, 0, -1, 0], [0, 0, 1, -1, 0]]  # void is ignored for all
    with pytest.raises(KeyError):
        video.masks(1)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("ImageSets/480p/val.txt", "/JPEGImages/480p/{0}/{1:05d}.jpg /Annotations/480p/{0}/{1:05d}.png\n"),  # of 2016
        ("ImageSets/2016/val.txt", "{0}\n"),  # of 2017
    ],
)
def test_split_of_davis_2016_is_found_in_either_archive(tmp_path, place, line):
    for video in ("bear", "cows", "dog"):
        for frame in range(2):
            save(tmp_path / f"DAVIS/JPEGImages/480p/{video}/{frame:05d}.jpg", np.zeros((H, W, 3)))
            save(tmp_path / f"DAVIS/Annotations/480p/{video}/{frame:05d}.png", rows(255))
    split = tmp_path / "DAVIS" / place
    split.parent.mkdir(parents=True)
    count = 2 if place.startswith("ImageSets/480p") else 1
    split.write_text("".join(line.format(video, frame) for video in ("cows", "bear") for frame in range(count)))
    for_video, for_frames = (
        dataclasses.replace(read_source(find_file(f"data_manifests/{name}.yaml")), root=tmp_path)
        for name in ("davis2016_val", "davis2016_frames")
    )
    assert open_videos(for_video).keys == ["cows", "bear"]
    assert open_images(for_frames).keys == ["cows/00000", "bear/00000"]
    split.unlink()
    with pytest.raises(UserError, match=r"expected .*ImageSets/2016/val\.txt or ImageSets/480p/val\.txt in "):
        open_videos(for_video)


def test_split_decides_which_videos(videos):
    (videos / "train/val.txt").write_text("b\n")
    assert VideoFolder(videos, split="val.txt").keys == ["b"]
    (videos / "train/val.txt").write_text("b\nc\n")
    with pytest.raises(UserError, match="2 missing: c in JPEGImages, c in Annotations"):
        VideoFolder(videos, split="val.txt")
    with pytest.raises(UserError, match=r"expected frames, Annotations in .*among train/"):
        VideoFolder(videos, frames="frames")


def test_defects_of_a_video_are_named(videos):
    folder = videos / "train/Annotations/a"
    save(folder / "00009.png", rows(1))
    with pytest.raises(UserError, match="1 without a frame: 00009"):
        VideoFolder(videos)[0]
    (folder / "00009.png").unlink()
    video = VideoFolder(videos)[0]
    save(folder / "00005.png", np.arange(H * W * 3).reshape(H, W, 3) % 251)
    with pytest.raises(UserError, match=r"00005\.png; found a colour image"):
        video.masks(5)
    (folder / "00000.png").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"00000\.png"):
        video.masks(0)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="none of them among 0 entries"):
        VideoFolder(videos)[0]


def test_a_folder_for_each_object(tmp_path):
    """SA-V's val and test: objects overlap, and are empty where they are out of sight."""
    root = tmp_path / "sav_val"
    for frame in range(5):
        save(root / f"JPEGImages_24fps/sav_1/{frame:05d}.jpg", np.zeros((H, W, 3)))
    for number, heights in (("000", (3, 0)), ("002", (2, 4))):
        for frame, height in zip((0, 4), heights, strict=True):
            save(root / f"Annotations_6fps/sav_1/{number}/{frame:05d}.png", rows(*[1] * height))
    (root / "sav_val.txt").write_text("sav_1\n")
    names = {"frames": "JPEGImages_24fps", "masks": "Annotations_6fps", "split": "sav_val.txt", "per_object": True}
    video = VideoFolder(tmp_path, **names)[0]
    assert video.annotated == [0, 4]
    masks, ids, remarks = video.masks(0)
    assert ids == ["object000", "object002"]
    assert masks[:, :4, 0].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    masks, ids, remarks = video.masks(4)
    assert (ids, masks[0].sum(), remarks) == (["object002"], 4 * W, [])
    save(root / "Annotations_6fps/sav_1/002/00004.png", rows(1)[:, :5])
    with pytest.raises(UserError, match=r"size \(16, 5\), but \(16, 24\)"):
        video.masks(4)


def test_davis_2016_sequences(shared):
    options = {"frames": "JPEGImages/480p", "masks": "Annotations/480p", "values": "union"}
    dataset = VideoFolder(shared / "data/DAVIS2016_val", split="ImageSets/2016/val.txt", **options)
    assert dataset.keys == ["blackswan", "car-shadow", "kite-surf"]
    assert [len(dataset[n].annotated) for n in range(3)] == [50, 40, 50]
    video = dataset[0]
    assert video.image(7).shape == (480, 854, 3)
    masks, ids, _ = video.masks(7)
    stored = np.asarray(Image.open(shared / "data/DAVIS2016_val/Annotations/480p/blackswan/00007.png"))
    assert ids == ["object1"]
    np.testing.assert_array_equal(masks[0], stored == 255)


def test_davis_2017_objects_and_void(shared):
    root = shared / "data/DAVIS2017_interactive_testdata"
    (frames, maps) = ("JPEGImages/480p", "Annotations/480p")
    with pytest.raises(UserError, match="1 missing: blackswan in JPEGImages/480p"):
        VideoFolder(root, frames, maps)


def test_davis_2017_tennis(shared, tmp_path):
    (tmp_path / "split.txt").write_text("tennis\n")
    root = shared / "data/DAVIS2017_interactive_testdata"
    dataset = VideoFolder(root, "JPEGImages/480p", "Annotations/480p", split=str(tmp_path / "split.txt"))
    masks, ids, _ = dataset[0].masks(0)
    stored = np.asarray(Image.open(root / "DAVIS/Annotations/480p/tennis/00000.png"))
    assert ids == ["object1", "object2"]
    for number, mask in enumerate(masks, start=1):
        np.testing.assert_array_equal(mask == 1, stored == number)
        np.testing.assert_array_equal(mask == -1, stored == 255)


# --- SA-V's masklets -------------------------------------------------------------------------------------------------


def rle(mask):
    encoded = coco.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


@pytest.fixture
def sav(tmp_path):
    """A video of nine grey frames, annotated at frames 0, 4 and 8; object 7 is out of sight at frame 4."""
    folder = tmp_path / "sav_000"
    folder.mkdir()
    writer = cv2.VideoWriter(str(folder / "sav_1.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 24, (64, 48))
    for frame in range(9):
        writer.write(np.full((48, 64, 3), 25 * frame, dtype=np.uint8))
    writer.release()
    masks = np.zeros((3, 2, 48, 64), dtype=np.uint8)
    masks[:, 0, :9], masks[::2, 1, 20:30] = 1, 1
    content = {
        "video_height": 48.0,
        "video_width": 64.0,
        "video_frame_count": 9.0,
        "masklet_id": [3, 7],
        "masklet": [[rle(mask) for mask in frame] for frame in masks],
    }
    (folder / "sav_1_manual.json").write_text(json.dumps(content))
    return tmp_path, content


def test_masklets_lie_on_every_fourth_frame(sav):
    video = SAVJson(sav[0])[0]
    assert (video.key, len(video.frames), video.annotated) == ("sav_000/sav_1", 9, [0, 4, 8])
    assert [video.masks(frame).ids for frame in video.annotated] == [
        ["object3", "object7"],
        ["object3"],
        ["object3", "object7"],
    ]
    assert video.masks(8).masks.sum((1, 2)).tolist() == [9 * 64, 10 * 64]
    for frame in (2, 3, 8, 0):  # forward, and back again
        assert abs(float(video.image(frame).mean()) - 25 * frame) < 6
    with pytest.raises(ValueError, match="3 is not in list"):
        video.masks(3)


def test_masklet_defects_are_named(sav):
    root, content = sav
    path = root / "sav_000/sav_1_manual.json"
    with pytest.raises(UserError, match=r"sav_\*_auto\.json"):
        SAVJson(root, kind="auto")
    with pytest.raises(UserError, match="manual or auto; found both"):
        SAVJson(root, kind="both")
    path.write_text(json.dumps({**content, "video_frame_count": 8}))
    with pytest.raises(UserError, match="3 annotated frames, one in 4, of 8"):
        SAVJson(root)[0]
    path.write_text(json.dumps({**content, "masklet_id": [3]}))
    with pytest.raises(UserError, match="frames of other than 1 objects"):
        SAVJson(root)[0]
    path.write_text(json.dumps({**content, "video_frame_count": 10, "video_width": 48}))
    video = SAVJson(root)[0]
    assert [remark.reason for remark in video.masks(0).remarks] == ["mask of another size than the image"] * 2
    with pytest.raises(UserError, match=r"48x48 .* found 64x48"):
        video.image(0)
    path.write_text(json.dumps({**content, "video_frame_count": 10}))
    with pytest.raises(UserError, match=r"frame 9 of 10 .* it ends after 9 frames"):
        SAVJson(root)[0].image(9)
    (root / "sav_000/sav_1.mp4").unlink()
    with pytest.raises(UserError, match=r"sav_1\.mp4; found nothing there"):
        SAVJson(root)[0].image(0)


def test_sav_example(shared):
    for kind, objects in (("manual", 5), ("auto", 9)):
        video = SAVJson(shared / "data/SA-V_example", kind=kind)[0]
        content = json.loads((shared / f"data/SA-V_example/sav_000001_{kind}.json").read_text())
        assert (len(video.frames), len(video.annotated), video.annotated[-1]) == (483, 121, 480)
        totals = dict.fromkeys(content["masklet_id"], 0)
        for frame in video.annotated[:3]:
            masks, ids, remarks = video.masks(frame)
            assert not remarks
            assert masks.shape[1:] == (848, 480)
            for name, mask in zip(ids, masks, strict=True):
                totals[int(name.removeprefix("object"))] += int(mask.sum())
        stated = [sum(int(coco.area(frame[n])) for frame in content["masklet"][:3]) for n in range(objects)]
        assert list(totals.values()) == stated


def test_frames_of_videos_are_known_as_such(videos):
    about = "format: unsam_lightning/source/1\nname: mine\nroot: .\n"
    (videos / "frames.yaml").write_text(about + "reader: video_frames\n")
    (videos / "scenes.yaml").write_text(about + "reader: scenes\noptions: {num_images: 1, size: 64}\n")
    assert eval_dataset(str(videos / "frames.yaml")).of_videos
    assert not eval_dataset(str(videos / "scenes.yaml")).of_videos


def test_frames_of_videos_as_images(shared, tmp_path):
    options = {"frames": "JPEGImages/480p", "masks": "Annotations/480p", "values": "union"}
    dataset = VideoFrames(shared / "data/DAVIS2016_val", every=20, split="ImageSets/2016/val.txt", **options)
    places = [("blackswan", n) for n in (0, 20, 40)] + [("car-shadow", n) for n in (0, 20)]
    places += [("kite-surf", n) for n in (0, 20, 40)]
    assert dataset.keys == [f"{video}/{frame:05}" for video, frame in places]
    sample = dataset[1]
    video = VideoFolder(shared / "data/DAVIS2016_val", split="ImageSets/2016/val.txt", **options)[0]
    np.testing.assert_array_equal(sample.image, video.image(20))
    np.testing.assert_array_equal(sample.masks, video.masks(20).masks)
    with pytest.raises(UserError, match="every: a whole number from 1 on; found 0"):
        VideoFrames(shared / "data/DAVIS2016_val", every=0, **options)


def test_a_frame_of_another_size_than_its_map_is_named(tmp_path):
    for folder, size in (("JPEGImages", (8, 6)), ("Annotations", (8, 5))):
        (tmp_path / folder / "v").mkdir(parents=True)
        Image.new("L", size, 1).save(tmp_path / folder / "v/0.png")
    with pytest.raises(UserError, match="maps of 8x6 for v/0; found 8x5"):
        VideoFrames(tmp_path)[0]
