"""Downloads from a real local server that breaks off, forgets, refuses and lies."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unsam_lightning.benchmarks.download import download, unpack
from unsam_lightning.errors import UserError
from unsam_lightning.source_file import RemoteFile

CONTENT = bytes(range(256)) * 40  # 10,240 bytes


@dataclass
class Answer:
    """One answer of the server, honest unless told otherwise."""

    content: bytes = CONTENT
    tag: str = '"one"'
    takes_ranges: bool = True
    heeds_if_range: bool = True
    status: int = 200
    stop_after: int | None = None  # bytes of the body, then the connection ends
    length: int | None = None  # stated instead of the true one
    says_length: bool = True
    shift: int = 0  # a rest begins so much later than asked for


@dataclass
class Server:
    """Answers in turn, the last one for ever; remembers what was asked."""

    port: int = 0
    answers: list[Answer] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)

    def file(self, name: str = "set.bin", **options: object) -> RemoteFile:
        return RemoteFile(url=f"http://127.0.0.1:{self.port}/{name}", makes=(name,), **options)  # type: ignore[arg-type]

    def next_answer(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            answer = state.next_answer()
            body, start = answer.content, 0
            known = answer.tag == self.headers.get("If-Range", answer.tag) or not answer.heeds_if_range
            if asked and answer.takes_ranges and known and answer.status == 200:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) + answer.shift  # type: ignore[index]
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                body = body[start:]
            elif answer.status != 200:
                self.send_error(answer.status)
                return
            else:
                self.send_response(200)
            if answer.says_length:
                self.send_header("Content-Length", str(answer.length or len(body)))
            if answer.tag:
                self.send_header("ETag", answer.tag)
            self.end_headers()
            self.wfile.write(body[: answer.stop_after])

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        state.port = listening.server_port
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield state
        listening.shutdown()


def sums(content: bytes = CONTENT) -> dict[str, object]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def fetch(server: Server, folder: Path, **options: object) -> bytes:
    path = download(server.file(**options), folder, tries=3, pause_s=0.0, timeout_s=5.0)
    assert [entry.name for entry in folder.iterdir()] == [path.name]  # no part, no version
    return path.read_bytes()


def test_an_honest_server(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer()]
    assert fetch(server, tmp_path / "new", **sums()) == CONTENT
    assert fetch(server, tmp_path / "new", **sums()) == CONTENT  # verified, not fetched again
    assert fetch(server, tmp_path / "md5", md5=hashlib.md5(CONTENT).hexdigest()) == CONTENT
    assert server.ranges == [None, None]


def test_server_that_breaks_off_is_asked_for_the_rest(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(stop_after=3000)]  # with every answer, so more breaks than tries
    assert fetch(server, tmp_path, **sums()) == CONTENT
    assert server.ranges == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]


def test_a_later_call_goes_on_where_the_first_ended(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(stop_after=4000), Answer(stop_after=0)]
    with pytest.raises(UserError, match=r"3 times without anything new.*goes on where this ended"):
        fetch(server, tmp_path, **sums())
    assert (tmp_path / "set.bin.part").stat().st_size == 4000
    server.answers, server.ranges = [Answer()], []
    assert fetch(server, tmp_path, **sums()) == CONTENT
    assert server.ranges == ["bytes=4000-"]


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(stop_after=5000, takes_ranges=False), Answer(takes_ranges=False)]
    assert fetch(server, tmp_path, **sums()) == CONTENT


@pytest.mark.parametrize("stated", [True, False])
def test_another_version_is_not_glued_to_the_part(server: Server, tmp_path: Path, stated: bool) -> None:
    other = CONTENT[::-1]
    server.answers = [Answer(stop_after=5000), Answer(content=other, tag='"two"')]
    assert fetch(server, tmp_path, **(sums(other) if stated else {})) == other
    assert server.ranges == [None, "bytes=5000-"]


def test_a_part_of_unknown_version_is_kept_only_with_a_checksum(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(tag="", stop_after=5000), Answer(tag="")]
    assert fetch(server, tmp_path / "a") == CONTENT
    assert server.ranges == [None, None]
    server.answers, server.ranges = [Answer(tag="", stop_after=5000), Answer(tag="")], []
    assert fetch(server, tmp_path / "b", **sums()) == CONTENT
    assert server.ranges == [None, "bytes=5000-"]


def test_a_lie_about_the_version_is_found_by_the_checksum(server: Server, tmp_path: Path) -> None:
    other = CONTENT[::-1]
    server.answers = [Answer(stop_after=5000), Answer(content=other, heeds_if_range=False)]
    with pytest.raises(UserError, match=f"sha256 {sums()['sha256']} as stated .* found sha256"):
        fetch(server, tmp_path, **sums())
    assert list(tmp_path.iterdir()) == []  # nothing wrong stays
    server.answers = [Answer()]
    assert fetch(server, tmp_path, **sums()) == CONTENT


def test_a_rest_from_another_place_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(stop_after=5000), Answer(shift=100), Answer()]
    assert fetch(server, tmp_path, **sums()) == CONTENT
    assert server.ranges == [None, "bytes=5000-", None]


@pytest.mark.parametrize("answer", [Answer(content=CONTENT[:-1]), Answer(length=len(CONTENT) - 1)])
def test_another_size_than_stated_is_refused_at_once(server: Server, tmp_path: Path, answer: Answer) -> None:
    server.answers = [answer]
    with pytest.raises(UserError, match=r"expected 10240 bytes as stated .* found 10239 bytes on the server"):
        fetch(server, tmp_path, **sums())
    assert list(tmp_path.iterdir()) == []
    assert len(server.ranges) == 1


def test_a_server_that_promises_more_than_it_has(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(length=len(CONTENT) + 50, takes_ranges=False)]
    with pytest.raises(UserError, match="3 times without anything new"):
        fetch(server, tmp_path)


def test_a_server_that_says_no_size(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(says_length=False)]
    assert fetch(server, tmp_path / "a", **sums()) == CONTENT
    assert fetch(server, tmp_path / "b") == CONTENT
    server.answers = [Answer(says_length=False, stop_after=100), Answer()]
    assert fetch(server, tmp_path / "c", **sums()) == CONTENT  # the stated size shows that it was cut short
    server.answers = [Answer(says_length=False, content=CONTENT * 2)]
    with pytest.raises(UserError, match=r"10240 bytes as stated .* found 20480 bytes"):
        fetch(server, tmp_path / "d", **sums())


def test_a_part_that_is_whole_needs_nothing_more(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.bin.part").write_bytes(CONTENT)
    server.answers = [Answer()]
    assert fetch(server, tmp_path, **sums()) == CONTENT
    (tmp_path / "set.bin").unlink()
    (tmp_path / "set.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(server, tmp_path, **sums()) == CONTENT


def test_refusals_and_passing_failures(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(status=503), Answer(status=500), Answer()]
    assert fetch(server, tmp_path / "a") == CONTENT
    server.answers, server.ranges = [Answer(status=503)], []
    with pytest.raises(UserError, match=r"HTTP 503 .*3 times"):
        fetch(server, tmp_path / "b")
    assert len(server.ranges) == 3
    server.answers, server.ranges = [Answer(status=404)], []
    with pytest.raises(UserError, match=r"set\.bin; found HTTP 404"):
        fetch(server, tmp_path / "c")
    assert len(server.ranges) == 1
    nowhere = RemoteFile(url="http://127.0.0.1:9/set.bin", makes=("x",))
    with pytest.raises(UserError, match="refused"):
        download(nowhere, tmp_path, tries=1)


def test_a_login_page_instead_of_an_archive(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(content=b"<html>Please log in</html>")]
    for name in ("set.zip", "set.tar.gz"):
        with pytest.raises(UserError, match=r"an archive as stated .* begin with b'<html>Please"):
            fetch(server, tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_ones_own_is_verified_and_never_deleted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"10240 bytes as stated .* found 4 bytes"):
        fetch(server, tmp_path, **sums())
    assert (tmp_path / "set.bin").read_bytes() == b"mine"
    assert server.ranges == []


# --- unpacking -------------------------------------------------------------------------------------------------------


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "text" * 100)
    return buffer.getvalue()


def tarred(name: str, mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo(name)
        info.size = 400
        archive.addfile(info, io.BytesIO(b"text" * 100))
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "make"), [("a.zip", zipped), ("a.tgz", tarred), ("a.tar.gz", tarred)])
def test_archives_are_unpacked(tmp_path: Path, name: str, make: Callable[[str], bytes]) -> None:
    (tmp_path / name).write_bytes(make("inner/file.txt"))
    unpack(tmp_path / name, tmp_path)
    assert (tmp_path / "inner/file.txt").read_text() == "text" * 100


@pytest.mark.parametrize(("name", "make"), [("a.zip", zipped), ("a.tgz", tarred)])
@pytest.mark.parametrize("member", ["../outside.txt", "/tmp/outside.txt"])
def test_nothing_lands_outside(tmp_path: Path, name: str, make: Callable[[str], bytes], member: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_bytes(make(member))
    if name == "a.tgz" and member.startswith("/"):
        unpack(folder / name, folder)  # tar's own rule: the leading slash is dropped
        assert (folder / "tmp/outside.txt").is_file()
    else:
        with pytest.raises(UserError, match=r"a sound archive .*outside"):
            unpack(folder / name, folder)
    assert not (tmp_path / "outside.txt").exists()
    assert not Path("/tmp/outside.txt").exists()


@pytest.mark.parametrize(("name", "make"), [("a.zip", zipped), ("a.tgz", tarred)])
def test_broken_archives_are_named(tmp_path: Path, name: str, make: Callable[[str], bytes]) -> None:
    whole = make("file.txt")
    broken = bytearray(whole)
    broken[60:70] = bytes(10)
    for content in (whole[: len(whole) // 2], bytes(broken), b""):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"a sound archive .*a\.{name[2:]}"):
            unpack(tmp_path / name, tmp_path)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("names")
    unpack(tmp_path / "list.txt", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]
