"""The messages of a run suit a first reader, and `--quiet`, `--verbose` and `--log` change how many there are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.support import invoke, one_failure, write_image

STAMPED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* (.*)")


def messages(log: str) -> list[str]:
    """Return the messages of a log without their times, which every line must have."""
    found = [STAMPED.fullmatch(line) for line in Path(log).read_text(encoding="utf-8").splitlines()]
    assert all(found)
    return [each[1] for each in found if each is not None]


def test_a_run_says_what_it_recognised_what_it_does_and_what_came_out(image: Path, bundle: Path) -> None:
    result = invoke("segment", image, "--weights", bundle, "-o", "out", "--slide-mpp", "0.5")
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert re.fullmatch(r"s\.tif: \d+ x \d+ pixels, 3 bands, 0\.5 um a pixel: [\d.]+ x [\d.]+ mm", lines[0])
    assert lines[1] == "  each pixel gets one of the 3 classes of the bundle colours: r, g, b, in out/s.tif"
    assert re.fullmatch(
        r"  3 stages, .* compute windows of 128, 64 and 32 pixels, at most \d+ in all, on cpu", lines[2]
    )
    assert re.fullmatch(r"  takes at most [\d.]+ [MG]iB of memory, and [\d.]+ \w+ of disk", lines[3])
    after = lines[lines.index("out/s.tif: done") + 1 :]
    shares = [float(line.split()[1]) for line in after[:3]]
    assert [line.split()[0] for line in after[:3]] == ["r", "g", "b"]
    assert sum(shares) == pytest.approx(100, abs=0.02)
    assert all(line.endswith(" um2") for line in after[:3])
    assert re.fullmatch(r"  took .* and [\d.]+ [MG]iB of memory", after[3])
    assert after[4] == "  out/s.json is the report"
    commands = [line.partition("magnet ")[2].split() for line in after[5:]]
    assert [words[0] for words in commands] == ["report", "view", "export"]
    for words in commands:
        # The page of `view` would be served until somebody ends it.
        assert invoke(*words, *(["--help"] if words[0] == "view" else [])).exit_code == 0, words


def test_a_disk_that_may_not_suffice_is_told_before_the_run(
    image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("segment", image, "--weights", bundle, "-o", "out/of/here")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    told = [line for line in invoke(*words).stderr.splitlines() if "are free" in line]
    assert len(told) == 1
    assert re.fullmatch(
        r"out/of/here/s\.tif: the mask may need up to [\d.]+ KiB of disk while it is made, and 1000 B are free\. If "
        r"the disk fills, the run ends with exit status 5; free space there, and the same command goes on",
        told[0],
    )
    assert "are free" not in invoke(*words).stderr, "a finished mask takes no more disk"
    monkeypatch.undo()
    assert "are free" not in invoke(*words, "--overwrite").stderr


def test_the_commands_that_follow_take_names_that_look_like_options(image: Path, bundle: Path) -> None:
    image.rename("-s.tif")
    lines = invoke("segment", "--weights", bundle, "--", "-s.tif").stderr.splitlines()
    commands = [line.partition("magnet ")[2].split() for line in lines if line.startswith("  to ")]
    assert [words[0] for words in commands] == ["report", "view", "export"]
    assert commands[1][1:] == ["./-s.tif", "./-s.mask.tif"]
    for words in (commands[0], commands[2]):
        assert invoke(*words).exit_code == 0, words


def test_windows_that_are_not_square_are_shown_with_both_sides(image: Path, bundle: Path) -> None:
    words = ("segment", image, "--weights", bundle, "-o", "out", "--scales", "64x32,128", "--verbose")
    lines = invoke(*words).stderr.splitlines()
    assert [line.split("compute ")[1].split(",")[0] for line in lines if "compute windows" in line] == [
        "windows of 128 and 64x32 pixels"
    ]
    stages = [line.partition(" windows of ")[2] for line in lines if line.startswith("  stage ")]
    assert stages == ["128 pixels", "64x32 pixels"]


def test_a_page_that_was_made_is_what_to_look_at(image: Path, bundle: Path) -> None:
    lines = invoke("segment", image, "--weights", bundle, "-o", "out", "--html").stderr.splitlines()
    assert "  to look at it:    open out/s.html in a browser" in lines


def test_private_names_make_no_commands(image: Path, bundle: Path) -> None:
    lines = invoke("segment", image, "--weights", bundle, "-o", "out", "--html", "--private").stderr.splitlines()
    assert "  s.json is the report" in lines
    # The name lacks its folder, so a command with it would find no file.
    assert [line for line in lines if line.startswith("  to ")] == []


def test_a_page_that_cannot_be_served_is_not_proposed(
    image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magnet_cli.cli.result_text.find_spec", lambda _: None)
    lines = invoke("segment", image, "--weights", bundle, "-o", "out").stderr.splitlines()
    assert [line for line in lines if "magnet view" in line] == []
    assert [line for line in lines if "magnet report" in line] != []


def test_a_region_is_named_before_and_its_share_after(image: Path, bundle: Path) -> None:
    lines = invoke("segment", image, "--weights", bundle, "-o", "m.tif", "--roi", "0,0,16,16").stderr.splitlines()
    assert any(re.fullmatch(r"  only the region .*16.* is computed", line) for line in lines), lines
    assert any(re.fullmatch(r"  limited to roi: [\d.]+ % of the image", line) for line in lines)
    assert any(line.startswith("  not computed (255 in the mask): ") for line in lines)


def test_quiet_prints_nothing_but_failures(image: Path, bundle: Path) -> None:
    (Path("in")).mkdir()
    write_image(Path("in/a.tif"))
    Path("in/b.tif").write_text("no image")
    assert invoke("segment", image, "--weights", bundle, "--quiet").stderr == ""
    result = invoke("segment", "in", "--weights", bundle, "-q", "-o", "out")
    assert result.exit_code == 7
    assert one_failure(result).startswith("magnet: in/b.tif: Give a TIFF")
    assert invoke("export", "out/a.tif", "--format", "cog", "-q").stderr == ""


def test_quiet_leaves_answers_and_failures_of_every_command_that_reads(image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle, "-q", "-o", "m.tif").exit_code == 0
    for words in (("info", image), ("plan", image, "--weights", bundle)):
        loud, quiet = invoke(*words), invoke(*words, "--quiet", "--log-file", "answers.log")
        # The memory that is free at the time is in a plan.
        answers = [
            [line for line in each.stdout.splitlines() if not line.startswith("  host memory: ")]
            for each in (loud, quiet)
        ]
        assert answers[0] == answers[1]
        assert len(answers[0]) > 3
        assert quiet.stderr == ""
        # What was printed is also in the log.
        logged = messages("answers.log")
        assert [line for line in logged if line in quiet.stdout.splitlines()] == quiet.stdout.splitlines()
        described = " ".join(invoke(words[0], "--help").stdout.split())
        assert "Print failures alone, and answers that were asked for" in described
        Path("answers.log").unlink()
    assert invoke("verify", "m.tif").stdout.endswith("all as written\n")
    silent = invoke("verify", "m.tif", "--quiet", "--log-file", "verify.log")
    assert (silent.stdout, silent.stderr, silent.exit_code) == ("", "", 0)
    assert messages("verify.log")[-1].endswith("all as written")
    assert messages("verify.log")[-1].startswith("m.tif: ")
    data = bytearray(Path("m.tif").read_bytes())
    data[len(data) // 2] ^= 1
    Path("m.tif").write_bytes(data)
    damaged = invoke("verify", "m.tif", "--quiet")
    assert damaged.exit_code == 5
    assert "not as it was written" in one_failure(damaged)


def test_quiet_leaves_out_which_files_of_a_folder_are_passed_over(image: Path) -> None:
    folder = Path("in")
    folder.mkdir()
    image.rename(folder / image.name)
    (folder / "b.czi").write_text("no image")
    loud, quiet = invoke("info", folder), invoke("info", folder, "--quiet", "--log-file", "info.log")
    assert "b.czi" in loud.stderr
    assert quiet.stderr == ""
    assert set(loud.stderr.splitlines()) <= set(messages("info.log"))


def test_quiet_scenes_and_checks_of_the_machine(here: Path) -> None:
    drawn = invoke("scene", here / "a.tif", "--size", "64x64", "--quiet")
    assert (drawn.stdout, drawn.stderr, drawn.exit_code) == ("", "", 0)
    assert (here / "a.tif").exists()
    answer = invoke("doctor", "--quiet", "--log-file", here / "doctor.log")
    assert "Machine" in answer.stdout
    assert answer.stderr == ""
    assert messages("doctor.log")[-1] == answer.stdout.splitlines()[-1]


def test_of_several_images_each_is_described_only_when_asked(bundle: Path, here: Path) -> None:
    for name in "ab":
        write_image(here / "in" / f"{name}.tif")
    short = invoke("segment", "in", "--weights", bundle, "-o", "out").stderr
    assert "each pixel gets" not in short
    long = invoke("segment", "in", "--weights", bundle, "-o", "again", "-v").stderr
    assert long.count("each pixel gets one of the 3 classes") == 2
    assert long.count("  stage 3: ") == 2
    assert long.count("  time by activity: ") == 2


def test_the_log_has_every_message_with_its_time_and_grows(image: Path, bundle: Path) -> None:
    words = ("segment", image, "--weights", bundle, "-o", "m.tif", "--log-file", "run.log")
    shown = invoke(*words).stderr.splitlines()
    logged = messages("run.log")
    assert logged[0].startswith("magnet ")
    assert [line for line in logged if line in shown] == shown
    assert any(line.startswith("m.tif: pass 1 of ") for line in logged), logged
    assert invoke(*words, "-q").stderr == ""
    again = messages("run.log")
    assert again[: len(logged)] == logged
    assert "m.tif: already done" in again[len(logged) :]


def test_a_failure_is_logged(here: Path, bundle: Path) -> None:
    assert here.exists()
    result = invoke("segment", "none.tif", "--weights", bundle, "--log-file", "run.log")
    assert result.exit_code == 3
    # A log has what happened and what to do on one line, so that a search finds both.
    assert messages("run.log")[1:] == ["magnet: none.tif: there is no such file or folder. Check the path"]
    assert one_failure(result) == "magnet: none.tif: Check the path\n  Why: there is no such file or folder"


def test_an_image_that_is_named_as_the_log_is_left_alone(image: Path, bundle: Path) -> None:
    before = image.read_bytes()
    result = invoke("segment", image, "--weights", bundle, "--log-file", image)
    assert result.exit_code == 5
    assert "is no log of magnet" in one_failure(result)
    assert image.read_bytes() == before
    assert not Path("s.mask.tif").exists()


def test_the_folder_of_a_log_is_made(here: Path, bundle: Path) -> None:
    result = invoke("segment", "none.tif", "--weights", bundle, "--log-file", here / "logs" / "part" / "0.log")
    assert result.exit_code == 3
    assert "there is no such file" in messages("logs/part/0.log")[1]


def test_a_log_that_cannot_be_written_is_named(image: Path, bundle: Path) -> None:
    Path("none").touch()
    result = invoke("segment", image, "--weights", bundle, "--log-file", "none/run.log")
    assert result.exit_code == 5
    assert "none/run.log" in one_failure(result)


def test_quiet_and_verbose_contradict_each_other(image: Path, bundle: Path) -> None:
    result = invoke("segment", image, "--weights", bundle, "-q", "-v")
    assert result.exit_code == 2
    assert "--quiet and --verbose" in one_failure(result)
    # What one command was told does not reach the next.
    assert "done" in invoke("segment", image, "--weights", bundle).stderr


def test_private_runs_announce_no_folder(here: Path, bundle: Path) -> None:
    write_image(here / "ward 7" / "s.tif")
    words = ("segment", here / "ward 7" / "s.tif", "--weights", bundle, "-o", here / "ward 7" / "out", "--private")
    result = invoke(*words, "--log-file", "run.log")
    assert result.exit_code == 0, result.stderr
    assert "ward 7" not in result.stderr
    assert "ward 7" not in Path("run.log").read_text(encoding="utf-8")
