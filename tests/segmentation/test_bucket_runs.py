"""Runs that write to a bucket: a mask appears whole or not at all, the report last, and nothing foreign is replaced."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr

from magnet_cli.errors import OutputError, UsageError
from magnet_cli.masks.bucket_folder import BucketFolder
from magnet_cli.masks.bucket_output import BESIDE, BucketOutput
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.verification import verify_mask
from magnet_cli.options.export import ExportOptions
from magnet_cli.options.parts import JobPart
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation import api
from magnet_cli.system import bucket as buckets
from magnet_cli.system.bucket import Bucket, ChangedObjectError
from tests.buckets import ENDPOINT, NAME, KilledError, Store, answer, serving_buckets
from tests.cli.support import invoke, invoke_json, write_colours_bundle, write_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from magnet_cli.segmentation.image_run import ImageResult

OUT = f"s3://{NAME}/masks/"
SMALL = 2000
"""Bytes of one uploaded part, few enough that the masks of these tests have several parts."""
in_small_parts = pytest.mark.skipif(ENDPOINT is not None, reason="services take no parts below 5 MiB")


@pytest.fixture(scope="module")
def served() -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch, serving_buckets(patch) as store:
        if not ENDPOINT:
            patch.setattr("moto.settings.get_s3_default_key_buffer_size", lambda: 1 << 24)
            patch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
        yield store


@pytest.fixture
def store(served: Store, here: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    del here
    if not ENDPOINT:
        monkeypatch.setattr(buckets, "PART_BYTES", SMALL)
    served.network.reset()
    served.clear()
    return served


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours_bundle(tmp_path_factory.mktemp("bundle") / "colours")


def options(bundle: Path, *formats: Any, **more: Any) -> SegmentOptions:
    return SegmentOptions(weights=str(bundle), method="patch", exports=ExportOptions(formats=formats), **more)


def run(image: str | Path, out: str, chosen: SegmentOptions, **more: Any) -> ImageResult:
    (result,) = api.segment(image, out, chosen, **more)
    return result


def failure(result: ImageResult) -> str:
    assert isinstance(result.error, OutputError)
    assert result.error.exit_code == 5
    return str(result.error)


def test_a_bucket_gets_what_a_folder_gets(store: Store, colours: Path) -> None:
    image = write_image(Path("a.tif"))
    own = run(image, "local", options(colours, "cog", "ome-zarr"))
    found = run(image, OUT, options(colours, "cog", "ome-zarr"))
    np.testing.assert_array_equal(found.array(), own.array())
    assert found.describe()["mask"] == f"{OUT}a.tif"
    local = {
        f"masks/{path.relative_to('local').as_posix()}": path for path in Path("local").rglob("*") if path.is_file()
    }
    objects = store.objects()
    assert objects.keys() == local.keys()
    for key, path in local.items():
        if not key.endswith("a.json"):
            assert objects[key] == path.read_bytes(), key
    report = json.loads(objects["masks/a.json"])
    assert report["hashes"] == json.loads(Path("local/a.json").read_bytes())["hashes"]
    assert f"{OUT}a.tif" in report["command"]
    # The mask has several parts; the last object is the report, and that of the Zarr before it is its root.
    written = [what for what in store.network.sent if what.startswith("PUT") or "uploadId" in what]
    assert "/masks/a.json" in written[-1]
    zarrs = [what for what in written if ".ome.zarr/" in what]
    assert zarrs[-1] == "PUT /masks/a.ome.zarr/zarr.json"
    assert ENDPOINT or sum("/a.tif" in what and "partNumber" in what for what in written) > 1
    assert not store.uploads()
    assert not [path for path in Path("magnet-work").rglob("*") if path.is_file()]


def test_a_second_run_asks_and_writes_nothing(store: Store, colours: Path) -> None:
    image = write_image(Path("a.tif"))
    first = run(image, OUT, options(colours, "ome-zarr"))
    store.network.reset()
    again = run(image, OUT, options(colours, "ome-zarr"))
    assert (again.status, again.report) == ("already done", first.report)
    assert again.describe()["exports"][0]["path"] == f"{OUT}a.ome.zarr"  # type: ignore[index]
    assert {what.split()[0] for what in store.network.sent} == {"HEAD", "GET"}
    assert len(store.network.sent) < 12


def test_a_format_is_added_to_a_mask_that_is_done(store: Store, colours: Path) -> None:
    image = write_image(Path("a.tif"))
    run(image, OUT, options(colours))
    mask = store.objects()["masks/a.tif"]
    store.network.reset()
    assert run(image, OUT, options(colours, "cog")).status == "already done"
    assert store.objects()["masks/a.tif"] == mask
    assert "masks/a.cog.tif" in store.objects()
    assert not [what for what in store.network.sent if "/a.tif" in what and what.startswith(("PUT", "POST", "DELETE"))]


def test_a_damaged_mask_is_made_anew_on_demand_where_a_format_is_added(store: Store, colours: Path) -> None:
    image = write_image(Path("a.tif"))
    run(image, OUT, options(colours))
    mask = store.objects()["masks/a.tif"]
    damaged = bytes([*mask[:-10], mask[-10] ^ 1, *mask[-9:]])
    tags = store.client.head_object(Bucket=NAME, Key="masks/a.tif")["Metadata"]
    store.client.put_object(Bucket=NAME, Key="masks/a.tif", Body=damaged, Metadata=tags)
    assert "compute it again with --overwrite" in failure(run(image, OUT, options(colours, "cog")))
    assert store.objects()["masks/a.tif"] == damaged
    assert run(image, OUT, options(colours, "cog", overwrite=True)).status == "done"
    assert store.objects()["masks/a.tif"] == mask
    assert "masks/a.cog.tif" in store.objects()


def test_another_run_that_was_faster_is_found_before_the_upload(store: Store, finished: Path) -> None:
    late = dataclasses.replace(outputs(finished, "new", work="work-1"), overwrite=False)
    outputs(finished, "other").upload()
    with pytest.raises(OutputError, match="it belongs to another run"):
        late.upload()
    is_whole(store.objects(), [finished / "out-other"])
    assert late.mask.exists()


def test_a_mask_beside_the_report_of_another_run_is_not_done(store: Store, finished: Path) -> None:
    output = outputs(finished, "new")
    report = json.loads(output.report.read_bytes())
    output.upload()
    found = dataclasses.replace(output, hashes=report["hashes"])
    assert found.finished() is not None
    stored = store.client.get_object(Bucket=NAME, Key="masks/a.tif")
    tags = {**stored["Metadata"], "magnet-run": "0"}
    store.client.put_object(Bucket=NAME, Key="masks/a.tif", Body=stored["Body"].read(), Metadata=tags)
    assert found.finished() is None
    with pytest.raises(OutputError, match="of different runs"):
        dataclasses.replace(found, overwrite=False).finished()


def test_other_options_are_refused_and_replaced_on_demand(store: Store, colours: Path) -> None:
    run(write_image(Path("a.tif"), size=(40, 4200)), OUT, options(colours, "ome-zarr"))
    before = store.objects()
    image = write_image(Path("a.tif"), size=(90, 100))
    assert "made with other input" in failure(run(image, OUT, options(colours, "ome-zarr")))
    assert store.objects() == before
    assert run(image, OUT, options(colours, "ome-zarr", overwrite=True)).error is None
    run(image, "local", options(colours, "ome-zarr"))
    # No shard of the old and larger mask is left.
    local = {f"masks/{path.relative_to('local').as_posix()}" for path in Path("local").rglob("*") if path.is_file()}
    assert store.objects().keys() == local
    assert len(before) > len(local)


@pytest.mark.parametrize("key", ["a.tif", "a.json", "a.ome.zarr/zarr.json", "a.ome.zarr/notes.txt"])
def test_a_foreign_object_is_never_replaced(store: Store, colours: Path, key: str) -> None:
    store.client.put_object(Bucket=NAME, Key=f"masks/{key}", Body=b"mine")
    image = write_image(Path("a.tif"))
    for overwrite in (False, True):
        assert "magnet has not written it" in failure(
            run(image, OUT, options(colours, "ome-zarr", overwrite=overwrite))
        )
    assert store.objects() == {f"masks/{key}": b"mine"}


def test_an_object_that_appears_meanwhile_is_not_replaced(store: Store, colours: Path) -> None:
    def race(what: str, send: Callable[[], Any]) -> Any:
        if is_complete(what) or what == "PUT /masks/a.tif":
            store.client.put_object(Bucket=NAME, Key="masks/a.tif", Body=b"mine")
        return send()

    store.network.fault = race
    assert "magnet has not written it" in failure(run(write_image(Path("a.tif")), OUT, options(colours)))
    assert store.objects() == {"masks/a.tif": b"mine"}
    assert not store.uploads()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, colours: Path) -> Path:
    """Return the local folder of three finished runs, each with an OME-Zarr; that of `old` has more shards."""
    folder = tmp_path_factory.mktemp("finished")
    for name, size in (("old", (30, 4200)), ("new", (110, 150)), ("other", (90, 150))):
        image = write_image(folder / name / "a.tif", size=size)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            run(image, f"out-{name}", options(colours, "ome-zarr"))
    return folder


def outputs(
    finished: Path, name: str, *, work: str = "work", bucket: Bucket | None = None, zarrs: bool = True
) -> BucketOutput:
    """Copy a finished run to where it is uploaded from."""
    place = BucketFolder(bucket=bucket or Bucket.open(NAME), folder=Path(work))
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(finished / f"out-{name}", f"{work}/masks")
    mask = Path(f"{work}/masks/a.tif")
    hashes = json.loads(OutputPaths.of(mask).report.read_bytes())["hashes"]
    beside = [Path(f"{work}/masks/a.ome.zarr")] if zarrs else []
    return BucketOutput(place=place, mask=mask, beside=beside, hashes=hashes, outputs="o", overwrite=True)


def is_whole(objects: dict[str, bytes], folders: list[Path], *, zarrs: bool = True) -> None:
    """Check that a reader finds only whole files of one of the runs, and no Zarr or report that came too early."""
    files = [
        {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and (zarrs or ".zarr/" not in path.as_posix())
        }
        for folder in folders
    ]
    # The claim of a killed upload may be there.
    found = {key.removeprefix("masks/"): data for key, data in objects.items() if not key.endswith(".upload")}
    for key, data in found.items():
        assert data in [each.get(key) for each in files], key
    root = found.get("a.ome.zarr/zarr.json")
    if root is not None:
        (own,) = [each for each in files if each["a.ome.zarr/zarr.json"] == root]
        assert {key: data for key, data in own.items() if ".zarr/" in key} == {
            key: data for key, data in found.items() if ".zarr/" in key
        }
    if "a.json" in found:
        (own,) = [each for each in files if each["a.json"] == found["a.json"]]
        assert found == own


def uploaded_with_kills(store: Store, finished: Path, before: str | None, names: list[str], step: int) -> int:
    """Kill an upload before every `step`-th of its requests, and resume it.

    Returns:
        The number of the request before which the last kill came.
    """
    folders = [finished / f"out-{name}" for name in names]
    kills = 0
    while True:
        store.network.reset()
        store.clear()
        if before is not None:
            outputs(finished, before).upload()
        store.network.reset()
        output = outputs(finished, "new")
        store.network.dies_at = kills
        try:
            output.upload()
        except KilledError:
            store.network.reset()
            is_whole(store.objects(), folders)
            assert output.mask.exists()
            output.upload()
            is_whole(store.objects(), folders[-1:])
            assert {"masks/a.json", "masks/a.json.upload"} & store.objects().keys() == {"masks/a.json"}
            assert not store.uploads()
            kills += step
            continue
        return kills


def test_a_long_list_of_objects_is_read_to_its_end(store: Store, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(7):
        (here / f"{index} ä").write_bytes(b"x")
        BucketFolder(bucket=Bucket.open(NAME), folder=here).put(here / f"{index} ä", {})
    listing = Bucket.open(NAME)._client.list_objects_v2
    monkeypatch.setattr(Bucket.open(NAME)._client, "list_objects_v2", lambda **more: listing(MaxKeys=3, **more))
    assert list(Bucket.open(NAME).keys("")) == [f"{index} ä" for index in range(7)] == store.keys()


# Outputs are replaced over 74 requests. An old Zarr with new parts would show for 23 of them, and an old report beside
# a new mask for 11, so that steps of 11 find both.
@pytest.mark.parametrize(
    ("before", "step"),
    [(None, 13), ("old", 33), *(pytest.param(before, 1, marks=pytest.mark.full) for before in (None, "old"))],
)
def test_a_kill_at_every_request_shows_whole_outputs_or_none(
    store: Store, finished: Path, before: str | None, step: int
) -> None:
    assert uploaded_with_kills(store, finished, before, ["old", "new"] if before else ["new"], step) > 20


class Meeting:
    """Two uploads of one output, of which one stops before a request while the other one goes on.

    Args:
        store: The bucket.
        finished: Folder of the finished runs.
        first, second: Names of the runs that are uploaded.
        zarrs: Whether they have an OME-Zarr beside the mask.
    """

    def __init__(self, store: Store, finished: Path, first: str, second: str, *, zarrs: bool) -> None:
        (bucket, self.one), (another, self.two) = store.connected(), store.connected()
        self.first = outputs(finished, first, work="work-1", bucket=bucket, zarrs=zarrs)
        self.second = outputs(finished, second, work="work-2", bucket=another, zarrs=zarrs)
        self.failed: list[BucketOutput] = []

    def upload(self, output: BucketOutput) -> None:
        try:
            output.upload()
        except OutputError as error:
            assert "another command" in str(error) or "Do not run two commands" in str(error)  # noqa: PT017
            self.failed.append(output)

    def run(self, before: int, pause: int | None) -> bool:
        """Upload both, and return whether the first one had as many requests.

        Args:
            before: The second one begins before this request of the first one.
            pause: Before this request the second one waits until the first one has ended. None lets it end first.
        """
        waits, ended = threading.Event(), threading.Event()

        def upload_second() -> None:
            self.upload(self.second)
            waits.set()

        thread = threading.Thread(target=upload_second)

        def meet(_: str, send: Callable[[], Any]) -> Any:
            if len(self.one.sent) == before + 1 and not thread.ident:
                thread.start()
                assert waits.wait(60)
            return send()

        def stop(_: str, send: Callable[[], Any]) -> Any:
            if len(self.two.sent) == (pause or 0) + 1 and pause is not None:
                waits.set()
                assert ended.wait(60)
            return send()

        self.one.fault, self.two.fault = meet, stop
        self.upload(self.first)
        ended.set()
        if thread.ident is None:
            return False
        thread.join()
        return True


def met(store: Store, finished: Path, names: tuple[str, str], step: int, pause: int | None, *, zarrs: bool) -> int:
    """Let two uploads meet before every `step`-th request of the first one. Returns the number of meetings."""
    before = 0
    while True:
        store.clear()
        outputs(finished, "old", zarrs=zarrs).upload()
        meeting = Meeting(store, finished, *names, zarrs=zarrs)
        if not meeting.run(before, pause):
            return before // step
        assert len(meeting.failed) < 2, before
        objects = store.objects()
        assert {"masks/a.json", "masks/a.json.upload"} & objects.keys() == {"masks/a.json"}, before
        is_whole(objects, [finished / f"out-{name}" for name in names], zarrs=zarrs)
        assert all(output.mask.exists() for output in meeting.failed)
        before += step


@pytest.mark.parametrize(
    ("pause", "step"), [(14, 24), *(pytest.param(pause, 1, marks=pytest.mark.full) for pause in (None, 4, 8, 14, 19))]
)
def test_of_two_commands_that_replace_one_mask_one_refuses(
    store: Store, finished: Path, pause: int | None, step: int
) -> None:
    assert met(store, finished, ("new", "other"), step, pause, zarrs=False) >= 2


@pytest.mark.full
@pytest.mark.parametrize("names", [("new", "other"), ("other", "new")])
@pytest.mark.parametrize("pause", [None, 6, 15, 22, 33])
def test_of_two_commands_that_replace_one_output_one_refuses(
    store: Store, finished: Path, names: tuple[str, str], pause: int | None
) -> None:
    assert met(store, finished, names, 9, pause, zarrs=True) > 5


@in_small_parts
def test_what_is_there_is_not_written_again(store: Store, finished: Path) -> None:
    output = outputs(finished, "new")
    store.network.fault = Broken(lambda what: what == "POST /masks/a.json?uploads", times=99)
    with pytest.raises(OutputError):
        output.upload()
    store.network.reset()
    output.upload()
    written = [what for what in store.network.sent if what.startswith(("PUT", "POST", "DELETE"))]
    assert written
    assert all("/masks/a.json" in what for what in written)


ANSWER = "<Answer><UploadId>u</UploadId><ETag>e</ETag></Answer>"


class Broken:
    """A network fault: the first requests of some kind get an error status, or their answer is lost on its way."""

    def __init__(self, wanted: Callable[[str], bool], *, times: int, lost: bool = False) -> None:
        self.wanted, self.left, self.lost = wanted, times, lost

    def __call__(self, what: str, send: Callable[[], Any]) -> Any:
        # Several threads send chunks, so that one request more than asked for may fail.
        if self.left <= 0 or not self.wanted(what):
            return send()
        self.left -= 1
        if self.lost:
            from botocore.exceptions import ReadTimeoutError  # noqa: PLC0415 (not installed everywhere)

            send()
            raise ReadTimeoutError(endpoint_url="http://user:HIDDENSECRET@host/?X-Amz-Signature=HIDDEN")
        return answer(503)


def is_complete(what: str) -> bool:
    return what.startswith("POST") and "uploadId" in what


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(
    "wanted", [is_complete, lambda what: "partNumber" in what, lambda what: what.startswith("PUT")]
)
def test_a_moments_failure_is_overcome(
    store: Store, finished: Path, wanted: Callable[[str], bool], *, lost: bool
) -> None:
    store.network.fault = Broken(wanted, times=2, lost=lost)
    outputs(finished, "new").upload()
    is_whole(store.objects(), [finished / "out-new"])
    assert "masks/a.json" in store.objects()
    assert not store.uploads()


@in_small_parts
@pytest.mark.parametrize(("lost", "said"), [(False, "HTTP 503"), (True, "ReadTimeoutError")])
def test_a_server_that_stays_down_costs_one_sentence(store: Store, finished: Path, said: str, *, lost: bool) -> None:
    store.network.fault = Broken(is_complete, times=99, lost=lost)
    output = outputs(finished, "new")
    with pytest.raises(OutputError, match=said) as caught:
        output.upload()
    assert "HIDDEN" not in str(caught.value)
    assert "masks/a.json" not in store.objects()
    assert not store.uploads()


@in_small_parts
def test_uploads_that_killed_runs_left_are_aborted(store: Store, finished: Path) -> None:
    for key in ("masks/a.tif", "masks/a.tiff"):
        store.client.create_multipart_upload(Bucket=NAME, Key=key)
    outputs(finished, "new").upload()
    assert store.uploads() == ["masks/a.tiff"]


@in_small_parts
def test_memory_is_that_of_a_part(store: Store, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "PART_BYTES", 1 << 20)
    place = BucketFolder(bucket=Bucket.open(NAME), folder=here)
    # The server of the test shares the process, so that it is left out where memory is counted.
    store.network.fault = lambda what, _: answer(404) if what.startswith("HEAD") else answer(200, xml=ANSWER)
    peaks = []
    # The first upload of a process also loads modules, so its peak does not count.
    for size in (1, 6, 24):
        (here / "big.tif").write_bytes(np.random.default_rng(1).bytes(size << 20))
        tracemalloc.start()
        place.put(here / "big.tif", {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    del peaks[0]
    assert max(peaks) < 4 << 20
    assert peaks[1] < peaks[0] + (1 << 20)
    store.network.fault, store.network.largest = None, 0
    place.put(here / "big.tif", {})
    assert store.network.largest == 1 << 20


def test_an_upload_in_parts_replaces_only_the_object_that_it_looked_at(
    store: Store, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "PART_BYTES", 8 << 20)
    path, bucket = here / "big.tif", Bucket.open(NAME)
    path.write_bytes(np.random.default_rng(2).bytes(9 << 20))
    bucket.put("big.tif", path, {}, replaces=None)
    found = bucket.state("big.tif")
    store.client.put_object(Bucket=NAME, Key="big.tif", Body=b"other")
    for replaces in (found, None):
        with pytest.raises(ChangedObjectError):
            bucket.put("big.tif", path, {"a": "b"}, replaces=replaces)
        assert store.objects() == {"big.tif": b"other"}
    assert found is not None
    with pytest.raises(ChangedObjectError):
        bucket.remove({"big.tif": found})
    bucket.put("big.tif", path, {"a": "b"}, replaces=bucket.state("big.tif"))
    assert store.objects() == {"big.tif": path.read_bytes()}
    assert not store.uploads()


def test_readers_open_the_zarr_of_the_bucket(store: Store, colours: Path, tmp_path: Path) -> None:
    run(write_image(Path("a.tif")), OUT, options(colours, "ome-zarr"))
    for key, data in store.objects().items():
        (tmp_path / "copy" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / key).write_bytes(data)
    root: Any = zarr.open_group(tmp_path / "copy/masks/a.ome.zarr", mode="r")
    np.testing.assert_array_equal(root["labels/classes/0"][:], tifffile.imread(tmp_path / "copy/masks/a.tif"))


def test_a_folder_run_leaves_its_list_in_the_bucket(store: Store, colours: Path) -> None:
    for name in ("a", "sub/b", "c"):
        write_image(Path(f"in/{name}.tif"), seed=len(name))
    found = api.segment("in", OUT, options(colours))
    assert [result.shown for result in found] == [f"{OUT}{name}.tif" for name in ("a", "c", "sub/b")]
    listed = json.loads(store.objects()["masks/run.json"])
    assert {row["mask"]: row["status"] for row in listed["images"]} == dict.fromkeys(
        (result.shown for result in found), "done"
    )
    assert store.objects().keys() == {
        "masks/run.json",
        *(f"masks/{name}.{end}" for name in ("a", "sub/b", "c") for end in ("tif", "json")),
    }
    assert [result.status for result in api.segment("in", OUT, options(colours))] == ["already done"] * 3


def test_parts_of_a_folder_join_their_lists_in_the_bucket(store: Store, colours: Path) -> None:
    for name in ("a", "b", "c"):
        write_image(Path(f"in/{name}.tif"))
    for index in (1, 0):
        # Two machines share nothing but the bucket.
        api.segment("in", OUT, options(colours), part=JobPart(index=index, count=2), work=f"work-{index}")
        assert ("masks/run.json" in store.objects()) == (index == 0)
    joined = json.loads(store.objects()["masks/run.json"])
    assert joined["counts"]["done"] == 3
    assert [row["mask"] for row in joined["images"]] == [f"{OUT}{name}.tif" for name in ("a", "b", "c")]


def test_lists_of_an_earlier_run_are_left_until_all_parts_have_ended(store: Store, colours: Path) -> None:
    def share(index: int) -> None:
        api.segment("in", OUT, options(colours), part=JobPart(index=index, count=2), work=f"work-{index}")

    for name in ("a", "b"):
        write_image(Path(f"in/{name}.tif"))
    share(0)
    share(1)
    write_image(Path("in/c.tif"))
    share(1)
    assert json.loads(store.objects()["masks/run.json"])["counts"]["done"] == 2
    share(0)
    joined = json.loads(store.objects()["masks/run.json"])
    assert [row["mask"] for row in joined["images"]] == [f"{OUT}{name}.tif" for name in ("a", "b", "c")]


def test_no_credential_reaches_an_output(store: Store, colours: Path) -> None:
    from magnet_cli.events import Events  # noqa: PLC0415

    class Heard(Events):
        def __init__(self) -> None:
            self.said: list[str] = []

        def message(self, text: str) -> None:
            self.said.append(text)

    heard = Heard()
    for name in ("a", "b"):
        write_image(Path(f"in/{name}.tif"))
    found = api.segment("in", OUT, options(colours, "ome-zarr", html=True), events=heard)
    everything = [*store.objects().values(), *(str(result.describe()).encode() for result in found)]
    for data in [*everything, "\n".join(heard.said).encode()]:
        assert b"HIDDEN" not in data
        assert b"OPENACCESSKEY" not in data
    assert f"{OUT}a.tif: done" in heard.said


@pytest.mark.parametrize(
    ("out", "rule"),
    [
        ("gs://bucket/a/", "outputs are written to a local path, or to a bucket"),
        ("s3://key:HIDDEN@bucket/a/", "Give credentials in the environment"),
        (f"s3://{NAME}/a/../b/", "must have a name"),
        (f"s3://{NAME}/a.png", "a mask is written as"),
    ],
)
def test_addresses_that_are_no_outputs(store: Store, colours: Path, out: str, rule: str) -> None:
    image = write_image(Path("a.tif"))
    with pytest.raises(UsageError, match=rule) as caught:
        run(image, out, options(colours))
    assert "HIDDEN" not in str(caught.value)
    assert not store.objects()


def test_a_bucket_that_is_not_there_is_found_before_the_work(
    store: Store, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_image(Path("a.tif"))
    with pytest.raises(OutputError, match="there is no such bucket"):
        run(image, "s3://nobodys-bucket/a/", options(colours))
    assert not [path for path in Path("magnet-work").rglob("*") if path.is_file()]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000?key=HIDDEN")
    with pytest.raises(OutputError, match="configuration of AWS cannot be used") as caught:
        run(image, "s3://nobodys-bucket/a/", options(colours))
    assert "HIDDEN" not in str(caught.value)
    assert not store.objects()


def test_a_name_that_no_key_can_have_is_refused(store: Store, here: Path) -> None:
    del store
    place = BucketFolder(bucket=Bucket.open(NAME), folder=here)
    with pytest.raises(OutputError, match="the key of an object is UTF-8"):
        place.key(here / "caf\udce9.tif")


def test_a_foreign_object_in_a_zarr_ends_a_run_before_the_old_one_is_touched(store: Store, colours: Path) -> None:
    image = write_image(Path("a.tif"))
    run(image, OUT, options(colours, "ome-zarr"))
    store.client.put_object(Bucket=NAME, Key="masks/a.ome.zarr/notes.txt", Body=b"precious")
    before = store.objects()
    result = run(image, OUT, options(colours, "ome-zarr", tta="2", overwrite=True))
    assert "magnet has not written it" in failure(result)
    assert store.objects() == before


def test_what_a_bucket_cannot_do(store: Store, colours: Path) -> None:
    image = write_image(Path("a.tif"))
    with pytest.raises(UsageError, match="pieces in a folder that has locks"):
        run(image, OUT, options(colours), part=JobPart(index=0, count=2))
    with pytest.raises(UsageError, match="workers of a cluster"):
        run(image, OUT, options(colours), cluster="local:2")
    with pytest.raises(UsageError, match="a last stage"):
        run(image, OUT, options(colours, refine="guided"))
    store.client.put_object(Bucket=NAME, Key="in/a.tif", Body=image.read_bytes())
    with pytest.raises(UsageError, match="among the inputs"):
        run(f"s3://{NAME}/in/a.tif", f"s3://{NAME}/in/", options(colours))
    with pytest.raises(UsageError, match="among the inputs"):
        api.segment(f"s3://{NAME}/in/", f"s3://{NAME}/in/out/", options(colours))


def test_masks_of_a_bucket_are_verified(store: Store, colours: Path) -> None:
    for name in ("a", "b"):
        write_image(Path(f"in/{name}.tif"))
    api.segment("in", OUT, options(colours, "cog"))
    assert invoke("verify", f"{OUT}a.tif").exit_code == 0
    found = invoke_json("verify", OUT)["images"]
    assert [(row["mask"], row["ok"]) for row in found] == [(f"{OUT}{name}.tif", True) for name in ("a", "b")]
    data = bytearray(store.objects()["masks/a.tif"])
    data[-10] ^= 1
    store.client.put_object(Bucket=NAME, Key="masks/a.tif", Body=bytes(data))
    assert verify_mask(f"{OUT}a.tif").damage
    result = invoke("verify", OUT)
    assert result.exit_code == 7
    assert f"{OUT}a.tif: Restore it from a copy" in result.stderr
    assert "  Why: not as it was written" in result.stderr
    assert invoke("verify", f"{OUT}none.tif").exit_code == 3
    assert invoke("verify", f"s3://{NAME}/other/").exit_code == 2


def test_a_mask_of_a_bucket_has_the_tags_that_tell_it_apart(store: Store, colours: Path) -> None:
    run(write_image(Path("a.tif")), f"s3://{NAME}/one.tif", options(colours))
    tags = store.client.head_object(Bucket=NAME, Key="one.json")["Metadata"]
    assert BESIDE in tags
    assert store.objects().keys() == {"one.tif", "one.json"}
