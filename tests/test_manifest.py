import hashlib
import io
import tarfile
from pathlib import Path

import pytest
import yaml

from unsam_lightning.errors import UserError
from unsam_lightning.manifest import (
    Manifest,
    ShardInfo,
    check_files,
    read_manifest,
    scan_shard,
    sha256_file,
    write_manifest,
)
from unsam_lightning.verify import verify_manifest

EXTRA = {"source": "drawn", "licence": "CC0", "broken": []}


def make_shard(path: Path, members: list[tuple[str, bytes]]) -> ShardInfo:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    keys = {name.split(".")[0] for name, _ in members}
    return ShardInfo(path.name, len(keys), path.stat().st_size, sha256_file(path))


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    shards = []
    for number in range(3):
        members = [(f"p-{number}{k}.{ext}", bytes([number, k]) * 700) for k in range(2) for ext in ("jpg", "json")]
        shards.append(make_shard(tmp_path / f"p-00000{number}.tar", members))
    manifest = Manifest(tmp_path / "p.yaml", "images", "p", shards, dict(EXTRA))
    write_manifest(manifest)
    return manifest


def test_what_is_written_is_read(manifest: Manifest) -> None:
    assert read_manifest(manifest.path) == manifest
    assert read_manifest(str(manifest.path), "images").num_samples == 6
    assert manifest.root == manifest.path.parent
    content = yaml.safe_load(manifest.path.read_text())
    assert content["format"] == "unsam_lightning/images/1"
    assert content["num_images"] == 6
    assert content["shards"][0]["sha256"] == hashlib.sha256((manifest.root / "p-000000.tar").read_bytes()).hexdigest()
    assert not list(manifest.root.glob(".*"))  # nothing left aside


def test_names_in_any_script_survive(manifest: Manifest) -> None:
    names = ("ü 写真.jpg", "a\\udcff.jpg", "- a: #b", "no", "1e5", "tab\t and\nline")
    manifest.extra["broken"] = [{"file": name, "reason": "x"} for name in names]
    write_manifest(manifest)
    assert read_manifest(manifest.path).extra["broken"] == manifest.extra["broken"]


def test_label_manifests_have_their_own_kind_and_keys(manifest: Manifest) -> None:
    labels = Manifest(
        manifest.root / "l.yaml", "labels", "p", manifest.shards, {"recipe": {"a": 1}, "recipe_hash": "0"}
    )
    write_manifest(labels)
    assert read_manifest(labels.path, "labels") == labels
    with pytest.raises(
        UserError, match=r"format unsam_lightning/images/1 at .*; found format unsam_lightning/labels/1"
    ):
        read_manifest(labels.path, "images")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "No such file"),
        ("a: [", "not yaml"),
        ("\x00", "not yaml"),
        ("", "no format line"),
        ("- a", "no format line"),
        ("format: [1]", "no format line|format "),
        ("format: unsam_lightning/images/2", "format unsam_lightning/images/2"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, text: str | None, found: str) -> None:
    path = tmp_path / "m.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    expected, _, rest = str(caught.value).partition("; found ")
    assert str(path) in expected
    assert any(part in rest for part in found.split("|"))


def test_a_folder_in_place_of_the_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="directory"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"licence": None, "shards": None}, "no `licence`; no `shards`"),
        ({"num_images": 7}, "num_images 7 but 6 samples"),
        ({"shards": []}, "no list of shards"),
        ({"shards": {"file": "a"}}, "no list of shards"),
        ({"name": 5}, "name 5"),
    ],
)
def test_incomplete_manifests_are_refused(manifest: Manifest, change: dict, found: str) -> None:
    content = yaml.safe_load(manifest.path.read_text()) | change
    manifest.path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(UserError) as caught:
        read_manifest(manifest.path)
    assert found in str(caught.value).partition("; found ")[2]


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("file", "../p-000000.tar", "not a plain file name"),
        ("file", "..", "not a plain file name"),
        ("file", "a\\b.tar", "not a plain file name"),
        ("file", "/etc/passwd", "not a plain file name"),
        ("file", "p-000001.tar", "listed twice"),
        ("samples", 0, "above 0"),
        ("samples", True, "above 0"),
        ("bytes", "12", "above 0"),
        ("sha256", "abc", "64 hexadecimal"),
        ("url", "x", "nothing else"),
    ],
)
def test_bad_shard_entries_are_refused(manifest: Manifest, key: str, value: object, found: str) -> None:
    content = yaml.safe_load(manifest.path.read_text())
    content["shards"][0][key] = value
    manifest.path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as caught:
        read_manifest(manifest.path)
    assert found in str(caught.value).partition("; found ")[2]


def test_intact_shards_pass_both_checks(manifest: Manifest) -> None:
    check_files(manifest)
    assert verify_manifest(manifest.path) == manifest


def test_missing_and_resized_shards_are_named_in_one_error(manifest: Manifest) -> None:
    (manifest.root / "p-000001.tar").unlink()
    with (manifest.root / "p-000002.tar").open("ab") as file:
        file.write(b"\0")
    size = manifest.shards[2].bytes
    with pytest.raises(UserError) as caught:
        check_files(manifest)
    assert str(caught.value).startswith(
        f"expected 3 shards as p.yaml lists; found 2: missing p-000001.tar; "
        f"p-000002.tar has {size + 1} bytes instead of {size}; run `python -m unsam_lightning shards --verify "
    )


def test_a_flipped_byte_is_found_by_verify_only(manifest: Manifest) -> None:
    path = manifest.root / "p-000001.tar"
    content = bytearray(path.read_bytes())
    content[600] ^= 1  # inside the first member
    path.write_bytes(content)
    check_files(manifest)
    with pytest.raises(UserError, match=r"found 3: p-000001.tar has sha256 [0-9a-f]{12}... instead of"):
        verify_manifest(manifest.path)


def test_a_tar_cut_between_two_members_is_found(manifest: Manifest) -> None:
    path = manifest.root / "p-000000.tar"
    with tarfile.open(path) as tar:
        cut = tar.getmembers()[2].offset
    path.write_bytes(path.read_bytes()[:cut])
    (manifest.root / "p-000002.tar").unlink()
    with pytest.raises(UserError) as caught:
        verify_manifest(manifest.path)
    assert (
        f"; found 2: p-000000.tar has {cut} bytes instead of {manifest.shards[0].bytes}, 1 samples instead of 2; "
        "missing p-000002.tar; copy these shards again"
    ) in str(caught.value)


def test_a_wrong_count_in_the_manifest_is_found(manifest: Manifest) -> None:
    first = manifest.shards[0]
    manifest.shards[0] = ShardInfo(first.file, 5, first.bytes, first.sha256)
    write_manifest(manifest)
    with pytest.raises(UserError, match=r"p-000000.tar, 2 samples instead of 5"):
        verify_manifest(manifest.path)


def test_many_problems_are_counted_not_all_spelled_out(manifest: Manifest) -> None:
    manifest.shards = [ShardInfo(f"q-{k}.tar", 1, 1, "0" * 64) for k in range(13)]
    with pytest.raises(UserError) as caught:
        check_files(manifest)
    assert "; found 0: missing q-0.tar; " in str(caught.value)
    assert "missing q-9.tar; and 3 more; run `" in str(caught.value)


def test_scan_gives_offsets_of_the_contents(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    make_shard(path, [("d.x/a.jpg", b"one"), ("d.x/a.seg.json", b"three"), ("b.jpg", b"")])
    index, problems = scan_shard(path)
    assert not problems
    assert list(index) == ["d.x/a", "b"]
    content = path.read_bytes()
    for key, extension, expected in (("d.x/a", "jpg", b"one"), ("d.x/a", "seg.json", b"three"), ("b", "jpg", b"")):
        offset, size = index[key][extension]
        assert content[offset : offset + size] == expected


def test_scan_tells_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    make_shard(path, [("a.jpg", b"1"), ("a.jpg", b"2")])
    assert scan_shard(path)[1] == ["member a.jpg is there twice"]
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert scan_shard(path)[1] == ["member b.jpg is no file"]
    path.write_bytes(b"no tar at all" * 100)
    assert "not a complete tar" in scan_shard(path)[1][0]
